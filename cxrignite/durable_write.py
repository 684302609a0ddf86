"""Durable writes: after a crash a file has either its old or its new content, complete."""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path

from cxrignite.errors import CxrIgniteError

_TEMPORARY = re.compile(r"\..+\.(?P<pid>\d+)\.tmp")


def write_durably(path: Path, data: bytes | memoryview) -> None:
    """Replace `path` by `data` in one step that survives a crash and a power cut.

    The bytes are written to `.<name>.<pid>.tmp` in the same folder and synced to the disk; then it
    is renamed. A failure removes the temporary file and leaves the old file as it was.

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


def write_folder_durably(folder: Path, files: Mapping[str, bytes]) -> None:
    """Write a new folder in one step: after a crash it is complete, or does not exist.

    The files are written to `.<name>.<pid>.tmp` beside it, which is then renamed. A failure removes
    it.

    Args:
        folder: The folder, which does not exist or is empty; missing folders above it are made.
        files: Content of each file, by its name, which may begin with folders.

    Raises:
        CxrIgniteError: If it cannot be written, for example because the disk is full; it names the
            path and the free bytes.
    """
    temporary = temporary_path(folder)
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        sweep_temporaries(folder.parent, folder.name)
        temporary.mkdir()
        for name, content in files.items():
            (temporary / name).parent.mkdir(parents=True, exist_ok=True)
            write_durably(temporary / name, content)
        os.replace(temporary, folder)
        sync_folder(folder.parent)
    except OSError as error:
        reason = error.strerror or str(error)
        raise CxrIgniteError(
            f"cannot write {folder} ({free_bytes(folder)} free): {reason}"
        ) from error
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


@contextmanager
def writing(path: Path) -> Iterator[None]:
    """Name the file in errors such as a full disk, which name none.

    Args:
        path: The file or folder that the block writes.

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
    """Give a file a second name in one step; copy it if the file system has no hard links.

    Args:
        source: The file.
        target: Its second name, in the same folder; an existing file of that name is replaced.

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
        # If both names are one file already, POSIX keeps both.
        temporary.unlink(missing_ok=True)


def temporary_path(path: Path) -> Path:
    """Return the temporary file of this process for `path`: `.<name>.<pid>.tmp` beside it."""
    return path.with_name(f".{path.name}.{os.getpid()}.tmp")


def sweep_temporaries(directory: Path, name: str = "*") -> list[Path]:
    """Remove temporary files and folders that a killed process left behind.

    Args:
        directory: The folder to sweep.
        name: Glob of the file names whose temporary files are removed.

    Returns:
        The files and folders that were removed.
    """
    removed = []
    for path in directory.glob(f".{name}.*.tmp"):
        match = _TEMPORARY.fullmatch(path.name)
        if match and not _is_another_live_process(int(match["pid"])):
            if path.is_dir():
                shutil.rmtree(path, ignore_errors=True)
            else:
                path.unlink(missing_ok=True)
            removed.append(path)
    return removed


def sync_folder(directory: Path) -> None:
    """Sync a folder to the disk, so that a rename survives a power cut."""
    if os.name != "posix":
        return  # only POSIX can open folders
    descriptor = os.open(directory, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _is_another_live_process(pid: int) -> bool:
    # In a container the next process often gets the same number, so ours may be a predecessor's.
    if pid == os.getpid():
        return False
    if os.name != "posix":
        return True  # on Windows, signal 0 is Ctrl-C
    try:
        os.kill(pid, 0)
    except (ProcessLookupError, OverflowError):
        return False
    except PermissionError:
        return True
    return True


def free_bytes(path: Path) -> int:
    """Return the free bytes of the disk that holds `path`, or would hold it."""
    folder = next(parent for parent in path.absolute().parents if parent.exists())
    return shutil.disk_usage(folder).free
