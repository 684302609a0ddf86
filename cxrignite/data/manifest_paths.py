"""From the cells of a manifest to the images' names inside a root."""

from __future__ import annotations

import os
import posixpath
import re
from collections.abc import Sequence
from pathlib import Path

from cxrignite.data.manifest_table import Table
from cxrignite.data.sources import ImageRecord
from cxrignite.errors import DataError, RecipeError

NUM_TRIED = 32
"""Images that are looked for when a manifest is read; reading them finds the others."""

_FIELD = re.compile(r"\{([^{}]*)\}")
_DRIVE = re.compile(r"[A-Za-z]:[\\/]")


def check_template(text: str) -> None:
    """Refuses a text that is neither a column's name nor a template of columns in braces.

    Raises:
        RecipeError: If a brace has no partner or nothing in it.
    """
    if any(brace in _FIELD.sub("", text) for brace in "{}") or "" in _FIELD.findall(text):
        raise RecipeError(
            f"columns.path must be a column or a template such as 'images/{{id}}.png', got {text!r}"
        )


class ImageNames:
    """Makes an image's name from the cells that tell its path.

    Args:
        table: The manifest.
        path: The column of the path, or a template: `images/{patientId}.dcm`.
        root: The folder that names are relative to.

    Attributes:
        columns: Positions of the cells that it needs.

    Raises:
        DataError: If the manifest lacks a column.
    """

    def __init__(self, table: Table, path: str, root: Path) -> None:
        fields = _FIELD.findall(path)
        self.columns = [table.column(name, "columns.path") for name in fields or [path]]
        self._template = _FIELD.sub("{}", path) if fields else ""
        self._table, self._root = table, root
        # As it is written, and with links followed: either may stand in the manifest.
        self._roots = _written_and_real(root)

    def name(self, line: int, cells: Sequence[str]) -> str:
        """The path relative to the root, with forward slashes.

        Args:
            line: Where the row stands.
            cells: Those of `columns`.

        Raises:
            DataError: If a cell is empty, or the path leads out of the root.
        """
        stripped = [cell.strip() for cell in cells]
        if "" in stripped:
            column = self._table.header[self.columns[stripped.index("")]]
            raise DataError(f"{self._table.at(line)}: '{column}' is empty, it tells the path")
        name = self._template.format(*stripped) if self._template else stripped[0]
        # Nearly every name is plain, and looking is ten times as fast as `normpath`.
        if (
            "./" in name
            or "\\" in name
            or "//" in name
            or "\0" in name
            or name[0] == "/"
            or name[-1] in "./"
            or name[1:2] == ":"
        ):
            return self._plain(line, name)
        return name

    def _plain(self, line: int, given: str) -> str:
        # A table made on Windows has backslashes; file names on Unix have none worth keeping.
        name = given.replace("\\", "/")
        place = self._table.at(line)
        if os.path.isabs(name) or _DRIVE.match(given):
            name = posixpath.normpath(name)
            root = next((each for each in self._roots if name.startswith(each)), None)
            if root is None:
                raise DataError(
                    f"{place}: path must be inside {self._root}, got '{given}'; "
                    "source.root names another folder"
                )
            return name.removeprefix(root)
        name = posixpath.normpath(name)
        if name == ".." or name.startswith("../"):
            raise DataError(
                f"{place}: path must stay inside {self._root}, got '{given}'; "
                "source.root names another folder"
            )
        if name == "." or "\0" in name or given.endswith(("/", "\\")):
            raise DataError(f"{place}: path must be a file's, got {given!r}")
        return name


def name_of_new(path: Path, root: Path) -> str:
    """An image's path as its patient is searched in: relative to the root, if it is inside.

    Of any other it is what follows the folder that holds it and the root, with a slash before it:
    what lies above is no patient's, and nothing there stands where the root's own folders begin.
    """
    roots, record = _written_and_real(root), os.path.abspath(path)
    for each in roots:
        if record.startswith(each):
            return record.removeprefix(each)
    shared = max((os.path.commonpath([each, record]) for each in roots), key=len)
    return posixpath.join("/", record.removeprefix(shared))


def _written_and_real(root: Path) -> list[str]:
    """A folder's path as it is written and with links followed, with a slash at the end."""
    return [posixpath.join(each(root), "") for each in (os.path.abspath, os.path.realpath)]


def check_some_exist(records: Sequence[ImageRecord], root: Path) -> None:
    """Refuses images of which none is there, as where the root is another folder.

    To look for each of a million takes minutes on a network disk, and reading them will tell.

    Args:
        records: At least one.
        root: Where they were looked for.

    Raises:
        DataError: If none of some, evenly spread, exists.
    """
    tried = records[:: -(-len(records) // NUM_TRIED)]
    if not any(record.path.exists() for record in tried):
        raise DataError(
            f"none of {len(tried)} images tried exists, the first is {tried[0].path}; paths are "
            f"relative to {root}, unless source.root names another folder"
        )
