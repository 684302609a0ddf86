"""Search for image files in folders; files left out are listed with the reason."""

from __future__ import annotations

import glob
import logging
import os
from collections import defaultdict
from collections.abc import Collection, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from cxrignite.data.dicom import is_dicom
from cxrignite.data.image_formats import (
    IMAGE_SUFFIXES,
    READ_FORMATS,
    format_of,
    names_image,
    names_other,
    suffix_of,
)
from cxrignite.errors import DataError
from cxrignite.output_marker import OUTPUT_MARKER

_logger = logging.getLogger(__name__)

_NUM_NAMED = 3
_DICOM_DIRECTORY = "DICOMDIR"  # lists the files of a medium and has no image
_WRITTEN = "written by cxrignite"
_HIDDEN = "hidden (the name starts with a dot)"


class LeftOut(NamedTuple):
    """A file or folder that looks like images and is left out.

    Attributes:
        reason: The reason, in a few words.
    """

    path: str
    reason: str


def find_images(folder: Path | str) -> tuple[list[str], list[LeftOut]]:
    """List the images of a folder and of all folders below it, linked ones too.

    A dead link and a folder that cannot be read are listed as files, so that reading them reports
    them like any other unreadable file. A folder that several links lead to is listed once, by its
    own name if that is below `folder`.

    Returns:
        The paths of the images, sorted by name, and the files left out.
    """
    files: list[str] = []
    left_out: list[LeftOut] = []
    folders, linked = [str(folder)], list[str]()
    seen: set[tuple[int, int]] = set()
    while folders or linked:
        # Links last, since the folder they lead to may itself be below `folder`.
        here = folders.pop() if folders else linked.pop(0)
        try:
            status = os.stat(here)
            if (status.st_dev, status.st_ino) in seen:
                continue
            seen.add((status.st_dev, status.st_ino))
            with os.scandir(here) as scan:
                entries = sorted(scan, key=lambda entry: entry.name)
        except OSError:
            files.append(here)
            continue
        if any(entry.name == OUTPUT_MARKER for entry in entries):
            left_out.append(LeftOut(here, _WRITTEN))
            continue
        for entry in entries:
            if not _is_folder(entry):
                reason = _reason_to_skip(entry)
                if reason is None:
                    files.append(entry.path)
                elif reason:
                    left_out.append(LeftOut(entry.path, reason))
            elif entry.name.startswith("."):
                left_out.append(LeftOut(entry.path, _HIDDEN))
            else:
                (linked if entry.is_symlink() else folders).append(entry.path)
    return sorted(files, key=lambda path: path.split("/")), left_out


def image_files(paths: Sequence[Path]) -> list[Path]:
    """List the image files that paths name; a folder stands for the images below it.

    Files in folders that are left out are logged as a warning, with their number and the reason.

    Args:
        paths: Files, folders and patterns of either. A missing file is listed too, so that the
            others can still be read.

    Returns:
        Each file once, those of a folder sorted by name.

    Raises:
        DataError: If a folder has no image, a pattern matches none, or cxrignite itself wrote all
            the files.
    """
    files: dict[str, None] = {}
    left_out: dict[LeftOut, None] = {}  # each once, like the files
    for path in map(str, paths):
        found: dict[str, None] = {}
        is_pattern = not os.path.exists(path) and glob.has_magic(path)
        for each in sorted(glob.iglob(path, recursive=True)) if is_pattern else [path]:
            if os.path.isdir(each):
                below, without = find_images(each)
                found |= dict.fromkeys(below)
                left_out |= dict.fromkeys(without)
            elif os.path.exists(os.path.join(os.path.dirname(each), OUTPUT_MARKER)):
                left_out[LeftOut(each, _WRITTEN)] = None
            else:
                found[each] = None
        if not found and (is_pattern or os.path.isdir(path)):
            what = f"the pattern {path} must match" if is_pattern else f"{path} must contain"
            why = f"; {_summary(left_out)}" if left_out else ""
            raise DataError(f"{what} at least one image ({READ_FORMATS}), found none{why}")
        files |= found
    if left_out and not files:
        raise DataError(f"the paths must name at least one image, found none; {_summary(left_out)}")
    report_left_out(left_out)
    return [Path(each) for each in files]


def report_left_out(left_out: Collection[LeftOut]) -> None:
    """Log the files left out in one line: their number, the reasons, and the first of each."""
    if left_out:
        _logger.warning("%s", _summary(left_out))


def _summary(left_out: Collection[LeftOut]) -> str:
    by_reason = defaultdict[str, list[str]](list)
    for path, reason in left_out:
        by_reason[reason].append(path)
    return f"{len(left_out):,} left out: " + "; ".join(
        f"{len(found):,} {reason} ({', '.join(found[:_NUM_NAMED])}"
        f"{', ...' if len(found) > _NUM_NAMED else ''})"
        for reason, found in by_reason.items()
    )


def _is_folder(entry: os.DirEntry[str]) -> bool:
    # `DirEntry.is_dir` raises at a link to itself.
    return os.path.isdir(entry.path) if entry.is_symlink() else entry.is_dir()


def _reason_to_skip(entry: os.DirEntry[str]) -> str | None:
    """Return why a file is left out: `None` if it is an image, empty if it looks like no image."""
    name = entry.name
    # macOS writes `._person1.jpeg` beside a file; it is not an image.
    if name.startswith("._") or name == _DICOM_DIRECTORY:
        return ""
    if name.startswith("."):
        return _HIDDEN if names_image(name.lstrip(".")) else ""
    suffix = suffix_of(name)
    is_named = suffix in IMAGE_SUFFIXES and name.lower().endswith(suffix)
    if not os.path.exists(entry.path):
        return "" if names_other(name) else None  # a dead link
    if not entry.is_file():
        return "neither a file nor a folder" if is_named else ""
    if is_named:
        return None
    if names_image(name):
        return "of a format that is not read"
    # PACS name exported files `IM000001` or `1.2.840.10008.5`: only the content identifies them.
    try:
        with open(entry.path, "rb", buffering=0) as file:
            head = file.read(132)
    except OSError:
        return "" if names_other(name) else None  # possibly an image that cannot be read
    if is_dicom(head):
        return None
    known = format_of(head)
    return f"{known} by content but not by name" if known else ""


def images_outside(folder: Path, kept: Sequence[str]) -> Iterator[LeftOut]:
    """Yield the images in a folder that are outside of the folders that are read."""
    with os.scandir(folder) as scan:
        entries = sorted(scan, key=lambda entry: entry.name)
    if any(entry.name == OUTPUT_MARKER for entry in entries):
        return
    for entry in entries:
        if _is_folder(entry):
            if entry.name not in kept and not entry.name.startswith("."):
                reason = f"in the folder '{entry.name}', not in {', '.join(kept)}"
                yield from (LeftOut(path, reason) for path in find_images(entry.path)[0])
        elif _reason_to_skip(entry) is None:
            yield LeftOut(entry.path, f"in none of the folders {', '.join(kept)}")
