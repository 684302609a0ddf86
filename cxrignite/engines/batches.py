"""A batch on its way from a loader to the device."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from cxrignite.errors import RecipeError

Batch = Sequence[Tensor]
"""Images `(N, C, H, W)`, labels, and where there are more parts indices and seeds, each `(N,)`."""


def check_logits(logits: Tensor, labels: Tensor) -> None:
    """Check that a model keeps to the contract.

    Args:
        logits: What the model gave.
        labels: Shape `(N,)`.

    Raises:
        RecipeError: If it is not one logit per image.
    """
    if logits.shape != labels.shape:
        raise RecipeError(
            f"a model must give one logit per image, shape {tuple(labels.shape)}, "
            f"got {tuple(logits.shape)}"
        )


def move_batch(batch: Batch, device: torch.device, channels_last: bool) -> tuple[Tensor, Tensor]:
    """Move images and labels to a device, without waiting for the copy.

    Args:
        batch: Images and labels at the positions 0 and 1; the rest stays where it is.
        device: Where to.
        channels_last: True to lay out images of more than one channel channels last; with
            one channel both layouts are the same.

    Returns:
        Images in the dtype they came in, and labels in float32, which BCE asks for.
    """
    labels = batch[1].to(device, dtype=torch.float32, non_blocking=True)
    return move_images(batch[0], device, channels_last), labels


def move_images(images: Tensor, device: torch.device, channels_last: bool) -> Tensor:
    """Move images to a device, without waiting for the copy.

    Args:
        images: Shape `(N, C, H, W)`.
        device: Where to.
        channels_last: As `move_batch` takes it.

    Returns:
        Images in the dtype they came in.
    """
    is_laid_out = channels_last and images.ndim == 4 and images.shape[1] > 1
    return images.to(
        device,
        non_blocking=True,
        memory_format=torch.channels_last if is_laid_out else torch.preserve_format,
    )


def fill_up(images: Tensor, batch_size: int) -> Tensor:
    """Repeat the last image of a batch until the batch is full.

    Args:
        images: Shape `(n, C, H, W)`, at least one.
        batch_size: How many there are to be.

    Returns:
        Shape `(max(n, batch_size), C, H, W)`, contiguous; the batch itself where it is full.
    """
    if len(images) >= batch_size:
        return images
    # Not `torch.cat`, whose strides may be those of channels last where there is one channel: that
    # is the same memory, and another kernel with other last bits.
    return images[torch.arange(batch_size, device=images.device).clamp_(max=len(images) - 1)]
