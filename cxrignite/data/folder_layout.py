"""Whether a folder is laid out as class folders are, and what is meant where it is not."""

from __future__ import annotations

from pathlib import Path

from cxrignite.errors import DataError

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
