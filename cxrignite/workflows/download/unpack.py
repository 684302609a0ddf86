"""Unpack a zip archive into a folder that is complete or absent, and verify such a folder."""

from __future__ import annotations

import json
import os
import re
import shutil
import stat
import struct
import zlib
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from zipfile import ZIP_DEFLATED, ZIP_STORED, BadZipFile, LargeZipFile, ZipFile, ZipInfo

from tqdm import tqdm

from cxrignite.durable_write import free_bytes, sync_folder, write_durably
from cxrignite.errors import CxrIgniteError, DataError
from cxrignite.workflows.download.catalogue import PublicData

# The name begins with a letter, a digit or `_`, so it is neither `..` nor hidden. It has no
# separator, no drive's colon and no control character.
_IMAGE_NAME = re.compile(r"\w[\w .-]{0,150}\.(?:jpeg|jpg|png)", re.ASCII | re.IGNORECASE)
# Images are compressed already: in ChestXRay2017 a zip saves only 1 %.
_MAX_RATIO = 20
_CHUNK_BYTES = 2**20
_ORIGIN = "origin.json"
# Exceptions that zipfile (3.11) raises for damaged archives.
_DAMAGES = (
    *(BadZipFile, LargeZipFile, zlib.error, struct.error, EOFError, OSError),
    *(NotImplementedError, RuntimeError, ValueError, OverflowError),
)


def unpack(archive: Path, data: PublicData, target: Path) -> None:
    """Unpack an archive into a folder that appears only when it is complete.

    The archive's list is checked before anything is written, and the unpacked bytes afterwards.
    Entries outside `data.num_images` are refused, except files that macOS adds to an archive.

    Args:
        archive: A zip file.
        data: The expected contents.
        target: The folder for the contents of `data.folder`. It must be missing or empty, and no
            other process may unpack there.

    Raises:
        DataError: The archive is damaged, hostile, or has other images; nothing is left behind.
        CxrIgniteError: The disk is full or not writable; nothing is left behind.
    """
    partial = target.with_name(f"{target.name}.{os.getpid()}.partial")
    try:
        with _opened(archive) as contents:
            entries = _image_entries(archive, contents, data)
            _unpack(contents, entries, archive, partial)
        _write_origin(partial, data)
        # Not synced: thousands of small files take minutes on a slow disk. After a power cut the
        # lost files are too short, which `is_complete` finds.
        partial.rename(target)
        sync_folder(target.parent)
    except OSError as error:
        raise CxrIgniteError(
            f"cannot unpack into {target} ({free_bytes(target):,} bytes free): "
            f"{error.strerror or error}"
        ) from error
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def sweep_partials(target: Path) -> None:
    """Remove partial folders of `target` left by killed processes."""
    for path in target.parent.glob(f"{target.name}.*.partial"):
        if re.fullmatch(r"\d+", path.name[len(target.name) + 1 : -len(".partial")]):
            shutil.rmtree(path, ignore_errors=True)


def _opened(archive: Path) -> ZipFile:
    try:
        return ZipFile(archive)
    except _DAMAGES as error:
        raise DataError(f"{archive} must be a complete zip archive: {error}") from error


def _image_entries(archive: Path, contents: ZipFile, data: PublicData) -> list[tuple[ZipInfo, str]]:
    """List the archive's images, each with its path below the target."""
    folders = {
        "/".join((data.folder, *parts[:depth], ""))
        for parts in (name.split("/") for name in data.num_images)
        for depth in range(len(parts) + 1)
    }
    entries: list[tuple[ZipInfo, str]] = []
    seen: set[str] = set()
    for info in contents.infolist():
        # zipfile cuts `filename` at a NUL.
        name = info.orig_filename
        if _is_added_by_macos(name):
            continue
        path = name.removeprefix(f"{data.folder}/")
        folder, _, image_name = path.rpartition("/")
        if name in folders:
            reason = "" if _is_kind(info, stat.S_IFDIR) else "is not a folder, by its mode"
        elif path == name or folder not in data.num_images or not _IMAGE_NAME.fullmatch(image_name):
            reason = f"is not an image of {data.name}"
        else:
            reason = "is listed twice" if path.casefold() in seen else _problem_of(info)
            entries.append((info, path))
            seen.add(path.casefold())
        if reason:
            raise DataError(f"{archive} is refused: {name!a:.100} {reason}")
    claimed = sum(info.file_size for info, _ in entries)
    if claimed > data.max_unpacked_bytes:
        raise DataError(
            f"{archive} is refused: its images must be at most {data.max_unpacked_bytes:,} bytes, "
            f"got {claimed:,}"
        )
    counts = Counter(path.rpartition("/")[0] for _, path in entries)
    for folder, number in data.num_images.items():
        if counts[folder] != number:
            raise DataError(
                f"{archive} is refused: {folder} must have {number:,} images, "
                f"got {counts[folder]:,}"
            )
    return entries


