"""What maps that know nothing score, and how far a map's figures lie from that."""

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
    """The mean difference of two figures of the same images, with its interval.

    Attributes:
        mean: In the unit of the figures.
        interval: Of the mean; NaN ends where all differences agree.
    """

    mean: float
    interval: Interval


def random_maps(
    num_maps: int, size: tuple[int, int], *, grid: tuple[int, int] = (7, 7), seed: int = 0
) -> Tensor:
    """Draw maps that know nothing of any image, as smooth as those of a layer.

    What is random at each pixel would be another question: scattered holes are seen by a network as
    noise, patches as what is missing.

    Args:
        num_maps: At least 1.
        size: Height and width, in pixels.
        grid: Places of the layer, by rows and columns; uniform numbers there are upsampled
            bilinearly.
        seed: The same seed gives the same maps, and leaves torch's own generator alone.

    Returns:
        Shape `(num_maps, *size)`, float32 in `[0, 1]`, on the CPU.

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
    """Say how far figures lie from others of the same images, such as areas of random maps.

    The interval is `bootstrap_intervals` of the mean difference.

    Args:
        figures: One an image, shape `(N,)`.
        baseline: One an image, in the same order, shape `(N,)`.
        patients: Whose each image is, shape `(N,)`; null where each has a patient of its own.
        num_resamples: At least 1.
        confidence: In `(0, 1)`.
        seed: Of the resamples.

    Returns:
        The mean of `figures - baseline` and its interval; NaN ends where all differences agree.

    Raises:
        ValueError: If lengths differ, a figure is not finite, or a setting is out of range.

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
        raise ValueError(f"patients must name one an image, got {len(names)} for {first.size}")

    def statistics(weights: NDArray[np.float64]) -> dict[str, NDArray[np.float64]]:
        with np.errstate(invalid="ignore"):  # without the only patient nothing is left
            return {"difference": weights @ difference / weights.sum(axis=1)}

    found = bootstrap_intervals(
        statistics, names, num_resamples=num_resamples, confidence=confidence, seed=seed
    )
    return PairedDifference(float(difference.mean()), found["difference"])
