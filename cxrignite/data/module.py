"""The images of a data set as loaders of batches, one for each split."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cached_property, partial
from itertools import islice

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
from cxrignite.data.sources import SPLITS, ImageRecord
from cxrignite.data.worker_loading import WorkerLoader
from cxrignite.errors import DataError
from cxrignite.functional.class_balance import ClassCounts, class_counts, drawn_share


class XrayData:
    """Images, their splits and their loaders.

    A training epoch is a function of `(seed, epoch)`: the same images with the same augmentation in
    the same order, whatever the number of workers and whatever ran before.

    Attributes:
        num_workers: Worker processes of a loader that has work for them: one a core at most.

    Args:
        records: The images of every split.
        classes: The two class names; the last one is positive.
        pipeline: How an image is read, preprocessed and augmented.
        cache: The images preprocessed; `None` reads their files, epoch by epoch.
        sampler: Makes the training sampler, `sampler(labels, seed=seed)`; `None` shuffles.
        loader: How batches are loaded.
        seed: Seed of the training order and of the augmentation, at least 0.

    Raises:
        DataError: If an image's split is none of `SPLITS`.
    """

    def __init__(
        self,
        records: Sequence[ImageRecord],
        classes: tuple[str, str],
        *,
        pipeline: Pipeline | None = None,
        cache: ImageCache | None = None,
        sampler: Callable[..., Sampler[int]] | None = None,
        loader: LoaderSettings = LoaderSettings(),  # noqa: B008  (it is frozen)
        seed: int = 0,
    ) -> None:
        self._records: dict[str, list[ImageRecord]] = {split: [] for split in SPLITS}
        for record in records:
            self._of(record.split).append(record)
        self.classes = classes
        self.pipeline = Pipeline() if pipeline is None else pipeline
        self.cache = cache
        self.loader = loader
        self.seed = seed
        self._sampler = sampler
        self._epoch = 0
        self.num_workers = available_workers(loader.num_workers)
        self._loaders: dict[tuple[str, bool], WorkerLoader] = {}

    @property
    def splits(self) -> list[str]:
        """The splits that have images."""
        return [split for split, records in self._records.items() if records]

    @property
    def image_size(self) -> Size:
        """Rows and columns of the images, as the first image has them.

        Raises:
            DataError: If it cannot be read.
        """
        if self.cache is not None:
            return self.cache.image_size
        height, width = self.pipeline.read(self._records[self.splits[0]][0].path).shape[-2:]
        return height, width

    @property
    def device_augment(self) -> Callable[[Tensor, Tensor], Tensor] | None:
        """What the trainer has to do to images and their seeds; `None` where loaders do it."""
        if not (self.loader.augment_on_device and self.pipeline.batch_augment):
            return None
        return partial(augment_batch, self.pipeline.batch_augment)

    def records(self, split: str) -> list[ImageRecord]:
        """The images of a split, in the order that `Batch.index` counts.

        Args:
            split: One of `SPLITS`.

        Raises:
            DataError: If there is no such split.
        """
        return list(self._of(split))

    def labels(self, split: str) -> list[int]:
        """The labels of a split, 0 or 1, in the order of its images.

        Args:
            split: One of `SPLITS`.

        Raises:
            DataError: If there is no such split.
        """
        return [record.label for record in self._of(split)]

    def class_counts(self, split: str) -> ClassCounts:
        """How many negatives and positives a split has.

        Args:
            split: One of `SPLITS`.

        Raises:
            DataError: If there is no such split.
        """
        return class_counts(self.labels(split))

    def drawn_prevalence(self) -> float:
        """Share of positives among the training images as the sampler draws them, in `[0, 1]`.

        A sampler without `weights` is asked for one pass, and what it draws is counted.

        Raises:
            DataError: If the sampler refuses the labels.
        """
        labels = self.labels("train")
        if self._sampler is None:
            return drawn_share(labels, None)
        sampler = self._draws.sampler
        weights = getattr(sampler, "weights", None)
        if weights is not None and len(weights) == len(labels):
            return drawn_share(labels, weights)
        # A sampler may go on for ever; its length is what an epoch draws.
        drawn = islice(sampler, len(sampler))  # type: ignore[arg-type]  # as in SeededDraws
        return drawn_share([labels[index] for index in drawn], None)

    def set_epoch(self, epoch: int) -> None:
        """Chooses the epoch that the next pass over the train loader gives.

        Args:
            epoch: At least 0.
        """
        self._epoch = epoch
        if "_draws" in self.__dict__:
            self._draws.set_epoch(epoch)

    def train_loader(self) -> DataLoader[Batch]:
        """Batches of the training split, sampled and augmented; none is a single image.

        Raises:
            DataError: If the training split has fewer than two images, or the sampler refuses its
                labels.
        """
        if len(self._of("train")) < 2:
            raise DataError(f"training needs at least 2 images, got {len(self._of('train'))}")
        return self._loader_of("train", self._draws)

    def eval_loader(self, split: str) -> DataLoader[Batch]:
        """Batches of a split in its order, not augmented; each image once over all processes.

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
        """Images of a full batch of `eval_loader(split)`, however many processes share the split.

        Args:
            split: One of `SPLITS`.

        Raises:
            DataError: If there is no such split.
        """
        return min(self.loader.eval_size, len(self._of(split)))

    def close(self) -> None:
        """Ends all worker processes; a loader asked for later starts new ones."""
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
                labels,  # type: ignore[arg-type]  # Only its length is asked for.
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
        """The one loader of a split and purpose, whose workers stay from epoch to epoch."""
        # The train split can be evaluated too, in order and not augmented.
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
                # Without it each pass draws from the global generator, and shifts dropout.
                generator=torch.Generator().manual_seed(self.seed),
            )
        return self._loaders[key]

    def _has_work(self, trains: bool) -> bool:
        """Whether more is to be done for a batch than to copy it from memory.

        To send a batch from a worker takes ten times as long as that.
        """
        if self.cache is None or not self.cache.fits_in_memory:
            return True
        loader_augments = self.pipeline.batch_augment and not self.loader.augment_on_device
        return trains and bool(self.pipeline.augment or loader_augments)
