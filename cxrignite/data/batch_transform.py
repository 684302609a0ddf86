"""What a random change of a batch of images is: a plan by the seeds, then one pass of tensors."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import ClassVar, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from cxrignite.data.reading import Size
from cxrignite.data.seeded_uniforms import Uniforms
from cxrignite.errors import RecipeError


class Plan(NamedTuple):
    """What a transform will do to each image of a batch.

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
    """Whether `change` takes uint8 images too: those that nothing has changed yet."""

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
