"""Samplers of training images, reproducible for any number of processes."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import torch
from torch import distributed
from torch.utils.data import Sampler

from cxrignite.data.label_groups import rarest_positive
from cxrignite.data.sources import Label
from cxrignite.errors import DataError, RecipeError
from cxrignite.functional.class_balance import balanced_weights, class_counts


class BalancedSampler(Sampler[int]):
    """A sampler that draws with replacement, both classes equally often.

    With several findings, each image belongs to the group of its rarest positive finding, or to the
    group without one. All groups that have images are drawn equally often. A finding that is not
    rare occurs in other groups too, so findings are not equally frequent among the draws.

    The draw depends on `(seed, epoch)` only, for any number of processes: it is made over the whole
    set, and each process takes `draw[rank::num_replicas]`. If it does not divide evenly, the first
    draws are repeated, so that all processes have the same number. Global random state is neither
    read nor changed.

    Args:
        labels: 0 or 1 for each image, shape `(N,)`; of several findings 1, 0 or -1 (unknown),
            shape `(N, K)`.
        seed: At least 0.
        num_samples: Draws per epoch over all processes; `None` takes the number of labels.
        num_replicas: Number of processes; `None` takes that of `torch.distributed`.
        rank: Rank of this process, from 0; `None` takes that of `torch.distributed`.

    Raises:
        DataError: If a class has no image, or all images are in one group.
        RecipeError: If `seed`, `num_samples`, `num_replicas` or `rank` is out of range.

    Examples:
        >>> sampler = BalancedSampler([0, 1, 1, 1], seed=7, num_samples=1000)
        >>> round(sum(index == 0 for index in sampler) / 1000, 1)
        0.5
    """

    def __init__(
        self,
        labels: Sequence[Label],
        *,
        seed: int = 0,
        num_samples: int | None = None,
        num_replicas: int | None = None,
        rank: int | None = None,
    ) -> None:
        weights = _group_weights(labels)
        if num_samples is not None and num_samples < 1:
            raise RecipeError(f"num_samples must be at least 1, got {num_samples}")
        self.seed = _checked_seed(seed)
        self.num_replicas = world_size() if num_replicas is None else num_replicas
        self.rank = process_rank() if rank is None else rank
        if not 0 <= self.rank < self.num_replicas:
            raise RecipeError(
                f"rank must be in [0, num_replicas), got {self.rank} of {self.num_replicas}"
            )
        self.weights = weights
        self.num_samples = len(labels) if num_samples is None else num_samples
        self.epoch = 0

    def set_epoch(self, epoch: int) -> None:
        """Set the epoch that the next pass draws.

        Args:
            epoch: At least 0.

        Raises:
            RecipeError: If it is negative.
        """
        if epoch < 0:
            raise RecipeError(f"epoch must be at least 0, got {epoch}")
        self.epoch = epoch

    def __len__(self) -> int:
        return -(-self.num_samples // self.num_replicas)

    def __iter__(self) -> Iterator[int]:
        entropy = np.random.SeedSequence([self.seed, self.epoch]).generate_state(1, np.uint64)
        generator = torch.Generator().manual_seed(int(entropy[0]) >> 1)
        draw = torch.multinomial(
            self.weights, self.num_samples, replacement=True, generator=generator
        )
        # The whole draw is repeated, since there may be more processes than draws.
        total = len(self) * self.num_replicas
        draw = draw.repeat(-(-total // self.num_samples))[:total]
        return iter(draw[self.rank :: self.num_replicas].tolist())


def _group_weights(each: Sequence[Label]) -> torch.Tensor:
    """Return a weight for each image, `(N,)`, that gives each group the same total."""
    labels = np.asarray(each)
    if labels.ndim == 2:
        groups = rarest_positive(labels)
        counts = np.bincount(groups)
        num_groups = np.count_nonzero(counts)
        if num_groups < 2:
            what = "without a finding" if counts[0] else f"with finding {len(counts) - 1}"
            raise DataError(
                "balanced sampling needs images of at least two groups (with and without a "
                f"finding), got {len(groups)} images {what}"
            )
        return torch.from_numpy(len(groups) / (num_groups * counts[groups]))
    of_classes = class_counts(labels)
    if min(of_classes) == 0:
        raise DataError(
            "balanced sampling needs images of both classes, got "
            f"{of_classes.num_negative} negative and {of_classes.num_positive} positive"
        )
    return balanced_weights(labels)


balanced_sampler = BalancedSampler
"""The sampler as a factory, for code without a recipe."""


class SeededDraws(Sampler[tuple[int, int]]):
    """A sampler that adds a seed to each draw, so that no result depends on a worker's history.

    Seeds are 32-bit words of a `numpy.random.SeedSequence` over `(seed, epoch, rank)`, one per
    position.

    Args:
        sampler: The sampler of indices; its `set_epoch`, if it has one, is called too.
        seed: At least 0.
        batch_size: Size of a batch. If the last batch would have a single image, on which batch
            normalisation fails, the first draw's index is added to it.

    Raises:
        RecipeError: If `seed` is negative.
    """

    def __init__(self, sampler: Sampler[int], seed: int, *, batch_size: int = 1) -> None:
        self.sampler = sampler
        self.seed = _checked_seed(seed)
        self.batch_size = batch_size
        self.epoch = 0

    def set_epoch(self, epoch: int) -> None:
        """Set the epoch of the next pass, here and in the sampler."""
        self.epoch = epoch
        set_epoch = getattr(self.sampler, "set_epoch", None)
        if set_epoch is not None:
            set_epoch(epoch)

    def __len__(self) -> int:
        num_draws = len(self.sampler)  # type: ignore[arg-type]  # `Sampler` lacks `__len__`.
        return num_draws + int(self.batch_size > 1 and num_draws % self.batch_size == 1)

    def __iter__(self) -> Iterator[tuple[int, int]]:
        indices = list(self.sampler)
        indices += indices[: len(self) - len(indices)]
        sequence = np.random.SeedSequence([self.seed, self.epoch, process_rank()])
        seeds = sequence.generate_state(len(indices), np.uint32).tolist()
        # Lazily: a list of a million pairs takes seconds, mostly for garbage collection.
        return zip(indices, seeds, strict=True)


def world_size() -> int:
    """Return the number of processes that train together; 1 without `torch.distributed`."""
    return distributed.get_world_size() if _is_distributed() else 1


def process_rank() -> int:
    """Return the rank of this process, from 0; 0 without `torch.distributed`."""
    return distributed.get_rank() if _is_distributed() else 0


def _is_distributed() -> bool:
    return distributed.is_available() and distributed.is_initialized()


def _checked_seed(seed: int) -> int:
    if seed < 0:
        raise RecipeError(f"seed must be at least 0, got {seed}")
    return seed
