"""A source of images listed in a table, with labels, patients, splits and attributes."""

from __future__ import annotations

import logging
import re
from array import array
from collections import Counter
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

from cxrignite.data.manifest_boxes import BoxCollector, check_box_columns
from cxrignite.data.manifest_join import ManifestJoin, joined
from cxrignite.data.manifest_labels import LabelReader, ManifestLabels, Memo, Value
from cxrignite.data.manifest_paths import ImageNames, check_some_exist, check_template, name_of_new
from cxrignite.data.manifest_patients import ManifestPatients, PatientReader
from cxrignite.data.manifest_selection import RowSelection
from cxrignite.data.manifest_splits import SplitLists, check_split_lists, split_of
from cxrignite.data.manifest_table import Table, open_table
from cxrignite.data.masks import MASK, attribute_of
from cxrignite.data.patients import PATTERNS, NewPatients
from cxrignite.data.sources import (
    SPLITS,
    ImageRecord,
    Label,
    Source,
    checked_classes,
    join_small_validation,
)
from cxrignite.errors import DataError, RecipeError, nearest, suggestion
from cxrignite.terminal import counted

_logger = logging.getLogger(__name__)

_HEADER_THREADS = 8
# A column of ages, but not `Image` or `Stage`; `058Y` is DICOM's way to write an age.
_AGE_COLUMN = re.compile(r"(?<![A-Za-z])(age|Age|AGE)(?![A-Za-z])|(?<=[a-z])Age(?![a-z])")
_AGE = re.compile(r"(\d{1,6}(?:\.\d*)?) ?[Yy]?")
_MAX_AGE = 120


@dataclass(frozen=True)
class ManifestColumns:
    """Names of a manifest's columns.

    Attributes:
        path: The column of the image's path, or a template of columns: `images/{patientId}.dcm`.
            `{subject_id:.2}` is the first two characters. After `**/` the file is searched in all
            folders below the root.
        label: The column of the label; null if each finding has its own column.
        patient: The column of the patient; null takes the column `patient`, if there is one.
        split: The column of the split; null takes the column `split`, if there is one. Without a
            split column all images are `train`.
        attributes: Columns whose values define subgroups in the results.
        findings: Columns by finding, if each has its own; a finding that is not listed has a
            column of its name.
        masks: Columns by finding, with the path of its mask relative to `root`; values above 127
            are inside. An empty cell is no mask.
        boxes: The four columns of a box: x, y, width and height in pixels of the file, from its top
            left. Rows of one image may have one box each, of the findings in that row.
    """

    path: str = "path"
    label: str | None = "label"
    patient: str | None = None
    split: str | None = None
    attributes: list[str] = field(default_factory=list)
    findings: dict[str, str] = field(default_factory=dict)
    masks: dict[str, str] = field(default_factory=dict)
    boxes: list[str] = field(default_factory=list)


