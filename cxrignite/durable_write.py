"""Files that are the old one or the new one, and whole, whatever stops their writer."""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from cxrignite.errors import CxrIgniteError

_TEMPORARY = re.compile(r"\..+\.(?P<pid>\d+)\.tmp")


def write_durably(path: Path, data: bytes | memoryview) -> None:
    """Replace `path` by `data` in one step that survives a crash and a power cut.

    The bytes go to `.<name>.<pid>.tmp` in the same folder and to the disk; only then does the name
    change hands. A failure removes the temporary file and leaves the old file as it was.

    Args:
        path: The file to write; missing folders are made.
        data: Its new content.

    Raises:
        CxrIgniteError: If the file cannot be written, for example because the disk is full; it
            names the path and the free bytes.
    """
    temporary = temporary_path(path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        sweep_temporaries(path.parent, path.name)
        with temporary.open("wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
        sync_folder(path.parent)
    except OSError as error:
        reason = error.strerror or str(error)
        raise CxrIgniteError(
            f"cannot write {path} ({len(data)} bytes, {free_bytes(path)} free): {reason}"
        ) from error
    finally:
        with suppress(OSError):
            temporary.unlink()


@contextmanager
def writing(path: Path) -> Iterator[None]:
    """Name what is written in the error of a full disk and the like, which name nothing.

    Args:
        path: The file or folder that is written inside.

    Raises:
        CxrIgniteError: If it cannot be written; it names the path and the free bytes.
    """
    try:
        yield
    except OSError as error:
        reason = error.strerror or str(error)
        raise CxrIgniteError(
            f"cannot write {error.filename or path} ({free_bytes(path)} free): {reason}"
        ) from error


def duplicate_durably(source: Path, target: Path) -> None:
    """Give a file a second name, in one step; a copy where the file system has no hard links.

    Args:
        source: The file.
        target: Its other name, in the same folder; what has that name now is replaced.

    Raises:
        CxrIgniteError: If the copy cannot be written.
    """
    temporary = temporary_path(target)
    try:
        temporary.unlink(missing_ok=True)
        os.link(source, temporary)
        os.replace(temporary, target)
        sync_folder(target.parent)
    except OSError:
        write_durably(target, source.read_bytes())
    finally:
        # POSIX leaves both names in place where they are one file already.
        temporary.unlink(missing_ok=True)


def temporary_path(path: Path) -> Path:
    """Name the temporary file of this process for `path`: `.<name>.<pid>.tmp` beside it."""
    return path.with_name(f".{path.name}.{os.getpid()}.tmp")


def sweep_temporaries(directory: Path, name: str = "*") -> list[Path]:
    """Remove temporary files that a killed process left behind.

    Args:
        directory: The folder to sweep.
        name: Glob of the file names whose temporaries are meant.

    Returns:
        The files that were removed.
    """
    removed = []
    for path in directory.glob(f".{name}.*.tmp"):
        match = _TEMPORARY.fullmatch(path.name)
        if match and not _is_another_live_process(int(match["pid"])):
            path.unlink(missing_ok=True)
            removed.append(path)
    return removed


def sync_folder(directory: Path) -> None:
    """Bring a folder's names to the disk, so that a rename survives a power cut."""
    if os.name != "posix":
        return  # only POSIX opens folders
    descriptor = os.open(directory, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _is_another_live_process(pid: int) -> bool:
    # In a container the next process often gets the same number: our own means a predecessor's.
    if pid == os.getpid():
        return False
    if os.name != "posix":
        return True  # signal 0 is Ctrl-C elsewhere
    try:
        os.kill(pid, 0)
    except (ProcessLookupError, OverflowError):
        return False
    except PermissionError:
        return True
    return True


def free_bytes(path: Path) -> int:
    """The bytes that are free where `path` is, or would be."""
    folder = next(parent for parent in path.absolute().parents if parent.exists())
    return shutil.disk_usage(folder).free
