"""The split file: writing, reading and checking which image is in which split."""

from __future__ import annotations

import csv
from collections.abc import Callable, Sequence
from itertools import chain
from pathlib import Path, PurePosixPath

from cxrignite.csv_text import CsvReader, csv_bytes
from cxrignite.data.sources import SPLITS, UNKNOWN, ImageRecord, Label
from cxrignite.durable_write import write_durably
from cxrignite.errors import DataError
from cxrignite.terminal import counted

COLUMNS = ("path", "label", "patient", "split", "sha256")
FINDING_PREFIX = "label:"
ATTRIBUTE_PREFIX = "attr_"
_CELLS = {"1": 1, "0": 0, "": UNKNOWN}  # of the label of one of several findings
_TEXTS = {label: cell for cell, label in _CELLS.items()}


def check_same_records(frozen: Sequence[ImageRecord], current: Sequence[ImageRecord]) -> None:
    """Check that a source still has the images that a split was made from.

    Raises:
        DataError: If a file is missing, new or changed; the message gives their numbers and the
            first name.
    """
    before = {record.name: record.sha256 for record in frozen}
    now = {record.name: record.sha256 for record in current}
    differences = {
        "missing": sorted(before.keys() - now.keys()),
        "new": sorted(now.keys() - before.keys()),
        "changed": sorted(name for name in before.keys() & now.keys() if before[name] != now[name]),
    }
    if any(differences.values()):
        counts = ", ".join(f"{len(names)} {kind}" for kind, names in differences.items())
        kind, names = next((kind, names) for kind, names in differences.items() if names)
        raise DataError(
            f"the data must be the {len(before)} files that the split was made from, got {counts}; "
            f"first {kind}: {names[0]}"
        )


def write_split(
    records: Sequence[ImageRecord],
    path: Path | str,
    write: Callable[[Path, bytes], None] = write_durably,
    findings: Sequence[str] = (),
) -> None:
    """Write the split to a CSV file, completely or not at all.

    Columns: `path` (the image's name), `label`, `patient`, `split`, `sha256`, then `attr_<name>`
    for each attribute of any image. An empty cell means that the image does not have the attribute.
    Several findings have a column each in place of `label`, named `label:<finding>`, with 1, 0, or
    an empty cell if the label is unknown.

    Args:
        records: The records of every split.
        path: The file; replaced if it exists.
        write: Function of path and content that writes a file, completely or not at all.
        findings: The names of the findings; needed only if there are several.

    Raises:
        CxrIgniteError: If the file cannot be written; an existing file is then unchanged.
    """
    path = Path(path)
    attributes = sorted({name for record in records for name in record.attributes})
    label_columns = _label_columns(findings)
    before, _, *after = COLUMNS
    header = [before, *label_columns, *after, *(ATTRIBUTE_PREFIX + name for name in attributes)]
    rows = (
        (
            record.name,
            *(_TEXTS[label] for _, label in zip(label_columns, record.labels, strict=True)),
            *(record.patient, record.split, record.sha256),
            *(record.attributes.get(name, "") for name in attributes),
        )
        for record in records
    )
    write(path, csv_bytes(chain([header], rows)))


def read_split(path: Path | str, source_root: Path | str) -> list[ImageRecord]:
    """Read a file written by `write_split`.

    Returns:
        The records in the file's order. The existence of the images is not checked.

    Raises:
        DataError: If the file cannot be read, or a row is not a valid record; the message gives the
            line.
    """
    path, source_root = Path(path), Path(source_root)
    try:
        with path.open(encoding="utf-8", errors="surrogateescape", newline="") as file:
            reader = CsvReader(file, strict=True)
            label_columns = _checked_label_columns(path, reader.fieldnames or [])
            shared: dict[Label, Label] = {}  # equal tuples are one object
            records = []
            for row in reader:
                problem = _row_problem(row, label_columns)
                if problem:
                    raise DataError(f"{path}, line {reader.line_num}: {problem}")
                labels = tuple(_CELLS[row[column]] for column in label_columns)
                label = labels[0] if len(labels) == 1 else labels
                records.append(_record_of(row, source_root, shared.setdefault(label, label)))
    except OSError as error:
        raise DataError(f"cannot read the split {path}: {error.strerror or error}") from error
    except csv.Error as error:
        raise DataError(f"{path} must be a CSV file, got: {error}") from error
    names = {record.name for record in records}
    if len(names) < len(records):
        repeats = counted(len(records) - len(names), "repeat")
        raise DataError(f"{path} must name each image once, got {repeats}")
    return records


def read_findings(path: Path | str) -> tuple[str, ...]:
    """Read the names of several findings from a file written by `write_split`.

    Returns:
        The names in order; empty if there is one finding, whose name the file does not have.

    Raises:
        DataError: If the file cannot be read, or its columns are not those of a split.
    """
    path = Path(path)
    try:
        with path.open(encoding="utf-8", errors="surrogateescape", newline="") as file:
            columns = _checked_label_columns(path, CsvReader(file, strict=True).fieldnames or [])
    except OSError as error:
        raise DataError(f"cannot read the split {path}: {error.strerror or error}") from error
    except csv.Error as error:
        raise DataError(f"{path} must be a CSV file, got: {error}") from error
    names = (name.removeprefix(FINDING_PREFIX) for name in columns)
    return tuple(names) if len(columns) > 1 else ()


def _label_columns(findings: Sequence[str]) -> list[str]:
    """Return the columns of the labels: `label`, or one for each of several findings."""
    return [FINDING_PREFIX + name for name in findings] if len(findings) > 1 else ["label"]


def _checked_label_columns(path: Path, columns: Sequence[str]) -> list[str]:
    """Return the columns of the labels.

    Raises:
        DataError: If a column is missing, or the columns of the labels contradict each other.
    """
    of_findings = [name for name in columns if name.startswith(FINDING_PREFIX)]
    missing = [
        name for name in COLUMNS if name not in columns and not (name == "label" and of_findings)
    ]
    if missing:
        raise DataError(f"{path} must have columns {', '.join(COLUMNS)}, lacks {missing}")
    if not of_findings:
        return ["label"]
    found = [name for name in columns if name == "label" or name in of_findings]
    if len(set(found)) < len(found) or len(found) < 2 or "label" in found:
        raise DataError(
            f"{path} must have one column label, or a column {FINDING_PREFIX}NAME for each of "
            f"several findings, got {found}"
        )
    return of_findings


def _row_problem(row: dict[str, str | None], label_columns: Sequence[str]) -> str | None:
    if None in row or None in row.values():
        return "the row must have as many cells as the header"
    name = PurePosixPath(row["path"] or "")
    if not name.parts or name.is_absolute() or ".." in name.parts:
        return f"path must be inside the source's root, got {row['path']!r}"
    if label_columns == ["label"]:
        if row["label"] not in {"0", "1"}:
            return f"label must be 0 or 1, got {row['label']!r}"
    else:
        for column in label_columns:
            if row[column] not in _CELLS:
                return f"{column} must be 1, 0 or empty, got {row[column]!r}"
    if row["split"] not in SPLITS:
        return f"split must be one of {', '.join(SPLITS)}, got {row['split']!r}"
    return None


def _record_of(row: dict[str, str], source_root: Path, label: Label) -> ImageRecord:
    return ImageRecord(
        file=f"{source_root}/{row['path']}",
        name=row["path"],
        label=label,
        patient=row["patient"],
        split=row["split"],
        attributes={
            column.removeprefix(ATTRIBUTE_PREFIX): value
            for column, value in row.items()
            if column.startswith(ATTRIBUTE_PREFIX) and value
        },
        sha256=row["sha256"],
    )
