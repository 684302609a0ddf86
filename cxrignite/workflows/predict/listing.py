"""Which films are to be scored, and whose they are."""

from __future__ import annotations

import csv
import glob
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from cxrignite.data import Film, Source
from cxrignite.data.sources import image_files
from cxrignite.errors import DataError
from cxrignite.functional import UNKNOWN_LABEL

_PATIENT = "patient"


class Listing(NamedTuple):
    """Films without a label, each once.

    Attributes:
        films: Named as they were given; what is written of them is this name.
        source: Tells the patient of a film by its file; null where `films` say it themselves.
    """

    films: list[Film]
    source: Source | None

    def patient_of(self, film: Film) -> str:
        """The patient's key, empty where it cannot be told."""
        return film.patient if self.source is None else self.source.patient_of(film.path)


def list_films(paths: Sequence[Path], source: Source) -> Listing:
    """The films that a command line names.

    Args:
        paths: Images, folders of images, and patterns of either. A file that is missing is listed,
            since those beside it can be scored.
        source: The run's, which knows whose film a file is.

    Raises:
        DataError: A folder has no image, or a pattern fits none.
    """
    files = dict.fromkeys(file for path in paths for file in _files_of(path))
    return Listing([_new_film(path, str(path)) for path in files], source)


def list_manifest(
    path: Path, source: Source, path_column: str = "path", patient_column: str | None = None
) -> Listing:
    """The films that a CSV file names, in its order; one that is named again counts once.

    Args:
        path: The CSV file, with a header, in UTF-8. Relative names start from its folder.
        source: The run's, which knows whose film a file is, where the table does not say it.
        path_column: The column of the names.
        patient_column: The column of the patients; null takes `patient` where there is one.

    Raises:
        DataError: The file cannot be read, lacks a column, or a row names no film.
    """
    films: dict[str, Film] = {}
    try:
        with path.open(encoding="utf-8-sig", errors="surrogateescape", newline="") as file:
            reader = csv.reader(file, strict=True)
            header = next(reader, [])
            name_at = _column(path, header, path_column)
            knows_patients = patient_column is not None or _PATIENT in header
            patient_at = _column(path, header, patient_column or _PATIENT) if knows_patients else 0
            for row in reader:
                if not row:
                    continue  # a blank line
                if len(row) != len(header) or not row[name_at]:
                    raise DataError(
                        f"{path}, line {reader.line_num}: a row must have {len(header)} cells and "
                        f"a name in '{path_column}', got {row}"
                    )
                name, patient = row[name_at], row[patient_at] if knows_patients else ""
                if name not in films:
                    films[name] = _new_film(path.parent / name, name, patient)
    except OSError as error:
        raise DataError(f"cannot read the manifest {path}: {error.strerror or error}") from error
    except csv.Error as error:
        raise DataError(f"{path} must be a CSV file, got: {error}") from error
    if not films:
        raise DataError(f"{path} must name at least one film, got none")
    return Listing(list(films.values()), None if knows_patients else source)


def _new_film(path: Path, name: str, patient: str = "") -> Film:
    return Film(str(path), name, UNKNOWN_LABEL, patient, "test")


def _column(path: Path, header: list[str], name: str) -> int:
    if header.count(name) != 1:
        raise DataError(f"{path} must have one column '{name}', got {', '.join(header) or 'none'}")
    return header.index(name)


def _files_of(path: Path) -> Iterator[Path]:
    if path.exists():
        yield from image_files([path])
    elif glob.has_magic(str(path)):
        yield from _matches(str(path))
    else:
        yield path


def _matches(pattern: str) -> Iterator[Path]:
    """What a shell would make of a pattern; a folder that it fits may be without an image."""
    num_found = 0
    for match in sorted(map(Path, glob.iglob(pattern, recursive=True))):
        files = [match]
        if match.is_dir():
            try:
                files = image_files([match])
            except DataError:
                continue
        num_found += len(files)
        yield from files
    if not num_found:
        raise DataError(f"the pattern {pattern} must fit an image, it fits none")
