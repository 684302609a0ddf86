"""Scoring of batches, with forward passes of a fixed size."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from cxrignite.engines.batches import fill_up, move_images
from cxrignite.engines.model_mode import ModelMode
from cxrignite.engines.precision import FP32, Precision
from cxrignite.functional.findings import scores_from_logits


class BatchScorer:
    """Scorer of image batches; it leaves its model in evaluation mode.

    The last bits of a score depend on the size of its batch. If every batch is filled up to the
    same size, a score does not depend on the division into batches.

    Args:
        model: Images in, logits out, `(N,)` or of several findings `(N, K)`; on `device`.
        device: Device of the model.
        precision: Number format of the forward pass; the sigmoid is always float32.
        channels_last: True to use the channels-last layout for images of more than one channel.
        batch_size: Number of images of every forward pass, at least that of the batches; null fills
            up nothing.
        exclusive: True if the findings are exclusive classes; see `scores_from_logits`.
    """

    def __init__(
        self,
        model: nn.Module,
        *,
        device: torch.device | str,
        precision: Precision = FP32,
        channels_last: bool = False,
        batch_size: int | None = None,
        exclusive: bool = False,
    ) -> None:
        self.model = model
        self.device = torch.device(device)
        self.precision = precision
        self.channels_last = channels_last
        self.batch_size = batch_size or 0
        self.exclusive = exclusive
        self._mode = ModelMode(model, is_training=False)

    def __call__(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Score a batch.

        Args:
            images: Shape `(n, C, H, W)`, at least one, on any device.

        Returns:
            Probabilities of the positive class and logits, both float32, of the shape of the
            model's output, `(n,)` or `(n, K)`, on `device`.
        """
        self._mode.enter()
        with torch.inference_mode():
            filled = fill_up(images, self.batch_size)
            filled = move_images(filled, self.device, self.channels_last)
            with self.precision.autocast(self.device):
                logits = self.model(filled).float()
            # Added images are removed last, since the sigmoid too depends on the vector's length.
            scores = scores_from_logits(logits, self.exclusive)
            return scores[: len(images)], logits[: len(images)]
