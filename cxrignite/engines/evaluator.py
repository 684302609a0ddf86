"""Evaluator: an engine that scores images and computes metrics."""

from __future__ import annotations

from collections.abc import Callable, Sequence
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
    exclusive: bool = False,
    findings: Sequence[str] = (),
    views: Sequence[Callable[[Tensor], Tensor]] = (),
) -> Engine:
    """Return an evaluator, which leaves the model in evaluation mode and otherwise unchanged.

    After each step:

    - `evaluator.state.output` is `(y_score, y_true)`: probabilities of the positive class and
      labels, both float32 of shape `(N,)`; of several findings `(N, K)`, with NaN for an unknown
      label.
    - `evaluator.state.logits` holds the logits of the images without their views, float32.
    - `evaluator.state.num_views` is the number of forward passes, of which the first is that of the
      images themselves.
    - `evaluator.state.num_fillings` is the number of images added to fill up the batch.

    At the end of the epoch, before any handler that is attached later,
    `evaluator.state.metrics` holds `roc_auc`, `average_precision` and, with a `loss_fn`, `loss`;
    with several findings also those of `evaluation_metrics`.
    `evaluator.state.score_source.gather()` returns the scores of all images.

    Args:
        model: Images in, logits out, `(N,)` or of several findings `(N, K)`; on `device`.
        loss_fn: Function from logits and labels, both float32 `(N,)` or `(N, K)`, to a mean loss;
            its buffers on `device`.
        device: Device of the model.
        precision: Number format of the forward pass; the scores are always float32.
        channels_last: True to use the channels-last layout for images of more than one channel.
        batch_size: Number of images of every forward pass, at least that of the batches. Smaller
            batches are filled up, and the added scores are dropped. The last bits of a score depend
            on the size of its batch. With a fixed size they do not depend on the division into
            batches and processes, and the compiler and cuDNN see one shape. Null fills up nothing.
        exclusive: True if the findings are exclusive classes; see `scores_from_logits`.
        findings: Names of several findings, for the names of their metrics; without names they are
            numbered from 0.
        views: Functions from images to changed images, whose scores are averaged with those of the
            images; see `BatchScorer`.

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
        exclusive=exclusive,
        views=views,
    )

    def evaluate(engine: Engine, batch: Batch) -> tuple[Tensor, Tensor]:
        scores, logits = scorer(batch[0])
        labels = batch[1].to(device, dtype=torch.float32, non_blocking=True)
        check_logits(logits, labels)
        state: Any = engine.state
        state.logits = logits
        state.num_views = 1 + len(views)
        state.num_fillings = max(0, scorer.batch_size - len(labels))
        return scores, labels

    evaluator = Engine(evaluate)
    attach_metrics(evaluator, loss_fn, device=device, findings=findings)
    return evaluator
