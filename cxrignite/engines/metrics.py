"""What trainers and evaluators count, once an epoch and over all processes."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from ignite.engine import Engine, Events
from numpy.typing import NDArray
from torch import Tensor

from cxrignite.functional.gathering import gather_rows

# What every evaluator publishes; `loss` where it is given a loss.
EVALUATION_METRICS = ("loss", "roc_auc", "average_precision")

_logger = logging.getLogger(__name__)


class EpochMeanLoss:
    """The mean loss of an epoch's images, while the weights move.

    Attach to: a trainer, before handlers that read the metric at `EPOCH_COMPLETED`.

    Expects: `engine.state.output` to be the mean loss of the batch, a detached 0-d tensor, and
    the labels at position 1 of the batch.

    Publishes: `loss` in `engine.state.metrics`.
    """

    def __init__(self) -> None:
        self._losses: list[Tensor] = []
        self._sizes: list[int] = []

    def attach(self, engine: Engine) -> None:
        """Start counting.

        Args:
            engine: The trainer.
        """
        engine.add_event_handler(Events.EPOCH_STARTED, self._reset)
        engine.add_event_handler(Events.ITERATION_COMPLETED, self._collect)
        engine.add_event_handler(Events.EPOCH_COMPLETED, self._publish)

    def _reset(self) -> None:
        self._losses.clear()
        self._sizes.clear()

    def _collect(self, engine: Engine) -> None:
        # Kept as tensors on the device: reading each would wait for it, step by step.
        state: Any = engine.state
        self._losses.append(state.output)
        self._sizes.append(len(state.batch[1]))

    def _publish(self, engine: Engine) -> None:
        sizes = torch.tensor(self._sizes, dtype=torch.float64)
        losses = torch.stack(self._losses).cpu().double()
        total, num_images = gather_rows(torch.stack([losses @ sizes, sizes.sum()])[None]).sum(0)
        engine.state.metrics["loss"] = (total / num_images).item()


class EvaluationMetrics:
    """The one metric set of every evaluator, over each image once.

    Attach to: an evaluator, before handlers that read metrics at `EPOCH_COMPLETED`.

    Expects: `engine.state.output` to be `(y_score, y_true)`, each of shape `(N,)`, scores being
    probabilities; with a `loss_fn`, the logits `(N,)` in `engine.state.logits`. Where a batch has
    a third part it is the images' indices, and repeats (a distributed sampler pads with them) are
    left out.

    Publishes: `roc_auc` and `average_precision`, NaN where one class is absent; with a `loss_fn`
    also `loss`, the mean over images. All processes publish the same numbers.

    Args:
        loss_fn: Logits and labels, both float32 `(N,)`, to a mean loss.
        device: Where `loss_fn` has its buffers.
    """

    def __init__(
        self,
        loss_fn: Callable[[Tensor, Tensor], Tensor] | None = None,
        device: torch.device | str = "cpu",
    ) -> None:
        self._loss_fn = loss_fn
        self._device = torch.device(device)
        self._rows: list[Tensor] = []
        self._indices: list[Tensor] = []
        self._was_warned = False

    def attach(self, engine: Engine) -> None:
        """Start counting.

        Args:
            engine: The evaluator.
        """
        engine.add_event_handler(Events.EPOCH_STARTED, self._reset)
        engine.add_event_handler(Events.ITERATION_COMPLETED, self._collect)
        engine.add_event_handler(Events.EPOCH_COMPLETED, self._publish)

    def _reset(self) -> None:
        self._rows.clear()
        self._indices.clear()

    def _collect(self, engine: Engine) -> None:
        state: Any = engine.state
        y_score, y_true = state.output
        logits = torch.full_like(y_score, math.nan) if self._loss_fn is None else state.logits
        self._rows.append(torch.stack([logits.float(), y_score.float(), y_true.float()], dim=1))
        if len(state.batch) > 2:
            # A copy: a tensor that a worker sent keeps a file descriptor open while it lives.
            self._indices.append(state.batch[2].cpu().clone())

    @torch.no_grad()
    def _publish(self, engine: Engine) -> None:
        logits, y_score, y_true = self._gather().unbind(1)
        metrics = engine.state.metrics
        if self._loss_fn is not None:
            # In one piece and in the order of the indices, so that the number depends neither on
            # the batches nor on the processes.
            arguments = (column.to(self._device) for column in (logits, y_true))
            metrics["loss"] = float(self._loss_fn(*arguments)) if len(logits) else math.nan
        metrics["roc_auc"], metrics["average_precision"] = self._rank(
            y_true.double().numpy(), y_score.double().numpy()
        )

    def _gather(self) -> Tensor:
        """Return logits, scores and labels of all images, shape `(N, 3)`, float32 on the CPU."""
        rows = torch.cat(self._rows).cpu() if self._rows else torch.zeros((0, 3))
        rows = gather_rows(rows)
        indices = torch.cat(self._indices).cpu() if self._indices else torch.zeros(0).long()
        indices = gather_rows(indices.long())
        if len(indices) != len(rows):
            return rows
        _, first = np.unique(indices.numpy(), return_index=True)
        return rows[torch.from_numpy(first)]

    def _rank(
        self, y_true: NDArray[np.float64], y_score: NDArray[np.float64]
    ) -> tuple[float, float]:
        if not 0 < y_true.sum() < y_true.size:
            if not self._was_warned:
                _logger.warning(
                    "roc_auc and average_precision are undefined (nan): "
                    "%d images, %d of them positive",
                    y_true.size,
                    int(y_true.sum()),
                )
            self._was_warned = True
            return math.nan, math.nan
        # scikit-learn takes a second to import, and a trainer needs none of it.
        from sklearn.metrics import average_precision_score, roc_auc_score

        return float(roc_auc_score(y_true, y_score)), float(
            average_precision_score(y_true, y_score)
        )


def attach_metrics(
    evaluator: Engine,
    loss_fn: Callable[[Tensor, Tensor], Tensor] | None = None,
    *,
    device: torch.device | str = "cpu",
) -> EvaluationMetrics:
    """Attach the metric set to an evaluator.

    Args:
        evaluator: An engine whose output is `(y_score, y_true)`.
        loss_fn: Logits and labels, both float32 `(N,)`, to a mean loss; null for no `loss`.
        device: Where `loss_fn` has its buffers.

    Returns:
        The metric set.
    """
    metrics = EvaluationMetrics(loss_fn, device)
    metrics.attach(evaluator)
    return metrics
