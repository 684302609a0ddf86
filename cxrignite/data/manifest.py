"""Images as a table names them, each with its label and what else is known of it."""

from __future__ import annotations

import logging
from array import array
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

from cxrignite.data.manifest_labels import LabelReader, ManifestLabels, Memo, RowSelection, Value
from cxrignite.data.manifest_paths import ImageNames, check_some_exist, check_template, name_of_new
from cxrignite.data.manifest_patients import ManifestPatients, PatientReader
from cxrignite.data.manifest_table import Table, open_table
from cxrignite.data.sources import SPLITS, ImageRecord, Source, join_small_validation, two_classes
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
        path: The column of the image's path, or a template of columns: `images/{patientId}.dcm`.
        label: The column of the label.
        patient: The column of the patient; null takes `patient` where there is one.
        split: The column of the split; null takes `split` where there is one. Without one all
            images are `train`.
        attributes: Columns that go with each image, to be told apart in the results.
    """

    path: str = "path"
    label: str = "label"
    patient: str | None = None
    split: str | None = None
    attributes: list[str] = field(default_factory=list)


class Manifest(Source):
    """A table with a row an image: CSV, or Parquet with the extra `parquet`.

    Several rows may name one image, with the same label, patient and split; its attributes are
    those of the first. Everything that is left out is logged with its count.

    Args:
        path: The table; read by `records()`, not by the constructor.
        classes: The two classes; the last one is positive.
        columns: Which columns say what.
        labels: What labels mean, and what is done with those that are not clear.
        where: From a column to values: only rows that have one of them count.
        root: The folder that paths are relative to; null takes the table's own.
        patients: Whose the images are, where no column tells.

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
        self._patient_reader = PatientReader(patients)  # kept, so that the salt is read once

    def records(self) -> list[ImageRecord]:
        """The images in the order of the manifest.

        Raises:
            DataError: If the manifest cannot be read, lacks a column, has a row that is not an
            image
                or a label that a policy refuses (it names the line), holds one class only, or none
                of its images exists.
            RecipeError: If it is Parquet and pyarrow is missing, or the salt cannot be used.
        """
        table = open_table(self.path)
        if not self.root.is_dir():
            raise DataError(f"source.root must be an existing folder, got {self.root}")
        records = self._listed(table)
        check_some_exist(records, self.root)
        return join_small_validation(self._with_patients(records))

    def patient_of(self, path: Path) -> str:
        """Tells the patient of an image that is not of the source, by its path or its header.

        Args:
            path: The image's file.

        Returns:
            The patient's key as `records()` would give it; empty where a column tells the patient,
            or nothing does. Of a path outside of `root`, what lies above both tells nothing.

        Raises:
            RecipeError: If the salt cannot be used.
        """
        if self.patients.from_header:
            return self._patient_reader.of_header(path)
        return self._patient_reader.of_name(name_of_new(path, self.root))

    def patient_key(self, cell: str) -> str:
        """Tells the key of the patient that a table of new images names, as `records()` would.

        Args:
            cell: What the table says, empty where it says nothing.

        Returns:
            The key; the hash of it where there is a salt.

        Raises:
            RecipeError: If the salt cannot be used.
        """
        return self._patient_reader.of_cell(cell)

    def _listed(self, table: Table) -> list[ImageRecord]:
        """The records of the rows that count; the patient is empty if no cell or path names it."""
        names = ImageNames(table, self.columns.path, self.root)
        selection = RowSelection(table, self.columns.label, self.classes, self.labels, self.where)
        others = _OtherCells(table, self.columns, self._patient_reader)
        at_label = len(names.columns)
        at_others = at_label + len(selection.columns)
        columns = [*names.columns, *selection.columns, *others.columns]
        # Text, and as `Path` writes it.
        before = str(self.root / "name").removesuffix("name")
        records: dict[str, ImageRecord] = {}
        lines = array("q")
        num_rows = 0
        for line, cells in table.read(columns):
            label = selection.label(line, cells[at_label:at_others])
            if label is None:
                continue
            num_rows += 1
            name = names.name(line, cells[:at_label])
            facts = label, *others.read(line, name, cells[at_others:])
            first = records.get(name)
            if first is None:
                records[name] = ImageRecord(before + name, name, *facts)
                lines.append(line)
            elif first[2:5] != facts[:3]:
                first_line = lines[list(records).index(name)]
                raise _another(table, line, first_line, first, facts)
        selection.check(list(records.values()))
        if num_rows > len(records):
            _logger.info(
                "%s: an image is named again in %s of the rows",
                *(table.path, f"{num_rows - len(records):,}"),
            )
        return list(records.values())

    def _with_patients(self, records: list[ImageRecord]) -> list[ImageRecord]:
        """Reads patients from headers where asked to; an image without one is its own patient."""
        if self.patients.from_header:
            reader = self._patient_reader
            with ThreadPoolExecutor(_HEADER_THREADS, thread_name_prefix="headers") as pool:
                patients = pool.map(lambda record: reader.of_header(record.path), records)
                records = [
                    record._replace(patient=patient)
                    for record, patient in zip(records, patients, strict=True)
                ]
        num_nameless = sum(not record.patient for record in records)
        if not num_nameless:
            return records
        _logger.warning(
            "%s: %s of %s images name no patient: each counts as a patient of its own, so images "
            "of one patient in two splits cannot be found",
            *(self.path, f"{num_nameless:,}", f"{len(records):,}"),
        )
        return [
            record if record.patient else record._replace(patient=record.name) for record in records
        ]


