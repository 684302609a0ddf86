"""Localization of findings by maps, compared with masks."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor


class EnergyInside(NamedTuple):
    """Energy of each map inside its mask, and the value expected by chance.

    Attributes:
        energy: Share of the sum of a map inside the mask, shape `(N,)`, float32 in `[0, 1]`; 0 for
            an empty map.
        area: Share of the pixels inside the mask, shape `(N,)`, float32 in `(0, 1]`. This is the
            energy of a constant map.
    """

    energy: Tensor
    area: Tensor


def energy_inside(maps: Tensor, masks: Tensor) -> EnergyInside:
    """Return the share of each map's energy inside a mask (Wang 2020, arXiv 1910.01279).

    Args:
        maps: Shape `(N, H, W)`, at least 0.
        masks: Shape `(N, H, W)`, bool, or a number that is above 0 inside.

    Returns:
        The shares of energy and area.

    Raises:
        ValueError: If shapes differ, a map has values below 0 or not finite, or a mask is empty.

    Examples:
        >>> maps = torch.tensor([[[0.0, 1.0], [0.0, 3.0]]])
        >>> found = energy_inside(maps, torch.tensor([[[0, 0], [0, 1]]]))
        >>> found.energy.tolist(), found.area.tolist()
        ([0.75], [0.25])
    """
    inside = _inside(maps, masks)
    # Double precision, since a sum may run over a million pixels.
    values = maps.double()
    total = values.sum(dim=(1, 2))
    within = (values * inside).sum(dim=(1, 2))
    energy = torch.where(total > 0, within / total, 0.0)
    return EnergyInside(energy.float(), inside.float().mean(dim=(1, 2)))


def pointing_game(maps: Tensor, masks: Tensor) -> Tensor:
    """Check if the maximum of each map lies inside its mask (Zhang 2016, arXiv 1608.00507).

    There is no margin around the mask (the reference has one of 15 pixels). If several pixels share
    the maximum, all of them must lie inside. An empty map is no hit, and a constant map only if the
    mask covers the image.

    Args:
        maps: Shape `(N, H, W)`, at least 0.
        masks: Shape `(N, H, W)`, bool, or a number that is above 0 inside.

    Returns:
        Mask of the hits, shape `(N,)`, bool.

    Raises:
        ValueError: If shapes differ, a map has values below 0 or not finite, or a mask is empty.

    Examples:
        >>> maps = torch.tensor([[[0.0, 1.0], [0.0, 3.0]], [[0.0, 3.0], [0.0, 3.0]]])
        >>> pointing_game(maps, torch.tensor([[[0, 0], [0, 1]]]).expand(2, 2, 2)).tolist()
        [True, False]
    """
    inside = _inside(maps, masks)
    peak = maps.amax(dim=(1, 2), keepdim=True)
    is_outside = ((maps == peak) & ~inside).any(dim=2).any(dim=1)
    return ~is_outside & (peak[:, 0, 0] > 0)


def _inside(maps: Tensor, masks: Tensor) -> Tensor:
    if maps.ndim != 3 or maps.shape != masks.shape or 0 in maps.shape:
        raise ValueError(
            "maps and masks must both have shape (N, H, W), "
            f"got {tuple(maps.shape)} and {tuple(masks.shape)}"
        )
    not_finite = ~(maps.isfinite() & (maps >= 0))
    if not_finite.any():
        raise ValueError(
            f"maps must be finite and at least 0, got {maps[not_finite][0]:g} "
            f"({int(not_finite.sum())} such values)"
        )
    inside = masks > 0
    is_empty = ~inside.any(dim=2).any(dim=1)
    if is_empty.any():
        raise ValueError(
            f"masks must each have a pixel inside, got {int(is_empty.sum())} of {len(masks)} "
            f"without (first: {int(is_empty.nonzero()[0])})"
        )
    return inside
