"""A manifest's rows as text, from CSV or Parquet, each with its line number."""

from __future__ import annotations

import codecs
import csv
import gzip
import io
import re
import zlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from itertools import count, islice
from operator import itemgetter
from pathlib import Path
from typing import Any

from cxrignite.errors import DataError, RecipeError, suggestion

# Excel writes `;` where the comma is the decimal sign.
_DELIMITERS = ",;\t|"
_DECLARED = re.compile(r'"?sep=(.)"?\W*$')  # as the first line, which Excel obeys
_NUM_SNIFFED = 50
_PARQUET_SUFFIXES = (".parquet", ".pq")

Rows = Iterator[tuple[int, Sequence[str]]]


@dataclass(frozen=True)
class Table:
    """A table of text with a header.

    Attributes:
        read: Function from two or more column positions to the rows, each a line number and the
            cells as written.
        unit: The unit of a row's number: `line` or `row`.
    """

    path: Path
    header: list[str]
    read: Callable[[Sequence[int]], Rows]
    unit: str = "line"

    def find(self, name: str) -> int | None:
        """Return the position of a column, `None` if there is none of this name.

        Raises:
            DataError: If there are several.
        """
        for key, names in (
            (name, self.header),
            (name.strip().casefold(), [each.casefold() for each in self.header]),
        ):
            if names.count(key) > 1:
                raise DataError(f"{self.path} must have one column '{name}', got several")
            if key in names:
                return names.index(key)
        return None

    def column(self, name: str, setting: str) -> int:
        """Return the position of a column that a recipe names.

        Case is ignored if only one matches. `setting` is the key of the recipe, for the error.

        Raises:
            DataError: If there is none (the message names the nearest) or several.
        """
        position = self.find(name)
        if position is None:
            near = suggestion(name, self.header)
            raise DataError(f"{self.path} has no column '{name}' (source.{setting}){near}")
        return position

    def at(self, number: int) -> str:
        """Return the place of a row, for messages."""
        return f"{self.path}, {self.unit} {number}"


def open_table(path: Path) -> Table:
    """Open a table by its suffix: `.parquet` and `.pq` are Parquet, all else is CSV.

    CSV is UTF-8, or UTF-16 with a byte order mark, and has a header. Its cells are separated by a
    comma, semicolon, tab or bar: the one that Excel's line `sep=;` names, else the one that fits
    the first lines best. `.gz` is decompressed.

    Raises:
        DataError: If it cannot be read or has no header.
        RecipeError: If it is Parquet and pyarrow is not installed.
    """
    if path.suffix.lower() in _PARQUET_SUFFIXES:
        return _open_parquet(path)
    with _readable(path), _open_text(path) as file:
        lines = list(islice(file, _NUM_SNIFFED))
    declared = _DECLARED.match(lines[0]) if lines else None
    rows_by = {
        each: [row for row in _reader(lines[bool(declared) :], each) if any(map(str.strip, row))]
        for each in (declared[1] if declared else _DELIMITERS)
    }
    delimiter = max(rows_by, key=lambda each: _fit(rows_by[each]))
    first, *others = rows_by[delimiter] or [[]]
    header = [name.strip() for name in first]
    if not any(header):
        raise DataError(f"{path} must have a header line and one row per image, it is empty")
    # `write.table` of R numbers the rows, in a column that its header leaves out.
    if others and all(
        len(row) == len(first) + 1 and row[0] == str(number) for number, row in enumerate(others, 1)
    ):
        header.insert(0, "")
    return Table(path, header, partial(_read_csv, path, delimiter, first, len(header)))


def _fit(rows: Sequence[Sequence[str]]) -> tuple[int, int]:
    """Rate a delimiter by the rows that are as wide as the header, then by the width."""
    width = len(rows[0]) if rows else 0
    return sum(len(row) >= width > 1 for row in rows), width


