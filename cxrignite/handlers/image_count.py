"""How many images a batch has."""

from __future__ import annotations

from typing import Any

import torch


def num_images(batch: Any) -> int:
    """Images of a batch; 0 where it is nothing that holds a tensor of them first.

    Args:
        batch: A tensor `(N, ...)`, or a list or tuple that begins with one.
    """
    images = batch[0] if isinstance(batch, list | tuple) and batch else batch
    return len(images) if isinstance(images, torch.Tensor) and images.ndim else 0
