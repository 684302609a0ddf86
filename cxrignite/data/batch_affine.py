"""Framing at random: how a chest lies on the film."""

from __future__ import annotations

import math

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from cxrignite.data.batch_transform import BatchAugment, require, require_range, to_device, within
from cxrignite.data.reading import Size
from cxrignite.data.seeded_uniforms import Uniforms


class RandomAffine(BatchAugment):
    """Magnifies an image about its centre, turns it and moves it, in one resampling.

    What comes from outside the image is 0, as a film beside its field is black; in between pixels
    it is bilinear. Each setting is drawn on its own. Rows and columns are magnified each by its
    own: chests differ in breadth for their height. Drawn evenly is 1 / magnification, the step from
    one pixel that is read to the next.

    Args:
        prob: Probability that an image is changed, in `[0, 1]`.
        rotate: Largest angle in radians, either way, in `[0, pi]`.
        scale: Lowest and highest magnification, above 0; 1 keeps the size, 2 shows half the chest
            at twice its size.
        shift: Largest move as a share of the image's side, either way, in `[0, 1]`.

    Raises:
        RecipeError: If a setting is out of range.
    """

    def __init__(
        self,
        prob: float = 0.5,
        rotate: float = 0.12,
        scale: tuple[float, float] = (0.9, 1.1),
        shift: float = 0.05,
    ) -> None:
        super().__init__(prob)
        require(0 <= rotate <= math.pi, "rotate", "in [0, pi] radians", rotate)
        require_range("scale", scale, "0 < low <= high")
        require(0 <= shift <= 1, "shift", "in [0, 1] of the side", shift)
        self.rotate = rotate
        self.scale = (scale[0], scale[1])
        self.shift = shift

    def settings(self, random: Uniforms, sides: Size) -> NDArray[np.float64]:
        """Where to read: for column and row, the step a row, the step a column, and the start.

        Positions count in half sides from the centre.
        """
        low, high = self.scale
        angle = within(random[:, 0], (-self.rotate, self.rotate))
        step_row, step_column = within(random[:, 1:3], (1 / high, 1 / low)).T
        moved = within(random[:, 3:5], (-2 * self.shift, 2 * self.shift)).T
        aspect = sides[0] / sides[1]
        # Back out of the shift, against an anticlockwise turn, out of the magnification.
        column = np.stack([-np.sin(angle) * aspect, np.cos(angle)]) * step_column
        row = np.stack([np.cos(angle), np.sin(angle) / aspect]) * step_row
        starts = [-(part * moved).sum(axis=0) for part in (column, row)]
        return np.stack([*column, starts[0], *row, starts[1]], axis=1)

    def change(self, images: Tensor, settings: NDArray[np.float64]) -> Tensor:
        """Resamples every image."""
        steps = to_device(settings, images).view(-1, 2, 3, 1, 1)
        # Pixel centres, where -1 and 1 are the edges: right for a side of one pixel too. Both
        # planes of the grid lie whole in memory, which `grid_sample` reads as fast and which is
        # written six times as fast as `affine_grid` writes its own.
        rows, columns = (_centres(side, images) for side in images.shape[-2:])
        grid = (steps[:, :, 0] * rows[:, None] + steps[:, :, 2]) + steps[:, :, 1] * columns
        return functional.grid_sample(
            images,
            grid.permute(0, 2, 3, 1),
            mode="bilinear",
            padding_mode="zeros",
            align_corners=False,
        )


def _centres(side: int, images: Tensor) -> Tensor:
    edge = 1 - 1 / side
    return torch.linspace(-edge, edge, side, device=images.device)
