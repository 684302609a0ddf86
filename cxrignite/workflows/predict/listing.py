"""List of the images to score, with their patients."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from cxrignite.data import ImageRecord, Source
from cxrignite.data.image_files import image_files
from cxrignite.data.manifest_table import Table, open_table
from cxrignite.errors import DataError
from cxrignite.functional import UNKNOWN_LABEL

_PATIENT = "patient"


class Listing(NamedTuple):
    """Images without labels, each once.

    Attributes:
        records: The records, with the names as given; these names appear in the results.
        source: Finds the patient of an image from its file; null if `records` have the patients.
    """

    records: list[ImageRecord]
    source: Source | None

    def patient_of(self, record: ImageRecord) -> str:
        """Return the patient's key, empty if unknown."""
        return record.patient if self.source is None else self.source.patient_of(record.path)


def list_records(paths: Sequence[Path], source: Source) -> Listing:
    """List the images named on the command line.

    A missing file is listed, so that the others are scored. The source finds the patient of a file.

    Raises:
        DataError: A folder has no image, or a pattern matches none.
    """
    return Listing([_new_record(path, str(path)) for path in image_files(paths)], source)


def list_manifest(
    path: Path, source: Source, path_column: str = "path", patient_column: str | None = None
) -> Listing:
    """List the images of a table, in its order; repeated names count once.

    Relative names start from the folder of the table. Without a column of patients, the source
    finds the patient in the file; None as `patient_column` takes `patient`, if there is one.

    Raises:
        DataError: The file cannot be read, lacks a column, or a row names no image. Messages never
            show a row's cells, which may identify a patient.
        RecipeError: It is Parquet and pyarrow is not installed; or the run's salt cannot be used.
    """
    table = open_table(path)
    name_at = _column(table, path_column)
    patient_at = None
    if patient_column is not None or table.find(_PATIENT) is not None:
        patient_at = _column(table, patient_column or _PATIENT)
    records: dict[str, ImageRecord] = {}
    for number, (name, patient) in table.read(
        [name_at, name_at if patient_at is None else patient_at]
    ):
        if not name:
            raise DataError(
                f"{table.at(number)}: column '{path_column}' must have a name, got an empty cell"
            )
        if name not in records:
            key = "" if patient_at is None else source.patient_key(patient)
            records[name] = _new_record(path.parent / name, name, key)
    if not records:
        raise DataError(f"{path} must name at least one image, got none")
    return Listing(list(records.values()), source if patient_at is None else None)


def _new_record(path: Path, name: str, patient: str = "") -> ImageRecord:
    return ImageRecord(str(path), name, UNKNOWN_LABEL, patient, "test")


def _column(table: Table, name: str) -> int:
    position = table.find(name)
    if position is None:
        names = ", ".join(filter(None, table.header))
        raise DataError(f"{table.path} must have one column '{name}', got {names}")
    return position
