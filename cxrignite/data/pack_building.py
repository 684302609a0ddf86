"""Packs on demand: opened where there is a true one, built where there is none."""

from __future__ import annotations

import fcntl
import hashlib
import logging
import os
import shutil
import socket
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch.utils.data import DataLoader, Dataset
from tqdm import tqdm

from cxrignite.data.film_table import FilmTable
from cxrignite.data.loading import available_workers, init_worker, keep_batch
from cxrignite.data.packing import (
    Pack,
    as_digests,
    has_manifest,
    read_pack,
    remove_pack,
    write_manifest,
)
from cxrignite.data.pipeline import Pipeline
from cxrignite.data.sources import Film
from cxrignite.durable_write import sweep_temporaries, sync_folder, temporary_path
from cxrignite.errors import DataError, PackError, UnreadableImageError

logger = logging.getLogger(__name__)

RESERVED_BYTES = 2**30
"""Left free on the disk for checkpoints."""

_NUM_PROBES = 8
_BATCH_SIZE = 16


def open_pack(
    folder: Path,
    films: Sequence[Film],
    pipeline: Pipeline,
    *,
    num_workers: int = 0,
    progress: bool = False,
) -> Pack:
    """The pack of these films: opened if there is a true one, else built.

    A pack is taken only if the content of every film and the pipeline are the same, it is whole,
    and a few films that are read afresh give what it holds. Several processes may ask at once: one
    builds, the others wait.

    Args:
        folder: Where packs are kept; made if it is missing.
        films: With their digests.
        pipeline: Reads and preprocesses.
        num_workers: Processes that build; 0 builds in this one.
        progress: Show a progress bar on stderr where that is a terminal.

    Returns:
        The pack. It names the films that cannot be read.

    Raises:
        DataError: If the pipeline fails, or gives images of several sizes.
        UnreadableImageError: If none of the films can be read.
        PackError: If the folder cannot be written to or lacks the room, or the pipeline cannot be
            written down.
    """
    digests, first = np.unique(as_digests(films), return_index=True)
    distinct = [films[index] for index in first]
    key = hashlib.sha256(pipeline.fingerprint().encode() + digests.tobytes()).hexdigest()[:32]
    path = folder / f"{key}.npy"
    pack = _true_pack(path, digests, distinct, pipeline)
    if pack is not None:
        return pack
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with _only_builder(folder):
            # Another process may have built it while this one waited.
            pack = _true_pack(path, digests, distinct, pipeline)
            if pack is None:
                remove_pack(path)
                unreadable = _build(path, distinct, pipeline, num_workers, progress)
                write_manifest(path, unreadable)
                pack = Pack(path, digests, unreadable)
    except OSError as error:
        raise PackError(f"cannot keep a pack in {folder}: {error.strerror or error}") from error
    return pack


