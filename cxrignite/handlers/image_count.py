"""How many images a batch has."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch


def num_images(batch: Any) -> int:
    """Images of a batch; 0 where it is nothing that holds a tensor or an array of them.

    Args:
        batch: A tensor or array `(N, ...)`, a list, tuple or mapping of which the first one counts,
            or a list of mappings, one an image.
    """
    # The usual form comes first, since every step asks.
    if isinstance(batch, tuple | list) and batch:
        first = batch[0]
        if isinstance(first, torch.Tensor) and first.ndim:
            return first.shape[0]
    members = list(batch.values()) if isinstance(batch, Mapping) else batch
    if not isinstance(members, list | tuple):
        members = [members]
    if not isinstance(batch, Mapping) and all(isinstance(each, Mapping) for each in members):
        return len(members)
    arrays = (each for each in members if isinstance(each, torch.Tensor | np.ndarray) and each.ndim)
    return next(map(len, arrays), 0)
