"""Sources of images: each lists its images with path, label, patient and split."""

from __future__ import annotations

import logging
import re
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from cxrignite.data.image_files import (
    LeftOut,
    find_images,
    image_files,
    images_outside,
    report_left_out,
)
from cxrignite.data.image_formats import READ_FORMATS
from cxrignite.data.patients import PATTERNS, image_subgroup, is_patient_name, patient_key
from cxrignite.errors import DataError, RecipeError

__all__ = [
    "MIN_VAL_IMAGES",
    "SPLITS",
    "ClassFolders",
    "ImageRecord",
    "Source",
    "image_files",
    "join_small_validation",
    "two_classes",
]

logger = logging.getLogger(__name__)

MIN_VAL_IMAGES = 50
"""Kaggle's variant of ChestXRay2017 has 16 images; a threshold needs at least 42 negatives."""

SPLITS = ("train", "val", "calibration", "test")
"""Train the weights, select the checkpoint, choose the threshold, evaluate the result."""

_FOLDERS = ("train", "val", "test")


class _RecordFields(NamedTuple):
    """The fields of an `ImageRecord`."""

    file: str
    name: str
    label: int
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
        label: 0 for the first class, 1 for the last (positive) one.
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
    """A data set of two classes; the last class is the positive one.

    Attributes:
        classes: The two class names.
        root: The folder that every image's name is relative to.
    """

    classes: tuple[str, str]
    root: Path

    @abstractmethod
    def records(self) -> list[ImageRecord]:
        """Return the records of the source, each image once, always in the same order.

        Raises:
            DataError: If a folder is missing or a class has no image.
        """

    def patient_of(self, path: Path) -> str:
        """Return the patient of an image that is not part of the source.

        Args:
            path: The image file.

        Returns:
            The patient's key, empty if it is unknown.
        """
        return ""

    def patient_key(self, cell: str) -> str:
        """Return the key of a patient named in a table of new images, as in `records()`.

        Args:
            cell: The table's cell, which may be empty.
        """
        return cell


class ClassFolders(Source):
    """A folder for each class: `<root>/{train,test}/<class>/**/*.jpeg`.

    JPEG, PNG, TIFF, BMP, WebP, GIF, JPEG 2000 and DICOM files are read, also in subfolders of a
    class folder. DICOM files without a suffix are detected by their content. Other files that look
    like images are logged with their count and the reason. A `val` folder with fewer than 50 images
    is joined to `train`: that of Kaggle's variant of ChestXRay2017 has 16, too few to validate
    with. `test` may be absent.

    Args:
        root: The data set's folder; read by `records()`, not by the constructor.
        classes: The two class folders; the last one is positive.
        patient_pattern: A name in `patients.PATTERNS`, or a regular expression whose groups,
            joined, make the patient's key.

    Raises:
        RecipeError: If `classes` are not two different names or `patient_pattern` is not a regular
            expression.
    """

    def __init__(
        self,
        root: Path | str,
        classes: list[str] = ["NORMAL", "PNEUMONIA"],  # noqa: B006  (read only, and `--help` shows it)
        patient_pattern: str = "chest-xray-2017",
    ) -> None:
        self.classes = two_classes(classes, "folder names")
        try:
            re.compile(PATTERNS.get(patient_pattern, patient_pattern))
        except re.error as error:
            raise RecipeError(
                f"patient_pattern must be one of {sorted(PATTERNS)} or a regular expression, "
                f"got {patient_pattern!r} ({error})"
            ) from error
        self.root = Path(root)
        self.patient_pattern = patient_pattern

    def records(self) -> list[ImageRecord]:
        """Return the records of train, then of test, sorted by class, then by name.

        Raises:
            DataError: If the root, `train` or a class folder is missing, or a class has no image.
        """
        check_root(self.root)
        left_out = list(images_outside(self.root, _FOLDERS))
        records = [
            record
            for split in _FOLDERS
            if (self.root / split).is_dir()
            for record in self._records_in(self.root / split, split, left_out)
        ]
        report_left_out(left_out)
        records = join_small_validation(records)
        nameless = sum(not is_patient_name(record.name, self.patient_pattern) for record in records)
        if nameless:
            logger.warning(
                "%d of %d file names do not match patient_pattern %r: each of these images counts "
                "as a separate patient",
                nameless,
                len(records),
                self.patient_pattern,
            )
        return records

    def patient_of(self, path: Path) -> str:
        """Return the patient of an image outside of the source, empty if its name has none."""
        if not is_patient_name(path.name, self.patient_pattern):
            return ""
        return patient_key(path.name, self.patient_pattern)

    def _records_in(
        self, split_dir: Path, split: str, left_out: list[LeftOut]
    ) -> Iterator[ImageRecord]:
        """Yield the records of a split; add the files that are not read to `left_out`."""
        left_out += images_outside(split_dir, self.classes)
        for label, class_name in enumerate(self.classes):
            class_dir = check_class_dir(split_dir, class_name)
            files, without = find_images(class_dir)
            left_out += without
            if not files:
                raise DataError(
                    f"{class_dir} must contain at least one image ({READ_FORMATS}), found none"
                )
            for file in files:
                name = f"{split}/{class_name}{file.removeprefix(str(class_dir))}"
                subgroup = image_subgroup(name, self.patient_pattern)
                yield ImageRecord(
                    file=file,
                    name=name,
                    label=label,
                    patient=patient_key(name, self.patient_pattern),
                    split=split,
                    attributes={"subgroup": subgroup} if subgroup else {},
                )


def two_classes(classes: Sequence[str], what: str) -> tuple[str, str]:
    """Return the two classes of a source.

    `what` names the kind of names, for the error.

    Raises:
        RecipeError: If they are not two different names.
    """
    if len(classes) != 2 or classes[0] == classes[1] or not all(classes):
        raise RecipeError(
            f"classes must be two different {what}, got {list(classes)}; "
            "only two classes are supported, merge further ones into these"
        )
    return classes[0], classes[1]


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


_SPLIT_DIRS = ("train", "test")


def check_root(root: Path) -> None:
    """Check that a root has a folder `train` or `test`.

    Raises:
        DataError: If it has neither; the message names the folder searched or the likely root.
    """
    if not root.is_dir():
        base = "" if root.is_absolute() else f" (relative to {Path.cwd()})"
        raise DataError(f"data root must be an existing folder, got {root}{base}")
    if not _has_splits(root):
        below = sorted(path for path in root.iterdir() if path.is_dir())
        likely = next((path for path in (root.parent, *below) if _has_splits(path)), None)
        hint = f"; did you mean {likely}?" if likely else ""
        raise DataError(
            f"data root {root} must have a folder 'train' or 'test', "
            f"found {folder_names(root)}{hint}"
        )


def check_class_dir(split_dir: Path, class_name: str) -> Path:
    """Return the folder of a class in a split.

    Raises:
        DataError: If it does not exist; the message lists the folders that do.
    """
    class_dir = split_dir / class_name
    if not class_dir.is_dir():
        raise DataError(
            f"{split_dir} must have a folder for class '{class_name}', "
            f"found {folder_names(split_dir)}"
        )
    return class_dir


def folder_names(folder: Path) -> str:
    """Return the names of the folders in a folder, for a message."""
    names = sorted(path.name for path in folder.iterdir() if path.is_dir())
    return ", ".join(f"'{name}'" for name in names) or "no folder"


def _has_splits(folder: Path) -> bool:
    return any((folder / name).is_dir() for name in _SPLIT_DIRS)
