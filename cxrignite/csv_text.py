"""The one form of the CSV that is written: no cell of it is a formula, and each reads back."""

from __future__ import annotations

import csv
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

# Spreadsheets run a cell that begins so; an apostrophe before it makes it text. One that is there
# already gets another, so that what was written can be distinguished from what was added.
_FULL_WIDTH = "\uff1d\uff0b\uff0d\uff20"  # Excel takes these four for `=+-@`
_FORMULA = re.compile(rf"'*[=+\-@\t\r\n{_FULL_WIDTH}]")
_NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?|[+-](inf|nan)")


def csv_bytes(rows: Iterable[Sequence[object]]) -> bytes:
    """Writes rows as CSV that is safe to open in a spreadsheet.

    A text that begins as a formula (`=`, `+`, `-`, `@`, tab, line end) gets an apostrophe before
    it; numbers such as `-1.5` stay. `CsvReader` and `plain_cell` take it away again.

    Args:
        rows: The header first; each a cell a column.

    Returns:
        Lines that end with a newline, in UTF-8; file names that are not UTF-8 keep their bytes.
    """
    lines: list[str] = []
    # Only with this end of lines are cells quoted that hold either half of it.
    writer = csv.writer(_Lines(lines), lineterminator="\r\n")
    writer.writerows(map(_safe_cell, row) for row in rows)
    return "".join(lines).encode("utf-8", "surrogateescape")


def dict_rows(rows: Iterable[Mapping[str, object]], columns: Sequence[str]) -> bytes:
    """Writes rows that know their columns, below a header; a cell that is missing is empty.

    Args:
        rows: From columns to cells.
        columns: All of them, in their order.
    """
    return csv_bytes([columns, *([row.get(name, "") for name in columns] for row in rows)])


def plain_cell(cell: str) -> str:
    """The text that `csv_bytes` was given, from what it wrote."""
    return cell[1:] if cell.startswith("'") and _FORMULA.match(cell) else cell


class CsvReader(csv.DictReader):  # type: ignore[type-arg]  # Python 3.11 has it not generic
    """Reads what `csv_bytes` wrote, each row by its columns."""

    def __next__(self) -> dict[Any, Any]:
        """The next row; a cell that is missing is not a text, as in `csv.DictReader`."""
        row = super().__next__()
        return {
            name: plain_cell(cell) if isinstance(cell, str) else cell for name, cell in row.items()
        }


class _Lines:
    """Takes the lines of a `csv.writer`."""

    def __init__(self, lines: list[str]) -> None:
        self._lines = lines

    def write(self, line: str) -> None:
        self._lines.append(f"{line[:-2]}\n")


def _safe_cell(cell: object) -> object:
    if not isinstance(cell, str) or not _FORMULA.match(cell) or _NUMBER.fullmatch(cell):
        return cell
    return f"'{cell}"