def _read_csv(
    path: Path, delimiter: str, header: list[str], width: int, columns: Sequence[int]
) -> Rows:
    cells_of, first, line = itemgetter(*columns), columns[0], 0
    with _readable(path), _open_text(path) as file:
        reader = _reader(file, delimiter, strict=True)
        try:
            for row in reader:  # skips the header and all before it
                line = reader.line_num
                if row == header:
                    break
            for row in reader:
                line = reader.line_num
                if len(row) != width or not row[first]:
                    if not any(map(str.strip, row)):  # spreadsheets leave blank rows at the end
                        continue
                    _check_width(path, line, row, width)
                yield line, cells_of(row)
        except csv.Error as error:
            raise DataError(
                f"{path}, line {line + 1}: a manifest must be CSV, got: {error}"
            ) from error


def _check_width(path: Path, line: int, row: Sequence[str], width: int) -> None:
    if len(row) < width or any(map(str.strip, row[width:])):
        raise DataError(
            f"{path}, line {line}: the row must have {width} cells like the header, got {len(row)}"
        )


def _reader(lines: Iterable[str], delimiter: str, **options: Any) -> Any:
    return csv.reader(lines, delimiter=delimiter, skipinitialspace=True, **options)


def _open_text(path: Path) -> io.TextIOWrapper:
    with _open_bytes(path) as file:
        is_wide = file.read(2) in (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)
    # `utf-8-sig` drops the byte order mark that Excel writes.
    encoding = "utf-16" if is_wide else "utf-8-sig"
    return io.TextIOWrapper(_open_bytes(path), encoding=encoding, newline="")


def _open_bytes(path: Path) -> gzip.GzipFile | io.BufferedReader:
    return gzip.open(path) if path.suffix.lower() == ".gz" else path.open("rb")


@contextmanager
def _readable(path: Path, *damage: type[Exception]) -> Iterator[None]:
    """Raise a `DataError` for a file that cannot be read, is not text, or is damaged Parquet."""
    try:
        yield
    except UnicodeDecodeError:
        try:
            with _open_bytes(path) as file:
                (content := file.read()).decode()
            line = 1  # of UTF-16
        except UnicodeDecodeError as error:
            line = content.count(b"\n", 0, error.start) + 1
        raise DataError(
            f"{path}, line {line}: a manifest must be UTF-8 text; save it as 'CSV UTF-8'"
        ) from None
    except (OSError, EOFError, zlib.error) as error:
        reason = getattr(error, "strerror", None) or _first_line(error)
        raise DataError(f"cannot read the manifest {path}: {reason}") from error
    except damage as error:
        raise DataError(f"{path} must be a Parquet file, got: {_first_line(error)}") from error


def _open_parquet(path: Path) -> Table:
    try:
        from pyarrow import ArrowException
        from pyarrow.parquet import ParquetFile
    except ImportError as error:
        raise RecipeError(
            f"{path}: reading Parquet needs pyarrow; in a checkout, pip install '.[parquet]'"
        ) from error
    with _readable(path, ArrowException), path.open("rb") as raw, ParquetFile(raw) as file:
        header = list(file.schema_arrow.names)
    return Table(path, header, partial(_read_parquet, path, header), unit="row")


def _read_parquet(path: Path, header: list[str], columns: Sequence[int]) -> Rows:
    from pyarrow import ArrowException
    from pyarrow.parquet import ParquetFile

    names = [header[column] for column in columns]
    numbers = count(1)
    with _readable(path, ArrowException), path.open("rb") as raw, ParquetFile(raw) as file:
        for batch in file.iter_batches(columns=sorted(set(names))):
            cells = ([_text(value) for value in batch[name].to_pylist()] for name in names)
            for row in zip(*cells, strict=True):
                yield next(numbers), row


def _text(value: Any) -> str:
    """Return a cell as CSV would have it; floats become whole numbers again.

    pandas stores whole numbers as floats in a column with empty cells.
    """
    if value is None or value != value:  # NaN, which pandas writes for an empty cell
        return ""
    if isinstance(value, float) and value.is_integer():
        return str(int(value))
    return str(value).strip()


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]
