"""Faithfulness of maps: the effect on the score of removing or inserting the important pixels.

Deletion and insertion are those of RISE (Petsiuk 2018, arXiv 1806.07421). Results depend on the
value that replaces a missing pixel, and cannot be compared between two such values. The defaults
are the mean grey of the image for deletion and the blurred image for insertion.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Literal, NamedTuple, get_args

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

Score = Callable[[Tensor], Tensor]
"""Function from images, shape `(N, C, H, W)`, to a score per image, shape `(N,)`, such as the
probability of the class that the map explains."""

Baseline = Literal["mean", "blur"]
"""Replacement of a missing pixel: the mean grey of the image, or the blurred image. The blur is
Gaussian with a standard deviation of a twentieth of the shorter side."""

_BLUR_SHARE = 0.05


class MeanCurves(NamedTuple):
    """Mean scores of several images while pixels are removed or inserted.

    Attributes:
        fraction: Share of the pixels that are changed, shape `(S + 1,)`.
        by_map: Mean scores in the order of the maps, shape `(S + 1,)`.
        by_chance: Mean scores in the order of random maps, shape `(S + 1,)`.
    """

    fraction: NDArray[np.float64]
    by_map: NDArray[np.float64]
    by_chance: NDArray[np.float64]


class PerturbationCurve(NamedTuple):
    """Scores of a batch while pixels are removed or inserted.

    Attributes:
        fraction: Share of the pixels that are changed, shape `(S + 1,)`, from 0 to 1.
        score: Score at each fraction, shape `(N, S + 1)`.
        area: Area under the curve of each image, shape `(N,)`, by the trapezoidal rule; in the unit
            of the score.
    """

    fraction: Tensor
    score: Tensor
    area: Tensor


def deletion_curve(
    score: Score,
    images: Tensor,
    maps: Tensor,
    *,
    num_steps: int = 50,
    baseline: Baseline = "mean",
    seed: int = 0,
) -> PerturbationCurve:
    """Score images while pixels are removed, the most important first.

    The smaller the area, the better the map.

    Args:
        score: Function from images to scores; called without gradients. Put its model into
            evaluation mode first.
        images: Shape `(N, C, H, W)`, uint8 in `[0, 255]` or floating point in `[0, 1]`.
        maps: Importance of each pixel, shape `(N, H, W)`.
        num_steps: Number of steps from the whole image to none of it, at least 1.
        baseline: Replacement of a removed pixel.
        seed: Seed of the order of equally important pixels. The order is random and the same in
            each image, so that an empty map is no better than a random one.

    Returns:
        The curves, float32, on the device of the images.

    Raises:
        ValueError: If a shape, `num_steps` or `baseline` is out of range, or maps are not finite.

    Examples:
        >>> image, importance = torch.tensor([[[[0.0, 0.0], [0.0, 1.0]]]]), torch.eye(2)[None]
        >>> brightest = lambda images: images.amax(dim=(1, 2, 3))
        >>> deletion_curve(brightest, image, importance, num_steps=1).area.tolist()
        [0.625]
    """
    images = _as_pixels(images, maps, num_steps)
    return _curve(score, images, _stand_in(images, baseline), maps, num_steps, seed)


def insertion_curve(
    score: Score,
    images: Tensor,
    maps: Tensor,
    *,
    num_steps: int = 50,
    baseline: Baseline = "blur",
    seed: int = 0,
) -> PerturbationCurve:
    """Score images while pixels are inserted, the most important first.

    The larger the area, the better the map.

    Args:
        score: As for `deletion_curve`.
        images: Shape `(N, C, H, W)`, uint8 in `[0, 255]` or floating point in `[0, 1]`.
        maps: Importance of each pixel, shape `(N, H, W)`.
        num_steps: Number of steps from none of the image to all of it, at least 1.
        baseline: Replacement of a pixel that is not inserted yet.
        seed: Seed of the order of equally important pixels, as for `deletion_curve`.

    Returns:
        The curves, float32, on the device of the images.

    Raises:
        ValueError: If a shape, `num_steps` or `baseline` is out of range, or maps are not finite.
    """
    images = _as_pixels(images, maps, num_steps)
    return _curve(score, _stand_in(images, baseline), images, maps, num_steps, seed)


def _curve(
    score: Score, start: Tensor, end: Tensor, maps: Tensor, num_steps: int, seed: int
) -> PerturbationCurve:
    """Score images while their pixels change from `start` to `end`, the most important first."""
    rank = _ranks(maps, seed).to(start.device)[:, None]
    num_pixels = maps[0].numel()
    changed = [round(num_pixels * step / num_steps) for step in range(num_steps + 1)]
    scores = []
    with torch.no_grad():
        for number in changed:
            found = score(torch.where(rank < number, end, start))
            if found.shape != (len(start),):
                raise ValueError(
                    f"score must give one number per image, shape ({len(start)},), "
                    f"got {tuple(found.shape)}"
                )
            scores.append(found.float())
    values = torch.stack(scores, dim=1)
    fraction = torch.tensor(changed, device=values.device) / num_pixels
    return PerturbationCurve(fraction, values, torch.trapezoid(values, fraction, dim=1))


def _ranks(maps: Tensor, seed: int) -> Tensor:
    """Return the number of pixels that are more important than each, ties in random order."""
    flat = maps.detach().flatten(1).cpu()
    shuffled = torch.randperm(flat.shape[1], generator=torch.Generator().manual_seed(seed))
    order = shuffled[flat[:, shuffled].argsort(dim=1, descending=True, stable=True)]
    places = torch.arange(flat.shape[1]).expand_as(order)
    return torch.empty_like(order).scatter_(1, order, places).view(maps.shape)


def _as_pixels(images: Tensor, maps: Tensor, num_steps: int) -> Tensor:
    if images.ndim != 4 or 0 in images.shape:
        raise ValueError(f"images must have shape (N, C, H, W), got {tuple(images.shape)}")
    if maps.shape != (len(images), *images.shape[2:]):
        raise ValueError(
            f"maps must have shape (N, H, W) for images of shape {tuple(images.shape)}, "
            f"got {tuple(maps.shape)}"
        )
    if not maps.isfinite().all():
        raise ValueError("maps must be finite, got NaN or infinite values")
    if num_steps < 1:
        raise ValueError(f"num_steps must be at least 1, got {num_steps}")
    return images.float() / 255 if images.dtype == torch.uint8 else images.float()


def _stand_in(images: Tensor, baseline: Baseline) -> Tensor:
    if baseline not in get_args(Baseline):
        raise ValueError(f"baseline must be mean or blur, got {baseline!r}")
    if baseline == "mean":
        return images.mean(dim=(2, 3), keepdim=True).expand_as(images)
    deviation = _BLUR_SHARE * min(images.shape[2:])
    return _blurred(_blurred(images, deviation).mT, deviation).mT


def _blurred(images: Tensor, deviation: float) -> Tensor:
    """Blur along the rows, with reflection at the ends."""
    # Reflection cannot add more than one side less one pixel.
    reach = min(math.ceil(3 * deviation), images.shape[3] - 1)
    offsets = torch.arange(-reach, reach + 1, device=images.device)
    kernel = torch.exp(-0.5 * (offsets / deviation) ** 2)
    kernel = (kernel / kernel.sum()).view(1, 1, 1, -1)
    rows = F.pad(images.flatten(0, 1)[:, None], (reach, reach, 0, 0), mode="reflect")
    return F.conv2d(rows, kernel).view(images.shape)
