"""Films as a table names them, each with its label and what else is known of it."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

from cxrignite.data.manifest_labels import LabelReader, ManifestLabels, Value
from cxrignite.data.manifest_paths import FilmNames, check_some_exist, check_template
from cxrignite.data.manifest_patients import ManifestPatients, PatientReader
from cxrignite.data.manifest_selection import Memo, RowSelection
from cxrignite.data.manifest_table import Table, open_table
from cxrignite.data.sources import SPLITS, Film, Source, join_small_validation, two_classes
from cxrignite.errors import DataError, RecipeError

_logger = logging.getLogger(__name__)

_SPLIT_NAMES = {name: name for name in SPLITS} | {
    **dict.fromkeys(("valid", "validation", "dev"), "val"),
    "training": "train",
    "testing": "test",
}
_HEADER_THREADS = 8


@dataclass(frozen=True)
class ManifestColumns:
    """Which columns of a manifest say what.

    Attributes:
        path: The column of the film's path, or a template of columns: `images/{patientId}.dcm`.
        label: The column of the label.
        patient: The column of the patient; null takes `patient` where there is one.
        split: The column of the split; null takes `split` where there is one. Without one all
            films are `train`.
        attributes: Columns that go with each film, to be told apart in the results.
    """

    path: str = "path"
    label: str = "label"
    patient: str | None = None
    split: str | None = None
    attributes: list[str] = field(default_factory=list)


class Manifest(Source):
    """A table with a row a film: CSV, or Parquet with the extra `parquet`.

    Several rows may name one film, with the same label. Everything that is left out is logged with
    its count.

    Args:
        path: The table; read by `films()`, not by the constructor.
        classes: The two classes; the last one is positive.
        columns: Which columns say what.
        labels: What labels mean, and what is done with those that are not clear.
        where: From a column to values: only rows that have one of them count.
        root: The folder that paths are relative to; null takes the table's own.
        patients: Whose the films are, where no column tells.

    Raises:
        RecipeError: If the settings contradict each other, or `labels` names a class that is not
            there.
    """

    def __init__(
        self,
        path: Path | str,
        classes: list[str] = ["NORMAL", "PNEUMONIA"],  # noqa: B006  (read only, and `--help` shows it)
        columns: ManifestColumns = ManifestColumns(),
        labels: ManifestLabels = ManifestLabels(),  # noqa: B008  (frozen, as the next)
        where: dict[str, list[Value]] | None = None,
        root: Path | str | None = None,
        patients: ManifestPatients = ManifestPatients(),  # noqa: B008
    ) -> None:
        self.classes = two_classes(classes, "names")
        check_template(columns.path)
        if columns.patient is not None and (patients.pattern is not None or patients.from_header):
            raise RecipeError(
                "columns.patient and patients both tell the patient, choose one, "
                f"got column {columns.patient!r}"
            )
        LabelReader(self.classes, labels)  # refuses what it cannot honour
        self.path = Path(path)
        self.root = self.path.parent if root is None else Path(root)
        self.columns = columns
        self.labels = labels
        self.where = where or {}
        self.patients = patients

    def films(self) -> list[Film]:
        """Lists the films in the order of the manifest.

        Raises:
            DataError: If the manifest cannot be read, lacks a column, has a row that is not a film
                or a label that a policy refuses (it names the line), holds one class only, or none
                of its films exists.
            RecipeError: If it is Parquet and pyarrow is missing, or the salt cannot be used.
        """
        table = open_table(self.path)
        if not self.root.is_dir():
            raise DataError(f"source.root must be an existing folder, got {self.root}")
        rows = self._rows(table)
        patients = self._patients(rows)
        root = self.root
        films = [
            Film(f"{root}/{name}", name, label, patient or name, split, attributes)
            for (_, name, label, _, split, attributes), patient in zip(rows, patients, strict=True)
        ]
        check_some_exist(films, root)
        return join_small_validation(films)

    def patient_of(self, path: Path) -> str:
        """Tells the patient of a film that is not of the source, by its path or its header.

        Args:
            path: The film's file.

        Returns:
            The patient's key as `films()` would give it; empty where a column tells the patient,
            or nothing does.
        """
        reader = PatientReader(self.patients)
        if self.patients.from_header:
            return reader.of_header(path)
        inside = path.is_relative_to(self.root)
        return reader.of_name((path.relative_to(self.root) if inside else path).as_posix())

    def _rows(self, table: Table) -> list[_Row]:
        """The rows that count, one a film."""
        names = FilmNames(table, self.columns.path, self.root)
        selection = RowSelection(table, self.classes, self.labels, self.where)
        label_at = table.column(self.columns.label, "columns.label")
        others = _OtherCells(table, self.columns, self.patients)
        at_label = len(names.columns)
        at_others = at_label + 1 + len(selection.columns)
        columns = [*names.columns, label_at, *selection.columns, *others.columns]
        rows: dict[str, _Row] = {}
        num_again = 0
        for line, cells in table.read(columns):
            label = selection.label(line, cells[at_label], cells[at_label + 1 : at_others])
            if label is None:
                continue
            name = names.name(line, cells[:at_label])
            row = _Row(line, name, label, *others.read(line, name, cells[at_others:]))
            first = rows.setdefault(name, row)
            if first is not row:
                _check_same_film(table, first, row)
                num_again += 1
        selection.check()
        selection.tell()
        if num_again:
            _logger.info("%s: %s rows name a film again", table.path, f"{num_again:,}")
        num_positive = sum(row.label for row in rows.values())
        if not 0 < num_positive < len(rows):
            counts = (len(rows) - num_positive, num_positive)
            told = " and ".join(f"{n:,} {c}" for n, c in zip(counts, self.classes, strict=True))
            left_out = selection.left_out()
            raise DataError(
                f"{table.path} must have films of both classes, got {told}"
                f"{f' ({left_out})' if left_out else ''}; {selection.found()}"
            )
        return list(rows.values())

    def _patients(self, rows: list[_Row]) -> list[str]:
        """The patients' keys; tells how many rows name none."""
        patients = [row.patient for row in rows]
        if self.patients.from_header:
            reader, root = PatientReader(self.patients), self.root
            with ThreadPoolExecutor(_HEADER_THREADS, thread_name_prefix="headers") as pool:
                patients = list(pool.map(lambda row: reader.of_header(root / row.name), rows))
        num_nameless = patients.count("")
        if num_nameless:
            _logger.warning(
                "%s: %s of %s films name no patient: each counts as a patient of its own, so films "
                "of one patient in two splits cannot be found",
                *(self.path, f"{num_nameless:,}", f"{len(rows):,}"),
            )
        return patients


