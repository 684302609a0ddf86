"""Class activation maps of the misses, as `explain` left them in the run folder."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from PIL import Image

from cxrignite.reporting.html.misses import LARGEST_SIDE
from cxrignite.reporting.html.reading import Record, RunRecords
from cxrignite.terminal import counted

# An overlay is as large as what the model gets; a header that claims more is not believed.
_MAX_SIDE = 4096

_METHODS = {
    "grad_cam": "Grad-CAM",
    "grad_cam_pp": "Grad-CAM++",
    "hires_cam": "HiResCAM",
    "layer_cam": "LayerCAM",
}


@dataclass(frozen=True)
class ScoreMaps:
    """The maps of one set of films.

    Attributes:
        method: By which they were made.
        layer: Of the model, at which.
        target: The class they speak for.
        folder: Where all of them lie, inside the run folder.
        overlays: The map over a film, by the film's name; None is a map that is empty.
        faithfulness: What was measured of them; empty where nothing was.
    """

    method: str
    layer: str
    target: str
    folder: str
    overlays: Mapping[str, Image.Image | None]
    faithfulness: Record


def read_maps(records: RunRecords, name: str, films: Collection[str]) -> ScoreMaps | None:
    """Read the maps of some films; what cannot be read is complained of.

    Args:
        records: The run.
        name: Of the set of films, as in `predictions/<name>.csv`.
        films: The names of those whose maps are wanted.

    Returns:
        The maps; None where there are none, or where they are not of this run's weights.
    """
    folder = records.folder.root / "explain" / name
    if not folder.is_dir():
        return None
    about_path = folder / "explain.json"
    about = records.tree(about_path)
    made_with = about.text("weights_sha256")
    if not made_with or made_with != records.point.text("weights_sha256"):
        said = "names other weights than operating_point.json" if made_with else "names no weights"
        records.complain(about_path, f"{said}; its maps are left out until `explain` is run again")
        return None
    method = about.text("method")
    return ScoreMaps(
        _METHODS.get(method, method) or "a method without a name",
        about.text("target_layer") or "without a name",
        about.text("target_class") or records.classes[1],
        folder.relative_to(records.folder.root).as_posix(),
        _overlays(records, folder, films),
        about.child("faithfulness"),
    )


def _overlays(
    records: RunRecords, folder: Path, films: Collection[str]
) -> dict[str, Image.Image | None]:
    path = folder / "explain.csv"
    wanted = set(films)
    overlays: dict[str, Image.Image | None] = {}
    num_rows, num_bad_rows, num_bad_files = 0, 0, 0
    for row in records.rows(path):
        num_rows += 1
        film, is_empty = row.get("path"), _is_empty(row)
        if not film or is_empty is None:
            num_bad_rows += 1
        elif film in wanted and is_empty:
            overlays[film] = None
        elif film in wanted:
            overlay = _read_overlay(folder, row.get("overlay") or "")
            if overlay is None:
                num_bad_files += 1
            else:
                overlays[film] = overlay
    if not num_rows:
        records.complain(path, "lists no maps")
    if num_bad_rows:
        records.complain(path, f"has {counted(num_bad_rows, 'row')} that cannot be read, left out")
    if num_bad_files:
        what = f"names {counted(num_bad_files, 'overlay')} that cannot be read or lie elsewhere"
        records.complain(path, f"{what}, left out")
    return overlays


def _is_empty(row: Mapping[str, Any]) -> bool | None:
    """Whether a row's map is empty; None where that cannot be told."""
    try:
        highest = float(row["raw_max"])
    except (KeyError, TypeError, ValueError):
        return None
    return highest == 0 if math.isfinite(highest) and highest >= 0 else None


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
