"""The term of a training step that teaches the maps by masks."""

from __future__ import annotations

import logging
from pathlib import Path

import torch
from torch import Tensor
from torch.nn import functional

from cxrignite.data import XrayData
from cxrignite.data.training_masks import TrainingMasks
from cxrignite.engines.batches import Batch
from cxrignite.errors import DataError
from cxrignite.nn import BinaryClassifier, MapLoss
from cxrignite.nn.training_maps import TrainingMaps

_logger = logging.getLogger(__name__)

_FINER = 4
"""Places of a mask for each place of a map, along each side. The maps are upsampled, as `explain`
upsamples them, so that a finding smaller than a place has a target inside of it."""


class MapTerm:
    """The loss of the maps of a batch, a function of its logits and the batch.

    Args:
        loss: The recipe's `map_loss`.
        maps: The maps of the last forward pass.
        masks: The masks of the training images.
    """

    def __init__(self, loss: MapLoss, maps: TrainingMaps, masks: TrainingMasks) -> None:
        self._loss, self._maps, self._masks = loss, maps, masks

    def __call__(self, logits: Tensor, batch: Batch) -> Tensor | None:
        """Return the weighted loss, a 0-d tensor; None if no image of the batch has a mask."""
        found = self._masks.of(batch[2].cpu(), batch[3].cpu())
        if not len(found.rows):
            self._maps.forget()
            return None
        rows, findings, masks = (each.to(logits.device, non_blocking=True) for each in found)
        maps = self._maps.of(logits, rows, findings)
        fine = functional.interpolate(
            maps[:, None], masks.shape[-2:], mode="bilinear", align_corners=False
        )[:, 0]
        term: Tensor = self._loss.weight * self._loss(fine, masks)
        return term


def build_map_term(
    loss: MapLoss | None,
    model: BinaryClassifier,
    data: XrayData,
    root: Path,
    device: torch.device,
) -> MapTerm | None:
    """Build the term of a recipe's `map_loss`; None if it has none.

    Raises:
        RecipeError: The model has no maps that can be taught, or a random transform of the images
            cannot be applied to masks.
        DataError: No positive training image has a mask, or a mask has another size than its image.
    """
    if loss is None:
        return None
    maps = TrainingMaps(model, data.image_size)
    rows, columns = (
        min(_FINER * part, side) for part, side in zip(maps.grid, data.image_size, strict=True)
    )
    masks = TrainingMasks(
        data.records("train"),
        data.findings,
        root,
        data.pipeline,
        data.image_size,
        (rows, columns),
    )
    num_positive = sum(label == 1 for record in data.records("train") for label in record.labels)
    if not len(masks):
        raise DataError(
            f"map_loss needs a mask of a positive training image, got none of {num_positive}; "
            "add masks, or set map_loss to null"
        )
    _logger.info(
        "maps are taught by %d masks, of %d positive labels of training images, with weight %g",
        *(len(masks), num_positive, loss.weight),
    )
    return MapTerm(loss.to(device), maps, masks)