class Manifest(Source):
    """A table with one row per image: CSV, or Parquet with the extra `parquet`.

    Several rows may name one image if label, patient and split agree; the attributes are those of
    the first row. Rows that are left out are logged with their count.

    Args:
        path: The table; read by `records()`, not by the constructor.
        classes: The name of "nothing found", then the name of each finding.
        columns: Names of the columns.
        labels: Meaning of the labels, and the handling of unclear ones.
        where: Values by column: only rows that have one of the values in each column are used.
        root: The folder that paths are relative to; null takes the table's own folder.
        patients: Source of the patient keys, if no column holds them.
        exclusive: True if each image has one of three or more classes, in one label column.
        join: Further tables; their columns are added to those of `path`.
        split_lists: Files with the names of a split's images, one a line, by split.

    Raises:
        RecipeError: If the settings contradict each other, or `labels` names a class that does not
            exist.
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
        exclusive: bool = False,
        join: list[ManifestJoin] | None = None,
        split_lists: dict[str, Path | str] | None = None,
    ) -> None:
        self.classes = checked_classes(classes, "names")
        if exclusive and len(self.classes) == 2:
            raise RecipeError(
                f"exclusive must have three or more classes, got {list(classes)}; remove it, since "
                "two classes exclude each other"
            )
        check_template(columns.path)
        if columns.patient is not None and (patients.pattern is not None or patients.from_header):
            raise RecipeError(
                "columns.patient and patients both name the patient, "
                f"got column {columns.patient!r}; remove one of them"
            )
        for key, named in (("findings", columns.findings), ("masks", columns.masks)):
            for name in named:
                if name not in self.classes[1:]:
                    raise RecipeError(
                        f"columns.{key} must name a finding, got '{name}'"
                        f"{suggestion(name, self.classes[1:])}"
                    )
        check_box_columns(columns.boxes)
        if columns.split is not None and split_lists:
            raise RecipeError(
                "columns.split and split_lists both give the split, "
                f"got column '{columns.split}'; remove one of them"
            )
        check_split_lists(split_lists or {})
        self.exclusive = exclusive
        self.join = join or []
        self.split_lists = split_lists or {}
        self.path = Path(path)
        self.root = self.path.parent if root is None else Path(root)
        self.columns = columns
        self.labels = labels
        self._label_reader()  # raises if the settings are not valid
        self.where = where or {}
        self.patients = patients
        self._patient_reader = PatientReader(patients)  # kept, so that the salt is read once

    def records(self) -> list[ImageRecord]:
        """Return the records in the order of the manifest.

        Raises:
            DataError: If the manifest cannot be read, lacks a column or a class, or none of its
                images exists. Also if a row names no image or has a label that a policy rejects;
                the message gives the line.
            RecipeError: If it is Parquet and pyarrow is missing, or the salt cannot be used.
        """
        return self._records(is_site=False)

    def site_records(self) -> list[ImageRecord]:
        """Return the records of a site's images, which may lack labels of some of the findings.

        Of several findings side by side, one without a column is unknown in all images, as is one
        that no row of a column of names has; a line of the log names it.

        Raises:
            DataError: As in `records()`; also if a column's name is nearly that of a finding.
            RecipeError: As in `records()`.
        """
        return self._records(is_site=True)

    def _records(self, *, is_site: bool) -> list[ImageRecord]:
        table = open_table(self.path)
        for each in self.join:
            table = joined(table, each)
        if not self.root.is_dir():
            raise DataError(f"source.root must be an existing folder, got {self.root}")
        records = self._listed(table, is_site=is_site)
        check_some_exist(records, self.root)
        return join_small_validation(self._with_patients(records))

    def patient_of(self, path: Path) -> str:
        """Return the patient of an image outside of the source, by its path or its header.

        Args:
            path: The image file.

        Returns:
            The patient's key as in `records()`; empty if it is unknown or comes from a column. Of a
            path outside of `root`, the folders above both are ignored.

        Raises:
            RecipeError: If the salt cannot be used.
        """
        if self.patients.from_header:
            return self._patient_reader.of_header(path)
        return self._patient_reader.of_name(name_of_new(path, self.root))

    def new_patients(self) -> NewPatients:
        """Return the pattern of the patients if it is searched in file names and there is no salt.

        Other patterns are searched in paths relative to `root`.
        """
        if self.patients.salt_file is not None:
            return NewPatients(cells="hidden")
        pattern = self.patients.pattern
        return NewPatients(pattern if pattern in PATTERNS else None, "cleaned")

    def patient_key(self, cell: str) -> str:
        """Return the key of a patient named in a table of new images, as in `records()`.

        Args:
            cell: The table's cell, which may be empty.

        Returns:
            The key; its hash if there is a salt.

        Raises:
            RecipeError: If the salt cannot be used.
        """
        return self._patient_reader.of_cell(cell)

    def _listed(self, table: Table, *, is_site: bool) -> list[ImageRecord]:
        """Return the records of the selected rows; the patient is empty if unknown so far."""
        lists = SplitLists(self.split_lists) if self.split_lists else None
        reader = self._label_reader()
        names = ImageNames(table, self.columns.path, self.root)
        selection = RowSelection(
            table,
            self._label_columns(table, own=reader.own_columns, is_site=is_site),
            self.classes,
            reader,
            self.where,
            exclusive=self.exclusive,
            is_site=is_site,
        )
        masks = {
            attribute_of(MASK, name if len(self.findings) > 1 else ""): column
            for name, column in self.columns.masks.items()
        }
        others = _OtherCells(table, self.columns, self._patient_reader, lists, masks)
        boxes = BoxCollector(table, self.columns.boxes, self.findings)
        at_label = len(names.columns)
        at_others = at_label + len(selection.columns)
        at_boxes = at_others + len(others.columns)
        columns = [*names.columns, *selection.columns, *others.columns, *boxes.columns]
        # As text in the form that `Path` writes: making a `Path` for each image would be slow.
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
            facts = label, *others.read(line, name, cells[at_others:at_boxes])
            if boxes.columns:
                boxes.add(line, name, label, cells[at_boxes:])
            first = records.get(name)
            if first is None:
                records[name] = ImageRecord(before + name, name, *facts)
                lines.append(line)
            elif first[2:5] != facts[:3]:
                if self.labels.rows == "any_positive":
                    label = _any_positive[first.label, label]
                    first = records[name] = first._replace(label=label)
                    facts = label, *facts[1:]
                if first[2:5] != facts[:3]:
                    first_line = lines[list(records).index(name)]
                    raise _contradiction(table, line, first_line, first, facts)
        listed = list(records.values())
        if boxes.columns:
            listed = boxes.with_boxes(listed)
        listed = selection.checked(listed)
        if lists is not None:
            lists.check(listed)
        names.report(num_rows)
        others.report()
        if num_rows > len(records):
            _logger.info(
                "%s: %s rows name an image that an earlier row names",
                *(table.path, f"{num_rows - len(records):,}"),
            )
        return listed

    def _label_reader(self) -> LabelReader:
        """Return a reader of the label cells."""
        own_columns = self.columns.label is None or bool(self.columns.findings)
        return LabelReader(
            self.classes, self.labels, own_columns=own_columns, exclusive=self.exclusive
        )

    def _label_columns(self, table: Table, *, own: bool, is_site: bool) -> list[int | None]:
        """Return the positions of the label columns: one, or one for each finding.

        It is None if a site has no column of one of several findings.
        """
        if not own:
            label = self.columns.label or ""
            has_findings = all(table.find(name) is not None for name in self.findings)
            if table.find(label) is None and len(self.findings) > 1 and has_findings:
                raise DataError(
                    f"{table.path} has no column '{label}' (source.columns.label), "
                    "but one for each finding; set columns.label to null"
                )
            return [table.column(label, "columns.label")]
        names = {name: self.columns.findings.get(name, name) for name in self.findings}
        missing = {name for name in names if table.find(names[name]) is None}
        if is_site and missing < names.keys():
            # A column that only resembles a finding may be one with a typing error.
            used = {names[name].casefold() for name in names.keys() - missing}
            others = [each for each in table.header if each.casefold() not in used]
            missing = {name for name in missing if nearest(names[name], others) is None}
        else:
            missing = set()
        return [
            None
            if name in missing
            else table.column(
                column, f"columns.findings.{name}" if name in self.columns.findings else "classes"
            )
            for name, column in names.items()
        ]

    def _with_patients(self, records: list[ImageRecord]) -> list[ImageRecord]:
        """Read patients from headers if requested; an image without one is its own patient."""
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
            "%s: %s of %s images have no patient: each counts as a separate patient, so a patient "
            "with images in two splits cannot be detected",
            *(self.path, f"{num_nameless:,}", f"{len(records):,}"),
        )
        return [
            record if record.patient else record._replace(patient=record.name) for record in records
        ]


class _OtherCells:
    """Reader of a row's patient, split and attributes."""

    def __init__(
        self,
        table: Table,
        columns: ManifestColumns,
        reader: PatientReader,
        lists: SplitLists | None,
        masks: Mapping[str, str],
    ) -> None:
        self.columns: list[int] = []
        self._table = table
        self._lists = lists
        patients = reader.settings
        self._of_name = reader.of_name if patients.pattern is not None else None
        by_column = self._of_name is None and not patients.from_header
        self._patients = Memo(reader.of_cell)
        self._patient_at = self._position("patient", columns.patient) if by_column else None
        age = next((name for name in table.header if _AGE_COLUMN.search(name)), None)
        self._age_at = None if age is None else self._position("age", age)
        self._ages: Counter[str] = Counter()
        has_split = lists is None and self._position("split", columns.split) is not None
        attributes = [table.column(name, "columns.attributes") for name in columns.attributes]
        attributes += [table.column(name, "columns.masks") for name in masks.values()]
        self._rest_from = len(self.columns) - has_split
        self.columns += attributes
        # Images with equal attributes share one dictionary: a million take hundreds of megabytes.
        self._rest = Memo(partial(_split_and_attributes, has_split, [*columns.attributes, *masks]))

    def read(
        self, line: int, name: str, cells: Sequence[str]
    ) -> tuple[str, str, Mapping[str, str]]:
        """Return patient (empty if unknown), split and attributes."""
        patient = ""
        if self._patient_at is not None:
            patient = self._patients[cells[self._patient_at]]
        elif self._of_name is not None:
            patient = self._of_name(name)
        if self._age_at is not None:
            self._ages[cells[self._age_at]] += 1
        split, attributes = self._rest[tuple(cells[self._rest_from :])]
        if self._lists is not None:
            return patient, self._lists.split(name), attributes
        if split not in SPLITS:
            raise DataError(
                f"{self._table.at(line)}: split must be one of {', '.join(SPLITS)}, got '{split}'"
            )
        return patient, split, attributes

    def report(self) -> None:
        """Log impossible ages; subgroups by age would contain them."""
        if self._age_at is None:
            return
        matches = {cell: _AGE.fullmatch(cell.strip()) for cell in self._ages}
        ages = {cell: float(match[1]) for cell, match in matches.items() if match}
        odd = {cell: age for cell, age in ages.items() if age > _MAX_AGE}
        if odd:
            _logger.warning(
                "%s: %s with an age over %s in column '%s', the largest is %g",
                *(self._table.path, counted(sum(self._ages[cell] for cell in odd), "row")),
                *(_MAX_AGE, self._table.header[self.columns[self._age_at]], max(odd.values())),
            )

    def _position(self, usual: str, column: str | None) -> int | None:
        """Return the position among the cells of an optional column, `None` if there is none."""
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
    """Return the split and the attributes of a row; keep an unknown split as it is."""
    split, values = (cells[0].strip(), cells[1:]) if has_split else ("train", cells)
    attributes = {name: cell.strip() for name, cell in zip(names, values, strict=True)}
    return (
        split_of(split),
        {name: value for name, value in attributes.items() if value},
    )


def _contradiction(
    table: Table, line: int, first_line: int, first: ImageRecord, facts: Sequence[object]
) -> DataError:
    """Return the error for two rows that disagree about one image; attributes may differ."""
    pairs = zip(("label", "patient", "split"), first[2:], facts, strict=False)
    what = next(what for what, before, now in pairs if before != now)
    hint = "; set labels.rows to any_positive if one positive row decides"
    return DataError(
        f"{table.at(line)}: the {what} of '{first.name}' differs from {table.unit} {first_line}"
        f"{hint if what == 'label' else ''}"
    )


def _larger(labels: tuple[Label, Label]) -> Label:
    """Return the label of an image with two rows: of each finding positive, negative, unknown."""
    first, second = labels
    if isinstance(first, tuple) and isinstance(second, tuple):
        return tuple(map(max, first, second))
    return first if second == 0 else second


_any_positive: Memo[tuple[Label, Label], Label] = Memo(_larger)
