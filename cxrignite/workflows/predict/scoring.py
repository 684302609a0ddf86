"""Scoring of images, batch by batch, into rows of the table."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from ignite.engine import Engine
from numpy.typing import NDArray
from tqdm import tqdm

from cxrignite.data import ImageRecord
from cxrignite.data.image_stream import ImageStream, ReadBatch
from cxrignite.data.pipeline import Pipeline
from cxrignite.data.reading import Size
from cxrignite.engines import BatchScorer
from cxrignite.errors import NonFiniteError
from cxrignite.handlers import GracefulStop
from cxrignite.recipe import DataRecipe
from cxrignite.reporting.wording import status
from cxrignite.runs.decision_rule import DecisionRule
from cxrignite.workflows.predict.maps import MapDrawer
from cxrignite.workflows.predict.output import PredictionFile
from cxrignite.workflows.records import warn_of_nearly_blank


@dataclass(frozen=True)
class Unscored:
    """Images without a score.

    Attributes:
        records: At least one.
        patient_of: Returns the patient of an image.
        pipeline: The run's pipeline.
        image_size: Rows and columns of the run's images after preprocessing.
    """

    records: Sequence[ImageRecord]
    patient_of: Callable[[ImageRecord], str]
    pipeline: Pipeline
    image_size: Size


def score_images(
    work: Unscored,
    scorer: BatchScorer,
    rules: Sequence[DecisionRule],
    output: PredictionFile,
    drawers: Sequence[MapDrawer],
    data: DataRecipe,
    prevalence: float | None = None,
) -> None:
    """Score images in order, and write each batch before the next is scored.

    A signal ends it after the current batch.

    Args:
        work: The images.
        scorer: The run's model, with a fixed batch size.
        rules: The decision rule of each finding.
        output: The open table.
        drawers: Draw the maps of each finding; empty if none are requested.
        data: Settings of the worker processes.
        prevalence: Share of positives for the probabilities, in (0, 1); None is that of the
            training images.

    Raises:
        NonFiniteError: A score or a map is NaN or infinite.
        CxrIgniteError: The table cannot be written, or a worker process was killed.
        StopRequested: A signal has arrived.
    """
    stream = ImageStream(
        work.records,
        work.pipeline,
        work.image_size,
        batch_size=scorer.batch_size,
        num_workers=data.num_workers,
        prefetch_factor=data.prefetch_factor,
        worker_timeout=data.worker_timeout,
    )
    num_before = output.num_rows
    # `disable=None` hides the bar if stderr is not a terminal.
    bar = tqdm(
        total=num_before + len(work.records),
        initial=num_before,
        desc="predict",
        unit="image",
        disable=None,
    )

    nearly_blank: list[str] = []

    def step(engine: Engine, batch: ReadBatch) -> None:
        rows = _rows(batch, work, scorer, rules, drawers, output.num_rows, prevalence)
        failures = {work.records[each].name: text for each, text in batch.failures.items()}
        output.append(rows, failures)
        nearly_blank.extend(work.records[each].name for each in batch.nearly_blank)
        bar.update(len(rows) // len(rules) + len(failures))

    engine = Engine(step)
    GracefulStop().attach(engine)
    try:
        engine.run(stream, max_epochs=1)
    finally:
        bar.close()
        stream.close()
        warn_of_nearly_blank(data.grey_scaling, nearly_blank, output.num_rows - num_before)


def _rows(
    batch: ReadBatch,
    work: Unscored,
    scorer: BatchScorer,
    rules: Sequence[DecisionRule],
    drawers: Sequence[MapDrawer],
    first: int,
    prevalence: float | None,
) -> list[Sequence[Any]]:
    """Return the rows of the readable images of a batch, by image, after drawing their maps."""
    if not batch.positions:
        return []
    records = [work.records[each] for each in batch.positions]
    patients = [work.patient_of(record) for record in records]
    scores = scorer(batch.images)[0].cpu().double().numpy().reshape(len(records), len(rules))
    _check_finite(records, scores)
    columns = []
    for index, rule in enumerate(rules):
        y_score = np.ascontiguousarray(scores[:, index])
        cells = _cells(rule, y_score, prevalence)
        if drawers:
            drawn = drawers[index].draw(records, patients, batch.images, y_score, first)
            cells = [
                (*row, repr(each.raw_max), each.picture)
                for row, each in zip(cells, drawn, strict=True)
            ]
        columns.append([(rule.finding, *row) for row in cells] if len(rules) > 1 else cells)
    by_image = zip(records, patients, zip(*columns, strict=True), strict=True)
    return [
        (record.name, patient, *cells)
        for record, patient, of_image in by_image
        for cells in of_image
    ]


def _cells(
    rule: DecisionRule, y_score: NDArray[np.float64], prevalence: float | None
) -> list[tuple[str, ...]]:
    """Return score, probability, decision, thresholds and status of each image."""
    probability = rule.prior_shift.probability(y_score, prevalence)
    upper, lower = rule.threshold, rule.lower_threshold
    return [
        (
            repr(score),
            "" if probability is None else repr(float(probability[number])),
            # Decided on the score, as in all other results.
            rule.decide(score) or "",
            "" if upper is None else repr(upper),
            "" if lower is None else repr(lower),
            status(rule),
        )
        for number, score in enumerate(y_score.tolist())
    ]


def _check_finite(records: Sequence[ImageRecord], scores: NDArray[np.float64]) -> None:
    not_finite = np.flatnonzero(~np.isfinite(scores).all(axis=1))
    if len(not_finite):
        raise NonFiniteError(
            f"scores must be finite, got NaN or infinity for {records[not_finite[0]].name}"
        )
