"""Random augmentation of whole batches: fast on one core, correct on a GPU, repeatable by seed.

A transform first draws a plan from the images' seeds, then changes the tensors in one pass.
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
"""Shape `(N, NUM_UNIFORMS)`, each in `[0, 1)`: the numbers of one transform, one row per image."""

NUM_UNIFORMS = 8
"""Number of uniforms that a transform gets for each image."""

_GOLDEN = np.uint64(0x9E3779B97F4A7C15)
_MIXERS = (
    (np.uint64(30), np.uint64(0xBF58476D1CE4E5B9)),
    (np.uint64(27), np.uint64(0x94D049BB133111EB)),
)


def seeded_uniforms(seeds: NDArray[np.integer], num_transforms: int) -> list[Uniforms]:
    """Draw numbers for each image and transform, a pure function of `(seed, transform, number)`.

    The function is SplitMix64 (Steele, Lea and Flood, 2014, https://doi.org/10.1145/2714064.2660195).
    Each image and transform starts at its own state: the mixed 64-bit word of seed and transform.
    The mixing is a bijection, so that no two states are equal.

    Args:
        seeds: Shape `(N,)`, in `[0, 2**32)`.
        num_transforms: Number of transforms.
    """
    words = seeds.astype(np.uint64) << np.uint64(32)
    starts = _mix(words | np.arange(num_transforms, dtype=np.uint64)[:, None])
    steps = np.arange(1, NUM_UNIFORMS + 1, dtype=np.uint64) * _GOLDEN
    # The 53 high bits, as many as a float64 below 1 can hold.
    return list((_mix(starts[:, :, None] + steps) >> np.uint64(11)) * 2.0**-53)


def _mix(words: NDArray[np.uint64]) -> NDArray[np.uint64]:
    # Arrays only: numpy warns of an overflow for scalars, but not for arrays.
    for shift, factor in _MIXERS:
        words = (words ^ (words >> shift)) * factor
    return words ^ (words >> np.uint64(31))


class Plan(NamedTuple):
    """The draws of a transform for the images of a batch.

    Attributes:
        chosen: Shape `(N,)`, bool: True for the images to change.
        settings: Shape `(N, S)`, float64: parameters of the change.
    """

    chosen: NDArray[np.bool_]
    settings: NDArray[np.float64]

    def of(self, index: slice | NDArray[np.intp]) -> Plan:
        """Return the plan of some of the images."""
        return Plan(self.chosen[index], self.settings[index])


class BatchAugment(ABC):
    """A random transform of a batch of images.

    A subclass defines the parameters it draws (`settings`) and the change (`change`). Each image
    must be changed independently of the others, with the given random numbers only.

    Args:
        prob: Probability that an image is changed, in `[0, 1]`.

    Raises:
        RecipeError: If `prob` is out of range.
    """

    is_geometric: ClassVar[bool | None] = None
    """True if it moves pixels, and masks with them; False if not. Masks need to know it."""

    reads_bytes: ClassVar[bool] = False
    """True if `change` also accepts uint8 images, which no transform has changed yet."""

    def __init__(self, prob: float) -> None:
        require(0 <= prob <= 1, "prob", "in [0, 1]", prob)
        self.prob = prob

    def __call__(self, images: Tensor, random: Uniforms) -> Tensor:
        """Change some images of a batch.

        Args:
            images: Shape `(N, 1, H, W)`, float32 in `[0, 1]`; not modified.
            random: Shape `(N, NUM_UNIFORMS)`: the first number selects the image, the others set
                the change.

        Returns:
            Images of the same shape and type; the same tensor if no image is changed.
        """
        height, width = images.shape[-2:]
        return self.apply(images, self.plan(random, (height, width)))

    def plan(self, random: Uniforms, sides: Size) -> Plan:
        """Choose the images of a batch to change, and the settings of each.

        Args:
            random: Shape `(N, NUM_UNIFORMS)`, each in `[0, 1)`.
            sides: Rows and columns of the images.

        Returns:
            The plan of N images.
        """
        return Plan(random[:, 0] < self.prob, self.settings(random[:, 1:], sides))

    def apply(self, images: Tensor, plan: Plan) -> Tensor:
        """Apply a plan; uint8 images that are not changed may stay uint8.

        Args:
            images: Shape `(N, 1, H, W)`, uint8, or float32 in `[0, 1]`; not modified.
            plan: The plan of the N images.

        Returns:
            Images of shape `(N, 1, H, W)`; the same tensor if no image is changed.
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
        """Compute the parameters of the change for a whole batch.

        Args:
            random: Shape `(N, NUM_UNIFORMS - 1)`, each in `[0, 1)`.
            sides: Rows and columns of the images.

        Returns:
            Shape `(N, S)`; the S parameters are those of `change`.
        """

    @abstractmethod
    def change(self, images: Tensor, settings: NDArray[np.float64]) -> Tensor:
        """Change every image.

        Args:
            images: Shape `(N, 1, H, W)`, at least one, float32 in `[0, 1]` (also uint8 if
                `reads_bytes`); must not be modified.
            settings: Shape `(N, S)`.

        Returns:
            Float32 of the same shape, in `[0, 1]` except for rounding.
        """


def as_float(images: Tensor) -> Tensor:
    """Return float32 images in `[0, 1]`: uint8 ones divided by 255, others unchanged."""
    return images.to(torch.float32).div_(255) if images.dtype == torch.uint8 else images


def to_device(values: NDArray[np.generic], images: Tensor) -> Tensor:
    """Copy numbers to the images' device, as integers or float32, without waiting for a GPU."""
    numbers = torch.from_numpy(values)
    dtype = torch.float32 if numbers.is_floating_point() else numbers.dtype
    return numbers.to(dtype).to(images.device, non_blocking=True)


def within(random: Uniforms, bounds: tuple[float, float]) -> Uniforms:
    """Scale uniforms to a range."""
    low, high = bounds
    return low + (high - low) * random


def require(condition: bool, name: str, rule: str, value: object) -> None:
    """Check a setting.

    Raises:
        RecipeError: If the condition is false.
    """
    if not condition:
        raise RecipeError(f"{name} must be {rule}, got {value}")


def require_range(name: str, bounds: tuple[float, float], rule: str, *, high: float = 1e9) -> None:
    """Check that a range is a pair of numbers above 0, in order and up to `high`.

    Raises:
        RecipeError: If it is not.
    """
    ordered = len(bounds) == 2 and 0 < bounds[0] <= bounds[1] <= high
    require(ordered, name, f"(low, high) with {rule}", list(bounds))


def augment_batch(transforms: Sequence[BatchAugment], images: Tensor, seeds: Tensor) -> Tensor:
    """Change each image of a batch by its own seed.

    The result for an image depends only on its pixels, its seed and the list of transforms. On the
    CPU it is bit-identical for any batch, position, global random state and number of threads or
    workers. A GPU makes the same draws. Its pixels differ by rounding, and `RandomNoise` draws
    other noise of the same deviation.

    Args:
        transforms: Applied in this order; the draws of a transform depend on its position.
        images: Shape `(N, 1, H, W)`, uint8, or float32 in `[0, 1]`; on any device.
        seeds: Shape `(N,)`, int64 in `[0, 2**32)`; seeds on a GPU make the call wait for it.

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
    # One image at a time fits in a core's cache, and its rounding does not depend on the batch.
    step = 1 if images.device.type == "cpu" else max(len(images), 1)
    for start in range(0, len(images), step):
        part = slice(start, start + step)
        changed = images[part]
        for transform, plan in zip(transforms, plans, strict=True):
            changed = transform.apply(changed, plan.of(part))
        torch.clamp(as_float(changed), 0.0, 1.0, out=done[part])
    return done


def augment_masks(
    transforms: Sequence[BatchAugment], masks: Tensor, seeds: Tensor, image_size: Size
) -> Tensor:
    """Move masks as `augment_batch` moves the images of the same seeds.

    Only the geometric transforms are applied, with the draws that they have at their position among
    all transforms.

    Args:
        transforms: Those of the images, in the same order.
        masks: Share of each place inside the mask, shape `(N, H, W)`, float32, of any size.
        seeds: Shape `(N,)`, int64, of the images.
        image_size: Rows and columns of the images.

    Returns:
        Masks of the same shape, in `[0, 1]`.

    Raises:
        RecipeError: If a transform does not say whether it is geometric.
    """
    moved = masks[:, None]
    random = seeded_uniforms(seeds.numpy(), len(transforms))
    for transform, each in zip(transforms, random, strict=True):
        if transform.is_geometric is None:
            raise RecipeError(
                f"{type(transform).__name__} must set is_geometric to True or False to be used "
                "with masks"
            )
        if transform.is_geometric:
            moved = transform.apply(moved, transform.plan(each, image_size))
    return moved[:, 0].clamp(0.0, 1.0)


def _check(images: Tensor, seeds: Tensor) -> None:
    shape = tuple(images.shape)
    if len(shape) != 4 or shape[1] != 1 or 0 in shape[2:]:
        raise DataError(f"images must have shape (N, 1, H, W), got {shape}")
    if images.dtype not in (torch.uint8, torch.float32):
        raise DataError(f"images must be uint8 or float32, got {images.dtype}")
    if tuple(seeds.shape) != shape[:1] or seeds.dtype != torch.int64:
        raise DataError(
            f"seeds must be int64 of shape ({shape[0]},), "
            f"got {seeds.dtype} of shape {tuple(seeds.shape)}"
        )
