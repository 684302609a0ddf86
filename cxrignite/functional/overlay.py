"""An image in grey with a class activation map over it, for the eye."""

from __future__ import annotations

import torch
from torch import Tensor

# From least to most important; dark red to light yellow is read without a legend, also by those
# who cannot tell red from green, and no grey of an image looks like it.
_RAMP = torch.tensor(
    [[90, 0, 40], [190, 20, 40], [240, 90, 20], [255, 170, 30], [255, 240, 120]],
    dtype=torch.float32,
)


def overlay(images: Tensor, maps: Tensor, *, opacity: float = 0.6) -> Tensor:
    """Lay maps over their images: the more important a pixel, the warmer and the denser its colour.

    Where a map is 0 the image shows as it is, so an empty map colours nothing.

    Args:
        images: Shape `(N, C, H, W)`: uint8, or floating point in `[0, 1]`; floating point beyond
            that, as after a normalisation, is stretched image by image to its own extremes.
            Several channels are shown as their mean.
        maps: Shape `(N, H, W)`, in `[0, 1]`.
        opacity: Of the most important pixel, in `(0, 1]`.

    Returns:
        Shape `(N, 3, H, W)`, uint8, on the CPU.

    Raises:
        ValueError: If shapes do not fit, a map has values outside `[0, 1]` or `opacity` is out of
            range.

    Examples:
        >>> overlay(torch.tensor([[[[0, 100]]]], dtype=torch.uint8), torch.tensor([[[1.0, 0.0]]]))
        tensor([[[[153, 100]],
        <BLANKLINE>
                 [[144, 100]],
        <BLANKLINE>
                 [[ 72, 100]]]], dtype=torch.uint8)
    """
    if images.ndim != 4 or maps.shape != (len(images), *images.shape[2:]):
        raise ValueError(
            "images and maps must have shapes (N, C, H, W) and (N, H, W), "
            f"got {tuple(images.shape)} and {tuple(maps.shape)}"
        )
    if not 0 < opacity <= 1:
        raise ValueError(f"opacity must be in (0, 1], got {opacity}")
    values = maps.detach().float().cpu()
    # Written so that NaN is refused too.
    if not ((values >= 0) & (values <= 1)).all():
        raise ValueError("maps must have values in [0, 1]")
    place = values * (len(_RAMP) - 1)
    lower = place.floor().clamp_max(len(_RAMP) - 2).long()
    share = (place - lower)[..., None]
    colour = _RAMP[lower] * (1 - share) + _RAMP[lower + 1] * share
    # The square root: half as important is still to be seen.
    alpha = opacity * values.sqrt()[:, None]
    mixed = as_grey(images)[:, None] * (1 - alpha) + colour.permute(0, 3, 1, 2) * alpha
    return mixed.round().to(torch.uint8)


def colour_scale(width: int, height: int, *, opacity: float = 0.6) -> Tensor:
    """The colours of `overlay` over a middle grey, from 0 at the left to 1 at the right.

    Args:
        width: In pixels, at least 1.
        height: In pixels, at least 1.
        opacity: As in `overlay`.

    Returns:
        Shape `(3, height, width)`, uint8, on the CPU.

    Examples:
        >>> colour_scale(3, 2).shape
        torch.Size([3, 2, 3])
    """
    values = torch.linspace(0, 1, width).expand(1, height, width)
    grey = torch.full((1, 1, height, width), 128, dtype=torch.uint8)
    return overlay(grey, values, opacity=opacity)[0]


def as_grey(images: Tensor) -> Tensor:
    """Images as a screen shows them.

    Args:
        images: As `overlay` takes them.

    Returns:
        Shape `(N, H, W)`, float32 in `[0, 255]`, on the CPU.

    Examples:
        >>> as_grey(torch.tensor([[[[0.0, 0.5, 1.0]]], [[[-2.0, 0.0, 2.0]]]])).tolist()
        [[[0.0, 127.5, 255.0]], [[0.0, 127.5, 255.0]]]
    """
    grey = images.detach().cpu().float().mean(dim=1)
    if images.dtype == torch.uint8:
        return grey
    low, high = (extreme(dim=(1, 2), keepdim=True) for extreme in (grey.amin, grey.amax))
    stretched = (grey - low) / (high - low).clamp_min(1e-12)
    return 255 * torch.where((low < 0) | (high > 1), stretched, grey)
