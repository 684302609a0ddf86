"""One epoch's scores, labels and indices, collected once for all handlers of an evaluator."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from ignite.engine import Engine, Events
from torch import Tensor

from cxrignite.functional.gathering import (
    EpochScores,
    ScoreSource,
    gather_images,
    image_index,
    scores_of,
)
from cxrignite.handlers.attachable import Attachable


class ScoredBatch(NamedTuple):
    """Scores of the batch that an evaluator has just completed.

    Attributes:
        images: The first part of the batch, unchanged; None if the batch has no parts.
        y_score: Probabilities of the positive class, shape `(N,)`, float32; of several findings
            `(N, K)`.
        y_true: Labels, in the same shape, float32, on the device of the scores.
        index: Index of each image, shape `(N,)`, int64, on the CPU; `NO_INDEX` if there is none.
    """

    images: Any
    y_score: Tensor
    y_true: Tensor
    index: Tensor  # type: ignore[assignment]  # It hides `tuple.index`.


class ScoreCollector(Attachable):
    """Collector of an evaluator's output that does not synchronise the device during the epoch.

    Handlers that need scores add a collector to their engine if it has none. For an engine whose
    output or batch has another form, such as MONAI's, attach a collector with transforms before
    them. The handlers then need no transforms of their own.
    If the evaluator collects its scores itself, as `state.score_source`, those are used.

    *Attach to* an evaluator.
    *Expects* `state.output` to be `(y_score, y_true)`, each of shape `(N,)`, or `(N, K)` for K
    findings, whose labels may be NaN or -1 if unknown; and `state.batch[2]`, if there is one, to be
    the index of each image; or values that the transforms convert to these.
    *Publishes* nothing; `gather()` returns the epoch's scores.

    Args:
        output_transform: Converts `state.output` to `(y_score, y_true)`, each of shape `(N,)` or
            `(N, 1)`, of shape `(N, K)`, or a list of N numbers or tensors; null if no change is
            needed.
        batch_transform: Converts `state.batch` to `(images, labels, index)`, of which the last may
            be missing; null if no change is needed.

    Raises:
        ValueError: During the run, if the output or the index has another form.

    Examples:
        >>> evaluator = Engine(lambda engine, batch: batch)
        >>> collector = ScoreCollector.on(evaluator)
        >>> state = evaluator.run([(torch.tensor([0.25, 0.75]), torch.tensor([0.0, 1.0]))])
        >>> collector.gather().y_score
        array([0.25, 0.75])
    """

    def __init__(
        self,
        output_transform: Callable[[Any], Any] | None = None,
        batch_transform: Callable[[Any], Any] | None = None,
    ) -> None:
        self.output_transform = output_transform
        self.batch_transform = batch_transform
        self._rows: list[Tensor] = []
        self._index: list[Tensor] = []
        self._gathered: EpochScores | None = None
        self._source: ScoreSource | None = None

    @classmethod
    def on(cls, engine: Engine) -> ScoreCollector:
        """Return the collector of `engine`, shared by all its handlers so that they gather once.

        Args:
            engine: The evaluator; a collector is attached if it has none.

        Returns:
            The one collector of that engine.
        """
        collector = getattr(engine.state, "score_collector", None)
        if not isinstance(collector, cls):
            collector = cls()
            collector.attach(engine)
        return collector

    def attach(self, engine: Engine) -> None:
        """Collect every epoch of `engine` from now on; attaching twice acts once.

        Args:
            engine: The evaluator.

        Raises:
            ValueError: If `engine` has another collector.
        """
        if getattr(engine.state, "score_collector", self) is not self:
            raise ValueError(
                "an engine can have one ScoreCollector, got a second one; attach the one with "
                "transforms before the handlers that need scores"
            )
        source = getattr(engine.state, "score_source", None)
        self._source = source if isinstance(source, ScoreSource) else None
        is_collecting = engine.has_event_handler(self._append, Events.ITERATION_COMPLETED)
        if self._source is None and not is_collecting:
            engine.add_event_handler(Events.EPOCH_STARTED, self._reset)
            engine.add_event_handler(Events.ITERATION_COMPLETED, self._append)
        vars(engine.state)["score_collector"] = self

    def gather(self) -> EpochScores:
        """Join the epoch's scores over all processes, each image once.

        A collective call: every process of the group makes it, after the epoch's last batch.

        Returns:
            The scores; the same object until the next epoch.

        Raises:
            NonFiniteError: If a score is NaN or infinite.
            ValueError: If a score is outside `[0, 1]`, or a label has another value.
        """
        if self._source is not None:
            return self._source.gather()
        if self._gathered is None:
            pieces = [rows.cpu() for rows in self._rows]
            rows = torch.cat(pieces) if pieces else torch.empty(0, 2)
            index = torch.cat([torch.empty(0, dtype=torch.int64), *self._index])
            rows, index = gather_images(rows, index)
            self._gathered = scores_of(rows, index, rows.shape[1] // 2)
            self._rows, self._index = [], []
        return self._gathered

    def read(self, engine: Engine) -> ScoredBatch:
        """Read the batch that `engine` has just completed.

        Args:
            engine: The evaluator.

        Returns:
            Its images and scores, after the transforms.

        Raises:
            ValueError: If the output or the index has another form.
        """
        output: Any = engine.state.output
        batch: Any = engine.state.batch
        if self.output_transform is not None:
            output = self.output_transform(output)
        if self.batch_transform is not None:
            batch = self.batch_transform(batch)
        y_score, y_true = _score_and_label(output)
        images = batch[0] if isinstance(batch, list | tuple) and batch else None
        try:
            index = image_index(batch, len(y_score))
        except ValueError as error:
            raise ValueError(
                f"{error}; for an engine with another batch, attach "
                "ScoreCollector(batch_transform=...) before the handlers that need scores"
            ) from error
        return ScoredBatch(images, y_score, y_true, index)

    def _reset(self) -> None:
        self._rows, self._index, self._gathered = [], [], None

    def _append(self, engine: Engine) -> None:
        _, y_score, y_true, index = self.read(engine)
        # `column_stack` copies, as `image_index` does: the next batch may reuse the same memory.
        self._rows.append(torch.column_stack([y_score, y_true]))
        self._index.append(index)


def _score_and_label(output: Any) -> tuple[Tensor, Tensor]:
    try:
        y_score, y_true = map(_column, output)
        if y_score.shape != y_true.shape:
            if y_score.ndim == y_true.ndim == 1:
                raise ValueError(f"got {len(y_score)} scores and {len(y_true)} labels")
            raise ValueError(f"got shapes {tuple(y_score.shape)} and {tuple(y_true.shape)}")
    except (TypeError, ValueError, RuntimeError) as error:
        raise ValueError(
            "state.output must be (y_score, y_true), each of shape (N,) or (N, K), got "
            f"{type(output).__name__} ({error}); for an engine with another output, attach "
            "ScoreCollector(output_transform=...) before the handlers that need scores"
        ) from error
    return y_score, y_true.to(y_score.device)


def _column(values: Any) -> Tensor:
    if not isinstance(values, Tensor):
        values = torch.stack([torch.as_tensor(value) for value in values])
    is_column = values.numel() == len(values)
    if not is_column and values.ndim != 2:
        raise ValueError(f"got shape {tuple(values.shape)}")
    # A plain tensor: subclasses, such as MONAI's, carry more data than a number.
    column: Tensor = values.detach().as_subclass(Tensor).float()
    return column.flatten() if is_column else column
