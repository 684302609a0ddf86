"""What an unpacked data set says of itself, and whether all of it is there."""

from __future__ import annotations

import json
import os
from pathlib import Path

from cxrignite.durable_write import write_durably
from cxrignite.errors import DataError
from cxrignite.workflows.download.catalogue import PublicData

_FILE_NAME = "origin.json"


def write_origin(folder: Path, data: PublicData) -> None:
    """Note in an unpacked folder what it is, how much of it there is, and how to cite it."""
    num_files, num_bytes = _measure(folder, data)
    origin = {
        "name": data.name,
        "doi": data.doi,
        "licence": data.licence,
        "citation": data.citation,
        "url": data.url,
        "sha256": data.sha256,
        "num_files": num_files,
        "num_bytes": num_bytes,
    }
    write_durably(folder / _FILE_NAME, f"{json.dumps(origin, indent=2)}\n".encode())


def is_whole(folder: Path, data: PublicData) -> bool:
    """Whether a folder holds all of a data set, by the number and the size of its files.

    Args:
        folder: May be missing or empty.
        data: What it should hold.

    Returns:
        Whether it does; a folder that is not there does not.

    Raises:
        DataError: There is something else, or a part of it. It is the user's to remove.
    """
    if not (folder.exists() or folder.is_symlink()):
        return False
    if folder.is_dir() and not any(folder.iterdir()):
        return False
    try:
        origin = json.loads((folder / _FILE_NAME).read_bytes())
        found = origin["sha256"], origin["num_files"], origin["num_bytes"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise DataError(
            f"{folder} is there already and `download` did not make it: it has no whole "
            f"{_FILE_NAME}; move it away or choose another --into"
        ) from error
    num_files, num_bytes = _measure(folder, data)
    if found != (data.sha256, num_files, num_bytes):
        raise DataError(
            f"{folder} is no longer what was unpacked there: {num_files:,} files of "
            f"{num_bytes:,} bytes, of {found[1]} files of {found[2]} bytes; move it away, "
            "then the same command brings it again"
        )
    return True


def _measure(folder: Path, data: PublicData) -> tuple[int, int]:
    """The number of files in the folders of films, and their bytes."""
    num_files = num_bytes = 0
    for name in data.films:
        if (folder / name).is_dir():
            with os.scandir(folder / name) as entries:
                for entry in entries:
                    num_files += 1
                    num_bytes += entry.stat().st_size
    return num_files, num_bytes
