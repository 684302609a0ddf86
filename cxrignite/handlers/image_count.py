"""Number of images in a batch."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch


def num_images(batch: Any) -> int:
    """Return the number of images in a batch; 0 if it holds no tensor or array.

    Args:
        batch: A tensor or array `(N, ...)`; a list, tuple or mapping, whose first such member
            counts; or a list with one mapping per image.
    """
    # The usual form comes first, since this runs at every step.
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
