"""From a model and images to scores, and the metrics of these scores."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from ignite.engine import Engine
from torch import Tensor, nn

from cxrignite.engines.batches import Batch, check_logits, fill_up, move_batch
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
    batch_size: int | None = None,
) -> Engine:
    """Make an evaluator; it changes nothing in the model but leaves it in evaluation mode.

    `evaluator.state.output` is `(y_score, y_true)`: probabilities of the positive class and
    labels, both float32 of shape `(N,)`; `evaluator.state.logits` the logits, float32, and
    `evaluator.state.num_fillings` how many images the step put behind those of the batch. At the
    epoch's end `evaluator.state.metrics` holds `roc_auc`, `average_precision` and, with a
    `loss_fn`, `loss`: before any handler that is attached later; and
    `evaluator.state.score_source.gather()` gives the scores of all images in one piece.

    Args:
        model: Images in, logits `(N,)` out; on `device`.
        loss_fn: Logits and labels, both float32 `(N,)`, to a mean loss; its buffers on `device`.
        device: Where the model is.
        precision: What the forward pass computes in; the sigmoid is always float32.
        channels_last: Whether images of more than one channel are laid out channels last.
        batch_size: Images of every forward pass, at least as many as a batch has: a smaller batch
            is filled up, and what comes of the fillings is dropped. A score depends on the number
            of images beside it, in its last bits, and then no more on how the images fall into
            batches and processes; a compiler and cuDNN see one shape. Null fills nothing up.

    Returns:
        The evaluator.
    """
    device = torch.device(device)
    mode = ModelMode(model, is_training=False)

    def evaluate(engine: Engine, batch: Batch) -> tuple[Tensor, Tensor]:
        mode.enter()
        with torch.inference_mode():
            filled = [fill_up(batch[0], batch_size or 0), batch[1]]
            images, labels = move_batch(filled, device, channels_last)
            with precision.autocast(device):
                logits = model(images).float()
            # Fillings are cut off last: the sigmoid of a vector too depends on its length.
            scores, logits = torch.sigmoid(logits)[: len(labels)], logits[: len(labels)]
            check_logits(logits, labels)
            state: Any = engine.state
            state.logits, state.num_fillings = logits, len(images) - len(labels)
            return scores, labels

    evaluator = Engine(evaluate)
    attach_metrics(evaluator, loss_fn, device=device)
    return evaluator
