"""Losses that draw the class activation maps of positive images into masks of the finding."""

from __future__ import annotations

from abc import ABC, abstractmethod

from torch import Tensor, nn
from torch.nn import functional as F


class MapLoss(nn.Module, ABC):
    """A loss of class activation maps and masks, added to the loss of logits and labels.

    Args:
        weight: Factor of this loss in the sum, above 0.

    Raises:
        ValueError: If `weight` is not above 0.
    """

    def __init__(self, weight: float = 0.1) -> None:
        if not weight > 0:
            raise ValueError(f"weight must be above 0, got {weight}")
        super().__init__()
        self.weight = weight

    @abstractmethod
    def forward(self, maps: Tensor, masks: Tensor) -> Tensor:
        """Return the mean loss of positive images with a mask.

        Args:
            maps: Maps of the finding before negative values are removed, shape `(P, H, W)`,
                float32; in logits if the model ends with an average and a linear layer.
            masks: Share of each position inside the mask, the same shape, in `[0, 1]`; no mask is
                empty.

        Returns:
            A 0-d tensor.
        """


class MapEnergyLoss(MapLoss):
    """Minus the logarithm of the share of a map's energy inside the mask.

    The energy is the sum of the positive values, as in the energy-based pointing game (Wang 2020,
    arXiv 1910.01279). As a loss it needs no exact outline: positions inside the mask may have any
    value, so that boxes serve as well (Rao 2023, arXiv 2303.11932, who use the share itself).

    Args:
        weight: Factor of this loss in the sum, above 0.

    Raises:
        ValueError: If `weight` is not above 0.

    Examples:
        >>> import torch
        >>> maps, masks = torch.tensor([[[1.0, 3.0], [-2.0, 0.0]]]), torch.zeros(1, 2, 2)
        >>> masks[0, 0, 1] = 1.0
        >>> MapEnergyLoss()(maps, masks).exp()  # 3 of 4
        tensor(1.3333)
    """

    def forward(self, maps: Tensor, masks: Tensor) -> Tensor:
        """Return the mean loss of positive images with a mask.

        Args:
            maps: Maps of the finding, shape `(P, H, W)`.
            masks: Share of each position inside the mask, the same shape.

        Returns:
            A 0-d tensor, at least 0.
        """
        energy = F.relu(maps)
        inside = (energy * masks).sum(dim=(1, 2))
        total = energy.sum(dim=(1, 2))
        # An empty map has the share 0 and no gradient; the loss of the logits raises it.
        share = inside / total.clamp_min(_TINY)
        return -share.clamp_min(_SMALLEST_SHARE).log().mean()


_TINY = 1e-12
# Limits the gradient of a map that lies elsewhere.
_SMALLEST_SHARE = 1e-4
