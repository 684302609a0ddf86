"""CSV files that are safe to open in a spreadsheet and read back unchanged."""

from __future__ import annotations

import csv
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

# Spreadsheets run a cell that begins like this; a leading apostrophe makes it text. A text that
# already begins with an apostrophe gets a second one, so that `plain_cell` can restore it.
_FULL_WIDTH = "\uff1d\uff0b\uff0d\uff20"  # Excel takes these four for `=+-@`
_FORMULA = re.compile(rf"'*[=+\-@\t\r\n{_FULL_WIDTH}]")
_NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?|[+-](inf|nan)")


def csv_bytes(rows: Iterable[Sequence[object]]) -> bytes:
    """Return rows as CSV that is safe to open in a spreadsheet.

    A text that begins as a formula (`=`, `+`, `-`, `@`, tab, line end) gets an apostrophe before
    it; numbers such as `-1.5` stay. `CsvReader` and `plain_cell` remove it.

    Args:
        rows: The header first; one cell for each column.

    Returns:
        Lines that end with a newline, in UTF-8; file names that are not UTF-8 keep their bytes.
    """
    lines: list[str] = []
    # With this line ending, csv quotes cells that hold \r or \n.
    writer = csv.writer(_Lines(lines), lineterminator="\r\n")
    writer.writerows(map(_safe_cell, row) for row in rows)
    return "".join(lines).encode("utf-8", "surrogateescape")


def dict_rows(rows: Iterable[Mapping[str, object]], columns: Sequence[str]) -> bytes:
    """Return mappings as CSV with a header; a missing cell is empty.

    Args:
        rows: Cells by column.
        columns: All columns, in order.
    """
    return csv_bytes([columns, *([row.get(name, "") for name in columns] for row in rows)])


def plain_cell(cell: str) -> str:
    """Return the original text of a cell that `csv_bytes` wrote."""
    return cell[1:] if cell.startswith("'") and _FORMULA.match(cell) else cell


class CsvReader(csv.DictReader):  # type: ignore[type-arg]  # not generic in Python 3.11
    """Reader of what `csv_bytes` wrote; each row is a mapping by column."""

    def __next__(self) -> dict[Any, Any]:
        """Return the next row; a missing cell is not a text, as in `csv.DictReader`."""
        row = super().__next__()
        return {
            name: plain_cell(cell) if isinstance(cell, str) else cell for name, cell in row.items()
        }


class _Lines:
    """File-like collector of the lines of a `csv.writer`."""

    def __init__(self, lines: list[str]) -> None:
        self._lines = lines

    def write(self, line: str) -> None:
        self._lines.append(f"{line[:-2]}\n")


def _safe_cell(cell: object) -> object:
    if not isinstance(cell, str) or not _FORMULA.match(cell) or _NUMBER.fullmatch(cell):
        return cell
    return f"'{cell}"
