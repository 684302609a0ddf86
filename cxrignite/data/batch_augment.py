"""Random changes of whole batches (in the making: this file is being written)."""

from __future__ import annotations

from abc import ABC
from collections.abc import Sequence

import torch
from torch import Tensor


class BatchAugment(ABC):
    """One random change of a batch of images."""


def augment_batch(transforms: Sequence[BatchAugment], images: Tensor, seeds: Tensor) -> Tensor:
    """Change a batch."""
    return images.to(torch.float32) / 255 if images.dtype == torch.uint8 else images
