"""Caches on demand: a valid cache is opened, a missing one is built."""

from __future__ import annotations

import hashlib
import logging
import os
import shutil
import socket
from collections.abc import Sequence
from contextlib import closing, suppress
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch.utils.data import Dataset
from tqdm import tqdm

from cxrignite.data.image_cache import (
    ImageCache,
    as_digests,
    has_manifest,
    read_cache,
    remove_cache,
    write_manifest,
)
from cxrignite.data.inspection import Inspection
from cxrignite.data.loading import RecordTable, available_workers
from cxrignite.data.pipeline import Pipeline
from cxrignite.data.sources import ImageRecord
from cxrignite.data.worker_loading import WorkerLoader
from cxrignite.durable_write import sweep_temporaries, sync_folder, temporary_path
from cxrignite.errors import CacheError, CxrIgniteError, DataError, UnreadableImageError
from cxrignite.locks import hold_lock

logger = logging.getLogger(__name__)

RESERVED_BYTES = 2**30
"""Number of bytes left free on the disk for checkpoints."""

_NUM_PROBES = 8
_BATCH_SIZE = 16


def open_cache(
    folder: Path,
    records: Sequence[ImageRecord],
    pipeline: Pipeline,
    num_workers: int = 0,
    worker_timeout: float | None = None,
    *,
    progress: bool = False,
) -> ImageCache:
    """Open the cache of these images if a valid one exists, else build it.

    A cache is valid if every file's content and the pipeline are unchanged, the cache is complete,
    and a few images read again equal those in it. If several processes call this at the same time,
    one builds and the others wait.

    Args:
        folder: The folder of caches; created if it is missing.
        records: The images, with their digests.
        pipeline: Reads and preprocesses the images.
        num_workers: Number of worker processes; 0 builds in this process.
        worker_timeout: As in `WorkerLoader`.
        progress: Show a progress bar on stderr if that is a terminal.

    Returns:
        The cache. It lists the images that cannot be read.

    Raises:
        DataError: If the pipeline fails, or returns images of several sizes.
        UnreadableImageError: If none of the images can be read.
        CacheError: If the folder cannot be written to or the disk lacks space, or the pipeline has
            no fingerprint.
    """
    workers = num_workers, worker_timeout
    digests, first = np.unique(as_digests(records), return_index=True)
    distinct = [records[index] for index in first]
    key = hashlib.sha256(pipeline.fingerprint().encode() + digests.tobytes()).hexdigest()[:32]
    path = folder / f"{key}.npy"
    cache = _valid_cache(path, digests, distinct, pipeline)
    if cache is not None:
        return cache
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with hold_lock(folder / "caches.lock", wait=True, is_required=False):
            # Another process may have built it while this one waited.
            cache = _valid_cache(path, digests, distinct, pipeline)
            if cache is None:
                remove_cache(path)
                unreadable, blank = _build(path, distinct, pipeline, workers, progress)
                write_manifest(path, unreadable, blank)
                cache = ImageCache(path, digests, unreadable, blank)
    except OSError as error:
        raise CacheError(f"cannot write a cache to {folder}: {error.strerror or error}") from error
    return cache


def inspected(cache: ImageCache, hashed: Inspection) -> Inspection:
    """Return the inspection with what the cache knows, as if each image had been decoded.

    `hashed` lists the images with their digests, and those whose bytes cannot be read.
    """
    reasons = cache.unreadable
    good = [record for record in hashed.records if record.sha256 not in reasons]
    bad = [
        UnreadableImageError(record.path, reasons[record.sha256])
        for record in hashed.records
        if record.sha256 in reasons
    ]
    blank = [record.name for record in good if record.sha256 in cache.nearly_blank]
    return Inspection(good, [*hashed.unreadable, *bad], blank)


