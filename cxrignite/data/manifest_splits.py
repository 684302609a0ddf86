"""Splits of a manifest's images: names of splits, and files that list the images of each."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from cxrignite.data.sources import SPLITS, ImageRecord
from cxrignite.errors import DataError, RecipeError

_NAMES = {name: name for name in SPLITS} | {
    **dict.fromkeys(("valid", "validate", "validation", "dev"), "val"),
    "training": "train",
    "testing": "test",
}


def split_of(text: str) -> str:
    """Return the split that a text names; an unknown one as it is."""
    return _NAMES.get(text.casefold(), text)


def check_split_lists(lists: Mapping[str, Path | str]) -> None:
    """Check that a recipe's lists belong to splits.

    Raises:
        RecipeError: If one does not.
    """
    for name in lists:
        if name not in SPLITS:
            raise RecipeError(f"split_lists must name {', '.join(SPLITS)}, got '{name}'")


class SplitLists:
    """Splits of images that are listed in text files, one name a line.

    A name is the image's path relative to the root, or its file name.

    Args:
        lists: A file for each split. Without one for `train`, all other images are `train`.

    Raises:
        DataError: If a file cannot be read, or a name is in two of them.
    """

    def __init__(self, lists: Mapping[str, Path | str]) -> None:
        self._lists = lists
        self._splits: dict[str, str] = {}
        self._default = "" if "train" in lists else "train"
        for split, path in lists.items():
            for name in _lines(Path(path)):
                first = self._splits.setdefault(name, split)
                if first != split:
                    raise DataError(
                        f"'{name}' must be in one list, but it is in split_lists.{first} and "
                        f"split_lists.{split}"
                    )

    def split(self, name: str) -> str:
        """Return an image's split, empty if it is in no list."""
        splits = self._splits
        return splits.get(name) or splits.get(name.rpartition("/")[2], self._default)

    def check(self, records: list[ImageRecord]) -> None:
        """Check that each image has a split, and each list an image.

        Raises:
            DataError: If an image is in no list, or a list has none of the images.
        """
        absent = [record.name for record in records if not record.split]
        if absent:
            raise DataError(
                f"each image must be in one of split_lists, but {len(absent):,} of "
                f"{len(records):,} are in none, the first is '{absent[0]}'; add them, or remove "
                "split_lists.train to train on all images that are in no list"
            )
        for split in self._lists.keys() - {record.split for record in records}:
            raise DataError(
                f"split_lists.{split} must list images of the table, but none of its names is the "
                f"path or file name of an image such as '{records[0].name}' ({self._lists[split]})"
            )


def _lines(path: Path) -> list[str]:
    try:
        text = path.read_text(encoding="utf-8-sig")
    except OSError as error:
        raise DataError(f"cannot read the split list {path}: {error.strerror or error}") from error
    except UnicodeDecodeError as error:
        raise DataError(f"the split list {path} must be UTF-8 text, one name a line") from error
    return [name for line in text.splitlines() if (name := line.strip().replace("\\", "/"))]
