"""Class activation maps of wrong decisions, read from the output of `explain`."""

from __future__ import annotations

import csv
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path

from PIL import Image

from cxrignite.csv_text import CsvReader
from cxrignite.errors import DamagedRunError
from cxrignite.reporting.html.wrong_decisions import LARGEST_SIDE
from cxrignite.runs.map_evaluation import MapChecks
from cxrignite.runs.run_results import RunResults, check_columns
from cxrignite.terminal import counted

# An overlay has the size of the model's input; a larger one is not read.
_MAX_SIDE = 4096

_METHODS = {
    "grad_cam": "Grad-CAM",
    "grad_cam_pp": "Grad-CAM++",
    "hires_cam": "HiResCAM",
    "layer_cam": "LayerCAM",
}


@dataclass(frozen=True)
class ScoreMaps:
    """The maps of one set of images.

    Attributes:
        method: Method that made them.
        layer: Layer of the model.
        target: The class whose evidence they show.
        folder: Their folder, relative to the run folder.
        overlays: The map over an image, by the image's name; None is an empty map.
        checks: Results of their checks; None if they were not checked.
        notes: One line for each kind of missing maps.
    """

    method: str
    layer: str
    target: str
    folder: str
    overlays: Mapping[str, Image.Image | None]
    checks: MapChecks | None
    notes: tuple[str, ...] = ()


def read_maps(results: RunResults, name: str, image_names: Collection[str]) -> ScoreMaps | None:
    """Read the maps of some images.

    Args:
        results: The run.
        name: Name of the set of images, as in `predictions/<name>.csv`.
        image_names: Names of the images whose maps are shown.

    Returns:
        The maps; None if there are none. Maps of other weights than the run has are left out.

    Raises:
        DamagedRunError: Their list or their evaluation is damaged.
    """
    name = results.results_name(name)
    evaluation = results.folder.find_map_evaluation(name)
    if evaluation is None:
        return None
    folder = results.folder.explain_dir(name)
    overlays: dict[str, Image.Image | None] = {}
    notes = []
    if results.rule is None or evaluation.weights_sha256 != results.rule.weights_sha256:
        notes.append(
            f"The maps in explain/{name} belong to other weights than operating_point.json and are "
            "not shown. Run `explain` again."
        )
    else:
        overlays, num_missing = _overlays(results, folder, image_names)
        if num_missing:
            notes.append(
                f"{counted(num_missing, 'map')} in explain/{name} missing, not readable or outside "
                "that folder. Run `explain` again."
            )
    return ScoreMaps(
        _METHODS.get(evaluation.method, evaluation.method),
        evaluation.target_layer,
        evaluation.target_class,
        folder.relative_to(results.folder.root).as_posix(),
        overlays,
        None if notes and not overlays else evaluation.checks,
        tuple(notes),
    )


def _overlays(
    results: RunResults, folder: Path, image_names: Collection[str]
) -> tuple[dict[str, Image.Image | None], int]:
    """Read the overlays of some images, and count those that cannot be read."""
    path = folder / "explain.csv"
    results.folder.files.check(path)
    overlays: dict[str, Image.Image | None] = {}
    num_missing, shown = 0, set(image_names)
    try:
        with path.open(encoding="utf-8", errors="surrogateescape", newline="") as file:
            reader = CsvReader(file)
            check_columns(reader, ("path", "raw_max", "overlay"))
            for row in reader:
                if row["path"] not in shown:
                    continue
                overlay = (
                    None if float(row["raw_max"]) == 0 else _read_overlay(folder, row["overlay"])
                )
                if overlay is None and float(row["raw_max"]) != 0:
                    num_missing += 1
                else:
                    overlays[row["path"]] = overlay
    except (OSError, csv.Error, KeyError, TypeError, ValueError) as error:
        raise DamagedRunError(f"{path} is damaged: {error}") from error
    return overlays, num_missing


def _read_overlay(folder: Path, file_name: str) -> Image.Image | None:
    path = folder / file_name
    try:
        # A run folder may come from anywhere, and must not show other files of this machine.
        if Path(file_name).name != file_name or path.is_symlink() or not path.is_file():
            return None
        with Image.open(path, formats=("PNG",)) as image:
            if max(image.size) > _MAX_SIDE:
                return None
            overlay = image.convert("RGB")
    except Exception:  # a damaged file can raise nearly anything inside Pillow
        return None
    overlay.thumbnail((LARGEST_SIDE, LARGEST_SIDE))
    return overlay