class _Row(NamedTuple):
    """A row that counts."""

    line: int
    name: str
    label: int
    patient: str
    split: str
    attributes: Mapping[str, str]


class _OtherCells:
    """Reads patient, split and attributes of a row."""

    def __init__(self, table: Table, columns: ManifestColumns, patients: ManifestPatients) -> None:
        self.columns: list[int] = []
        self._table = table
        reader = PatientReader(patients)
        self._of_name = reader.of_name if patients.pattern is not None else None
        by_column = self._of_name is None and not patients.from_header
        self._patients = Memo(reader.of_cell)
        self._patient_at = self._position("patient", columns.patient) if by_column else None
        self._splits = Memo(lambda cell: _SPLIT_NAMES.get(cell.casefold(), ""))
        self._split_at = self._position("split", columns.split)
        self._attributes = [
            (name, self._add(table.column(name, "columns.attributes")))
            for name in columns.attributes
        ]

    def read(self, line: int, name: str, cells: list[str]) -> tuple[str, str, Mapping[str, str]]:
        """Patient (empty where it cannot be told), split and attributes."""
        patient = ""
        if self._patient_at is not None:
            patient = self._patients[cells[self._patient_at]]
        elif self._of_name is not None:
            patient = self._of_name(name)
        split = "train" if self._split_at is None else self._splits[cells[self._split_at]]
        if not split:
            raise DataError(
                f"{self._table.at(line)}: split must be one of {', '.join(SPLITS)}, "
                f"got '{cells[self._split_at or 0]}'"
            )
        attributes = {name: cells[at] for name, at in self._attributes if cells[at]}
        return patient, split, attributes

    def _position(self, usual: str, column: str | None) -> int | None:
        """Where among the cells a column is that may be left unnamed."""
        if column is not None:
            return self._add(self._table.column(column, f"columns.{usual}"))
        position = self._table.find(usual)
        return None if position is None else self._add(position)

    def _add(self, column: int) -> int:
        self.columns.append(column)
        return len(self.columns) - 1


def _check_same_film(table: Table, first: _Row, again: _Row) -> None:
    for what in ("label", "patient", "split"):
        if getattr(first, what) != getattr(again, what):
            raise DataError(
                f"{table.at(again.line)}: '{again.name}' has another {what} than in "
                f"{table.unit} {first.line}"
            )
