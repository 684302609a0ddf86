"""Names of a manifest's images: paths relative to the root, made from the cells of a row."""

from __future__ import annotations

import logging
import os
import posixpath
import re
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path

from cxrignite.data.manifest_table import Table
from cxrignite.data.sources import ImageRecord
from cxrignite.errors import DataError, RecipeError
from cxrignite.output_marker import OUTPUT_MARKER

NUM_TRIED = 32
"""Number of images whose existence is checked when a manifest is read."""

_logger = logging.getLogger(__name__)

SEARCHED = "**/"
"""Start of a template whose files may be in any folder below the root."""

# A column, and the number of its first characters that are used: `{subject_id:.2}`.
_FIELD = re.compile(r"\{([^{}]*?)(:\.\d+)?\}")
_DRIVE = re.compile(r"[A-Za-z]:[\\/]")


def check_template(text: str) -> None:
    """Check that a text is a column's name or a template of columns in braces.

    Raises:
        RecipeError: If a brace has no partner or a pair of braces is empty.
    """
    names = [name for name, _ in _FIELD.findall(text)]
    if any(brace in _FIELD.sub("", text) for brace in "{}") or "" in names:
        raise RecipeError(
            f"columns.path must be a column or a template such as 'images/{{id}}.png', got {text!r}"
        )


class ImageNames:
    """Maker of an image's name from the cells that hold its path.

    Args:
        table: The manifest.
        path: The column of the path, or a template: `images/{patientId}.dcm`. After `**/` the rest
            is searched in all folders below the root.
        root: The folder that names are relative to.

    Attributes:
        columns: Positions of the cells it needs.

    Raises:
        DataError: If the manifest lacks a column.
    """

    def __init__(self, table: Table, path: str, root: Path) -> None:
        self._files = _files_below(root) if path.startswith(SEARCHED) else None
        self._num_absent = 0
        path = path.removeprefix(SEARCHED)
        fields = [name for name, _ in _FIELD.findall(path)]
        self.columns = [table.column(name, "columns.path") for name in fields or [path]]
        self._template = _FIELD.sub(r"{\2}", path) if fields else ""
        self._table, self._root = table, root
        # As written and with links followed: the manifest may have either.
        self._roots = _written_and_real(root)

    def name(self, line: int, cells: Sequence[str]) -> str:
        """Return the path relative to the root, with forward slashes.

        The cells are those at `columns`.

        Raises:
            DataError: If a cell is empty, the path leads out of the root, or several files below
                the root may be meant.
        """
        stripped = [cell.strip() for cell in cells]
        if "" in stripped:
            column = self._table.header[self.columns[stripped.index("")]]
            raise DataError(f"{self._table.at(line)}: '{column}' must hold the path, it is empty")
        name = self._template.format(*stripped) if self._template else stripped[0]
        # Nearly every name is plain, and this check is ten times as fast as `normpath`.
        if (
            "./" in name
            or "\\" in name
            or "//" in name
            or "\0" in name
            or name[0] == "/"
            or name[-1] in "./"
            or name[1:2] == ":"
        ):
            name = self._plain(line, name)
        return name if self._files is None else self._searched(line, name)

    def report(self, num_images: int) -> None:
        """Log how many images the search has not found; reading them reports each."""
        if self._num_absent:
            _logger.warning(
                "%s: %s of %s names were not found below %s",
                *(self._table.path, f"{self._num_absent:,}", f"{num_images:,}", self._root),
            )

    def _searched(self, line: int, name: str) -> str:
        """Return the path of the file below the root that has this name or ends with it."""
        files = (self._files or {}).get(posixpath.basename(name), [])
        found = [each for each in files if each == name or each.endswith(f"/{name}")]
        if len(found) > 1:
            raise DataError(
                f"{self._table.at(line)}: '{name}' must be one file below {self._root}, found "
                f"{len(found)}: '{found[0]}', '{found[1]}'; name their folder in columns.path"
            )
        self._num_absent += not found
        return found[0] if found else name

    def _plain(self, line: int, given: str) -> str:
        # A table made on Windows has backslashes, which file names on Unix hardly ever contain.
        name = given.replace("\\", "/")
        place = self._table.at(line)
        if os.path.isabs(name) or _DRIVE.match(given):
            name = posixpath.normpath(name)
            root = next((each for each in self._roots if name.startswith(each)), None)
            if root is None:
                raise DataError(
                    f"{place}: path must be inside {self._root}, got '{given}'; "
                    "set source.root to change the folder"
                )
            return name.removeprefix(root)
        name = posixpath.normpath(name)
        if name == ".." or name.startswith("../"):
            raise DataError(
                f"{place}: path must be inside {self._root}, got '{given}'; "
                "set source.root to change the folder"
            )
        if name == "." or "\0" in name or given.endswith(("/", "\\")):
            raise DataError(f"{place}: path must name a file, got {given!r}")
        return name


def name_of_new(path: Path, root: Path) -> str:
    """Return the part of an image's path that its patient is searched in.

    Inside of the root this is the path relative to the root. Outside it is the path below the last
    folder shared with the root, with a slash before it. The folders above identify no patient,
    and the slash distinguishes the path from one inside of the root.
    """
    roots, file = _written_and_real(root), os.path.abspath(path)
    for each in roots:
        if file.startswith(each):
            return file.removeprefix(each)
    shared = max((os.path.commonpath([each, file]) for each in roots), key=len)
    return posixpath.join("/", file.removeprefix(shared))


def _files_below(root: Path) -> dict[str, list[str]]:
    """Return the paths of all files below a folder, relative to it, by file name.

    Hidden folders and those that a command wrote are left out, and a folder that several links lead
    to is searched once. `find_images` also opens files to recognise images, which takes four times
    as long and is not needed: the table names them.
    """
    files: dict[str, list[str]] = defaultdict(list)
    seen: set[tuple[int, int]] = set()
    for folder, below, names in os.walk(root, followlinks=True):
        status = os.stat(folder)
        if (status.st_dev, status.st_ino) in seen or OUTPUT_MARKER in names:
            below.clear()
            continue
        seen.add((status.st_dev, status.st_ino))
        below[:] = sorted(each for each in below if not each.startswith("."))
        prefix = posixpath.join(os.path.relpath(folder, root), "").removeprefix("./")
        for name in names:
            files[name].append(prefix + name)
    return files


def _written_and_real(root: Path) -> list[str]:
    """Return a folder's path as written and with links followed, each with a slash at the end."""
    return [posixpath.join(each(root), "") for each in (os.path.abspath, os.path.realpath)]


def check_some_exist(records: Sequence[ImageRecord], root: Path) -> None:
    """Check that some of the images exist; none does if the root is the wrong folder.

    Only `NUM_TRIED` are checked: checking a million takes minutes on a network disk, and reading
    them later finds the missing ones anyway.

    Raises:
        DataError: If none of a sample, evenly spread over the records, exists.
    """
    tried = records[:: -(-len(records) // NUM_TRIED)]
    if not any(record.path.exists() for record in tried):
        raise DataError(
            f"at least one image must exist, but none of the {len(tried)} checked does, the first "
            f"is {tried[0].path}; paths are relative to {root}, set source.root to change it"
        )
