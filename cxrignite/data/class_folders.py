"""A source with a folder for each class."""

from __future__ import annotations

import logging
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from cxrignite.data.image_files import LeftOut, find_images, images_outside, report_left_out
from cxrignite.data.image_formats import READ_FORMATS
from cxrignite.data.patients import (
    PATTERNS,
    NewPatients,
    image_subgroup,
    is_patient_name,
    patient_key,
)
from cxrignite.data.sources import (
    ImageRecord,
    Label,
    Source,
    checked_classes,
    join_small_validation,
)
from cxrignite.errors import DataError, RecipeError

logger = logging.getLogger(__name__)

_FOLDERS = ("train", "val", "test")


class ClassFolders(Source):
    """A folder for each class: `<root>/{train,test}/<class>/**/*.jpeg`, or `<root>/<class>/**`.

    JPEG, PNG, TIFF, BMP, WebP, GIF, JPEG 2000 and DICOM files are read, also in subfolders of a
    class folder. DICOM files without a suffix are detected by their content. Other files that look
    like images are logged with their count and the reason. A `val` folder with fewer than 50 images
    is joined to `train`: that of Kaggle's variant of ChestXRay2017 has 16, too few to validate
    with. `test` may be absent. If `train` is absent too, all images are in `train`.

    With two classes, the last one is positive. Three and more exclude each other: the first one is
    for images without a finding, and every other image has exactly one of the findings.

    Args:
        root: The data set's folder; read by `records()`, not by the constructor.
        classes: The class folders, first that of images without a finding.
        patient_pattern: A name in `patients.PATTERNS`, or a regular expression whose groups,
            joined, make the patient's key.
        class_pattern: A regular expression for each class, searched in an image's path relative to
            the root. It decides the class in place of the folder. Images without a match are left
            out and logged.

    Raises:
        RecipeError: If `classes` are not different names, a pattern is not a regular expression, or
            `class_pattern` does not have the classes as keys.
    """

    def __init__(
        self,
        root: Path | str,
        classes: list[str] = ["NORMAL", "PNEUMONIA"],  # noqa: B006  (read only, and `--help` shows it)
        patient_pattern: str = "chest-xray-2017",
        class_pattern: dict[str, str] | None = None,
    ) -> None:
        self.classes = checked_classes(classes, "folder names")
        self.exclusive = len(self.classes) > 2
        try:
            re.compile(PATTERNS.get(patient_pattern, patient_pattern))
        except re.error as error:
            raise RecipeError(
                f"patient_pattern must be one of {sorted(PATTERNS)} or a regular expression, "
                f"got {patient_pattern!r} ({error})"
            ) from error
        self.root = Path(root)
        self.patient_pattern = patient_pattern
        self.class_pattern = class_pattern
        self._patterns = None
        if class_pattern is not None:
            self._patterns = _compiled_patterns(class_pattern, self.classes)

    def records(self) -> list[ImageRecord]:
        """Return the records of train, then of test, sorted by class, then by name.

        With `class_pattern` they are sorted by name only.

        Raises:
            DataError: If the root, `train` or a class folder is missing, a class has no image, or
                an image matches the patterns of two classes.
        """
        left_out: list[LeftOut] = []
        if self._has_no_splits():
            logger.info("%s has no folder 'train' or 'test': all images are in train", self.root)
            folders = {"train": self.root}
        else:
            check_root(self.root)
            left_out += images_outside(self.root, _FOLDERS)
            folders = {name: self.root / name for name in _FOLDERS if (self.root / name).is_dir()}
        records = [
            record
            for split, folder in folders.items()
            for record in self._records_in(folder, split, left_out)
        ]
        report_left_out(left_out)
        records = join_small_validation(records)
        if self._patterns is not None:
            self._check_matches(records)
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
        return self.new_patients().patient_of(path)

    def new_patients(self) -> NewPatients:
        """Return the pattern of the patients."""
        return NewPatients(self.patient_pattern)

    def _has_no_splits(self) -> bool:
        """True if the root itself has the class folders, or the images that patterns classify.

        The folder of a split and a folder above the root do not count: `check_root` refuses them.
        """
        if not self.root.is_dir():
            return False
        here = self.root.absolute()
        above = [here.parent] if here.name in _FOLDERS else []
        if any(_has_splits(path) for path in (here, *above, *here.iterdir())):
            return False
        if self._patterns is not None:
            return True
        return all((self.root / name).is_dir() for name in self.classes)

    def _records_in(
        self, folder: Path, split: str, left_out: list[LeftOut]
    ) -> Iterator[ImageRecord]:
        """Yield the records of a split; add the files that are not read to `left_out`."""
        before = "" if folder == self.root else f"{split}/"
        labels = _exclusive_labels(len(self.classes))
        files = self._in_class_folders if self._patterns is None else self._by_pattern
        for number, file, name in files(folder, before, left_out):
            subgroup = image_subgroup(name, self.patient_pattern)
            yield ImageRecord(
                file=file,
                name=name,
                label=labels[number],
                patient=patient_key(name, self.patient_pattern),
                split=split,
                attributes={"subgroup": subgroup} if subgroup else {},
            )

    def _in_class_folders(
        self, folder: Path, before: str, left_out: list[LeftOut]
    ) -> Iterator[tuple[int, str, str]]:
        """Yield the number of the class, the file and the name of each image of a split."""
        left_out += images_outside(folder, self.classes)
        for number, class_name in enumerate(self.classes):
            class_dir = check_class_dir(folder, class_name)
            files, without = find_images(class_dir)
            left_out += without
            if not files:
                raise DataError(
                    f"{class_dir} must contain at least one image ({READ_FORMATS}), found none"
                )
            for file in files:
                yield number, file, f"{before}{class_name}{file.removeprefix(str(class_dir))}"

    def _by_pattern(
        self, folder: Path, before: str, left_out: list[LeftOut]
    ) -> Iterator[tuple[int, str, str]]:
        """Yield the same as `_in_class_folders`, with the class that a pattern finds."""
        patterns = self._patterns or ()
        files, without = find_images(folder)
        left_out += without
        for file in files:
            name = before + file.removeprefix(str(folder)).removeprefix("/")
            matches = [number for number, pattern in enumerate(patterns) if pattern.search(name)]
            if len(matches) > 1:
                raise DataError(
                    "class_pattern must match an image in one class, "
                    f"got {[self.classes[number] for number in matches]} for {name}"
                )
            if matches:
                yield matches[0], file, name
            else:
                left_out.append(LeftOut(file, "without a match of class_pattern"))

    def _check_matches(self, records: list[ImageRecord]) -> None:
        """Check that each split has an image of each class.

        Raises:
            DataError: If a class has none.
        """
        labels = _exclusive_labels(len(self.classes))
        # Without any image, all classes are missing in train.
        splits = dict.fromkeys(record.split for record in records) or {"train": None}
        for split in splits:
            found = {record.label for record in records if record.split == split}
            for name, label in zip(self.classes, labels, strict=True):
                if label not in found:
                    raise DataError(
                        f"the class_pattern of {name!r} must match an image in {split}, found none "
                        f"below {self.root}"
                    )


def _compiled_patterns(
    class_pattern: Mapping[str, str], classes: Sequence[str]
) -> list[re.Pattern[str]]:
    """Return the pattern of each class.

    Raises:
        RecipeError: If a class has none, or one is not a regular expression.
    """
    if set(class_pattern) != set(classes):
        raise RecipeError(
            f"class_pattern must have a regular expression for each of the classes "
            f"{list(classes)}, got {list(class_pattern)}"
        )
    patterns = []
    for name in classes:
        try:
            patterns.append(re.compile(class_pattern[name]))
        except re.error as error:
            raise RecipeError(
                f"class_pattern of {name!r} must be a regular expression, "
                f"got {class_pattern[name]!r} ({error})"
            ) from error
    return patterns


def _exclusive_labels(num_classes: int) -> list[Label]:
    """Return the label of each class, if an image has exactly one of them."""
    if num_classes == 2:
        return [0, 1]
    findings = range(1, num_classes)
    return [tuple(int(number == finding) for finding in findings) for number in range(num_classes)]


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
            f"data root {root} must have a folder 'train' or 'test', or one for each class, "
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
