"""Records of images, and the base class of the sources that list them."""

from __future__ import annotations

import logging
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from cxrignite.data.patients import NewPatients
from cxrignite.errors import RecipeError
from cxrignite.functional.image_choice import UNKNOWN_LABEL

logger = logging.getLogger(__name__)

MIN_VAL_IMAGES = 50
"""Kaggle's variant of ChestXRay2017 has 16 images; a threshold needs at least 42 negatives."""

SPLITS = ("train", "val", "calibration", "test")
"""Train the weights, select the checkpoint, choose the threshold, evaluate the result."""

UNKNOWN = UNKNOWN_LABEL
"""The label of a finding that was not examined, or that a report leaves open."""

Label = int | tuple[int, ...]
"""0 or 1; of several findings a tuple with 1, 0 or `UNKNOWN` for each."""


class _RecordFields(NamedTuple):
    """The fields of an `ImageRecord`."""

    file: str
    name: str
    label: Label
    patient: str
    split: str
    attributes: Mapping[str, str] = {}
    sha256: str = ""


class ImageRecord(_RecordFields):
    """One image of a data set.

    It is a tuple of plain text and numbers, since a data set may have a million images. An object
    takes three times as long to make, and a `Path` longer than all the rest.

    Attributes:
        file: The path of its file.
        name: The path relative to the source's root, with forward slashes. It identifies the image.
        label: 1 if the finding is present, 0 if not. Of several findings a tuple with 1, 0 or
            `UNKNOWN` for each.
        patient: The patient's key; images of one patient share it.
        split: One of `SPLITS`.
        attributes: Further properties of the image, such as its subgroup.
        sha256: The file's digest in lower-case hexadecimal, or empty before inspection.
    """

    __slots__ = ()

    @property
    def path(self) -> Path:
        """Path of the image file."""
        return Path(self.file)

    @property
    def labels(self) -> tuple[int, ...]:
        """The label of each finding, also if there is only one."""
        return self.label if isinstance(self.label, tuple) else (self.label,)

    def moved(self, split: str) -> ImageRecord:
        """Return the same record in another split.

        Args:
            split: One of `SPLITS`.
        """
        # `_replace` takes three times as long.
        return ImageRecord(*self[:4], split, *self[5:])

    def hashed(self, sha256: str) -> ImageRecord:
        """Return the same record with the file's digest.

        Args:
            sha256: The digest in lower-case hexadecimal.
        """
        return ImageRecord(*self[:6], sha256)


class Source(ABC):
    """A data set with labels of one or more findings.

    Attributes:
        classes: The name of images without a finding, then the name of each finding.
        exclusive: True if an image has at most one of several findings.
        root: The folder that every image's name is relative to.
    """

    classes: tuple[str, ...]
    exclusive: bool = False
    root: Path

    @property
    def findings(self) -> tuple[str, ...]:
        """The names of the findings."""
        return self.classes[1:]

    @abstractmethod
    def records(self) -> list[ImageRecord]:
        """Return the records of the source, each image once, always in the same order.

        Raises:
            DataError: If a folder is missing or a class has no image.
        """

    def site_records(self) -> list[ImageRecord]:
        """Return the records of a site's images, for a run that exists.

        Of several findings, labels of some may be missing, if the source supports that.

        Raises:
            DataError: As in `records()`.
        """
        return self.records()

    def patient_of(self, path: Path) -> str:
        """Return the patient of an image that is not part of the source.

        Args:
            path: The image file.

        Returns:
            The patient's key, empty if it is unknown.
        """
        return ""

    def new_patients(self) -> NewPatients:
        """Return the part of `patient_of` and `patient_key` that needs no file of this source.

        An exported model holds it.
        """
        return NewPatients()

    def patient_key(self, cell: str) -> str:
        """Return the key of a patient named in a table of new images, as in `records()`.

        Args:
            cell: The table's cell, which may be empty.
        """
        return cell


def checked_classes(classes: Sequence[str], what: str = "names") -> tuple[str, ...]:
    """Return the classes of a source: the name of "nothing found", then those of the findings.

    Raises:
        RecipeError: If there are fewer than two, or a name is empty or repeated.
    """
    if len(classes) < 2 or len(set(classes)) < len(classes) or not all(classes):
        raise RecipeError(
            f"classes must be two or more different {what}, the first for images without a "
            f"finding, got {list(classes)}; list each finding once after the first name"
        )
    return tuple(classes)


def class_pair(classes: Sequence[str], index: int) -> tuple[str, str]:
    """Return the names of the absence and the presence of a finding.

    Examples:
        >>> class_pair(("NORMAL", "PNEUMONIA"), 0)
        ('NORMAL', 'PNEUMONIA')
        >>> class_pair(("No Finding", "Effusion", "Nodule"), 1)
        ('no Nodule', 'Nodule')
    """
    finding = classes[index + 1]
    return (classes[0] if len(classes) == 2 else f"no {finding}", finding)


def is_of_class(record: ImageRecord, number: int) -> bool:
    """True if an image is of one of its source's classes; of several findings, it may have several.

    Class 0 is without any finding, class 1 is with the first one.

    Examples:
        >>> record = ImageRecord("a.png", "a.png", (0, 1, UNKNOWN), "", "train")
        >>> [is_of_class(record, number) for number in range(4)]
        [False, False, True, False]
    """
    # An unknown finding may be present, so it is not 0.
    return record.labels[number - 1] == 1 if number else not any(record.labels)


def join_small_validation(records: list[ImageRecord]) -> list[ImageRecord]:
    """Join a validation split of fewer than `MIN_VAL_IMAGES` to train."""
    num_val = sum(record.split == "val" for record in records)
    if not 0 < num_val < MIN_VAL_IMAGES:
        return records
    logger.info(
        "val joined to train: it has %d images, and at least %d are needed to validate",
        num_val,
        MIN_VAL_IMAGES,
    )
    return [record.moved("train") if record.split == "val" else record for record in records]
