"""How many images a batch has."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch


def num_images(batch: Any) -> int:
    """Images of a batch; 0 where it is nothing that holds a tensor of them first.

    Args:
        batch: A tensor `(N, ...)`, a list, tuple or mapping that begins with one, or a list of
            mappings, one an image.
    """
    members = list(batch.values()) if isinstance(batch, Mapping) else batch
    images = members[0] if isinstance(members, list | tuple) and members else members
    if isinstance(images, Mapping):
        return len(batch)
    return len(images) if isinstance(images, torch.Tensor) and images.ndim else 0
