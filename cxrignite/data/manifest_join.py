"""Join of a manifest with further tables, on columns that both have."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass, replace
from operator import itemgetter
from pathlib import Path

from cxrignite.data.manifest_table import Rows, Table, open_table
from cxrignite.errors import DataError, RecipeError

_logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class ManifestJoin:
    """A table whose columns are added to those of a manifest.

    Attributes:
        path: The table: CSV or Parquet.
        by: Columns that both tables have. Rows with equal cells in all of them belong together.

    Raises:
        RecipeError: If no column is named.
    """

    path: Path | str
    by: list[str]

    def __post_init__(self) -> None:
        if not self.by:
            raise RecipeError(f"join.by must name at least one column of {self.path}, got none")


def joined(table: Table, settings: ManifestJoin) -> Table:
    """Return a table with the columns of another one; the rows are read on demand.

    A row without a partner has empty cells there, and is logged with the count of such rows. A
    column that both tables have is that of the first table.

    Raises:
        DataError: If the other table cannot be read, or one of the tables lacks a column. While
            reading: if a row has several partners that differ, or no row has one.
    """
    other = open_table(Path(settings.path))
    keys = [table.column(name, "join.by") for name in settings.by]
    other_keys = [other.column(name, "join.by") for name in settings.by]
    known = {name.casefold() for name in table.header}
    added = [at for at, name in enumerate(other.header) if name.casefold() not in known]
    header = [*table.header, *(other.header[at] for at in added)]

    def read(columns: Sequence[int]) -> Rows:
        own = sorted({at for at in columns if at < len(table.header)})
        others = sorted({at for at in columns if at >= len(table.header)})
        if not others:
            yield from table.read(columns)
            return
        partners = _partners(other, other_keys, [added[at - len(table.header)] for at in others])
        cells_at = {at: place for place, at in enumerate([*own, *others])}
        chosen = itemgetter(*(cells_at[at] for at in columns))
        empty = ("",) * len(others)
        num_rows = num_alone = 0
        # The first column must not be empty in an ordinary row, so the image's cells come first.
        for line, cells in table.read([*own, *keys]):
            num_rows += 1
            found = partners.get(_key(cells[len(own) :]))
            num_alone += found is None
            yield line, chosen((*cells[: len(own)], *(found or empty)))
        _report(table, other, settings, num_alone, num_rows)

    return replace(table, header=header, read=read)


def _partners(
    other: Table, keys: Sequence[int], columns: Sequence[int]
) -> dict[tuple[str, ...], tuple[str, ...]]:
    """Return the cells of the other table's rows by their keys."""
    partners: dict[tuple[str, ...], tuple[str, ...]] = {}
    for line, cells in other.read([*keys, *columns]):
        found = tuple(cells[len(keys) :])
        if partners.setdefault(_key(cells[: len(keys)]), found) != found:
            names = ", ".join(f"'{other.header[at]}'" for at in keys)
            raise DataError(
                f"{other.at(line)}: the row differs from an earlier one with the same {names}; "
                "add to join.by the columns that identify a row"
            )
    return partners


def _key(cells: Sequence[str]) -> tuple[str, ...]:
    return tuple([cell.strip() for cell in cells])


def _report(
    table: Table, other: Table, settings: ManifestJoin, num_alone: int, num_rows: int
) -> None:
    names = ", ".join(f"'{name}'" for name in settings.by)
    if 0 < num_rows == num_alone:
        raise DataError(
            f"{other.path} must have rows with the same {names} as {table.path}, got none in "
            f"{num_rows:,} rows; set join.by to columns with the same values"
        )
    if num_alone:
        _logger.warning(
            "%s: %s of %s rows have no row in %s with the same %s",
            *(table.path, f"{num_alone:,}", f"{num_rows:,}", other.path, names),
        )