def _true_pack(
    path: Path, digests: NDArray[np.bytes_], films: Sequence[Film], pipeline: Pipeline
) -> Pack | None:
    """The pack in `path`, if it can be trusted."""
    if not has_manifest(path):
        return None
    try:
        pack = read_pack(path, digests)
        readable = [film for film in films if film.sha256 not in pack.unreadable]
        for film in readable[:: max(1, -(-len(readable) // _NUM_PROBES))]:
            # The key knows the code only as far as it can be seen from here.
            if not torch.equal(pack.image(film), pipeline.read(film.path)):
                raise DataError(f"{path} holds another image of {film.name} than is read now")
        for film in films:
            # A disk may have failed for a moment while the pack was built.
            if film.sha256 in pack.unreadable and _is_readable(film, pipeline):
                raise DataError(f"{path} lacks {film.name}, which can be read now")
    except DataError as error:
        logger.warning("pack built anew: %s", error)
        return None
    logger.info(
        "%d images of %d x %d from %s; delete it to have the films read again",
        *(len(films), *pack.image_size, path),
    )
    return pack


def _is_readable(film: Film, pipeline: Pipeline) -> bool:
    try:
        pipeline.read(film.path)
    except UnreadableImageError:
        return False
    return True


def _build(
    path: Path, films: Sequence[Film], pipeline: Pipeline, num_workers: int, progress: bool
) -> dict[str, str]:
    """Write the images, and give the digest and the reason of those that cannot be read."""
    height, width = _image_size(films, pipeline)
    shape = (len(films), height, width)
    num_bytes = len(films) * height * width
    free = shutil.disk_usage(path.parent).free
    if free < num_bytes + RESERVED_BYTES:
        raise PackError(
            f"cannot keep a pack in {path.parent}: it takes {num_bytes:,} bytes beside the "
            f"{RESERVED_BYTES:,} that stay free, and {free:,} are free"
        )
    # Nodes that share the folder may not see each other's locks, nor each other's processes.
    host = f"{path.stem}.{socket.gethostname()}"
    sweep_temporaries(path.parent, f"{host}.npy")
    temporary = temporary_path(path.with_name(f"{host}.npy"))
    logger.info("packing %d images of %d x %d into %s", *shape, path)
    try:
        np.lib.format.open_memmap(temporary, mode="w+", dtype=np.uint8, shape=shape)
        with temporary.open("rb+") as file:
            if hasattr(os, "posix_fallocate"):
                # A disk that is full is an error here, and a crash (SIGBUS) in a memory map.
                os.posix_fallocate(file.fileno(), 0, temporary.stat().st_size)
            unreadable = _fill(temporary, films, pipeline, num_workers, progress)
            os.fsync(file.fileno())
        os.replace(temporary, path)
        sync_folder(path.parent)
    finally:
        with suppress(OSError):
            temporary.unlink()
    return unreadable


def _image_size(films: Sequence[Film], pipeline: Pipeline) -> tuple[int, int]:
    failure = None
    for film in films:
        try:
            height, width = pipeline.read(film.path).shape[-2:]
        except UnreadableImageError as error:
            failure = failure or error
        else:
            return height, width
    raise failure or DataError("a pack needs at least one film, got 0")


def _fill(
    path: Path, films: Sequence[Film], pipeline: Pipeline, num_workers: int, progress: bool
) -> dict[str, str]:
    loader: DataLoader[_Outcomes | DataError] = DataLoader(
        _Rows(path, FilmTable(films), pipeline),
        batch_size=_BATCH_SIZE,
        collate_fn=keep_batch,
        num_workers=available_workers(num_workers),
        worker_init_fn=init_worker,
        # Without it the pass draws from the global generator, and shifts dropout.
        generator=torch.Generator(),
    )
    unreadable = {}
    # `disable=None` keeps the bar off where stderr is not a terminal.
    disable = None if progress else True
    with tqdm(total=len(films), desc="packing", unit="img", leave=False, disable=disable) as bar:
        for outcomes in loader:
            if isinstance(outcomes, DataError):
                raise outcomes
            for row, reason in outcomes:
                if reason is not None:
                    unreadable[films[row].sha256] = reason
            bar.update(len(outcomes))
    return unreadable


_Outcomes = list[tuple[int, str | None]]


class _Rows(Dataset[_Outcomes]):
    """Fills rows of the pack where it is asked for them, and tells which could not be read."""

    def __init__(self, path: Path, table: FilmTable, pipeline: Pipeline) -> None:
        self._path, self._table, self._pipeline = path, table, pipeline

    def __len__(self) -> int:
        return len(self._table)

    def __getitems__(self, rows: list[int]) -> _Outcomes | DataError:
        images = np.load(self._path, mmap_mode="r+")
        outcomes: _Outcomes = []
        for row in rows:
            path = self._table.path(row)
            try:
                image = self._pipeline.read(path)[0].numpy()
            except UnreadableImageError as error:
                outcomes.append((row, error.reason))
                continue
            except DataError as error:
                return error
            if image.shape != images.shape[1:]:
                return DataError(
                    "images must have one size, got {} x {} and {} x {} ({}): "
                    "set data.image_size".format(*images.shape[1:], *image.shape, path)
                )
            images[row] = image
            outcomes.append((row, None))
        return outcomes


@contextmanager
def _only_builder(folder: Path) -> Iterator[None]:
    """One process builds at a time, where the file system knows locks; elsewhere both do."""
    with (folder / "packs.lock").open("a+", encoding="ascii") as handle:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            logger.info("waiting for another process that builds a pack in %s", folder)
            fcntl.flock(handle, fcntl.LOCK_EX)
        except OSError:
            logger.info("%s has no locks: processes may build the same pack at once", folder)
        yield
