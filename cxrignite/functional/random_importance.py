"""Random maps as a reference, and paired differences from it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor
from torch.nn import functional as F

from cxrignite.functional.intervals import Interval, bootstrap_intervals


class PairedDifference(NamedTuple):
    """Mean difference between two values of the same images, with its confidence interval.

    Attributes:
        mean: Mean difference, in the unit of the values.
        interval: Interval of the mean; its ends are NaN if all differences are equal.
    """

    mean: float
    interval: Interval


def random_maps(
    num_maps: int, size: tuple[int, int], *, grid: tuple[int, int] = (7, 7), seed: int = 0
) -> Tensor:
    """Draw random maps that are as smooth as class activation maps.

    Maps with independent pixels would be no fair reference: to a network scattered missing pixels
    are noise, while missing patches remove content.

    Args:
        num_maps: Number of maps, at least 1.
        size: Height and width, in pixels.
        grid: Rows and columns of the layer's output; uniform numbers of this size are upsampled
            bilinearly.
        seed: Seed; the same seed gives the same maps. Torch's global generator is not used.

    Returns:
        Maps, shape `(num_maps, *size)`, float32 in `[0, 1]`, on the CPU.

    Raises:
        ValueError: If a number is below 1.
    """
    if min(num_maps, *size, *grid) < 1:
        raise ValueError(
            f"num_maps, size and grid must be at least 1, got {num_maps}, {size} and {grid}"
        )
    generator = torch.Generator().manual_seed(seed)
    coarse = torch.rand(num_maps, 1, *grid, generator=generator)
    return F.interpolate(coarse, size, mode="bilinear", align_corners=False)[:, 0]


def paired_difference(
    figures: ArrayLike | Tensor,
    baseline: ArrayLike | Tensor,
    patients: Sequence[str] | None = None,
    *,
    num_resamples: int = 2000,
    confidence: float = 0.95,
    seed: int = 0,
) -> PairedDifference:
    """Return the mean difference between two values of the same images, with its interval.

    An example is the area of a map minus the area of random maps. The interval is that of
    `bootstrap_intervals`.

    Args:
        figures: One value per image, shape `(N,)`.
        baseline: Reference value per image, in the same order, shape `(N,)`.
        patients: Patient of each image, shape `(N,)`; null if each image has its own patient.
        num_resamples: Number of resamples, at least 1.
        confidence: Coverage probability, in `(0, 1)`.
        seed: Seed of the resamples.

    Returns:
        The mean of `figures - baseline` and its interval; its ends are NaN if all differences are
        equal.

    Raises:
        ValueError: If lengths differ, a value is not finite, or a setting is out of range.

    Examples:
        >>> paired_difference([0.5, 0.75, 0.875, 0.5], [0.25, 0.25, 0.5, 0.375])
        PairedDifference(mean=0.3125, interval=Interval(low=0.1875, high=0.4375))
    """
    first, second = (
        np.asarray(each.detach().cpu() if isinstance(each, Tensor) else each, dtype=np.float64)
        for each in (figures, baseline)
    )
    if first.ndim != 1 or first.shape != second.shape:
        raise ValueError(
            f"figures and baseline must both have shape (N,), got {first.shape} and {second.shape}"
        )
    difference = first - second
    num_not_finite = int(np.sum(~np.isfinite(difference)))
    if num_not_finite:
        raise ValueError(f"figures and baseline must be finite, got {num_not_finite} that are not")
    names = [str(number) for number in range(first.size)] if patients is None else list(patients)
    if len(names) != first.size:
        raise ValueError(f"patients must be one per image, got {len(names)} for {first.size}")

    def statistics(weights: NDArray[np.float64]) -> dict[str, NDArray[np.float64]]:
        with np.errstate(invalid="ignore"):  # 0 / 0 in the jackknife of a single patient
            return {"difference": weights @ difference / weights.sum(axis=1)}

    found = bootstrap_intervals(
        statistics, names, num_resamples=num_resamples, confidence=confidence, seed=seed
    )
    return PairedDifference(float(difference.mean()), found["difference"])
