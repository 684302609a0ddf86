"""From a model and images to scores, and the metrics of these scores."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from ignite.engine import Engine
from torch import Tensor, nn

from cxrignite.engines.batches import Batch, check_logits
from cxrignite.engines.metrics import attach_metrics
from cxrignite.engines.precision import FP32, Precision
from cxrignite.engines.scoring import BatchScorer


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
        channels_last: True to lay out images of more than one channel channels last.
        batch_size: Images of every forward pass, at least as many as a batch has: a smaller batch
            is filled up, and what comes of the fillings is dropped. A score depends on the number
            of images beside it, in its last bits, and then no more on how the images fall into
            batches and processes; a compiler and cuDNN see one shape. Null fills nothing up.

    Returns:
        The evaluator.
    """
    device = torch.device(device)
    scorer = BatchScorer(
        model,
        device=device,
        precision=precision,
        channels_last=channels_last,
        batch_size=batch_size,
    )

    def evaluate(engine: Engine, batch: Batch) -> tuple[Tensor, Tensor]:
        scores, logits = scorer(batch[0])
        labels = batch[1].to(device, dtype=torch.float32, non_blocking=True)
        check_logits(logits, labels)
        state: Any = engine.state
        state.logits = logits
        state.num_fillings = max(0, scorer.batch_size - len(labels))
        return scores, labels

    evaluator = Engine(evaluate)
    attach_metrics(evaluator, loss_fn, device=device)
    return evaluator
