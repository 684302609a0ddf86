"""In which order training images are drawn: reproducible, and right on many processes."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import torch
from torch import distributed
from torch.utils.data import Sampler

from cxrignite.errors import DataError, RecipeError
from cxrignite.functional.class_balance import balanced_weights, class_counts


class BalancedSampler(Sampler[int]):
    """Draws with replacement so that each class comes up equally often.

    The draw is a function of `(seed, epoch)`, and the same whatever the number of processes: it is
    made over the whole set, then dealt out as `draw[rank::num_replicas]`. Where it does not divide
    evenly it goes round again, so that each process has equally many. Global random state is
    neither read nor changed.

    Args:
        labels: 0 or 1 for each image, shape `(N,)`.
        seed: At least 0.
        num_samples: Draws an epoch over all processes; `None` takes as many as there are labels.
        num_replicas: Number of processes; `None` asks `torch.distributed`.
        rank: This process, from 0; `None` asks `torch.distributed`.

    Raises:
        DataError: If a class has no image.
        RecipeError: If `seed`, `num_samples`, `num_replicas` or `rank` is out of range.
    """

    def __init__(
        self,
        labels: Sequence[int],
        *,
        seed: int = 0,
        num_samples: int | None = None,
        num_replicas: int | None = None,
        rank: int | None = None,
    ) -> None:
        counts = class_counts(labels)
        if min(counts) == 0:
            raise DataError(
                "balanced sampling needs images of both classes, got "
                f"{counts.num_negative} negative and {counts.num_positive} positive"
            )
        if num_samples is not None and num_samples < 1:
            raise RecipeError(f"num_samples must be at least 1, got {num_samples}")
        self.seed = _checked_seed(seed)
        self.num_replicas = world_size() if num_replicas is None else num_replicas
        self.rank = process_rank() if rank is None else rank
        if not 0 <= self.rank < self.num_replicas:
            raise RecipeError(
                f"rank must be in [0, num_replicas), got {self.rank} of {self.num_replicas}"
            )
        self.weights = balanced_weights(labels)
        self.num_samples = len(labels) if num_samples is None else num_samples
        self.epoch = 0

    def set_epoch(self, epoch: int) -> None:
        """Chooses the epoch that the next pass draws.

        Args:
            epoch: At least 0.

        Raises:
            RecipeError: If it is below.
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
        # Repeated as a whole first: there may be more processes than draws.
        total = len(self) * self.num_replicas
        draw = draw.repeat(-(-total // self.num_samples))[:total]
        return iter(draw[self.rank :: self.num_replicas].tolist())


def balanced_sampler(
    labels: Sequence[int],
    *,
    seed: int = 0,
    num_samples: int | None = None,
    num_replicas: int | None = None,
    rank: int | None = None,
) -> BalancedSampler:
    """Makes a `BalancedSampler`; for calls that do not go through a recipe.

    Args:
        labels: 0 or 1 for each image, shape `(N,)`.
        seed: At least 0.
        num_samples: Draws an epoch over all processes; `None` takes as many as there are labels.
        num_replicas: Number of processes; `None` asks `torch.distributed`.
        rank: This process, from 0; `None` asks `torch.distributed`.

    Returns:
        The sampler.

    Raises:
        DataError: If a class has no image.
        RecipeError: If `seed`, `num_samples`, `num_replicas` or `rank` is out of range.

    Examples:
        >>> sampler = balanced_sampler([0, 1, 1, 1], seed=7, num_samples=1000)
        >>> round(sum(index == 0 for index in sampler) / 1000, 1)
        0.5
    """
    return BalancedSampler(
        labels, seed=seed, num_samples=num_samples, num_replicas=num_replicas, rank=rank
    )


class SeededDraws(Sampler[tuple[int, int]]):
    """Gives each draw of a sampler a seed of its own, so that no worker's history matters.

    Seeds are 32-bit words of a `numpy.random.SeedSequence` over `(seed, epoch, rank)`, one a
    position.

    Args:
        sampler: Gives indices; its `set_epoch`, where it has one, is called by ours.
        seed: At least 0.
        batch_size: Where the last batch would be a single image, on which batch normalisation
            fails, the first draw's index is drawn once more to keep it company.

    Raises:
        RecipeError: If `seed` is negative.
    """

    def __init__(self, sampler: Sampler[int], seed: int, *, batch_size: int = 1) -> None:
        self.sampler = sampler
        self.seed = _checked_seed(seed)
        self.batch_size = batch_size
        self.epoch = 0

    def set_epoch(self, epoch: int) -> None:
        """Chooses the epoch of the next pass, here and in the sampler."""
        self.epoch = epoch
        set_epoch = getattr(self.sampler, "set_epoch", None)
        if set_epoch is not None:
            set_epoch(epoch)

    def __len__(self) -> int:
        num_draws = len(self.sampler)  # type: ignore[arg-type]  # Sampler leaves `__len__` open.
        return num_draws + int(self.batch_size > 1 and num_draws % self.batch_size == 1)

    def __iter__(self) -> Iterator[tuple[int, int]]:
        indices = list(self.sampler)
        indices += indices[: len(self) - len(indices)]
        sequence = np.random.SeedSequence([self.seed, self.epoch, process_rank()])
        seeds = sequence.generate_state(len(indices), np.uint32).tolist()
        # One by one: a list of a million pairs takes seconds, most of them garbage collection.
        return zip(indices, seeds, strict=True)


def world_size() -> int:
    """Number of processes that train together; 1 without `torch.distributed`."""
    return distributed.get_world_size() if _is_distributed() else 1


def process_rank() -> int:
    """This process among those that train together, from 0; 0 without `torch.distributed`."""
    return distributed.get_rank() if _is_distributed() else 0


def _is_distributed() -> bool:
    return distributed.is_available() and distributed.is_initialized()


def _checked_seed(seed: int) -> int:
    if seed < 0:
        raise RecipeError(f"seed must be at least 0, got {seed}")
    return seed
