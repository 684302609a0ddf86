"""From a data set's name to its films in a folder."""

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
from cxrignite.stops import stoppable
from cxrignite.workflows.download.catalogue import PublicData
from cxrignite.workflows.download.fetch import Patience, fetch
from cxrignite.workflows.download.origin import is_whole
from cxrignite.workflows.download.part import Part
from cxrignite.workflows.download.unpack import sweep_partials, unpack

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
    sys.stdout.write(_describe(data, target))


def _bring(
    data: PublicData, target: Path, archive: Path | None, keep_archive: bool, patience: Patience
) -> None:
    sweep_partials(target)
    kept = target.with_name(data.archive_name)
    part = Part(kept, data.sha256)
    if archive is None and kept.exists():
        archive = kept
    if archive is not None:
        _check(archive, data)
        _check_room(target, data.max_unpacked_bytes)
        unpack(archive, data, target)
        if part.is_known and not (part.path.exists() and part.path.samefile(archive)):
            part.remove()
        return
    if not part.is_known:
        part.remove()
    _check_room(target, data.size - part.size + data.max_unpacked_bytes)
    _logger.info("fetching %s from byte %d of %d", data.url, part.size, data.size)
    fetch(data, part, patience)
    try:
        _check(part.path, data)
    except DataError:
        part.remove()
        raise
    if keep_archive:
        part.finish(kept)
    unpack(kept if keep_archive else part.path, data, target)
    part.remove()


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
            f"{target.parent} must have {num_bytes:,} bytes free for archive and films, "
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


def _describe(data: PublicData, target: Path) -> str:
    """What there is, what may be done with it, and what to do next."""
    splits, classes = (
        list(dict.fromkeys(name.split("/")[place] for name in data.films)) for place in (0, 1)
    )
    rows = [f"{'':<10}{''.join(f'{name:>12}' for name in classes)}"]
    for split in splits:
        numbers = (f"{data.films[f'{split}/{name}']:>12,}" for name in classes)
        rows.append(f"{split:<10}{''.join(numbers)}")
    root = "" if target == Path("data/chest_xray") else f" --data.source.root {target}"
    rows += [
        f"{data.num_films:,} films in {target}",
        f"licence   {data.licence}",
        f"cite      {data.citation}, doi {data.doi}",
        f"next      cxrignite audit --config recipes/resnet50.yaml{root}",
    ]
    return "\n".join([*rows, ""])