class _OtherCells:
    """Reads patient, split and attributes of a row."""

    def __init__(self, table: Table, columns: ManifestColumns, reader: PatientReader) -> None:
        self.columns: list[int] = []
        self._table = table
        patients = reader.settings
        self._of_name = reader.of_name if patients.pattern is not None else None
        by_column = self._of_name is None and not patients.from_header
        self._patients = Memo(reader.of_cell)
        self._patient_at = self._position("patient", columns.patient) if by_column else None
        has_split = self._position("split", columns.split) is not None
        attributes = [table.column(name, "columns.attributes") for name in columns.attributes]
        self._rest_from = len(self.columns) - has_split
        self.columns += attributes
        # Images that have the same share them: a million dictionaries are hundreds of megabytes.
        self._rest = Memo(partial(_split_and_attributes, has_split, columns.attributes))

    def read(
        self, line: int, name: str, cells: Sequence[str]
    ) -> tuple[str, str, Mapping[str, str]]:
        """Patient (empty where it cannot be told), split and attributes."""
        patient = ""
        if self._patient_at is not None:
            patient = self._patients[cells[self._patient_at]]
        elif self._of_name is not None:
            patient = self._of_name(name)
        split, attributes = self._rest[tuple(cells[self._rest_from :])]
        if split not in SPLITS:
            raise DataError(
                f"{self._table.at(line)}: split must be one of {', '.join(SPLITS)}, got '{split}'"
            )
        return patient, split, attributes

    def _position(self, usual: str, column: str | None) -> int | None:
        """Where among the cells a column is that may be left unnamed."""
        if column is not None:
            position: int | None = self._table.column(column, f"columns.{usual}")
        else:
            position = self._table.find(usual)
        if position is None:
            return None
        self.columns.append(position)
        return len(self.columns) - 1


def _split_and_attributes(
    has_split: bool, names: Sequence[str], cells: Sequence[str]
) -> tuple[str, Mapping[str, str]]:
    """Of the cells of split (where there is one) and attributes; an unknown split stays."""
    split, values = (cells[0].strip(), cells[1:]) if has_split else ("train", cells)
    attributes = {name: cell.strip() for name, cell in zip(names, values, strict=True)}
    return (
        _SPLIT_NAMES.get(split.casefold(), split),
        {name: value for name, value in attributes.items() if value},
    )


def _another(
    table: Table, line: int, first_line: int, first: ImageRecord, facts: Sequence[object]
) -> DataError:
    """Tells of an image of which two rows tell different things; attributes may differ."""
    pairs = zip(("label", "patient", "split"), first[2:], facts, strict=False)
    what = next(what for what, before, now in pairs if before != now)
    return DataError(
        f"{table.at(line)}: '{first.name}' has another {what} than in {table.unit} {first_line}"
    )