def _valid_cache(
    path: Path, digests: NDArray[np.bytes_], records: Sequence[ImageRecord], pipeline: Pipeline
) -> ImageCache | None:
    """Return the cache in `path` if it is valid, else `None`."""
    if not has_manifest(path):
        return None
    try:
        cache = read_cache(path, digests)
        readable = [record for record in records if record.sha256 not in cache.unreadable]
        for record in readable[:: max(1, -(-len(readable) // _NUM_PROBES))]:
            # The key covers the user's code only in part: it may call code that changed.
            if not torch.equal(cache.image(record), pipeline.read(record.path)):
                raise DataError(f"{path}: the image of {record.name} differs from the file")
        for record in records:
            # Reading may have failed for a moment while the cache was built.
            if record.sha256 in cache.unreadable and _is_readable(record, pipeline):
                raise DataError(f"{path} lacks {record.name}, which is readable now")
    except DataError as error:
        logger.warning("the cache is built again: %s", error)
        return None
    logger.info(
        "%d images of %d x %d read from the cache %s; delete it to read the files again",
        *(len(records), *cache.image_size, path),
    )
    return cache


def _is_readable(record: ImageRecord, pipeline: Pipeline) -> bool:
    try:
        pipeline.read(record.path)
    except UnreadableImageError:
        return False
    return True


def _build(
    path: Path,
    records: Sequence[ImageRecord],
    pipeline: Pipeline,
    workers: tuple[int, float | None],
    progress: bool,
) -> tuple[dict[str, str], list[str]]:
    """Write the images; return the unreadable ones with reasons, and the nearly blank ones."""
    height, width = _image_size(records, pipeline)
    shape = (len(records), height, width)
    num_bytes = len(records) * height * width
    free = shutil.disk_usage(path.parent).free
    if free < num_bytes + RESERVED_BYTES:
        raise CacheError(
            f"cannot write a cache to {path.parent}: it needs {num_bytes:,} bytes plus a reserve "
            f"of {RESERVED_BYTES:,}, got {free:,} free; free some space or set data.cache: off"
        )
    # Nodes that share the folder may see neither each other's locks nor each other's processes.
    host = f"{path.stem}.{socket.gethostname()}"
    sweep_temporaries(path.parent, f"{host}.npy")
    temporary = temporary_path(path.with_name(f"{host}.npy"))
    logger.info("caching %d images of %d x %d into %s", *shape, path)
    try:
        np.lib.format.open_memmap(temporary, mode="w+", dtype=np.uint8, shape=shape)
        with temporary.open("rb+") as file:
            if hasattr(os, "posix_fallocate"):
                # A full disk raises an error here; a memory map would crash with SIGBUS.
                os.posix_fallocate(file.fileno(), 0, temporary.stat().st_size)
            found = _fill(temporary, records, pipeline, workers, progress)
            os.fsync(file.fileno())
        os.replace(temporary, path)
        sync_folder(path.parent)
    finally:
        with suppress(OSError):
            temporary.unlink()
    return found


def _image_size(records: Sequence[ImageRecord], pipeline: Pipeline) -> tuple[int, int]:
    failure = None
    for record in records:
        try:
            height, width = pipeline.read(record.path).shape[-2:]
        except UnreadableImageError as error:
            failure = failure or error
        else:
            return height, width
    raise failure or DataError("a cache needs at least one image, got 0")


def _fill(
    path: Path,
    records: Sequence[ImageRecord],
    pipeline: Pipeline,
    workers: tuple[int, float | None],
    progress: bool,
) -> tuple[dict[str, str], list[str]]:
    loader = WorkerLoader(
        _Rows(path, RecordTable(records), pipeline),
        batch_size=_BATCH_SIZE,
        num_workers=available_workers(workers[0]),
        worker_timeout=workers[1],
        # Without it the pass draws from the global generator, which changes dropout.
        generator=torch.Generator(),
    )
    unreadable, nearly_blank = {}, []
    # `disable=None` shows no bar if stderr is not a terminal.
    disable = None if progress else True
    with (
        closing(loader),
        tqdm(total=len(records), desc="caching", unit="img", leave=False, disable=disable) as bar,
    ):
        for outcomes in loader:
            for row, reason, is_blank in outcomes:
                if reason is not None:
                    unreadable[records[row].sha256] = reason
                elif is_blank:
                    nearly_blank.append(records[row].sha256)
            bar.update(len(outcomes))
    return unreadable, nearly_blank


_Outcomes = list[tuple[int, str | None, bool]]


class _Rows(Dataset[_Outcomes]):
    """A data set whose items fill rows of the cache; each reports if it could not be read."""

    def __init__(self, path: Path, table: RecordTable, pipeline: Pipeline) -> None:
        self._path, self._table, self._pipeline = path, table, pipeline

    def __len__(self) -> int:
        return len(self._table)

    def __getitems__(self, rows: list[int]) -> _Outcomes | CxrIgniteError:
        images = np.load(self._path, mmap_mode="r+")
        outcomes: _Outcomes = []
        for row in rows:
            path = self._table.path(row)
            try:
                read, is_blank = self._pipeline.read_and_judge(path)
                image = read[0].numpy()
            except UnreadableImageError as error:
                outcomes.append((row, error.reason, False))
                continue
            except CxrIgniteError as error:
                return error
            if image.shape != images.shape[1:]:
                return DataError(
                    "images must have one size, got {} x {} and {} x {} ({}); "
                    "set data.image_size".format(*images.shape[1:], *image.shape, path)
                )
            images[row] = image
            outcomes.append((row, None, is_blank))
        return outcomes
