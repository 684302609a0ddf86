"""Batches of films: what they are, and the processes that read them."""

from __future__ import annotations

import logging
import os
import signal
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from cxrignite.data.sources import Film
from cxrignite.errors import DataError, RecipeError

if TYPE_CHECKING:
    # At run time MONAI comes with the first XrayData: it costs seconds.
    from cxrignite.data.transforms import Pipeline

logger = logging.getLogger(__name__)

Draw = tuple[int, int | None]
"""An index into the films of a split, and the seed of its augmentation (`None`: not augmented)."""


class Batch(NamedTuple):
    """What a loader gives.

    Attributes:
        image: Shape `(N, 1, H, W)`; uint8, or float32 in `[0, 1]` where augmented.
        label: Shape `(N,)`, float32, 0 or 1.
        index: Shape `(N,)`, int64: positions in `XrayData.films` of that split.
    """

    image: Tensor
    label: Tensor
    index: Tensor  # type: ignore[assignment]  # It hides `tuple.index`, which nobody needs here.


@dataclass(frozen=True)
class LoaderSettings:
    """How batches are loaded.

    Args:
        batch_size: Images a batch and process.
        num_workers: Worker processes a loader; 0 loads in the main process.
        prefetch_factor: Batches that each worker keeps ready.

    Raises:
        RecipeError: If a number is out of range.
    """

    batch_size: int = 32
    num_workers: int = 4
    prefetch_factor: int = 4

    def __post_init__(self) -> None:
        for name, low in (("batch_size", 1), ("num_workers", 0), ("prefetch_factor", 1)):
            if getattr(self, name) < low:
                raise RecipeError(f"{name} must be at least {low}, got {getattr(self, name)}")


class FilmBatches(Dataset[Batch]):
    """Whole batches of the films of a split; a failure is returned, not raised.

    torch raises a worker's exception again from its text alone, which makes a RuntimeError of
    every exception with two arguments. Returned, it arrives whole (pytorch `ExceptionWrapper`).
    """

    def __init__(self, films: list[Film], pipeline: Pipeline) -> None:
        self.films = films
        self.pipeline = pipeline

    def __len__(self) -> int:
        return len(self.films)

    def __getitems__(self, draws: list[Draw]) -> Batch | DataError:
        try:
            return self._batch(draws)
        except DataError as error:
            return error

    def _batch(self, draws: list[Draw]) -> Batch:
        indices = [index for index, _ in draws]
        images = [self.pipeline(self.films[index].path, seed) for index, seed in draws]
        for index, image in zip(indices, images, strict=True):
            if image.shape != images[0].shape:
                raise DataError(
                    "images of a batch must have one size, got "
                    f"{_size(images[0])} ({self.films[indices[0]].name}) and "
                    f"{_size(image)} ({self.films[index].name}): add a Resize to data.preprocess"
                )
        return Batch(
            torch.stack(images),
            torch.tensor([self.films[index].label for index in indices], dtype=torch.float32),
            torch.tensor(indices, dtype=torch.int64),
        )


class BatchLoader(DataLoader[Batch]):
    """A `DataLoader` over `FilmBatches` that raises the failures they return."""

    def __iter__(self) -> Iterator[Batch]:  # type: ignore[override]
        return map(_raise_failure, super().__iter__())

    def close(self) -> None:
        """Ends the worker processes, which otherwise wait for another epoch."""
        iterator, self._iterator = self._iterator, None
        if iterator is not None:
            iterator._shutdown_workers()  # type: ignore[attr-defined]  # No public name for it.


def keep_batch(batch: Any) -> Any:
    """Collates nothing: `FilmBatches` gives whole batches."""
    return batch


def _raise_failure(batch: Batch | DataError) -> Batch:
    if isinstance(batch, DataError):
        raise batch
    return batch


def _size(image: Tensor) -> str:
    return f"{image.shape[-2]} x {image.shape[-1]}"


def init_worker(worker_id: int) -> None:
    """Sets a worker process up: it leaves stopping to the main process, and uses one thread."""
    # Ctrl-C reaches the whole process group, and the main process has to stop in its own time;
    # it may have a SIGTERM handler that means nothing in a worker.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    torch.set_num_threads(1)


def available_workers(num_workers: int) -> int:
    """Caps `num_workers` to the cores that this process may use, and logs it where it does."""
    affinity = getattr(os, "sched_getaffinity", None)
    num_cores = len(affinity(0)) if affinity is not None else os.cpu_count() or 1
    if num_workers > num_cores:
        logger.info("num_workers: %d asked, %d used (one a core)", num_workers, num_cores)
    return min(num_workers, num_cores)
