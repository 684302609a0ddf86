"""Unpack a zip archive into a folder of images that is whole or absent, and recognise it again."""

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

# It begins with a letter, a digit or `_`: neither `..` nor a hidden file, and has no separator,
# no drive's colon and no control character.
_IMAGE_NAME = re.compile(r"\w[\w .-]{0,150}\.(?:jpeg|jpg|png)", re.ASCII | re.IGNORECASE)
# Images are compressed already: those of ChestXRay2017 shrink by 1 %.
_MAX_RATIO = 20
_CHUNK_BYTES = 2**20
_ORIGIN = "origin.json"
# What zipfile (3.11) raises for one or another damage.
_DAMAGES = (
    *(BadZipFile, LargeZipFile, zlib.error, struct.error, EOFError, OSError),
    *(NotImplementedError, RuntimeError, ValueError, OverflowError),
)


def unpack(archive: Path, data: PublicData, target: Path) -> None:
    """Unpack an archive into a folder that appears when it is whole.

    All is judged by the archive's own list before anything is written, and again by what comes out.
    What is not listed by `data.num_images` is refused, except for what macOS adds to an archive.

    Args:
        archive: A zip file.
        data: What has to be in it.
        target: The folder for what is below `data.folder`; it must be missing or empty, and no
            other process may unpack there.

    Raises:
        DataError: The archive is damaged, hostile, or has other images; nothing stays behind.
        CxrIgniteError: The disk is full or cannot be written to; nothing stays behind.
    """
    partial = target.with_name(f"{target.name}.{os.getpid()}.partial")
    try:
        with _opened(archive) as contents:
            records = _records(archive, contents, data)
            _unpack(contents, records, archive, partial)
        _write_origin(partial, data)
        # Not synced, as thousands of small files take minutes on a slow disk: after a power cut
        # those that were lost are short, and `is_whole` says so.
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
    """Remove the partial folders that killed processes have left of `target`."""
    for path in target.parent.glob(f"{target.name}.*.partial"):
        if re.fullmatch(r"\d+", path.name[len(target.name) + 1 : -len(".partial")]):
            shutil.rmtree(path, ignore_errors=True)


def _opened(archive: Path) -> ZipFile:
    try:
        return ZipFile(archive)
    except _DAMAGES as error:
        raise DataError(f"{archive} is no whole zip archive: {error}") from error


def _records(archive: Path, contents: ZipFile, data: PublicData) -> list[tuple[ZipInfo, str]]:
    """The archive's images, each with its path below the target.

    Raises:
        DataError: Naming the first entry that is refused, and why.
    """
    folders = {
        "/".join((data.folder, *parts[:depth], ""))
        for parts in (name.split("/") for name in data.num_images)
        for depth in range(len(parts) + 1)
    }
    records: list[tuple[ZipInfo, str]] = []
    seen: set[str] = set()
    for info in contents.infolist():
        # zipfile cuts `filename` at a NUL.
        name = info.orig_filename
        if _is_litter_of_macos(name):
            continue
        path = name.removeprefix(f"{data.folder}/")
        folder, _, record = path.rpartition("/")
        if name in folders:
            reason = "" if _is_kind(info, stat.S_IFDIR) else "is no folder, by its mode"
        elif path == name or folder not in data.num_images or not _IMAGE_NAME.fullmatch(record):
            reason = f"is no image of {data.name}"
        else:
            reason = "stands twice" if path.casefold() in seen else _image_trouble(info)
            records.append((info, path))
            seen.add(path.casefold())
        if reason:
            raise DataError(f"{archive} is refused: {name!a:.100} {reason}")
    claimed = sum(info.file_size for info, _ in records)
    if claimed > data.max_unpacked_bytes:
        raise DataError(
            f"{archive} is refused: its images must be at most {data.max_unpacked_bytes:,} bytes, "
            f"got {claimed:,}"
        )
    counts = Counter(path.rpartition("/")[0] for _, path in records)
    for folder, number in data.num_images.items():
        if counts[folder] != number:
            raise DataError(
                f"{archive} is refused: {folder} must have {number:,} images, "
                f"got {counts[folder]:,}"
            )
    return records


def _is_litter_of_macos(name: str) -> bool:
    last = name.rpartition("/")[2]
    return name.startswith("__MACOSX/") or last == ".DS_Store" or last.startswith("._")


def _is_kind(info: ZipInfo, kind: int) -> bool:
    """Whether an entry's mode says what it is expected to be, or nothing."""
    return stat.S_IFMT(info.external_attr >> 16) in (0, kind)


def _image_trouble(info: ZipInfo) -> str:
    """Why an entry with an image's name is none; empty if it may be one."""
    if not _is_kind(info, stat.S_IFREG):
        return "is a link or another special file"
    if info.flag_bits & 0x2041:  # encrypted, strongly encrypted, masked
        return "is encrypted"
    if info.compress_type not in (ZIP_STORED, ZIP_DEFLATED):
        return f"is compressed by method {info.compress_type}"
    if info.file_size > _MAX_RATIO * info.compress_size:
        return f"claims {info.file_size:,} bytes out of {info.compress_size:,}"
    return ""


def _unpack(
    contents: ZipFile, records: list[tuple[ZipInfo, str]], archive: Path, partial: Path
) -> None:
    partial.mkdir()
    for folder in {path.rpartition("/")[0] for _, path in records}:
        (partial / folder).mkdir(parents=True)
    # `disable=None` keeps the bar off where stderr is not a terminal.
    for info, path in tqdm(records, desc="unpacking", unit="image", leave=False, disable=None):
        # Never through a name that is there already.
        with (partial / path).open("xb") as file:
            for chunk in _inflate(contents, info, archive):
                file.write(chunk)


def _inflate(contents: ZipFile, info: ZipInfo, archive: Path) -> Iterator[bytes]:
    """The bytes of an entry: as many as it claims, and with its checksum.

    Raises:
        DataError: They are others. zipfile stops where there are more, and compares the CRC.
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
    """Write into an unpacked folder what it is, how much of it there is, and how to cite it."""
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


def is_whole(folder: Path, data: PublicData) -> bool:
    """True if a folder holds all of a data set, by the number and the size of its files.

    Args:
        folder: May be missing or empty.
        data: What it should hold.

    Raises:
        DataError: There is something else, or a part of it. It is the user's to remove.
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
            f"{folder} is there already and `download` did not make it: it has no whole "
            f"{_ORIGIN}; move it away or choose another --into"
        ) from error
    num_files, num_bytes = _measure(folder, data)
    if found != (data.sha256, num_files, num_bytes):
        raise DataError(
            f"{folder} is no longer what was unpacked there: {num_files:,} files of "
            f"{num_bytes:,} bytes, of {found[1]} files of {found[2]} bytes; move it away, "
            "then the same command brings it again"
        )
    return True


def _measure(folder: Path, data: PublicData) -> tuple[int, int]:
    """The number of files in the folders of images, and their bytes."""
    num_files = num_bytes = 0
    for name in data.num_images:
        if (folder / name).is_dir():
            with os.scandir(folder / name) as entries:
                for entry in entries:
                    if not entry.name.startswith("."):  # a file manager's, of who looked in
                        num_files += 1
                        num_bytes += entry.stat().st_size
    return num_files, num_bytes
