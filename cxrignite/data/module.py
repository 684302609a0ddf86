"""The images of a data set as loaders of batches, one for each split."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cached_property, partial
from itertools import islice

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, DistributedSampler, Sampler

from cxrignite.data.batch_augment import augment_batch
from cxrignite.data.image_cache import ImageCache
from cxrignite.data.loading import (
    Batch,
    ImageBatches,
    LoaderSettings,
    PlainDraws,
    RecordTable,
    available_workers,
)
from cxrignite.data.pipeline import Pipeline
from cxrignite.data.reading import Size
from cxrignite.data.sampling import SeededDraws, process_rank, world_size
from cxrignite.data.sources import SPLITS, UNKNOWN, ImageRecord, Label
from cxrignite.data.views import View
from cxrignite.data.worker_loading import WorkerLoader
from cxrignite.errors import DataError
from cxrignite.functional.class_balance import ClassCounts, class_counts, drawn_share


class XrayData:
    """Images, their splits and their loaders.

    A training epoch depends on `(seed, epoch)` only. Images, augmentation and order are the same
    for any number of workers and after any earlier epoch.

    Attributes:
        num_workers: Number of worker processes per loader, at most one per core. A loader without
            work for them uses none.

    Args:
        records: The records of every split.
        classes: The name of images without a finding, then the name of each finding.
        pipeline: Reads, preprocesses and augments an image.
        cache: The preprocessed images; `None` reads the files in every epoch.
        sampler: Makes the training sampler, `sampler(labels, seed=seed)`; `None` shuffles.
        loader: Settings of the loaders.
        seed: Seed of the training order and of the augmentation, at least 0.
        exclusive: True if an image has at most one of several findings.
        views: Views whose scores are averaged with that of the image, in an evaluation that uses
            them.

    Raises:
        DataError: If a record's split is not in `SPLITS`; all methods raise it for another split.
    """

    def __init__(
        self,
        records: Sequence[ImageRecord],
        classes: tuple[str, ...],
        *,
        pipeline: Pipeline | None = None,
        cache: ImageCache | None = None,
        sampler: Callable[..., Sampler[int]] | None = None,
        loader: LoaderSettings = LoaderSettings(),  # noqa: B008  (it is frozen)
        seed: int = 0,
        exclusive: bool = False,
        views: Sequence[View] = (),
    ) -> None:
        self._records: dict[str, list[ImageRecord]] = {split: [] for split in SPLITS}
        for record in records:
            self._of(record.split).append(record)
        self.classes = classes
        self.exclusive = exclusive
        self.views = tuple(views)
        self.pipeline = Pipeline() if pipeline is None else pipeline
        self.cache = cache
        self.loader = loader
        self.seed = seed
        self._sampler = sampler
        self._epoch = 0
        self.num_workers = available_workers(loader.num_workers)
        self._loaders: dict[tuple[str, bool], WorkerLoader] = {}

    @property
    def findings(self) -> tuple[str, ...]:
        """The names of the findings."""
        return self.classes[1:]

    @property
    def splits(self) -> list[str]:
        """The splits that have images."""
        return [split for split, records in self._records.items() if records]

    @property
    def image_size(self) -> Size:
        """Rows and columns of the images, taken from the first one.

        Raises:
            DataError: If it cannot be read.
        """
        if self.cache is not None:
            return self.cache.image_size
        height, width = self.pipeline.read(self._records[self.splits[0]][0].path).shape[-2:]
        return height, width

    @property
    def device_augment(self) -> Callable[[Tensor, Tensor], Tensor] | None:
        """Augmentation of images by their seeds for the trainer; `None` if the loaders do it."""
        if not (self.loader.augment_on_device and self.pipeline.batch_augment):
            return None
        return partial(augment_batch, self.pipeline.batch_augment)

    def records(self, split: str) -> list[ImageRecord]:
        """Return the records of a split, in the order that `Batch.index` refers to.

        Args:
            split: One of `SPLITS`.
        """
        return list(self._of(split))

    def labels(self, split: str) -> list[Label]:
        """Return the labels of a split in the order of its records.

        Each is 0 or 1; of several findings a tuple with 1, 0 or `UNKNOWN` for each.

        Args:
            split: One of `SPLITS`.
        """
        return [record.label for record in self._of(split)]

    def class_counts(self, split: str, finding: int = 0) -> ClassCounts:
        """Return the number of known negatives and positives of a split.

        Args:
            split: One of `SPLITS`.
            finding: Number of the finding, from 0.

        Raises:
            DataError: If there is no such split.
        """
        labels = [record.labels[finding] for record in self._of(split)]
        return class_counts([label for label in labels if label != UNKNOWN])

    def drawn_prevalence(self, finding: int = 0) -> float:
        """Return the share of positives among the images that the sampler draws, in `[0, 1]`.

        Only images with a known label count. For a sampler without `weights`, the images drawn in
        one pass are counted.

        Args:
            finding: Number of the finding, from 0.

        Raises:
            DataError: If the sampler does not accept the labels.
        """
        labels = np.array([record.labels[finding] for record in self._of("train")])
        known = labels != UNKNOWN
        if self._sampler is None:
            return drawn_share(labels[known], None)
        sampler = self._draws.sampler
        weights = getattr(sampler, "weights", None)
        if weights is not None and len(weights) == len(labels):
            return drawn_share(labels[known], np.asarray(weights)[known])
        # A sampler may be endless; an epoch draws as many as its length.
        drawn = list(islice(sampler, len(sampler)))  # type: ignore[arg-type]  # as in SeededDraws
        return drawn_share(labels[drawn][known[drawn]], None)

    def set_epoch(self, epoch: int) -> None:
        """Set the epoch of the next pass over the train loader.

        Args:
            epoch: At least 0.
        """
        self._epoch = epoch
        if "_draws" in self.__dict__:
            self._draws.set_epoch(epoch)

    def train_loader(self) -> DataLoader[Batch]:
        """Return the loader of the training split, sampled and augmented.

        Every batch has at least two images.

        Raises:
            DataError: If the training split has fewer than two images, or the sampler does not
                accept its labels.
        """
        if len(self._of("train")) < 2:
            raise DataError(f"training needs at least 2 images, got {len(self._of('train'))}")
        return self._loader_of("train", self._draws)

    def eval_loader(self, split: str) -> DataLoader[Batch]:
        """Return the loader of a split in its order, not augmented.

        All processes together load each image once.

        Args:
            split: One of `SPLITS`.

        Raises:
            DataError: If there is no such split or it has no images.
        """
        num_images = len(self._of(split))
        if num_images == 0:
            raise DataError(f"split '{split}' must have at least one image, got 0")
        draws = PlainDraws(num_images, process_rank(), world_size())
        return self._loader_of(split, draws)

    def eval_batch_size(self, split: str) -> int:
        """Return the images per full batch of `eval_loader(split)`, for any number of processes.

        Args:
            split: One of `SPLITS`.
        """
        return min(self.loader.eval_size, len(self._of(split)))

    def close(self) -> None:
        """End all worker processes; a later loader starts new ones."""
        for loader in self._loaders.values():
            loader.close()
        self._loaders.clear()

    @cached_property
    def _draws(self) -> SeededDraws:
        labels = self.labels("train")
        sampler: Sampler[int] = (
            self._sampler(labels, seed=self.seed)
            if self._sampler is not None
            else DistributedSampler(
                labels,  # type: ignore[arg-type]  # Only its length is used.
                num_replicas=world_size(),
                rank=process_rank(),
                seed=self.seed,
            )
        )
        draws = SeededDraws(sampler, self.seed, batch_size=self.loader.batch_size)
        draws.set_epoch(self._epoch)
        return draws

    def _of(self, split: str) -> list[ImageRecord]:
        if split not in self._records:
            raise DataError(f"split must be one of {', '.join(SPLITS)}, got '{split}'")
        return self._records[split]

    def _loader_of(self, split: str, draws: PlainDraws | SeededDraws) -> DataLoader[Batch]:
        """Return the loader of a split and purpose; its workers are kept between epochs."""
        # The train split can also be evaluated, in order and not augmented.
        trains = isinstance(draws, SeededDraws)
        key = (split, trains)
        if key not in self._loaders:
            records, settings = self._of(split), self.loader
            num_workers = self.num_workers if self._has_work(trains) else 0
            self._loaders[key] = WorkerLoader(
                ImageBatches(
                    RecordTable(records),
                    self.pipeline,
                    None if self.cache is None else self.cache.split(records),
                    settings.augment_on_device,
                ),
                batch_size=settings.batch_size if trains else self.eval_batch_size(split),
                sampler=draws,
                num_workers=num_workers,
                prefetch_factor=settings.prefetch_factor,
                worker_timeout=settings.worker_timeout,
                # Without it each pass draws from the global generator, which changes dropout.
                generator=torch.Generator().manual_seed(self.seed),
            )
        return self._loaders[key]

    def _has_work(self, trains: bool) -> bool:
        """True if a batch needs more than a copy from memory.

        Sending a batch from a worker takes ten times as long as that copy.
        """
        if self.cache is None or not self.cache.fits_in_memory:
            return True
        loader_augments = self.pipeline.batch_augment and not self.loader.augment_on_device
        return trains and bool(self.pipeline.augment or loader_augments)
