"""Random changes of whole batches: fast on one core, right on a GPU, repeatable by seed."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from cxrignite.data.batch_affine import RandomAffine
from cxrignite.data.batch_intensity import RandomErase, RandomIntensity, RandomNoise
from cxrignite.data.batch_sharpness import RandomBlur, RandomLowResolution
from cxrignite.data.batch_transform import BatchAugment, as_float
from cxrignite.data.seeded_uniforms import Uniforms, seeded_uniforms
from cxrignite.errors import DataError

__all__ = [
    "BatchAugment",
    "RandomAffine",
    "RandomBlur",
    "RandomErase",
    "RandomIntensity",
    "RandomLowResolution",
    "RandomNoise",
    "Uniforms",
    "augment_batch",
]


def augment_batch(transforms: Sequence[BatchAugment], images: Tensor, seeds: Tensor) -> Tensor:
    """Changes each image of a batch by its own seed.

    What becomes of an image depends on its pixels, its seed and the list alone: not on the batch,
    its place there, global random state or the number of threads and workers, to the last bit on
    the CPU. A GPU makes the same draws; its pixels differ by rounding, and by the noise of
    `RandomNoise`, which is another of the same deviation.

    Args:
        transforms: In this order; each one's draws depend on its place.
        images: Shape `(N, 1, H, W)`, uint8, or float32 in `[0, 1]`; on any device.
        seeds: Shape `(N,)`, int64 in `[0, 2**32)`; where they are on a GPU, it is waited for.

    Returns:
        Float32 in `[0, 1]`, shape `(N, 1, H, W)`, on the images' device, with its own memory.

    Raises:
        DataError: If images or seeds have another shape, type or range.
    """
    _check(images, seeds)
    words = seeds.cpu().numpy()
    if len(words) and not 0 <= words.min() <= words.max() < 2**32:
        raise DataError(f"seeds must be in [0, 2**32), got {words.min()} to {words.max()}")
    random = seeded_uniforms(words, len(transforms))
    height, width = images.shape[-2:]
    plans = [
        transform.plan(each, (height, width))
        for transform, each in zip(transforms, random, strict=True)
    ]
    images = images.contiguous()
    done = torch.empty(images.shape, dtype=torch.float32, device=images.device)
    # One by one they stay in a core's cache, and no batch can change how they are rounded.
    step = 1 if images.device.type == "cpu" else max(len(images), 1)
    for start in range(0, len(images), step):
        part = slice(start, start + step)
        changed = images[part]
        for transform, plan in zip(transforms, plans, strict=True):
            changed = transform.apply(changed, plan.of(part))
        torch.clamp(as_float(changed), 0.0, 1.0, out=done[part])
    return done


def _check(images: Tensor, seeds: Tensor) -> None:
    shape = tuple(images.shape)
    if len(shape) != 4 or shape[1] != 1 or 0 in shape[2:]:
        raise DataError(f"images must have shape (N, 1, H, W), got {shape}")
    if images.dtype not in (torch.uint8, torch.float32):
        raise DataError(f"images must be uint8 or float32, got {images.dtype}")
    if tuple(seeds.shape) != shape[:1] or seeds.dtype != torch.int64:
        raise DataError(
            f"seeds must be int64 of shape ({shape[0]},), got {seeds.dtype} of {tuple(seeds.shape)}"
        )
