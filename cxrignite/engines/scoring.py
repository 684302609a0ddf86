"""Scoring of batches, with forward passes of a fixed size."""

from __future__ import annotations

from collections.abc import Callable, Sequence

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
        views: Functions from images to changed images, on `device`. A score is then the mean over
            the image and its views. Each view is a forward pass of its own, made after the one
            before, so the memory does not grow with their number.
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
        views: Sequence[Callable[[Tensor], Tensor]] = (),
    ) -> None:
        self.model = model
        self.device = torch.device(device)
        self.precision = precision
        self.channels_last = channels_last
        self.batch_size = batch_size or 0
        self.exclusive = exclusive
        self.views = views
        self._mode = ModelMode(model, is_training=False)

    def __call__(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Score a batch.

        Args:
            images: Shape `(n, C, H, W)`, at least one, on any device.

        Returns:
            Probabilities of the positive class, and logits of the images without their views; both
            float32, of the shape of the model's output, `(n,)` or `(n, K)`, on `device`.
        """
        self._mode.enter()
        with torch.inference_mode():
            filled = fill_up(images, self.batch_size)
            filled = move_images(filled, self.device, self.channels_last)
            logits = self._logits(filled)
            # Added images are removed last, since the sigmoid too depends on the vector's length.
            scores = scores_from_logits(logits, self.exclusive)
            if self.views:
                for view in self.views:
                    scores = scores + scores_from_logits(self._logits(view(filled)), self.exclusive)
                scores = scores / (1 + len(self.views))
            return scores[: len(images)], logits[: len(images)]

    def _logits(self, images: Tensor) -> Tensor:
        with self.precision.autocast(self.device):
            logits: Tensor = self.model(images).float()
        return logits
