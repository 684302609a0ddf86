"""Metrics of trainers and evaluators, once per epoch and over all processes."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from ignite.engine import Engine, Events
from numpy.typing import NDArray
from torch import Tensor

from cxrignite.functional.findings import finding_names, rank_findings
from cxrignite.functional.gathering import (
    EpochScores,
    gather_images,
    gather_rows,
    image_index,
    scores_of,
)

# Metrics of every evaluator; `loss` only if it has a loss function.
EVALUATION_METRICS = ("loss", "roc_auc", "average_precision")

_RANKS = ("roc_auc", "average_precision")

_logger = logging.getLogger(__name__)

# Number of losses to keep before they are summed: those of a million steps take half a gigabyte.
_MAX_LOSSES = 1024


def evaluation_metrics(findings: Sequence[str] = ()) -> tuple[str, ...]:
    """Return the names of the metrics of every evaluator; `loss` only if it has a loss function.

    Args:
        findings: Names of the findings.

    Returns:
        `EVALUATION_METRICS`; with several findings also `roc_auc_micro`, `roc_auc/NAME` and
        `average_precision/NAME` of each.

    Examples:
        >>> evaluation_metrics(["A", "B"])[3:]
        ('roc_auc_micro', 'roc_auc/A', 'roc_auc/B', 'average_precision/A', 'average_precision/B')
    """
    if len(findings) < 2:
        return EVALUATION_METRICS
    of_each = [f"{metric}/{name}" for metric in _RANKS for name in findings]
    return (*EVALUATION_METRICS, "roc_auc_micro", *of_each)


class EpochMeanLoss:
    """Mean loss of the images of an epoch, while the weights change.

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
        """Attach the metric to an engine.

        Args:
            engine: The trainer.
        """
        engine.add_event_handler(Events.EPOCH_STARTED, self._reset)
        engine.add_event_handler(Events.ITERATION_COMPLETED, self._collect)
        engine.add_event_handler(Events.EPOCH_COMPLETED, self._publish)

    def _reset(self) -> None:
        self._losses, self._sizes, self._sums, self._num_images = [], [], [], 0

    def _collect(self, engine: Engine) -> None:
        # Kept as tensors on the device, since reading a value would wait for the device.
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
    """Metrics of an evaluator, with each image counted once.

    Attach to: an evaluator, before handlers that read metrics at `EPOCH_COMPLETED`.

    Expects: `engine.state.output` to be `(y_score, y_true)`, each of shape `(N,)`, or `(N, K)` with
    NaN for unknown labels, the scores being probabilities; with a `loss_fn`, the logits in the same
    shape in `engine.state.logits`. The third part of a
    batch, if there is one, holds the indices of the images. Repeated images, which a distributed
    sampler adds as padding, are ignored.

    Publishes: `roc_auc` and `average_precision`, NaN if one class is absent; with a `loss_fn`
    also `loss`, the mean over images. With several findings the first two are means over the
    findings that have both classes; each finding also has `roc_auc/NAME` and
    `average_precision/NAME`, and all known labels together have `roc_auc_micro`. All processes
    publish the same numbers. The object is also `engine.state.score_source`: handlers read the
    epoch's scores from its `gather()`.

    Args:
        loss_fn: Function from logits and labels, both float32 `(N,)` or `(N, K)`, to a mean loss.
        device: Device of the buffers of `loss_fn`.
        findings: Names of several findings; without names they are numbered from 0.

    Raises:
        ValueError: During the run, if there is not one name for each column of scores.
    """

    def __init__(
        self,
        loss_fn: Callable[[Tensor, Tensor], Tensor] | None = None,
        device: torch.device | str = "cpu",
        findings: Sequence[str] = (),
    ) -> None:
        self._findings = findings
        self._loss_fn = loss_fn
        self._device = torch.device(device)
        self._rows: list[Tensor] = []
        self._indices: list[Tensor] = []
        self._gathered: tuple[EpochScores, Tensor] | None = None
        self._was_warned = False

    def attach(self, engine: Engine) -> None:
        """Attach the metrics to an engine.

        Args:
            engine: The evaluator.
        """
        engine.add_event_handler(Events.EPOCH_STARTED, self._reset)
        engine.add_event_handler(Events.ITERATION_COMPLETED, self._collect)
        engine.add_event_handler(Events.EPOCH_COMPLETED, self._publish)
        vars(engine.state)["score_source"] = self

    def gather(self) -> EpochScores:
        """Return the epoch's scores of all processes, each image once.

        This is a collective call: every process must make it, after the epoch's last batch.

        Returns:
            The scores; the same object until the next epoch.

        Raises:
            NonFiniteError: If a score is NaN or infinite.
            ValueError: If a score is outside `[0, 1]`, or a label is neither 0 nor 1.
        """
        return self._gather()[0]

    def _reset(self) -> None:
        self._rows, self._indices, self._gathered = [], [], None

    def _collect(self, engine: Engine) -> None:
        state: Any = engine.state
        y_score, y_true = state.output
        columns = [y_score, y_true] if self._loss_fn is None else [y_score, y_true, state.logits]
        self._rows.append(torch.column_stack([column.float() for column in columns]))
        self._indices.append(image_index(state.batch, len(y_score)))

    @torch.no_grad()
    def _publish(self, engine: Engine) -> None:
        scores, columns = self._gather()
        metrics = engine.state.metrics
        if self._loss_fn is not None:
            # Over all images at once, in the order of the indices, so that the result depends
            # neither on the batches nor on the processes.
            _, y_true, logits = (part.to(self._device) for part in columns.chunk(3, dim=1))
            if y_true.shape[1] == 1:
                y_true, logits = y_true[:, 0], logits[:, 0]
            metrics["loss"] = float(self._loss_fn(logits, y_true)) if len(logits) else math.nan
        if scores.y_true.ndim > 1:
            metrics.update(self._rank_findings(scores))
        else:
            metrics.update(zip(_RANKS, self._rank(scores.y_true, scores.y_score), strict=True))

    def _gather(self) -> tuple[EpochScores, Tensor]:
        """Return the scores, and scores, labels and logits as columns, float32 on the CPU."""
        if self._gathered is None:
            num_parts = 2 if self._loss_fn is None else 3
            empty = torch.zeros(0, num_parts)
            rows = torch.cat(self._rows).cpu() if self._rows else empty
            indices = torch.cat([torch.zeros(0, dtype=torch.int64), *self._indices])
            rows, indices = gather_images(rows, indices)
            self._gathered = scores_of(rows, indices, rows.shape[1] // num_parts), rows
            self._rows, self._indices = [], []
        return self._gathered

    def _rank_findings(self, scores: EpochScores) -> dict[str, float]:
        names = finding_names(self._findings, scores.y_true.shape[1])
        ranks = rank_findings(scores.y_score, scores.y_true)
        undefined = [
            name for name, area in zip(names, ranks.roc_auc, strict=True) if math.isnan(area)
        ]
        if undefined and not self._was_warned:
            _logger.warning(
                "roc_auc and average_precision are undefined (nan) for %s: images of both classes "
                "are needed",
                ", ".join(undefined),
            )
        self._was_warned = self._was_warned or bool(undefined)
        values = [ranks.roc_auc_macro, ranks.average_precision_macro, ranks.roc_auc_micro]
        values += [*ranks.roc_auc.tolist(), *ranks.average_precision.tolist()]
        _, *published = evaluation_metrics(names)
        return dict(zip(published, values, strict=True))

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
        # Imported here, since scikit-learn takes a second to import and a trainer does not need it.
        from sklearn.metrics import average_precision_score, roc_auc_score

        return float(roc_auc_score(y_true, y_score)), float(
            average_precision_score(y_true, y_score)
        )


def attach_metrics(
    evaluator: Engine,
    loss_fn: Callable[[Tensor, Tensor], Tensor] | None = None,
    *,
    device: torch.device | str = "cpu",
    findings: Sequence[str] = (),
) -> EvaluationMetrics:
    """Attach `EvaluationMetrics` to an evaluator.

    Args:
        evaluator: An engine whose output is `(y_score, y_true)`.
        loss_fn: Function from logits and labels, both float32 `(N,)` or `(N, K)`, to a mean loss;
            null for no `loss`.
        device: Device of the buffers of `loss_fn`.
        findings: Names of several findings; without names they are numbered from 0.

    Returns:
        The attached metrics.
    """
    metrics = EvaluationMetrics(loss_fn, device, findings)
    metrics.attach(evaluator)
    return metrics
