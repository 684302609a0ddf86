"""Images to scores, in forward passes of one shape."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from cxrignite.engines.batches import fill_up, move_images
from cxrignite.engines.model_mode import ModelMode
from cxrignite.engines.precision import FP32, Precision


class BatchScorer:
    """Scores batches of images with a model, which it leaves in evaluation mode.

    A score depends on the number of images beside it, in its last bits. Where every batch is filled
    up to one size it no longer depends on how images fall into batches.

    Args:
        model: Images in, logits `(N,)` out; on `device`.
        device: Where the model is.
        precision: What the forward pass computes in; the sigmoid is always float32.
        channels_last: True to lay out images of more than one channel channels last.
        batch_size: Images of every forward pass, at least as many as a batch has; null fills
            nothing up.
    """

    def __init__(
        self,
        model: nn.Module,
        *,
        device: torch.device | str,
        precision: Precision = FP32,
        channels_last: bool = False,
        batch_size: int | None = None,
    ) -> None:
        self.model = model
        self.device = torch.device(device)
        self.precision = precision
        self.channels_last = channels_last
        self.batch_size = batch_size or 0
        self._mode = ModelMode(model, is_training=False)

    def __call__(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Score a batch.

        Args:
            images: Shape `(n, C, H, W)`, at least one, on any device.

        Returns:
            Probabilities of the positive class and logits, both float32, of shape `(n,)` where the
            model gives one logit per image, on `device`.
        """
        self._mode.enter()
        with torch.inference_mode():
            filled = fill_up(images, self.batch_size)
            filled = move_images(filled, self.device, self.channels_last)
            with self.precision.autocast(self.device):
                logits = self.model(filled).float()
            # Fillings are cut off last: the sigmoid of a vector too depends on its length.
            return torch.sigmoid(logits)[: len(images)], logits[: len(images)]
