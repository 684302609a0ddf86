"""Caches on demand: opened where there is a true one, built where there is none."""

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
"""Left free on the disk for checkpoints."""

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
    """The cache of these images: opened if there is a true one, else built.

    A cache is taken only if the content of every image and the pipeline are the same, it is whole,
    and a few images that are read afresh give what it holds. Several processes may ask at once: one
    builds, the others wait.

    Args:
        folder: Where caches are kept; made if it is missing.
        records: With their digests.
        pipeline: Reads and preprocesses.
        num_workers: Processes that build; 0 builds in this one.
        worker_timeout: As of `WorkerLoader`.
        progress: Show a progress bar on stderr where that is a terminal.

    Returns:
        The cache. It names the images that cannot be read.

    Raises:
        DataError: If the pipeline fails, or gives images of several sizes.
        UnreadableImageError: If none of the images can be read.
        CacheError: If the folder cannot be written to or lacks the room, or the pipeline cannot be
            written down.
    """
    workers = num_workers, worker_timeout
    digests, first = np.unique(as_digests(records), return_index=True)
    distinct = [records[index] for index in first]
    key = hashlib.sha256(pipeline.fingerprint().encode() + digests.tobytes()).hexdigest()[:32]
    path = folder / f"{key}.npy"
    cache = _true_cache(path, digests, distinct, pipeline)
    if cache is not None:
        return cache
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with hold_lock(folder / "caches.lock", wait=True, is_required=False):
            # Another process may have built it while this one waited.
            cache = _true_cache(path, digests, distinct, pipeline)
            if cache is None:
                remove_cache(path)
                unreadable, blank = _build(path, distinct, pipeline, workers, progress)
                write_manifest(path, unreadable, blank)
                cache = ImageCache(path, digests, unreadable, blank)
    except OSError as error:
        raise CacheError(f"cannot keep a cache in {folder}: {error.strerror or error}") from error
    return cache


def inspected(cache: ImageCache, hashed: Inspection) -> Inspection:
    """Apply what building a cache found out about images, as if each had been decoded.

    Args:
        cache: Of these images.
        hashed: The images with their digests, and those of which not even the bytes can be read.
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


def _true_cache(
    path: Path, digests: NDArray[np.bytes_], records: Sequence[ImageRecord], pipeline: Pipeline
) -> ImageCache | None:
    """The cache in `path`, if it can be trusted."""
    if not has_manifest(path):
        return None
    try:
        cache = read_cache(path, digests)
        readable = [record for record in records if record.sha256 not in cache.unreadable]
        for record in readable[:: max(1, -(-len(readable) // _NUM_PROBES))]:
            # The key knows the code only as far as it can be seen from here.
            if not torch.equal(cache.image(record), pipeline.read(record.path)):
                raise DataError(f"{path} holds another image of {record.name} than is read now")
        for record in records:
            # A disk may have failed for a moment while the cache was built.
            if record.sha256 in cache.unreadable and _is_readable(record, pipeline):
                raise DataError(f"{path} lacks {record.name}, which can be read now")
    except DataError as error:
        logger.warning("cache built anew: %s", error)
        return None
    logger.info(
        "%d images of %d x %d from %s; delete it to have the images read again",
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
    """Write the images; give digest and reason of the unreadable, digests of the nearly blank."""
    height, width = _image_size(records, pipeline)
    shape = (len(records), height, width)
    num_bytes = len(records) * height * width
    free = shutil.disk_usage(path.parent).free
    if free < num_bytes + RESERVED_BYTES:
        raise CacheError(
            f"cannot keep a cache in {path.parent}: it takes {num_bytes:,} bytes beside the "
            f"{RESERVED_BYTES:,} that stay free, and {free:,} are free"
        )
    # Nodes that share the folder may not see each other's locks, nor each other's processes.
    host = f"{path.stem}.{socket.gethostname()}"
    sweep_temporaries(path.parent, f"{host}.npy")
    temporary = temporary_path(path.with_name(f"{host}.npy"))
    logger.info("caching %d images of %d x %d into %s", *shape, path)
    try:
        np.lib.format.open_memmap(temporary, mode="w+", dtype=np.uint8, shape=shape)
        with temporary.open("rb+") as file:
            if hasattr(os, "posix_fallocate"):
                # A disk that is full is an error here, and a crash (SIGBUS) in a memory map.
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
        # Without it the pass draws from the global generator, and shifts dropout.
        generator=torch.Generator(),
    )
    unreadable, nearly_blank = {}, []
    # `disable=None` keeps the bar off where stderr is not a terminal.
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
    """Fills rows of the cache where it is asked for them, and tells which could not be read."""

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
                    "images must have one size, got {} x {} and {} x {} ({}): "
                    "set data.image_size".format(*images.shape[1:], *image.shape, path)
                )
            images[row] = image
            outcomes.append((row, None, is_blank))
        return outcomes
