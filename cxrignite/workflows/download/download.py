"""Fetch a public data set, check it, unpack it, and print what there is."""

from __future__ import annotations

import hashlib
import logging
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from cxrignite.durable_write import free_bytes
from cxrignite.errors import CxrIgniteError, DataError
from cxrignite.locks import hold_lock
from cxrignite.reporting.download_text import download_text
from cxrignite.stops import stoppable
from cxrignite.workflows.download.catalogue import PublicData
from cxrignite.workflows.download.fetch import Patience, fetch, part_path
from cxrignite.workflows.download.unpack import is_whole, sweep_partials, unpack

_logger = logging.getLogger(__name__)


def download(
    data: PublicData,
    into: Path,
    *,
    archive: Path | None = None,
    keep_archive: bool = False,
    patience: Patience | None = None,
) -> None:
    """Bring a data set into a folder; what is there already is not brought again.

    After a stop of any kind the same call goes on where it ended.

    Args:
        data: From the catalogue.
        into: Where `data.folder` is made.
        archive: An archive that was fetched by other means; it is checked the same way, and stays.
        keep_archive: Keep the archive that is fetched.
        patience: With the server.

    Raises:
        DownloadError: The archive cannot be fetched; what has come is kept.
        DataError: The archive is another or hostile, or `data.folder` is there and not this.
        CxrIgniteError: The disk is too small, or another process brings the same.
    """
    target = into / data.folder
    if is_whole(target, data):
        sys.stdout.write(f"{target} is there already and whole: nothing is fetched\n")
    else:
        with _sole_writer(target), stoppable():
            # Another process may have brought it in between.
            if not is_whole(target, data):
                _bring(data, target, archive, keep_archive, patience or Patience())
    about = {"licence": data.licence, "citation": data.citation, "doi": data.doi}
    sys.stdout.write(download_text(target, data.num_images, **about))


def _bring(
    data: PublicData, target: Path, archive: Path | None, keep_archive: bool, patience: Patience
) -> None:
    sweep_partials(target)
    kept, part = target.with_name(data.archive_name), part_path(data, target.parent)
    if archive is None and kept.exists():
        archive = kept
    is_given = archive is not None
    if archive is not None:
        _check(archive, data)
        _check_room(target, data.max_unpacked_bytes)
    else:
        archive = _fetched(data, target, part, patience)
        if keep_archive:
            archive = part.replace(kept)
    unpack(archive, data, target)
    # A given archive stays, even if it is the part.
    if not (is_given and part.exists() and part.samefile(archive)):
        part.unlink(missing_ok=True)


def _fetched(data: PublicData, target: Path, part: Path, patience: Patience) -> Path:
    """Fetch the archive into the part and check it; wrong bytes are removed."""
    here = part.stat().st_size if part.exists() else 0
    _check_room(target, data.size - here + data.max_unpacked_bytes)
    _logger.info("fetching %s from byte %d of %d", data.url, here, data.size)
    fetch(data, part, patience)
    try:
        _check(part, data)
    except DataError:
        part.unlink()
        raise
    return part


def _check(archive: Path, data: PublicData) -> None:
    """Refuse an archive that is not the one.

    Raises:
        DataError: By its size or its digest.
    """
    try:
        size = archive.stat().st_size
        if size != data.size:
            raise DataError(
                f"{archive} is not {data.archive_name}: it must have {data.size:,} bytes, "
                f"got {size:,}"
            )
        _logger.info("checking the sha256 of %s", archive)
        with archive.open("rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise DataError(f"cannot read {archive}: {error.strerror or error}") from error
    if digest != data.sha256:
        raise DataError(
            f"{archive} is not {data.archive_name}: its sha256 must be {data.sha256}, got {digest}"
        )


def _check_room(target: Path, num_bytes: int) -> None:
    free = free_bytes(target)
    if free < num_bytes:
        raise CxrIgniteError(
            f"{target.parent} must have {num_bytes:,} bytes free for archive and images, "
            f"got {free:,}"
        )


@contextmanager
def _sole_writer(target: Path) -> Iterator[None]:
    """Keep other processes from bringing the same; the lock goes with this process.

    Raises:
        CxrIgniteError: Another process holds it, or the folder cannot be written to.
    """
    path = target.with_name(f".{target.name}.lock")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        lock = hold_lock(path)
    except BlockingIOError as error:
        raise CxrIgniteError(f"{target} is {error.strerror}") from error
    except OSError as error:
        raise CxrIgniteError(f"cannot write into {target.parent}: {error.strerror}") from error
    with lock:
        lock.callback(path.unlink, missing_ok=True)
        yield
