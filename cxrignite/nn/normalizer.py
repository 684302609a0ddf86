"""Conversion of grey images to the input of a backbone."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, get_args

import torch
from torch import Tensor, nn

Standardize = Literal["fixed", "per_image"]

# One of 255 grey levels: an image below it is blank, and its noise must not be amplified.
_MIN_DEVIATION = 1 / 255


class ImageNormalizer(nn.Module):
    """Module that scales, normalises and expands grey images.

    It is part of the model, so that an exported model cannot be given wrongly normalised images.

    Args:
        mean: Mean to subtract from images in `[0, 1]`, one number per channel.
        std: Deviation to divide by, one number per channel, above 0.
        num_channels: Number of channels of the backbone; the grey image is repeated in each.
        standardize: `fixed` uses `mean` and `std`; `per_image` uses the mean and deviation of each
            image, which removes differences in exposure and contrast. A blank image becomes 0.

    Raises:
        ValueError: If `mean` or `std` has another length than `num_channels`, a `std` is not
            above 0, or `standardize` is unknown.
    """

    mean: Tensor
    std: Tensor

    def __init__(
        self,
        mean: Sequence[float],
        std: Sequence[float],
        *,
        num_channels: int = 3,
        standardize: Standardize = "fixed",
    ) -> None:
        super().__init__()
        if num_channels < 1:
            raise ValueError(f"num_channels must be at least 1, got {num_channels}")
        for name, values in (("mean", mean), ("std", std)):
            if len(values) != num_channels:
                raise ValueError(f"{name} must hold {num_channels} numbers, got {list(values)}")
        if min(std) <= 0:
            raise ValueError(f"std must be above 0, got {list(std)}")
        if standardize not in get_args(Standardize):
            raise ValueError(f"standardize must be fixed or per_image, got {standardize!r}")
        self.num_channels = num_channels
        self.standardize = standardize
        self.register_buffer("mean", torch.tensor(mean, dtype=torch.float32).view(1, -1, 1, 1))
        self.register_buffer("std", torch.tensor(std, dtype=torch.float32).view(1, -1, 1, 1))

    def forward(self, images: Tensor) -> Tensor:
        """Normalise a batch.

        Args:
            images: Shape `(N, 1, H, W)`, uint8 in `[0, 255]` or floating point in `[0, 1]`.

        Returns:
            Float32, shape `(N, num_channels, H, W)`; under autocast too.

        Raises:
            ValueError: If the shape or dtype is wrong.
        """
        shape = tuple(images.shape)
        if images.ndim != 4 or images.shape[1] != 1:
            raise ValueError(f"images must have shape (N, 1, H, W), got {shape}")
        if images.dtype == torch.uint8:
            pixels = images.float() / 255
        elif images.is_floating_point():
            pixels = images.float()
        else:
            raise ValueError(
                f"images must be uint8 or floating point, got {images.dtype} of shape {shape}"
            )
        if self.standardize == "fixed":
            return (pixels - self.mean) / self.std
        deviation, mean = torch.std_mean(pixels, dim=(2, 3), keepdim=True, correction=0)
        pixels = (pixels - mean) / deviation.clamp_min(_MIN_DEVIATION)
        return pixels.expand(-1, self.num_channels, -1, -1)

    def extra_repr(self) -> str:
        """Return the settings for `print(model)`."""
        return f"num_channels={self.num_channels}, standardize={self.standardize!r}"
