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
from cxrignite.functional.confusion import HIGHEST_CLASS, decide, highest_class
from cxrignite.functional.findings import finding_names
from cxrignite.functional.image_choice import UNKNOWN_LABEL
from cxrignite.handlers.attachable import Attachable
from cxrignite.handlers.score_collector import ScoreCollector

ToProbability = Callable[[NDArray[np.float64]], NDArray[np.float64] | None]

Thresholds = float | Sequence[float | None] | None
"""Threshold, or one for each finding; null makes no decision."""

_COLUMNS = ("label", "score", "probability", "decision")


class PredictionWriter(Attachable):
    """Writer of one CSV row per image: its known facts, label, scores and decision.

    With several findings there is a row for each image and finding, and a column `finding` after
    `patient`, or after all known facts if there is no `patient`.

    *Attach to* an evaluator.
    *Expects* `state.output` to be `(y_score, y_true)` of shape `(N,)` or `(N, K)`, and
    `state.batch[2]` to be the index of each image into `rows`.
    *Publishes* the file.

    Args:
        path: The CSV file; only rank 0 writes it.
        rows: Known facts of each image, by index; every row has the same keys, for example `path`
            and `patient`. They become the first columns, before `label`, `score`, `probability` and
            `decision`.
        threshold: The decision is `positive` for scores of at least this value, in `[0, 1]`.
            Without a threshold the column is empty. With several findings, one for each or the
            same for all. May be set later, up to the epoch's end.
        lower: The decision is `negative` for scores below it, and `refer` between the two; without
            it, it is `negative` for all scores below `threshold`. In the same form; may be set
            later too.
        probability: Converts scores, of shape `(N,)` or `(N, K)`, to probabilities at the training
            prevalence in the same shape, such as `PriorShift.probability`. Without it, or if it
            returns None, the column is empty.
        findings: Names of several findings; without names they are numbered from 0.

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
        threshold: Thresholds = None,
        probability: ToProbability | None = None,
        lower: Thresholds = None,
        findings: Sequence[str] = (),
    ) -> None:
        _check_names(rows)
        self.path = Path(path)
        self.rows = rows
        self.threshold = threshold
        self.probability = probability
        self.lower = lower
        self.findings = findings

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
                findings=self.findings,
            )


def _check_names(rows: Sequence[Mapping[str, str]], columns: Sequence[str] = _COLUMNS) -> None:
    if taken := set(rows[0] if rows else ()) & set(columns):
        raise ValueError(
            f"rows must not name {', '.join(sorted(taken))}: the file has these columns itself"
        )


def write_predictions(
    path: Path | str,
    rows: Sequence[Mapping[str, str]],
    y_score: NDArray[np.float64],
    y_true: NDArray[np.int64],
    index: NDArray[np.int64],
    threshold: Thresholds = None,
    probability: NDArray[np.float64] | None = None,
    write: Callable[[Path, bytes], None] = write_durably,
    *,
    lower: Thresholds = None,
    findings: Sequence[str] = (),
    classes: Sequence[str] = (),
) -> None:
    """Write one CSV row per image, in the order of `index`; of several findings one for each.

    Args:
        path: The CSV file.
        rows: Known facts of each image, by index; all have the same keys.
        y_score: Probabilities of the positive class, shape `(N,)` or `(N, K)`.
        y_true: Labels, 0 or 1, in the same shape; with several findings -1 if unknown.
        index: Positions in `rows`, shape `(N,)`.
        threshold: The decision is `positive` for scores of at least this value; without a threshold
            the column is empty. With several findings, one for each or the same for all.
        probability: Probabilities at the training prevalence, in the shape of `y_score`; without
            them the column is empty.
        write: Writes content to a path, completely or not at all.
        lower: The decision is `negative` for scores below it, and `refer` between the two.
        findings: Names of several findings; without names they are numbered from 0.
        classes: Names of exclusive classes, the first one without a score. They add the column
            `highest_class`, the class of the highest score; without them there is no such column.

    Raises:
        ValueError: If an index is missing or outside `rows`, a key of `rows` is a column of the
            file, or there is not one name or threshold for each finding.
        CxrIgniteError: If the file cannot be written.
    """
    if (index < 0).any():
        raise ValueError("predictions need the index of each image, got none in state.batch[2]")
    if (index >= len(rows)).any():
        raise ValueError(f"index must be below {len(rows)}, the number of rows, got {index.max()}")
    is_several = y_score.ndim > 1
    results = (*_COLUMNS, HIGHEST_CLASS) if classes else _COLUMNS
    columns = ("finding", *results) if is_several else results
    _check_names(rows, columns)
    known = list(rows[0]) if rows else []
    # The finding stands beside the patient; the other facts follow.
    place = known.index("patient") + 1 if "patient" in known else len(known)
    names = finding_names(findings, y_score.shape[1]) if is_several else [""]
    upper_of, lower_of = (_one_for_each(each, len(names)) for each in (threshold, lower))
    shape = len(y_score), len(names)
    scores, labels = y_score.reshape(shape), y_true.reshape(shape)
    probabilities = None if probability is None else probability.reshape(shape)
    header = [*known[:place], *(["finding"] if is_several else []), *known[place:], *results]
    table: list[Sequence[object]] = [header]
    highest = [classes[each] for each in highest_class(scores)] if classes else None
    for position in np.argsort(index, kind="stable").tolist():
        row = rows[index[position]]
        about = [row[name] for name in known]
        for number, name in enumerate(names):
            score, label = float(scores[position, number]), int(labels[position, number])
            cell = "" if probabilities is None else repr(float(probabilities[position, number]))
            limit = upper_of[number]
            # Decided on the score: probabilities keep the order except for rounding.
            decision = "" if limit is None else decide(score, limit, lower_of[number])
            facts = [*about[:place], *([name] if is_several else []), *about[place:]]
            of_image = [] if highest is None else [highest[position]]
            shown = "" if label == UNKNOWN_LABEL else label
            table.append([*facts, shown, repr(score), cell, decision, *of_image])
    write(Path(path), csv_bytes(table))


def _one_for_each(threshold: Thresholds, num_findings: int) -> list[float | None]:
    if threshold is None or isinstance(threshold, int | float):
        return [threshold] * num_findings
    if len(threshold) != num_findings:
        raise ValueError(
            f"there must be one threshold for each of the {num_findings} findings, "
            f"got {len(threshold)}"
        )
    return list(threshold)
