"""From a model and images to scores, and the metrics of these scores."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from ignite.engine import Engine
from torch import Tensor, nn

from cxrignite.engines.batches import Batch, check_logits, move_batch
from cxrignite.engines.metrics import attach_metrics
from cxrignite.engines.model_mode import ModelMode
from cxrignite.engines.precision import FP32, Precision


def create_evaluator(
    model: nn.Module,
    loss_fn: Callable[[Tensor, Tensor], Tensor] | None = None,
    *,
    device: torch.device | str,
    precision: Precision = FP32,
    channels_last: bool = False,
) -> Engine:
    """Make an evaluator; it changes nothing in the model but leaves it in evaluation mode.

    `evaluator.state.output` is `(y_score, y_true)`: probabilities of the positive class and
    labels, both float32 of shape `(N,)`; `evaluator.state.logits` the logits, float32. At the
    epoch's end `evaluator.state.metrics` holds `roc_auc`, `average_precision` and, with a
    `loss_fn`, `loss`: before any handler that is attached later; and
    `evaluator.state.score_source.gather()` gives the scores of all images in one piece.

    Args:
        model: Images in, logits `(N,)` out; on `device`.
        loss_fn: Logits and labels, both float32 `(N,)`, to a mean loss; its buffers on `device`.
        device: Where the model is.
        precision: What the forward pass computes in; the sigmoid is always float32.
        channels_last: Whether images of more than one channel are laid out channels last.

    Returns:
        The evaluator.
    """
    device = torch.device(device)
    mode = ModelMode(model, is_training=False)

    def evaluate(engine: Engine, batch: Batch) -> tuple[Tensor, Tensor]:
        mode.enter()
        with torch.inference_mode():
            images, labels = move_batch(batch, device, channels_last)
            with precision.autocast(device):
                logits = model(images)
            check_logits(logits, labels)
            logits = logits.float()
            state: Any = engine.state
            state.logits = logits
            return torch.sigmoid(logits), labels

    evaluator = Engine(evaluate)
    attach_metrics(evaluator, loss_fn, device=device)
    return evaluator
