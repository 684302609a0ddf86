"""Overlay of a class activation map on a grey image."""

from __future__ import annotations

import torch
from torch import Tensor

# From least to most important. Dark red to light yellow needs no legend, is safe for red-green
# colour blindness and differs from every grey.
_RAMP = torch.tensor(
    [[90, 0, 40], [190, 20, 40], [240, 90, 20], [255, 170, 30], [255, 240, 120]],
    dtype=torch.float32,
)


def overlay(images: Tensor, maps: Tensor, *, opacity: float = 0.6) -> Tensor:
    """Draw maps over their images: a more important pixel has a lighter and more opaque colour.

    A pixel whose map value is 0 keeps its grey, so an empty map leaves the image unchanged.

    Args:
        images: Shape `(N, C, H, W)`, uint8 or floating point in `[0, 1]`. Floating-point images
            outside this range, such as normalised ones, are rescaled to their own extremes.
            Several channels are averaged.
        maps: Shape `(N, H, W)`, in `[0, 1]`.
        opacity: Opacity of the most important pixel, in `(0, 1]`.

    Returns:
        Colour images, shape `(N, 3, H, W)`, uint8, on the CPU.

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
    # This form refuses NaN as well.
    if not ((values >= 0) & (values <= 1)).all():
        raise ValueError("maps must have values in [0, 1]")
    place = values * (len(_RAMP) - 1)
    lower = place.floor().clamp_max(len(_RAMP) - 2).long()
    share = (place - lower)[..., None]
    colour = _RAMP[lower] * (1 - share) + _RAMP[lower + 1] * share
    # The square root keeps less important pixels visible.
    alpha = opacity * values.sqrt()[:, None]
    mixed = as_grey(images)[:, None] * (1 - alpha) + colour.permute(0, 3, 1, 2) * alpha
    return mixed.round().to(torch.uint8)


def colour_scale(width: int, height: int, *, opacity: float = 0.6) -> Tensor:
    """Return the colours of `overlay` on middle grey, from 0 at the left to 1 at the right.

    Args:
        width: Width in pixels, at least 1.
        height: Height in pixels, at least 1.
        opacity: As in `overlay`.

    Returns:
        A colour bar, shape `(3, height, width)`, uint8, on the CPU.

    Examples:
        >>> colour_scale(3, 2).shape
        torch.Size([3, 2, 3])
    """
    values = torch.linspace(0, 1, width).expand(1, height, width)
    grey = torch.full((1, 1, height, width), 128, dtype=torch.uint8)
    return overlay(grey, values, opacity=opacity)[0]


def as_grey(images: Tensor) -> Tensor:
    """Return images as greys for display.

    Args:
        images: Shape `(N, C, H, W)`, as in `overlay`.

    Returns:
        Greys, shape `(N, H, W)`, float32 in `[0, 255]`, on the CPU.

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
