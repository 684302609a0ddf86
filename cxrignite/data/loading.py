"""Batches of images, with the data sets and samplers that a loader reads them with."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset, Sampler

from cxrignite.data.image_cache import CachedSplit
from cxrignite.data.pipeline import Pipeline, stack_images
from cxrignite.data.sources import UNKNOWN, ImageRecord
from cxrignite.errors import CxrIgniteError, RecipeError


class RecordTable:
    """A table of the paths and labels of images.

    Every worker process would copy a list of a million objects, page by page, since Python counts
    references inside the objects. These tensors are shared: they are not written to after a fork,
    and torch passes tensors to a spawned process through shared memory.

    Args:
        records: The images; no reference to them is kept.

    Attributes:
        labels: Shape `(N,)`, float32, 0 or 1; of several findings `(N, K)`, NaN for unknown.
    """

    def __init__(self, records: Sequence[ImageRecord]) -> None:
        paths = [record.file.encode("utf-8", "surrogateescape") for record in records]
        self.labels = torch.tensor([record.label for record in records], dtype=torch.float32)
        self.labels[self.labels == UNKNOWN] = torch.nan
        self._ends = torch.tensor(list(accumulate(map(len, paths), initial=0)), dtype=torch.int64)
        # A copy, since torch needs writable memory.
        self._text = torch.from_numpy(np.frombuffer(b"".join(paths), dtype=np.uint8).copy())

    def __len__(self) -> int:
        return len(self.labels)

    def path(self, index: int) -> str:
        """Return the file of an image."""
        start, end = self._ends[index : index + 2].tolist()
        return self._text[start:end].numpy().tobytes().decode("utf-8", "surrogateescape")


logger = logging.getLogger(__name__)

Draw = tuple[int, int | None]
"""An index into the images of a split, and the seed of its augmentation (`None`: not augmented)."""

NO_SEED = -1


class Batch(NamedTuple):
    """A batch from a loader.

    Attributes:
        image: Shape `(N, 1, H, W)`; uint8, or float32 in `[0, 1]` if augmented.
        label: Shape `(N,)`, float32, 0 or 1; of several findings `(N, K)`, NaN for unknown.
        index: Shape `(N,)`, int64: positions in `XrayData.records` of that split.
        seed: Shape `(N,)`, int64: seeds of the augmentation, `NO_SEED` without augmentation.
    """

    image: Tensor
    label: Tensor
    index: Tensor  # type: ignore[assignment]  # It hides `tuple.index`, which is not used.
    seed: Tensor


@dataclass(frozen=True)
class LoaderSettings:
    """Settings of the loaders.

    Args:
        batch_size: Images per batch and process in training.
        num_workers: Worker processes per loader; 0 loads in the main process. A loader that only
            copies images from a cache in memory uses none.
        prefetch_factor: Batches that each worker prepares ahead.
        eval_batch_size: Images per batch in evaluation, which keeps no activations; `None` takes
            twice `batch_size`.
        augment_on_device: Leave `Pipeline.batch_augment` to the trainer, which can use a GPU.
        worker_timeout: Seconds without a response after which a worker counts as hung; `None` waits
            without limit.

    Raises:
        RecipeError: If a number is out of range.
    """

    batch_size: int = 32
    num_workers: int = 4
    prefetch_factor: int = 4
    eval_batch_size: int | None = None
    augment_on_device: bool = False
    worker_timeout: float | None = 600.0

    def __post_init__(self) -> None:
        for name, low in (
            ("batch_size", 1),
            ("num_workers", 0),
            ("prefetch_factor", 1),
            ("eval_batch_size", 1),
        ):
            value = getattr(self, name)
            if value is not None and value < low:
                raise RecipeError(f"{name} must be at least {low}, got {value}")
        if self.worker_timeout is not None and self.worker_timeout <= 0:
            raise RecipeError(f"worker_timeout must be above 0, got {self.worker_timeout:g}")

    @property
    def eval_size(self) -> int:
        """Images per batch in evaluation."""
        return 2 * self.batch_size if self.eval_batch_size is None else self.eval_batch_size


class PlainDraws(Sampler[Draw]):
    """A sampler of the images in order, not augmented: every `step`-th, beginning with `start`.

    Args:
        num_images: Number of images.
        start: Rank of this process.
        step: Number of processes.
    """

    def __init__(self, num_images: int, start: int = 0, step: int = 1) -> None:
        # With more processes than images, some also load the first image, which counts once: an
        # engine rejects a loader without a batch, and the other processes would wait.
        self._indices = range(start, num_images, step) or range(min(1, num_images))

    def __len__(self) -> int:
        return len(self._indices)

    def __iter__(self) -> Iterator[Draw]:
        return ((index, None) for index in self._indices)


class ImageBatches(Dataset[Batch]):
    """A data set of whole batches of a split; an error is returned, not raised.

    Without `cached`, the images preprocessed, it reads the files. With `augment_on_device`,
    `batch_augment` is left to the trainer.
    """

    def __init__(
        self,
        table: RecordTable,
        pipeline: Pipeline,
        cached: CachedSplit | None = None,
        augment_on_device: bool = False,
    ) -> None:
        self.table = table
        self.pipeline = pipeline
        self.cached = cached
        self.augment_on_device = augment_on_device

    def __len__(self) -> int:
        return len(self.table)

    def __getitems__(self, draws: list[Draw]) -> Batch | CxrIgniteError:
        try:
            return self._batch(draws)
        except CxrIgniteError as error:
            return error

    def _batch(self, draws: list[Draw]) -> Batch:
        index = torch.tensor([each for each, _ in draws])
        seeds = [NO_SEED if seed is None else seed for _, seed in draws]
        images = self._images(index)
        if seeds[0] != NO_SEED:
            # Only errors of MONAI transforms need them, and a lookup takes as long as an image.
            paths = self._paths(index) if self.pipeline.augment else []
            as_batch = not self.augment_on_device
            images = self.pipeline.augmented(images, seeds, paths, as_batch=as_batch)
        return Batch(images, self.table.labels[index], index, torch.tensor(seeds))

    def _images(self, index: Tensor) -> Tensor:
        if self.cached is not None:
            return self.cached.images(index)
        paths = self._paths(index)
        return stack_images([self.pipeline.read(path) for path in paths], paths)

    def _paths(self, index: Tensor) -> list[str]:
        return [self.table.path(each) for each in index.tolist()]


def available_workers(num_workers: int) -> int:
    """Return `num_workers`, at most one per core of this process; log it if there are fewer."""
    affinity = getattr(os, "sched_getaffinity", None)
    num_cores = len(affinity(0)) if affinity is not None else os.cpu_count() or 1
    if num_workers > num_cores:
        logger.info("num_workers: %d requested, %d used (one per core)", num_workers, num_cores)
    return min(num_workers, num_cores)
