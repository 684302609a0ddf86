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

from cxrignite.functional.gathering import (
    EpochScores,
    gather_images,
    gather_rows,
    image_index,
    scores_of,
)

# What every evaluator publishes; `loss` where it is given a loss.
EVALUATION_METRICS = ("loss", "roc_auc", "average_precision")

_logger = logging.getLogger(__name__)

# Losses kept before they become one sum: half a gigabyte of them lies in an epoch of a million.
_MAX_LOSSES = 1024


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
        self._sums: list[Tensor] = []
        self._num_images = 0

    def attach(self, engine: Engine) -> None:
        """Start counting.

        Args:
            engine: The trainer.
        """
        engine.add_event_handler(Events.EPOCH_STARTED, self._reset)
        engine.add_event_handler(Events.ITERATION_COMPLETED, self._collect)
        engine.add_event_handler(Events.EPOCH_COMPLETED, self._publish)

    def _reset(self) -> None:
        self._losses, self._sizes, self._sums, self._num_images = [], [], [], 0

    def _collect(self, engine: Engine) -> None:
        # Kept as tensors on the device: reading each would wait for it, step by step.
        state: Any = engine.state
        self._losses.append(state.output)
        self._sizes.append(len(state.batch[1]))
        if len(self._losses) == _MAX_LOSSES:
            self._sum_up()

    def _sum_up(self) -> None:
        sizes = torch.tensor(self._sizes, dtype=torch.float64)
        self._sums.append(torch.stack(self._losses).cpu().double() @ sizes)
        self._num_images += sum(self._sizes)
        self._losses, self._sizes = [], []

    def _publish(self, engine: Engine) -> None:
        if self._losses:
            self._sum_up()
        total = torch.stack(self._sums).sum()
        both = torch.stack([total, torch.tensor(self._num_images, dtype=torch.float64)])
        total, num_images = gather_rows(both[None]).sum(0)
        engine.state.metrics["loss"] = (total / num_images).item()


class EvaluationMetrics:
    """The one metric set of every evaluator, over each image once.

    Attach to: an evaluator, before handlers that read metrics at `EPOCH_COMPLETED`.

    Expects: `engine.state.output` to be `(y_score, y_true)`, each of shape `(N,)`, scores being
    probabilities; with a `loss_fn`, the logits `(N,)` in `engine.state.logits`. Where a batch has
    a third part it is the images' indices, and repeats (a distributed sampler pads with them) are
    left out.

    Publishes: `roc_auc` and `average_precision`, NaN if one class is absent; with a `loss_fn`
    also `loss`, the mean over images. All processes publish the same numbers. It is the engine's
    `state.score_source` too: handlers take the epoch's scores from its `gather()`.

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
        self._gathered: tuple[EpochScores, Tensor] | None = None
        self._was_warned = False

    def attach(self, engine: Engine) -> None:
        """Start counting.

        Args:
            engine: The evaluator.
        """
        engine.add_event_handler(Events.EPOCH_STARTED, self._reset)
        engine.add_event_handler(Events.ITERATION_COMPLETED, self._collect)
        engine.add_event_handler(Events.EPOCH_COMPLETED, self._publish)
        vars(engine.state)["score_source"] = self

    def gather(self) -> EpochScores:
        """Join the epoch's scores over all processes, each image once.

        It is a collective call: every process of a group makes it, after the epoch's last batch.

        Returns:
            The scores; the same object until the next epoch.

        Raises:
            NonFiniteError: If a score is NaN or infinite.
            ValueError: If a score is outside `[0, 1]`, or a label neither 0 nor 1.
        """
        return self._gather()[0]

    def _reset(self) -> None:
        self._rows, self._indices, self._gathered = [], [], None

    def _collect(self, engine: Engine) -> None:
        state: Any = engine.state
        y_score, y_true = state.output
        columns = [y_score, y_true] if self._loss_fn is None else [y_score, y_true, state.logits]
        self._rows.append(torch.stack([column.float() for column in columns], dim=1))
        self._indices.append(image_index(state.batch, len(y_score)))

    @torch.no_grad()
    def _publish(self, engine: Engine) -> None:
        scores, columns = self._gather()
        metrics = engine.state.metrics
        if self._loss_fn is not None:
            # In one piece and in the order of the indices, so that the number depends neither on
            # the batches nor on the processes.
            y_true, logits = (column.to(self._device) for column in columns[:, 1:].unbind(1))
            metrics["loss"] = float(self._loss_fn(logits, y_true)) if len(logits) else math.nan
        metrics["roc_auc"], metrics["average_precision"] = self._rank(scores.y_true, scores.y_score)

    def _gather(self) -> tuple[EpochScores, Tensor]:
        """Return the scores, and scores, labels and logits as columns, float32 on the CPU."""
        if self._gathered is None:
            empty = torch.zeros(0, 2 if self._loss_fn is None else 3)
            rows = torch.cat(self._rows).cpu() if self._rows else empty
            indices = torch.cat([torch.zeros(0, dtype=torch.int64), *self._indices])
            rows, indices = gather_images(rows, indices)
            self._gathered = scores_of(rows, indices), rows
            self._rows, self._indices = [], []
        return self._gathered

    def _rank(self, y_true: NDArray[np.int64], y_score: NDArray[np.float64]) -> tuple[float, float]:
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
