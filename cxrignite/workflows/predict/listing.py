"""Which images are to be scored, and whose they are."""

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
    """Images without a label, each once.

    Attributes:
        records: Named as they were given; what is written of them is this name.
        source: Tells the patient of an image by its file; null where `records` say it themselves.
    """

    records: list[ImageRecord]
    source: Source | None

    def patient_of(self, record: ImageRecord) -> str:
        """The patient's key, empty where it cannot be told."""
        return record.patient if self.source is None else self.source.patient_of(record.path)


def list_records(paths: Sequence[Path], source: Source) -> Listing:
    """The images that a command line names.

    Args:
        paths: Images, folders of images, and patterns of either. A file that is missing is listed,
            since those beside it can be scored.
        source: The run's, which knows whose image a file is.

    Raises:
        DataError: A folder has no image, or a pattern fits none.
    """
    return Listing([_new_record(path, str(path)) for path in image_files(paths)], source)


def list_manifest(
    path: Path, source: Source, path_column: str = "path", patient_column: str | None = None
) -> Listing:
    """The images that a table names, in its order; one that is named again counts once.

    Args:
        path: CSV or Parquet, as `open_table` reads it. Relative names start from its folder.
        source: The run's, which makes a patient's key of what the table says, and knows whose image
            a file is where it says nothing.
        path_column: The column of the names.
        patient_column: The column of the patients; null takes `patient` where there is one.

    Raises:
        DataError: The file cannot be read, lacks a column, or a row names no image. A row's cells
            are never told, since they may be of a patient.
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
                f"{table.at(number)}: a row must have a name in '{path_column}', it is empty"
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
