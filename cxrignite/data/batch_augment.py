"""Random changes of whole batches: fast on one core, right on a GPU, repeatable by seed.

A change is a plan by the images' seeds, then one pass of tensors.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import ClassVar, NamedTuple, TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from cxrignite.data.reading import Size
from cxrignite.errors import DataError, RecipeError

Uniforms: TypeAlias = NDArray[np.float64]
"""Shape `(N, NUM_UNIFORMS)`, each in `[0, 1)`: for one transform, a row an image."""

NUM_UNIFORMS = 8
"""Numbers that a transform gets for an image."""

_GOLDEN = np.uint64(0x9E3779B97F4A7C15)
_MIXERS = (
    (np.uint64(30), np.uint64(0xBF58476D1CE4E5B9)),
    (np.uint64(27), np.uint64(0x94D049BB133111EB)),
)


def seeded_uniforms(seeds: NDArray[np.integer], num_transforms: int) -> list[Uniforms]:
    """Draws for each image and transform, as a pure function of `(seed, transform, number)`.

    The function is SplitMix64 (Steele, Lea and Flood, 2014, https://doi.org/10.1145/2714064.2660195),
    each image and transform with a start of its own: the mixed 64-bit word of the two. A word is
    mixed by a bijection, so that no two of them start alike.

    Args:
        seeds: Shape `(N,)`, in `[0, 2**32)`.
        num_transforms: How many transforms draw.

    Returns:
        Uniforms for each transform.
    """
    words = seeds.astype(np.uint64) << np.uint64(32)
    starts = _mix(words | np.arange(num_transforms, dtype=np.uint64)[:, None])
    steps = np.arange(1, NUM_UNIFORMS + 1, dtype=np.uint64) * _GOLDEN
    # The 53 high bits: what a float64 below 1 can hold.
    return list((_mix(starts[:, :, None] + steps) >> np.uint64(11)) * 2.0**-53)


def _mix(words: NDArray[np.uint64]) -> NDArray[np.uint64]:
    # On arrays alone: numpy wraps round in silence there, and warns of it on single numbers.
    for shift, factor in _MIXERS:
        words = (words ^ (words >> shift)) * factor
    return words ^ (words >> np.uint64(31))


class Plan(NamedTuple):
    """Draws of a transform, one for each image of a batch.

    Attributes:
        chosen: Shape `(N,)`, bool: which images it changes.
        settings: Shape `(N, S)`, float64: how.
    """

    chosen: NDArray[np.bool_]
    settings: NDArray[np.float64]

    def of(self, index: slice | NDArray[np.intp]) -> Plan:
        """The plan of some of the images."""
        return Plan(self.chosen[index], self.settings[index])


class BatchAugment(ABC):
    """One random change of a batch of images.

    A subclass says what it draws (`settings`) and what it does (`change`). It must not look from
    one image at another, nor use random numbers but its own.

    Args:
        prob: Probability that an image is changed, in `[0, 1]`.

    Raises:
        RecipeError: If `prob` is out of range.
    """

    reads_bytes: ClassVar[bool] = False
    """True if `change` takes uint8 images too: those that nothing has changed yet."""

    def __init__(self, prob: float) -> None:
        require(0 <= prob <= 1, "prob", "in [0, 1]", prob)
        self.prob = prob

    def __call__(self, images: Tensor, random: Uniforms) -> Tensor:
        """Changes some images of a batch.

        Args:
            images: Shape `(N, 1, H, W)`, float32 in `[0, 1]`; left as they are.
            random: Shape `(N, NUM_UNIFORMS)`: the first decides whether, the others how.

        Returns:
            Images of the same shape and type; the very same tensor where nothing is changed.
        """
        height, width = images.shape[-2:]
        return self.apply(images, self.plan(random, (height, width)))

    def plan(self, random: Uniforms, sides: Size) -> Plan:
        """Decides for each image of a batch whether and how it is changed.

        Args:
            random: Shape `(N, NUM_UNIFORMS)`, each in `[0, 1)`.
            sides: Rows and columns of the images.

        Returns:
            The plan of N images.
        """
        return Plan(random[:, 0] < self.prob, self.settings(random[:, 1:], sides))

    def apply(self, images: Tensor, plan: Plan) -> Tensor:
        """Carries a plan out; uint8 images that it leaves alone may stay uint8.

        Args:
            images: Shape `(N, 1, H, W)`, uint8, or float32 in `[0, 1]`; not written into.
            plan: Of the N images.

        Returns:
            Images of shape `(N, 1, H, W)`; the very same tensor where nothing is changed.
        """
        chosen = plan.chosen.nonzero()[0]
        if len(chosen) == 0:
            return images
        if not self.reads_bytes:
            images = as_float(images)
        if len(chosen) == len(images):
            return self.change(images, plan.settings)
        index = to_device(chosen, images)
        changed = self.change(images[index], plan.settings[chosen])
        return as_float(images).index_copy(0, index, changed)

    @abstractmethod
    def settings(self, random: Uniforms, sides: Size) -> NDArray[np.float64]:
        """Decides how images are changed, for a whole batch at once.

        Args:
            random: Shape `(N, NUM_UNIFORMS - 1)`, each in `[0, 1)`.
            sides: Rows and columns of the images.

        Returns:
            Shape `(N, S)`, with the meaning that `change` gives them.
        """

    @abstractmethod
    def change(self, images: Tensor, settings: NDArray[np.float64]) -> Tensor:
        """Changes every image.

        Args:
            images: Shape `(N, 1, H, W)`, at least one, float32 in `[0, 1]` (uint8 too where
                `reads_bytes`); not to be written into.
            settings: Shape `(N, S)`.

        Returns:
            Float32 of the same shape, in `[0, 1]` but for rounding.
        """


def as_float(images: Tensor) -> Tensor:
    """Float32 images in `[0, 1]`: uint8 ones divided by 255, others as they are."""
    return images.to(torch.float32).div_(255) if images.dtype == torch.uint8 else images


def to_device(values: NDArray[np.generic], images: Tensor) -> Tensor:
    """Numbers beside images, as integers or float32, without waiting for a GPU."""
    numbers = torch.from_numpy(values)
    dtype = torch.float32 if numbers.is_floating_point() else numbers.dtype
    return numbers.to(dtype).to(images.device, non_blocking=True)


def within(random: Uniforms, bounds: tuple[float, float]) -> Uniforms:
    """Stretches uniforms over a range."""
    low, high = bounds
    return low + (high - low) * random


def require(condition: bool, name: str, rule: str, value: object) -> None:
    """Refuses a setting.

    Raises:
        RecipeError: If the condition does not hold.
    """
    if not condition:
        raise RecipeError(f"{name} must be {rule}, got {value}")


def require_range(name: str, bounds: tuple[float, float], rule: str, *, high: float = 1e9) -> None:
    """Refuses a range that is no pair of numbers above 0, in order and up to `high`.

    Raises:
        RecipeError: If it is not.
    """
    ordered = len(bounds) == 2 and 0 < bounds[0] <= bounds[1] <= high
    require(ordered, name, f"(low, high) with {rule}", list(bounds))


def augment_batch(transforms: Sequence[BatchAugment], images: Tensor, seeds: Tensor) -> Tensor:
    """Changes each image of a batch by its own seed.

    What becomes of an image depends on its pixels, its seed and the list alone: not on the batch,
    its place there, global random state or the number of threads and workers, to the last bit on
    the CPU. A GPU makes the same draws; its pixels differ by rounding, and by the noise of
    `RandomNoise`, which is another of the same deviation.

    Args:
        transforms: In this order; each one's draws depend on its place.
        images: Shape `(N, 1, H, W)`, uint8, or float32 in `[0, 1]`; on any device.
        seeds: Shape `(N,)`, int64 in `[0, 2**32)`; where they are on a GPU, it is waited for.

    Returns:
        Float32 in `[0, 1]`, shape `(N, 1, H, W)`, on the images' device, with its own memory.

    Raises:
        DataError: If images or seeds have another shape, type or range.
    """
    _check(images, seeds)
    words = seeds.cpu().numpy()
    if len(words) and not 0 <= words.min() <= words.max() < 2**32:
        raise DataError(f"seeds must be in [0, 2**32), got {words.min()} to {words.max()}")
    random = seeded_uniforms(words, len(transforms))
    height, width = images.shape[-2:]
    plans = [
        transform.plan(each, (height, width))
        for transform, each in zip(transforms, random, strict=True)
    ]
    images = images.contiguous()
    done = torch.empty(images.shape, dtype=torch.float32, device=images.device)
    # One by one they stay in a core's cache, and no batch can change how they are rounded.
    step = 1 if images.device.type == "cpu" else max(len(images), 1)
    for start in range(0, len(images), step):
        part = slice(start, start + step)
        changed = images[part]
        for transform, plan in zip(transforms, plans, strict=True):
            changed = transform.apply(changed, plan.of(part))
        torch.clamp(as_float(changed), 0.0, 1.0, out=done[part])
    return done


def _check(images: Tensor, seeds: Tensor) -> None:
    shape = tuple(images.shape)
    if len(shape) != 4 or shape[1] != 1 or 0 in shape[2:]:
        raise DataError(f"images must have shape (N, 1, H, W), got {shape}")
    if images.dtype not in (torch.uint8, torch.float32):
        raise DataError(f"images must be uint8 or float32, got {images.dtype}")
    if tuple(seeds.shape) != shape[:1] or seeds.dtype != torch.int64:
        raise DataError(
            f"seeds must be int64 of shape ({shape[0]},), got {seeds.dtype} of {tuple(seeds.shape)}"
        )