def _is_added_by_macos(name: str) -> bool:
    last = name.rpartition("/")[2]
    return name.startswith("__MACOSX/") or last == ".DS_Store" or last.startswith("._")


def _is_kind(info: ZipInfo, kind: int) -> bool:
    """True if an entry's mode is of the expected kind, or not set."""
    return stat.S_IFMT(info.external_attr >> 16) in (0, kind)


def _problem_of(info: ZipInfo) -> str:
    """Return the reason why an entry cannot be an image; empty if it can."""
    if not _is_kind(info, stat.S_IFREG):
        return "is a link or another special file"
    if info.flag_bits & 0x2041:  # encrypted, strongly encrypted, masked
        return "is encrypted"
    if info.compress_type not in (ZIP_STORED, ZIP_DEFLATED):
        return f"is compressed by method {info.compress_type}"
    if info.file_size > _MAX_RATIO * info.compress_size:
        return f"claims {info.file_size:,} bytes from {info.compress_size:,} compressed ones"
    return ""


def _unpack(
    contents: ZipFile, entries: list[tuple[ZipInfo, str]], archive: Path, partial: Path
) -> None:
    partial.mkdir()
    for folder in {path.rpartition("/")[0] for _, path in entries}:
        (partial / folder).mkdir(parents=True)
    # `disable=None` hides the bar if stderr is not a terminal.
    for info, path in tqdm(entries, desc="unpacking", unit="image", leave=False, disable=None):
        # Mode `x`: never overwrite or follow an existing name.
        with (partial / path).open("xb") as file:
            for chunk in _inflate(contents, info, archive):
                file.write(chunk)


def _inflate(contents: ZipFile, info: ZipInfo, archive: Path) -> Iterator[bytes]:
    """Yield the bytes of an entry, and check their number and checksum.

    Raises:
        DataError: They differ. zipfile stops at the claimed size, and compares the CRC.
    """
    size = 0
    try:
        with contents.open(info) as entry:
            while chunk := entry.read(_CHUNK_BYTES):
                size += len(chunk)
                yield chunk
    except _DAMAGES as error:
        raise DataError(f"{archive} is damaged: {info.filename!a:.100}: {error}") from error
    if size != info.file_size:
        raise DataError(
            f"{archive} is damaged: {info.filename!a:.100} must have {info.file_size:,} "
            f"bytes, got {size:,}"
        )


def _write_origin(folder: Path, data: PublicData) -> None:
    """Write the origin, the size and the citation of a data set into its folder."""
    num_files, num_bytes = _measure(folder, data)
    origin = {
        "name": data.name,
        "doi": data.doi,
        "licence": data.licence,
        "citation": data.citation,
        "url": data.url,
        "sha256": data.sha256,
        "num_files": num_files,
        "num_bytes": num_bytes,
    }
    write_durably(folder / _ORIGIN, f"{json.dumps(origin, indent=2)}\n".encode())


def is_complete(folder: Path, data: PublicData) -> bool:
    """True if a folder holds the whole data set, by the number and the size of its files.

    Raises:
        DataError: The folder has other contents, or a part; only the user may remove it.
    """
    if not (folder.exists() or folder.is_symlink()):
        return False
    if folder.is_dir() and not any(folder.iterdir()):
        return False
    try:
        origin = json.loads((folder / _ORIGIN).read_bytes())
        found = origin["sha256"], origin["num_files"], origin["num_bytes"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise DataError(
            f"{folder} must be missing, empty or made by `download`, but has no valid {_ORIGIN}; "
            "move it away, or choose another --into"
        ) from error
    num_files, num_bytes = _measure(folder, data)
    if found != (data.sha256, num_files, num_bytes):
        raise DataError(
            f"{folder} has changed since it was unpacked: it must have {found[1]} files of "
            f"{found[2]} bytes, got {num_files:,} files of {num_bytes:,} bytes; move it away, "
            "then run the same command again"
        )
    return True


def _measure(folder: Path, data: PublicData) -> tuple[int, int]:
    """Return the number of files in the folders of images, and their bytes."""
    num_files = num_bytes = 0
    for name in data.num_images:
        if (folder / name).is_dir():
            with os.scandir(folder / name) as entries:
                for entry in entries:
                    if not entry.name.startswith("."):  # may be added by a file manager
                        num_files += 1
                        num_bytes += entry.stat().st_size
    return num_files, num_bytes
