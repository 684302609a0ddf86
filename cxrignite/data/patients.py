"""The patient of an image, read from its file name."""

from __future__ import annotations

import hashlib
import hmac
import posixpath
import re
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Literal

# ChestXRay2017 numbers its bacteria and virus patients independently: `person12_virus` and
# `person12_bacteria` are two children, so the key includes the type.
PATTERNS: dict[str, str] = {
    "chest-xray-2017": r"^(person\d+)_(bacteria|virus)_|^((?:NORMAL2-)?IM-\d+)-",
}

SUBGROUPS: dict[str, str] = {
    "chest-xray-2017": r"bacteria|virus|NORMAL2|IM",
}


def patient_key(name: str, pattern: str = "chest-xray-2017") -> str:
    r"""Read a patient's key from an image's name.

    Args:
        name: The image's path relative to its source, or its file name. The pattern is searched in
            the file name only.
        pattern: A name in `PATTERNS`, or a regular expression.

    Returns:
        The pattern's groups that matched, joined by `_` (the whole match if it has no groups). A
        name that does not match counts as a separate patient: the name without its suffix.

    Raises:
        re.error: If `pattern` is not a regular expression.

    Examples:
        >>> patient_key("train/PNEUMONIA/person12_virus_46.jpeg")
        'person12_virus'
        >>> patient_key("NORMAL2-IM-0123-0001-0002.jpeg")
        'NORMAL2-IM-0123'
        >>> patient_key("scan-7.png", r"scan-(\d+)")
        '7'
    """
    match = _search(PATTERNS.get(pattern, pattern), name)
    return posixpath.splitext(name)[0] if match is None else _key(match)


def patient_in_path(name: str, pattern: str) -> str:
    r"""Read a patient's key from an image's whole path, since a folder may name the patient.

    Args:
        name: The image's path relative to its source.
        pattern: A name in `PATTERNS`, searched in the file name; or a regular expression, searched
            in the whole path.

    Returns:
        The pattern's groups that matched, joined by `_` (the whole match if it has no groups), or
        an empty string.

    Examples:
        >>> patient_in_path("train/patient00042/study1/view1_frontal.jpg", r"patient\d+")
        'patient00042'
    """
    known = PATTERNS.get(pattern)
    match = _search(known, name) if known else _compiled(pattern).search(name)
    return "" if match is None else _key(match)


def hashed_patient(key: str, salt: bytes) -> str:
    """Return a patient's key that does not identify the patient without the salt.

    The same salt gives the same keys.

    Returns:
        The first 16 hexadecimal digits of the HMAC-SHA256. With 64 bits, the probability that any
        two of a million patients share a key is 3e-8.
    """
    return hmac.digest(salt, key.encode("utf-8", "surrogateescape"), hashlib.sha256).hex()[:16]


def is_patient_name(name: str, pattern: str = "chest-xray-2017") -> bool:
    """True if an image's name identifies the patient; a source counts those that do not.

    Args:
        name: The image's path relative to its source, or its file name.
        pattern: A name in `PATTERNS`, or a regular expression.

    Raises:
        re.error: If `pattern` is not a regular expression.
    """
    return _search(PATTERNS.get(pattern, pattern), name) is not None


def image_subgroup(name: str, pattern: str = "chest-xray-2017") -> str:
    """Read the subgroup from an image's name, such as `bacteria` or `virus`.

    Args:
        name: The image's path relative to its source, or its file name.
        pattern: A name in `SUBGROUPS`; other patterns have no subgroups.
    """
    if pattern not in SUBGROUPS or not is_patient_name(name, pattern):
        return ""
    match = _search(SUBGROUPS[pattern], name)
    return match.group() if match else ""


def _key(match: re.Match[str]) -> str:
    if not match.re.groups:
        return match.group()
    return "_".join([group for group in match.groups() if group] or [match.group()])


def _search(pattern: str, name: str) -> re.Match[str] | None:
    # Without pathlib, which takes five times as long: sources can have a million images.
    return _compiled(pattern).search(name.rpartition("/")[2])


_compiled = cache(re.compile)


# Texts that programs write for an empty cell; taken as a key, all such images would be one patient.
_GAPS = frozenset(
    ("", "-", "--", "nan", "-nan", "na", "n/a", "#n/a", "#na", "<na>", "nat", "nil", "null", "none")
)
# A column of numbers with a gap in it is written as floats. `012` is not the number 12.
_WHOLE_FLOAT = re.compile(r"([1-9][0-9]*|0)\.0+")


def cleaned_patient(cell: str) -> str:
    """Return the patient in a table's cell: `12.0` is `12`; `NaN` or `N/A` is unknown, so empty."""
    key = cell.strip()
    if key.casefold() in _GAPS:
        return ""
    whole = _WHOLE_FLOAT.fullmatch(key)
    return whole[1] if whole else key


@dataclass(frozen=True)
class NewPatients:
    """Patients of new images, as far as they are known without the source of a run.

    Attributes:
        pattern: Pattern searched in the file name, see `patient_key`; None leaves them unknown.
        cells: Names in a table of new images: `kept`; `cleaned`, see `cleaned_patient`; or `hidden`
            if the run replaces them by hashes with a secret. They are then unknown.
    """

    pattern: str | None = None
    cells: Literal["kept", "cleaned", "hidden"] = "kept"

    def patient_of(self, path: Path) -> str:
        """Return the patient of an image file; empty if unknown."""
        if self.pattern is None or not is_patient_name(path.name, self.pattern):
            return ""
        return patient_key(path.name, self.pattern)

    def patient_key(self, cell: str) -> str:
        """Return the patient named in a table; empty if unknown."""
        if self.cells == "kept":
            return cell
        return "" if self.cells == "hidden" else cleaned_patient(cell)
