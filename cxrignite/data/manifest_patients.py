"""Patients of a manifest's images: from a column, from the paths, or from the DICOM headers."""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from cxrignite.data.patients import PATTERNS, cleaned_patient, hashed_patient, patient_in_path
from cxrignite.errors import RecipeError, UnreadableImageError

MIN_SALT = 16
"""Least number of bytes of a salt, so that it cannot be guessed."""


@dataclass(frozen=True)
class ManifestPatients:
    """Source of a manifest's patients if no column holds them, and the hashing of their keys.

    Attributes:
        pattern: Reads the patient from the path: `chest-xray-2017`, or a regular expression whose
            groups, joined, make the key; it is searched in the whole path.
        from_header: Read the patient from the DICOM header; only with a salt.
        salt_file: A file with a secret of 16 characters or more. Every key is replaced by its hash
            with this secret, so that the run folder holds no patient's number.

    Raises:
        RecipeError: If settings contradict each other or `pattern` is not a regular expression.
    """

    pattern: str | None = None
    from_header: bool = False
    salt_file: Path | str | None = None

    def __post_init__(self) -> None:
        if self.from_header and self.pattern is not None:
            raise RecipeError(
                "patients: pattern and from_header both name the patient; remove one of them"
            )
        if self.from_header and self.salt_file is None:
            raise RecipeError(
                "patients.from_header must have a salt_file, got none; it hashes the patients' "
                "numbers, so that the run folder contains none"
            )
        try:
            re.compile(PATTERNS.get(self.pattern or "", self.pattern or ""))
        except re.error as error:
            raise RecipeError(
                f"patients.pattern must be one of {sorted(PATTERNS)} or a regular expression, "
                f"got {self.pattern!r} ({error})"
            ) from error


@dataclass
class PatientReader:
    """Reader of patient keys; a key is empty if the patient is unknown."""

    settings: ManifestPatients

    def of_cell(self, cell: str) -> str:
        """Return the key of the patient in a cell: `12.0` is `12`; `NaN` or `N/A` is unknown.

        Raises:
            RecipeError: If the salt cannot be used, as in the other methods.
        """
        return self._secret(cleaned_patient(cell))

    def of_name(self, name: str) -> str:
        """Return the key of the patient in an image's path."""
        pattern = self.settings.pattern
        if pattern is None:
            return ""
        self._check_salt()
        return self._secret(patient_in_path(name, pattern).strip())

    def of_header(self, path: Path) -> str:
        """Return the key of the patient in a DICOM header.

        It is empty for a file that cannot be read; the error is reported when the image is read.
        """
        # Imported here, since few manifests need it.
        from cxrignite.data.dicom import patient_id

        self._check_salt()
        try:
            return self.of_cell(patient_id(path) or "")
        except UnreadableImageError:
            return ""

    def _check_salt(self) -> None:
        """Raise at the first image if the salt cannot be used, even if its patient is unknown."""
        if self.settings.salt_file is not None:
            len(self._salt)

    def _secret(self, key: str) -> str:
        """Return the key, hashed if there is a salt."""
        if not key or self.settings.salt_file is None:
            return key
        return hashed_patient(key, self._salt)

    @cached_property
    def _salt(self) -> bytes:
        path = Path(self.settings.salt_file or "")
        try:
            salt = path.read_bytes().strip()
        except OSError as error:
            raise RecipeError(
                f"cannot read patients.salt_file {path}: {error.strerror or error}"
            ) from error
        if len(salt) < MIN_SALT:
            raise RecipeError(
                f"patients.salt_file must have at least {MIN_SALT} characters, "
                f"got {len(salt)} in {path}"
            )
        return salt
