"""List of the images to score, with their patients."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from pathlib import Path
from typing import NamedTuple, Protocol

from cxrignite.data import ImageRecord
from cxrignite.data.image_files import image_files
from cxrignite.data.manifest_table import Table, open_table
from cxrignite.errors import DataError, RecipeError
from cxrignite.functional import UNKNOWN_LABEL
from cxrignite.workflows.predict.request import Request

_PATIENT = "patient"


class Patients(Protocol):
    """Names of the patients of new images, such as a `Source` gives."""

    def patient_of(self, path: Path) -> str:
        """Return the patient of an image file; empty if unknown."""

    def patient_key(self, cell: str) -> str:
        """Return the key of a patient named in a table."""


class Listing(NamedTuple):
    """Images without labels, each once.

    Attributes:
        records: The records, with the names as given; these names appear in the results.
        source: Finds the patient of an image from its file; null if `records` have the patients.
    """

    records: list[ImageRecord]
    source: Patients | None

    def without(self, names: Collection[str]) -> list[ImageRecord]:
        """Return the records of all images but those with these names."""
        return [record for record in self.records if record.name not in names]

    def patient_of(self, record: ImageRecord) -> str:
        """Return the patient's key, empty if unknown."""
        return record.patient if self.source is None else self.source.patient_of(record.path)


def list_records(paths: Sequence[Path], source: Patients) -> Listing:
    """List the images named on the command line.

    A missing file is listed, so that the others are scored. The source finds the patient of a file.

    Raises:
        DataError: A folder has no image, or a pattern matches none.
    """
    return Listing([_new_record(path, str(path)) for path in image_files(paths)], source)


def list_manifest(
    path: Path, source: Patients, path_column: str = "path", patient_column: str | None = None
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


def list_images(source: Patients, request: Request) -> Listing:
    """List the images of a request.

    Raises:
        DataError: As in `list_records` and `list_manifest`.
        RecipeError: The output would replace the manifest; or as in `list_manifest`.
    """
    if request.manifest is None:
        return list_records(request.files, source)
    if _is_same(request.manifest, request.output):
        raise RecipeError(f"--output must be another file than --manifest, got {request.output}")
    return list_manifest(request.manifest, source, request.path_column, request.patient_column)


def _is_same(first: Path, second: Path) -> bool:
    """True if two names are of one file, also through links."""
    if first.exists() and second.exists():
        return first.samefile(second)
    return first.resolve() == second.resolve()


def _new_record(path: Path, name: str, patient: str = "") -> ImageRecord:
    return ImageRecord(str(path), name, UNKNOWN_LABEL, patient, "test")


def _column(table: Table, name: str) -> int:
    position = table.find(name)
    if position is None:
        names = ", ".join(filter(None, table.header))
        raise DataError(f"{table.path} must have one column '{name}', got {names}")
    return position
