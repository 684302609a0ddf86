"""Fetch a public data set, check it, unpack it, and print its contents."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from cxrignite.durable_write import free_bytes
from cxrignite.errors import CxrIgniteError, DataError
from cxrignite.locks import hold_lock
from cxrignite.reporting.download_text import download_text
from cxrignite.stops import stoppable
from cxrignite.terminal import print_output
from cxrignite.workflows.download.catalogue import PublicData
from cxrignite.workflows.download.fetch import Patience, fetch, part_path
from cxrignite.workflows.download.unpack import is_complete, sweep_partials, unpack

_logger = logging.getLogger(__name__)


def download(
    data: PublicData,
    into: Path,
    *,
    archive: Path | None = None,
    keep_archive: bool = False,
    patience: Patience | None = None,
) -> None:
    """Download a data set into a folder, unless it is there already.

    After any interruption the same call resumes the download.

    Args:
        data: A data set of the catalogue.
        into: The parent of `data.folder`.
        archive: An archive fetched by other means; it is checked in the same way, and kept.
        keep_archive: Keep the fetched archive.
        patience: Limits of the retries.

    Raises:
        DownloadError: The archive cannot be fetched; the received bytes are kept.
        DataError: The archive is another one or hostile, or `data.folder` has other contents.
        CxrIgniteError: The disk is too small, or another process downloads the same data set.
    """
    target = into / data.folder
    if is_complete(target, data):
        print_output(f"{target} exists and is complete: nothing to download\n")
    else:
        with _sole_writer(target), stoppable():
            # Another process may have downloaded it in between.
            if not is_complete(target, data):
                _download(data, target, archive, keep_archive, patience or Patience())
    about = {"licence": data.licence, "citation": data.citation, "doi": data.doi}
    print_output(download_text(target, data.num_images, **about))


def _download(
    data: PublicData, target: Path, archive: Path | None, keep_archive: bool, patience: Patience
) -> None:
    sweep_partials(target)
    stored, part = target.with_name(data.archive_name), part_path(data, target.parent)
    if archive is None and stored.exists():
        archive = stored
    is_given = archive is not None
    if archive is not None:
        _check(archive, data)
        _check_free_space(target, data.max_unpacked_bytes)
    else:
        archive = _fetched(data, target, part, patience)
        if keep_archive:
            archive = part.replace(stored)
    unpack(archive, data, target)
    # A given archive is kept, even if it is the partial file.
    if not (is_given and part.exists() and part.samefile(archive)):
        part.unlink(missing_ok=True)


def _fetched(data: PublicData, target: Path, part: Path, patience: Patience) -> Path:
    """Fetch the archive into the partial file and check it; wrong bytes are removed."""
    here = part.stat().st_size if part.exists() else 0
    _check_free_space(target, data.size - here + data.max_unpacked_bytes)
    _logger.info("fetching %s from byte %d of %d", data.url, here, data.size)
    fetch(data, part, patience)
    try:
        _check(part, data)
    except DataError:
        part.unlink()
        raise
    return part


def _check(archive: Path, data: PublicData) -> None:
    """Check the size and the digest of an archive."""
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


def _check_free_space(target: Path, num_bytes: int) -> None:
    free = free_bytes(target)
    if free < num_bytes:
        raise CxrIgniteError(
            f"{target.parent} must have {num_bytes:,} bytes free for archive and images, "
            f"got {free:,}; free some space, or choose another --into"
        )


@contextmanager
def _sole_writer(target: Path) -> Iterator[None]:
    """Lock the target against other processes; the lock ends with this process."""
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
