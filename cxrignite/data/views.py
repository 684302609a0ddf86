"""Views of an image: slightly changed copies whose scores are averaged with its own."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from cxrignite.data.batch_augment import as_float, require
from cxrignite.data.batch_transforms import RandomIntensity, resampled


@dataclass(frozen=True)
class View:
    """A deterministic change of an image: gamma, then magnification about the centre and shift.

    There is no flip, since the heart is on the left. Pixels from outside of the image are 0.

    Attributes:
        shift: Shift down and to the right, as shares of height and width, each in `[-0.5, 0.5]`.
        scale: Magnification, in `[0.5, 2]`.
        gamma: Exponent of the grey value, in `[0.25, 4]`; above 1 darkens.

    Raises:
        RecipeError: If a setting is out of range, or all of them are neutral.
    """

    shift: tuple[float, float] = (0.0, 0.0)
    scale: float = 1.0
    gamma: float = 1.0

    def __post_init__(self) -> None:
        shift, scale, gamma = self.shift, self.scale, self.gamma
        inside = len(shift) == 2 and max(map(abs, shift)) <= 0.5
        require(inside, "data.views: shift", "two numbers in [-0.5, 0.5]", list(shift))
        require(0.5 <= scale <= 2, "data.views: scale", "in [0.5, 2]", scale)
        require(0.25 <= gamma <= 4, "data.views: gamma", "in [0.25, 4]", gamma)
        # The unchanged image is always scored, and would count twice.
        is_changed = (*shift, scale, gamma) != (0, 0, 1, 1)
        require(is_changed, "data.views", "changes of the image", "a view without any")

    def __call__(self, images: Tensor) -> Tensor:
        """Return the view of each image.

        Args:
            images: Shape `(N, 1, H, W)`, uint8, or float32 in `[0, 1]`; not modified.

        Returns:
            Float32 in `[0, 1]`, of the same shape.
        """
        if self.gamma != 1:
            images = _power(images, self.gamma)
        if any(self.shift) or self.scale != 1:
            images = self._resampled(as_float(images))
        return images

    def _resampled(self, images: Tensor) -> Tensor:
        """Return magnified and shifted images, with the pixels of `RandomAffine`."""
        step = 1 / self.scale
        down, right = (-2 * share * step for share in self.shift)
        # Tensor operations only, for any number and size of images, so that an export can include
        # a view.
        rows, columns = (_centres(side, images) for side in images.shape[-2:])
        sides = images.shape[-2:]
        grid = torch.stack(
            [(columns * step + right).expand(sides), (rows * step + down)[:, None].expand(sides)],
            dim=-1,
        )
        return resampled(images, grid.expand(images.shape[0], -1, -1, -1))


def _centres(side: int, images: Tensor) -> Tensor:
    """Return the position of each pixel along a side, in half sides from the centre."""
    places = torch.arange(side, device=images.device, dtype=torch.float32)
    return (2 * places + (1 - side)) / side


def _power(images: Tensor, gamma: float) -> Tensor:
    if images.dtype != torch.uint8:
        exponents = np.tile([gamma, 1.0, 0.0], (len(images), 1))
        return RandomIntensity().change(images, exponents)
    levels = torch.arange(256, device=images.device, dtype=torch.float32) / 255
    return (levels**gamma)[images.long()]
