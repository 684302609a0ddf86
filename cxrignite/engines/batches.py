"""Batches: checks, the copy to the device, and filling up."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from cxrignite.errors import RecipeError

Batch = Sequence[Tensor]
"""Images `(N, C, H, W)`, labels `(N,)` or of several findings `(N, K)` with NaN if unknown, and
optionally indices and seeds, each `(N,)`."""


def check_logits(logits: Tensor, labels: Tensor) -> None:
    """Check that a model returns one logit per image and finding.

    Args:
        logits: Output of the model.
        labels: Labels, shape `(N,)` or `(N, K)`.

    Raises:
        RecipeError: If the shapes differ.
    """
    if logits.shape != labels.shape:
        each = "image" if labels.ndim == 1 else "image and finding"
        raise RecipeError(
            f"a model must give one logit per {each}, shape {tuple(labels.shape)}, "
            f"got {tuple(logits.shape)}"
        )


def move_batch(batch: Batch, device: torch.device, channels_last: bool) -> tuple[Tensor, Tensor]:
    """Move images and labels to a device, without waiting for the copy.

    Args:
        batch: Images and labels at the positions 0 and 1; other parts are not moved.
        device: Target device.
        channels_last: True to use the channels-last layout for images of more than one channel.
            With one channel both layouts are identical.

    Returns:
        Images in their own dtype, and labels in float32, which BCE needs.
    """
    labels = batch[1].to(device, dtype=torch.float32, non_blocking=True)
    return move_images(batch[0], device, channels_last), labels


def move_images(images: Tensor, device: torch.device, channels_last: bool) -> Tensor:
    """Move images to a device, without waiting for the copy.

    Args:
        images: Shape `(N, C, H, W)`.
        device: Target device.
        channels_last: As in `move_batch`.

    Returns:
        Images in their own dtype, the same shape.
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
        batch_size: Number of images of a full batch.

    Returns:
        Images, shape `(max(n, batch_size), C, H, W)`, contiguous; the batch itself if it is full.
    """
    if len(images) >= batch_size:
        return images
    # Not `torch.cat`: with one channel its result may have channels-last strides. The memory is the
    # same, but another kernel would run, and the last bits of a score would differ.
    return images[torch.arange(batch_size, device=images.device).clamp_(max=len(images) - 1)]
