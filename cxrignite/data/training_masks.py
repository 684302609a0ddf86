"""Masks of the training images, small and in memory, moved as the augmentation moves the images."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional

from cxrignite.data.batch_augment import augment_masks
from cxrignite.data.masks import check_mask_size, read_mask
from cxrignite.data.pipeline import Pipeline
from cxrignite.data.reading import Size
from cxrignite.data.sources import ImageRecord
from cxrignite.data.transforms import check_keeps_places

_THREADS = 4


class BatchMasks(NamedTuple):
    """Masks of a batch, one for each pair of an image and a finding that has one.

    Attributes:
        rows: Positions of the images in the batch, shape `(P,)`.
        findings: Positions of the findings, shape `(P,)`.
        masks: Share of each place inside the mask, shape `(P, H, W)`, float32 in `[0, 1]`.
    """

    rows: Tensor
    findings: Tensor
    masks: Tensor


class TrainingMasks:
    """Masks of positive training images.

    Args:
        records: The training images, in the order that `Batch.index` refers to.
        findings: Names of the findings.
        root: The folder of the masks' relative names.
        pipeline: Pipeline of the images.
        image_size: Rows and columns of the images.
        size: Rows and columns of the masks in memory; they may be fewer than the image has.

    Attributes:
        masks: Shape `(M, H, W)`, uint8.
        numbers: Number of each image's mask, or -1, shape `(N, K)`, int64.

    Raises:
        RecipeError: If a random transform of the images cannot be applied to masks.
        UnreadableImageError: If a mask cannot be read.
        DataError: If a mask has another size than the images, or boxes are not valid.
    """

    def __init__(
        self,
        records: Sequence[ImageRecord],
        findings: Sequence[str],
        root: Path,
        pipeline: Pipeline,
        image_size: Size,
        size: Size,
    ) -> None:
        self._transforms = pipeline.batch_augment
        self._image_size = image_size
        if pipeline.augment:
            check_keeps_places(pipeline.augment)
        # Raises for a transform that does not say whether it moves pixels.
        augment_masks(self._transforms, torch.empty(0, *size), torch.empty(0).long(), image_size)

        def small(pair: tuple[int, int]) -> Tensor | None:
            record = records[pair[0]]
            name = findings[pair[1]] if len(findings) > 1 else ""
            mask = read_mask(record, root, pipeline, name)
            if mask is None:
                return None
            check_mask_size(mask, image_size, record, name)
            inside = (mask > 127).float()
            small = functional.adaptive_avg_pool2d(inside, size)[0] * 255
            # A finding smaller than a place must not vanish.
            return small.ceil().to(torch.uint8) if inside.any() else None

        positive = [
            (row, finding)
            for row, record in enumerate(records)
            for finding, label in enumerate(record.labels)
            if label == 1
        ]
        # MONAI's setting for metadata is global, so its transforms run in one thread.
        num_threads = 1 if pipeline.preprocess else _THREADS
        with ThreadPoolExecutor(num_threads, thread_name_prefix="masks") as pool:
            found = list(pool.map(small, positive))
        self.numbers = torch.full((len(records), len(findings)), -1)
        kept: list[Tensor] = []
        for (row, finding), mask in zip(positive, found, strict=True):
            if mask is not None:
                self.numbers[row, finding] = len(kept)
                kept.append(mask)
        self.masks = torch.stack(kept) if kept else torch.empty(0, *size, dtype=torch.uint8)

    def __len__(self) -> int:
        return len(self.masks)

    def of(self, index: Tensor, seeds: Tensor) -> BatchMasks:
        """Return the masks of a batch, with the random geometry of its images.

        Args:
            index: Positions of the images in the training split, shape `(N,)`, on the CPU.
            seeds: Seeds of their augmentation, shape `(N,)`, on the CPU.

        Returns:
            The masks, on the CPU; without those that the augmentation moved out of the image.
        """
        numbers = self.numbers[index]
        rows, findings = (numbers >= 0).nonzero(as_tuple=True)
        masks = self.masks[numbers[rows, findings]].to(torch.float32).div_(255)
        masks = augment_masks(self._transforms, masks, seeds[rows], self._image_size)
        kept = masks.amax(dim=(1, 2)) > 0
        if not kept.all():
            rows, findings, masks = rows[kept], findings[kept], masks[kept]
        return BatchMasks(rows, findings, masks)
