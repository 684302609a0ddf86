"""Where images come from: each source gives one table of path, label, patient and split."""

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
"""Kaggle's variant of ChestXRay2017 has 16; a threshold needs at least 42 negatives."""

SPLITS = ("train", "val", "calibration", "test")
"""Learn the weights, pick the checkpoint, choose the threshold, judge all three."""

_FOLDERS = ("train", "val", "test")


class _RecordFields(NamedTuple):
    """What a `ImageRecord` holds."""

    file: str
    name: str
    label: int
    patient: str
    split: str
    attributes: Mapping[str, str] = {}
    sha256: str = ""


class ImageRecord(_RecordFields):
    """One image of a data set.

    A tuple of plain text and numbers, since a data set may have a million: an object takes three
    times as long to make, and a `Path` more than all the rest.

    Attributes:
        file: The path of its file.
        name: The path relative to the source's root, with forward slashes: the stable identity.
        label: 0 for the first class, 1 for the last (positive) one.
        patient: The patient's key; images of one patient share it.
        split: One of `SPLITS`.
        attributes: What else is known of the image, such as its subgroup.
        sha256: The file's digest in lower-case hexadecimal, or empty before inspection.
    """

    __slots__ = ()

    @property
    def path(self) -> Path:
        """Its file."""
        return Path(self.file)

    def moved(self, split: str) -> ImageRecord:
        """The same image in another split.

        Args:
            split: One of `SPLITS`.
        """
        # `_replace` takes three times as long.
        return ImageRecord(*self[:4], split, *self[5:])

    def hashed(self, sha256: str) -> ImageRecord:
        """The same image with its digest.

        Args:
            sha256: In lower-case hexadecimal.
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
        """The images of the source, each once, in an order that is always the same.

        Raises:
            DataError: If a folder is missing or a class has no image.
        """

    def patient_of(self, path: Path) -> str:
        """Tells the patient of an image that is not of the source.

        Args:
            path: The image's file.

        Returns:
            The patient's key, empty where it cannot be told.
        """
        return ""

    def patient_key(self, cell: str) -> str:
        """The key of the patient that a table of new images names, as `records()` would give it.

        Args:
            cell: What the table says, empty where it says nothing.
        """
        return cell


class ClassFolders(Source):
    """A folder for each class: `<root>/{train,test}/<class>/**/*.jpeg`.

    JPEG, PNG, TIFF, BMP, WebP, GIF, JPEG 2000 and DICOM files count, DICOM by its content where the
    name does not tell; those in folders of a class count too. Whatever else looks like an image is
    logged with its count and reason. A `val` folder is joined to `train`: the one that Kaggle's
    variant of ChestXRay2017 brings holds 16 images, which can validate nothing. `test` may be
    absent.

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
        """The images of train, then of test; by class, then by name.

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
                "%d of %d file names do not match patient_pattern %r: each counts as a patient "
                "of its own",
                nameless,
                len(records),
                self.patient_pattern,
            )
        return records

    def patient_of(self, path: Path) -> str:
        """The patient of an image outside of the source; empty if its name does not match."""
        if not is_patient_name(path.name, self.patient_pattern):
            return ""
        return patient_key(path.name, self.patient_pattern)

    def _records_in(
        self, split_dir: Path, split: str, left_out: list[LeftOut]
    ) -> Iterator[ImageRecord]:
        """The images of a split; what is not taken is added to `left_out`."""
        left_out += images_outside(split_dir, self.classes)
        for label, class_name in enumerate(self.classes):
            class_dir = check_class_dir(split_dir, class_name)
            files, without = find_images(class_dir)
            left_out += without
            if not files:
                raise DataError(
                    f"{class_dir} must hold at least one image ({READ_FORMATS}), found none"
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
    """The two classes of a source, as a recipe lists them.

    Args:
        classes: The negative and the positive one.
        what: What they are, for the error.

    Raises:
        RecipeError: If they are not two different names.
    """
    if len(classes) != 2 or classes[0] == classes[1] or not all(classes):
        raise RecipeError(f"classes must be two different {what}, got {list(classes)}")
    return classes[0], classes[1]


def join_small_validation(records: list[ImageRecord]) -> list[ImageRecord]:
    """Joins a validation split that is too small to choose anything by to train.

    Args:
        records: The images of every split.
    """
    num_val = sum(record.split == "val" for record in records)
    if not 0 < num_val < MIN_VAL_IMAGES:
        return records
    logger.info("val joined to train: its %d images can choose nothing", num_val)
    return [record.moved("train") if record.split == "val" else record for record in records]


_SPLIT_DIRS = ("train", "test")


def check_root(root: Path) -> None:
    """Refuse a root that holds neither `train` nor `test`.

    Args:
        root: `<root>/{train,test}/<class>/...`.

    Raises:
        DataError: Naming where it was looked for, or the folder that was meant.
    """
    if not root.is_dir():
        where = "" if root.is_absolute() else f", looked for in {Path.cwd()}"
        raise DataError(f"data root must be an existing folder, got {root}{where}")
    if not _holds_splits(root):
        below = sorted(path for path in root.iterdir() if path.is_dir())
        meant = next((path for path in (root.parent, *below) if _holds_splits(path)), None)
        hint = f"; did you mean {meant}?" if meant else ""
        raise DataError(
            f"data root {root} must hold a folder 'train' or 'test', "
            f"found {folder_names(root)}{hint}"
        )


def check_class_dir(split_dir: Path, class_name: str) -> Path:
    """The folder of a class in a split.

    Args:
        split_dir: The split's folder.
        class_name: The class.

    Raises:
        DataError: There is none, naming those that there are.
    """
    class_dir = split_dir / class_name
    if not class_dir.is_dir():
        raise DataError(
            f"{split_dir} must hold a folder for class '{class_name}', "
            f"found {folder_names(split_dir)}"
        )
    return class_dir


def folder_names(folder: Path) -> str:
    """The folders in a folder, for a message.

    Args:
        folder: An existing one.
    """
    names = sorted(path.name for path in folder.iterdir() if path.is_dir())
    return ", ".join(f"'{name}'" for name in names) or "no folder"


def _holds_splits(folder: Path) -> bool:
    return any((folder / name).is_dir() for name in _SPLIT_DIRS)
