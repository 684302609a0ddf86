"""A synthetic chest X-ray data set with known lesion masks, rendered on first use."""

from __future__ import annotations

import json
import logging
import os
import shutil
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from tqdm import tqdm

from cxrignite.data.phantom_rendering import FINDINGS, render_findings
from cxrignite.data.sources import UNKNOWN, ImageRecord, Label, Source
from cxrignite.durable_write import writing
from cxrignite.errors import DataError
from cxrignite.locks import hold_lock

_logger = logging.getLogger(__name__)

# Increase it if the same settings give other bytes, so that no folder mixes two renderers.
RENDERER_VERSION = 1

_MARKER = "phantom.json"
_FORMAT = "cxrignite phantom"
_MASK_OF = "mask:"


class Phantom(Source):
    """Rendered chest images, some of them with opacities in the lungs, or with other findings.

    The files are rendered on the first call of `records()` and reused while the settings stay the
    same. An image is `<root>/<train|test>/<class>/<patient>_<k>.png`. Each positive image has a
    mask of its opacities (255 inside), `<root>/masks/<train|test>/<class>/<patient>_<k>.png`. All
    images of a patient show the same anatomy and have the same label.

    With `findings`, each patient has each of them independently, so that some have several. Then an
    image is `<root>/<train|test>/<patient>_<k>.png`, and has a mask for each finding that is
    present, `<root>/masks/<finding>/<train|test>/<patient>_<k>.png` (attribute `mask:<finding>`).

    Args:
        root: The folder to write; it must be new, empty or written by a phantom.
        num_train: Number of training images, from which other splits are taken.
        num_test: Number of test images, of other patients.
        size: Side of the square images in pixels, at least 32.
        positive_fraction: Share of images with disease in each split, in `(0, 1)`; about the share
            with any finding if there are several.
        images_per_patient: Largest number of images of one patient.
        seed: The same seed gives the same images, byte for byte.
        findings: Two or more of `Opacity` (consolidation), `Effusion` (fluid at the base of a lung)
            and `Nodule` (one to three round shadows); null renders opacities in two classes.
        unknown_fraction: Share of the labels of several findings that are unknown in the training
            split, in `[0, 1)`. The test split has all labels.

    Raises:
        ValueError: If a number is out of range, a finding cannot be rendered, or a split would lack
            a class.
    """

    classes: tuple[str, ...] = ("NORMAL", "PNEUMONIA")

    def __init__(
        self,
        root: Path | str = "data/phantom",
        num_train: int = 800,
        num_test: int = 200,
        size: int = 128,
        positive_fraction: float = 0.6,
        images_per_patient: int = 2,
        seed: int = 0,
        findings: list[str] | None = None,
        unknown_fraction: float = 0.0,
    ) -> None:
        if size < 32:
            raise ValueError(f"size must be at least 32 pixels, got {size}")
        if not 0 < positive_fraction < 1:
            raise ValueError(f"positive_fraction must be in (0, 1), got {positive_fraction}")
        if images_per_patient < 1:
            raise ValueError(f"images_per_patient must be at least 1, got {images_per_patient}")
        if seed < 0:
            raise ValueError(f"seed must be at least 0, got {seed}")
        if findings is not None:
            _check_findings(findings)
            self.classes = ("No Finding", *findings)
        if not 0 <= unknown_fraction < 1:
            raise ValueError(f"unknown_fraction must be in [0, 1), got {unknown_fraction}")
        if unknown_fraction and findings is None:
            raise ValueError(f"unknown_fraction needs findings, got {unknown_fraction} without")
        share = self._share_of_each(positive_fraction)
        for name, count in (("num_train", num_train), ("num_test", num_test)):
            # With several findings, a patient is the unit that has them.
            units = count if findings is None else -(-count // images_per_patient)
            if not 0 < round(units * share) < units:
                raise ValueError(f"{name} must be enough for an image of each class, got {count}")
        self.root = Path(root)
        self.num_images = {"train": num_train, "test": num_test}
        self.size = size
        self.positive_fraction = positive_fraction
        self.images_per_patient = images_per_patient
        self.seed = seed
        self.unknown_fraction = unknown_fraction
        self._has_several = findings is not None

    def records(self) -> list[ImageRecord]:
        """Return the records of train, then of test; render the files if they do not exist.

        Raises:
            DataError: If `root` has files that no phantom wrote.
            CxrIgniteError: If the files cannot be written.
        """
        records = self._plan()
        settings = self._settings()
        if not _is_complete(self.root, settings):
            _refuse_foreign(self.root)
            _warn_of_other(self.root, settings)
            with writing(self.root):
                self._build(records, settings)
        return records

    def _settings(self) -> dict[str, Any]:
        """Return the settings that the files depend on."""
        settings: dict[str, Any] = {
            "num_images": self.num_images,
            "size": self.size,
            "positive_fraction": self.positive_fraction,
            "images_per_patient": self.images_per_patient,
            "seed": self.seed,
        }
        return {**settings, "findings": list(self.findings)} if self._has_several else settings

    def _share_of_each(self, positive_fraction: float) -> float:
        """Return the share of positives of each finding, if they are independent."""
        num_findings = len(self.findings)
        if num_findings == 1:
            return positive_fraction
        return float(1 - (1 - positive_fraction) ** (1 / num_findings))

    def _plan(self) -> list[ImageRecord]:
        """Return the records of all patients; no file is read or written."""
        if self._has_several:
            return self._plan_findings()
        rng = np.random.default_rng(self.seed)
        records: list[ImageRecord] = []
        number = 0
        for split, count in self.num_images.items():
            num_positive = round(count * self.positive_fraction)
            for label, missing in enumerate((count - num_positive, num_positive)):
                while missing:
                    number += 1
                    taken = min(missing, int(rng.integers(1, self.images_per_patient + 1)))
                    missing -= taken
                    records += [self._record(split, label, number, k) for k in range(1, taken + 1)]
        return records

    def _plan_findings(self) -> list[ImageRecord]:
        """Return the records of all patients, each with any of several findings."""
        rng = np.random.default_rng([self.seed, 1])
        hidden = np.random.default_rng([self.seed, 2])
        share = self._share_of_each(self.positive_fraction)
        shared: dict[Label, Label] = {}  # equal labels are one object
        records: list[ImageRecord] = []
        number = 0
        for split, count in self.num_images.items():
            sizes: list[int] = []
            while missing := count - sum(sizes):
                sizes.append(min(missing, int(rng.integers(1, self.images_per_patient + 1))))
            # The number of patients with each finding is fixed, so that no split lacks one.
            is_chosen = np.arange(len(sizes)) < round(share * len(sizes))
            present = np.stack([rng.permutation(is_chosen) for _ in self.findings], axis=1)
            for size, of_patient in zip(sizes, present, strict=True):
                number += 1
                for k in range(1, size + 1):
                    name = f"{split}/p{number:05d}_{k}.png"
                    is_hidden = hidden.random(len(self.findings)) < self.unknown_fraction
                    if split == "test":
                        is_hidden[:] = False
                    label = tuple(np.where(is_hidden, UNKNOWN, of_patient).tolist())
                    records.append(
                        ImageRecord(
                            file=f"{self.root}/{name}",
                            name=name,
                            label=shared.setdefault(label, label),
                            patient=f"p{number:05d}",
                            split=split,
                            attributes={
                                f"{_MASK_OF}{finding}": f"masks/{finding}/{name}"
                                for finding, has in zip(self.findings, of_patient, strict=True)
                                if has
                            },
                        )
                    )
        return records

    def _record(self, split: str, label: int, number: int, k: int) -> ImageRecord:
        patient = f"p{number:05d}"
        name = f"{split}/{self.classes[label]}/{patient}_{k}.png"
        return ImageRecord(
            file=f"{self.root}/{name}",
            name=name,
            label=label,
            patient=patient,
            split=split,
            attributes={"mask": f"masks/{name}"} if label else {},
        )

    def _build(self, records: list[ImageRecord], settings: dict[str, Any]) -> None:
        """Render into a sibling folder, then rename it; one process does so at a time."""
        home = self.root.resolve()
        home.parent.mkdir(parents=True, exist_ok=True)
        lock_path, built = (home.with_name(f".{home.name}.{end}") for end in ("lock", "tmp"))
        with hold_lock(lock_path, wait=True, is_required=False) as lock:
            lock.callback(lock_path.unlink, missing_ok=True)
            if _is_complete(home, settings):
                return  # another process rendered it meanwhile
            shutil.rmtree(built, ignore_errors=True)  # left by a killed process
            lock.callback(shutil.rmtree, built, ignore_errors=True)
            sizes: dict[str, int] = {}
            # `disable=None` shows no bar if stderr is not a terminal.
            for record in tqdm(
                records, desc="rendering phantom images", leave=False, disable=None, delay=2
            ):
                names = _mask_names(record)
                rendering = render_findings(
                    _seed_of(self.seed, record.name),
                    size=self.size,
                    present=names.keys(),
                    patient_seed=_seed_of(self.seed, record.patient),
                )
                sizes[record.name] = _save(built / record.name, rendering.image)
                for finding, name in names.items():
                    mask = rendering.masks[finding].astype(np.uint8) * 255
                    sizes[name] = _save(built / name, mask)
            marker = {
                "format": _FORMAT,
                "renderer": RENDERER_VERSION,
                "settings": settings,
                "sizes": sizes,
            }
            (built / _MARKER).write_text(json.dumps(marker, indent=1) + "\n")
            shutil.rmtree(home, ignore_errors=True)
            os.replace(built, home)


def _check_findings(findings: list[str]) -> None:
    """Check the names of several findings.

    Raises:
        ValueError: If there are fewer than two, or one is repeated or cannot be rendered.
    """
    if len(findings) < 2 or len(set(findings)) < len(findings) or not {*findings} <= {*FINDINGS}:
        raise ValueError(
            f"findings must be two or more of {', '.join(FINDINGS)}, each once, got {findings}"
        )


def _mask_names(record: ImageRecord) -> dict[str, str]:
    """Return the names of a record's masks by finding; that of the binary set is an opacity."""
    return {
        key.removeprefix(_MASK_OF) if key.startswith(_MASK_OF) else "Opacity": name
        for key, name in record.attributes.items()
    }


def _seed_of(seed: int, name: str) -> int:
    """Return the seed of one image or patient, independent of all others."""
    sequence = np.random.SeedSequence([seed, *name.encode()])
    return int(sequence.generate_state(1, np.uint64)[0])


def _save(path: Path, pixels: NDArray[np.uint8]) -> int:
    """Write a PNG and return its size in bytes."""
    path.parent.mkdir(parents=True, exist_ok=True)
    # Noise hardly compresses: a higher level saves a few per cent and takes four times as long.
    Image.fromarray(pixels).save(path, compress_level=1)
    return path.stat().st_size


def _read_marker(root: Path) -> dict[str, Any] | None:
    """Return the marker of a phantom folder, `None` if it has none."""
    try:
        marker = json.loads((root / _MARKER).read_text())
    except (OSError, ValueError):
        return None
    is_phantom = isinstance(marker, dict) and marker.get("format") == _FORMAT
    is_complete = is_phantom and marker.keys() >= {"renderer", "settings", "sizes"}
    return marker if is_complete else None


def _is_complete(root: Path, settings: dict[str, Any]) -> bool:
    """True if the folder has every file of these settings, each with the size written."""
    marker = _read_marker(root)
    if marker is None or marker["renderer"] != RENDERER_VERSION:
        return False
    if marker["settings"] != settings:
        return False
    return all(
        (root / name).is_file() and (root / name).stat().st_size == size
        for name, size in marker["sizes"].items()
    )


def _refuse_foreign(root: Path) -> None:
    """Check that the folder has no other files, since rendering replaces it."""
    if root.exists() and not root.is_dir():
        raise DataError(f"phantom root must be a folder, {root} is a file")
    visible = [path for path in root.rglob("*") if not path.name.startswith(".")]
    found = {path.relative_to(root).as_posix() for path in visible if not path.is_dir()}
    marker = _read_marker(root)
    foreign = found if marker is None else found - {_MARKER, *marker["sizes"]}
    if foreign:
        raise DataError(
            f"phantom root {root} must be new, empty or written by a phantom, "
            f"found {len(foreign)} other files, such as {min(foreign)}; choose another root"
        )


def _warn_of_other(root: Path, settings: dict[str, Any]) -> None:
    """Warn that the existing images, which earlier runs may have used, are replaced."""
    marker = _read_marker(root)
    before = settings if marker is None else marker["settings"]
    differing = [
        f"{name}: {before.get(name)} before, {settings.get(name)} now"
        for name in {**settings, **before}
        if before.get(name) != settings.get(name)
    ]
    if differing:
        _logger.warning(
            "%s is rendered again with other settings (%s): runs that used the previous images "
            "cannot be scored again; set data.source.root to keep them",
            *(root, "; ".join(differing)),
        )
