"""CSV file with the score, the probability and the decision of every image."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import ignite.distributed as idist
import numpy as np
from ignite.engine import Engine, Events
from numpy.typing import NDArray

from cxrignite.csv_text import csv_bytes
from cxrignite.durable_write import write_durably
from cxrignite.functional.confusion import decide
from cxrignite.handlers.attachable import Attachable
from cxrignite.handlers.score_collector import ScoreCollector

ToProbability = Callable[[NDArray[np.float64]], NDArray[np.float64] | None]

_COLUMNS = ("label", "score", "probability", "decision")


class PredictionWriter(Attachable):
    """Writer of one CSV row per image: its known facts, label, scores and decision.

    *Attach to* an evaluator.
    *Expects* `state.output` to be `(y_score, y_true)` of shape `(N,)`, and `state.batch[2]` to be
    the index of each image into `rows`.
    *Publishes* the file.

    Args:
        path: The CSV file; only rank 0 writes it.
        rows: Known facts of each image, by index; every row has the same keys, for example `path`
            and `patient`. They become the first columns, before `label`, `score`, `probability` and
            `decision`.
        threshold: The decision is `positive` for scores of at least this value, in `[0, 1]`.
            Without a threshold the column is empty. May be set later, up to the epoch's end.
        lower: The decision is `negative` for scores below it, and `refer` between the two; without
            it, it is `negative` for all scores below `threshold`. May be set later too.
        probability: Converts scores to probabilities at the training prevalence, such as
            `PriorShift.probability`. Without it, or if it returns None, the column is empty.

    Raises:
        ValueError: If a key of `rows` is a column of the file.

    Examples:
        >>> import torch
        >>> from tempfile import TemporaryDirectory
        >>> evaluator = Engine(lambda engine, batch: (torch.tensor([0.25, 0.75]), batch[1]))
        >>> labels, index = torch.tensor([0.0, 1.0]), torch.tensor([0, 1])
        >>> with TemporaryDirectory() as folder:
        ...     rows = [{"path": "a.png"}, {"path": "b.png"}]
        ...     PredictionWriter(f"{folder}/test.csv", rows, threshold=0.5).attach(evaluator)
        ...     state = evaluator.run([(None, labels, index)])
        ...     Path(f"{folder}/test.csv").read_text().split()[1:]
        ['a.png,0,0.25,,negative', 'b.png,1,0.75,,positive']
    """

    def __init__(
        self,
        path: Path | str,
        rows: Sequence[Mapping[str, str]],
        threshold: float | None = None,
        probability: ToProbability | None = None,
        lower: float | None = None,
    ) -> None:
        _check_names(rows)
        self.path = Path(path)
        self.rows = rows
        self.threshold = threshold
        self.probability = probability
        self.lower = lower

    def attach(self, engine: Engine) -> None:
        """Write the file after every epoch of `engine`; attaching twice acts once.

        Args:
            engine: The evaluator.
        """
        if not engine.has_event_handler(self._write, Events.EPOCH_COMPLETED):
            ScoreCollector.on(engine)
            engine.add_event_handler(Events.EPOCH_COMPLETED, self._write)

    def _write(self, engine: Engine) -> None:
        y_score, y_true, index = ScoreCollector.on(engine).gather()
        if idist.get_rank() == 0:
            probability = None if self.probability is None else self.probability(y_score)
            write_predictions(
                *(self.path, self.rows, y_score, y_true, index, self.threshold, probability),
                lower=self.lower,
            )


def _check_names(rows: Sequence[Mapping[str, str]]) -> None:
    if taken := set(rows[0] if rows else ()) & set(_COLUMNS):
        raise ValueError(
            f"rows must not name {', '.join(sorted(taken))}: the file has these columns itself"
        )


def write_predictions(
    path: Path | str,
    rows: Sequence[Mapping[str, str]],
    y_score: NDArray[np.float64],
    y_true: NDArray[np.int64],
    index: NDArray[np.int64],
    threshold: float | None = None,
    probability: NDArray[np.float64] | None = None,
    write: Callable[[Path, bytes], None] = write_durably,
    *,
    lower: float | None = None,
) -> None:
    """Write one CSV row per image, in the order of `index`.

    Args:
        path: The CSV file.
        rows: Known facts of each image, by index; all have the same keys.
        y_score: Probabilities of the positive class, shape `(N,)`.
        y_true: Labels, 0 or 1, shape `(N,)`.
        index: Positions in `rows`, shape `(N,)`.
        threshold: The decision is `positive` for scores of at least this value; without a threshold
            the column is empty.
        probability: Probabilities at the training prevalence, shape `(N,)`; without them the
            column is empty.
        write: Writes content to a path, completely or not at all.
        lower: The decision is `negative` for scores below it, and `refer` between the two.

    Raises:
        ValueError: If an index is missing or outside `rows`, or a key of `rows` is a column of the
            file.
        CxrIgniteError: If the file cannot be written.
    """
    if (index < 0).any():
        raise ValueError("predictions need the index of each image, got none in state.batch[2]")
    if (index >= len(rows)).any():
        raise ValueError(f"index must be below {len(rows)}, the number of rows, got {index.max()}")
    _check_names(rows)
    known = list(rows[0]) if rows else []
    table: list[Sequence[object]] = [[*known, *_COLUMNS]]
    for position in np.argsort(index, kind="stable").tolist():
        row, score = rows[index[position]], float(y_score[position])
        cell = "" if probability is None else repr(float(probability[position]))
        # Decided on the score: probabilities keep the order except for rounding.
        decision = "" if threshold is None else decide(score, threshold, lower)
        about = [row[name] for name in known]
        table.append([*about, int(y_true[position]), repr(score), cell, decision])
    write(Path(path), csv_bytes(table))
