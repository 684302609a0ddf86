"""Films on their way from files to rows of the table, batch by batch."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from ignite.engine import Engine
from numpy.typing import NDArray
from tqdm import tqdm

from cxrignite.data import Film
from cxrignite.data.film_stream import FilmStream, ReadBatch
from cxrignite.data.pipeline import Pipeline
from cxrignite.data.reading import Size
from cxrignite.engines import BatchScorer
from cxrignite.errors import NonFiniteError
from cxrignite.handlers import GracefulStop
from cxrignite.recipe import DataRecipe
from cxrignite.reporting.wording import status
from cxrignite.runs.decision_rule import DecisionRule
from cxrignite.workflows.films import warn_of_nearly_blank
from cxrignite.workflows.predict.maps import MapDrawer
from cxrignite.workflows.predict.output import PredictionFile


@dataclass(frozen=True)
class Unscored:
    """Films that have no score yet.

    Attributes:
        films: At least one.
        patient_of: Tells whose a film is.
        pipeline: The run's.
        image_size: Rows and columns of the run's films after preprocessing.
    """

    films: Sequence[Film]
    patient_of: Callable[[Film], str]
    pipeline: Pipeline
    image_size: Size


def score_films(
    work: Unscored,
    scorer: BatchScorer,
    rule: DecisionRule,
    output: PredictionFile,
    drawer: MapDrawer | None,
    data: DataRecipe,
) -> None:
    """Score films in their order, and write each batch before the next is looked at.

    A signal ends it after the batch in work.

    Args:
        work: The films.
        scorer: The run's model, with batches of one size.
        rule: What turns a score into a decision.
        output: The open table.
        drawer: Draws the maps; null draws none.
        data: Names the worker processes.

    Raises:
        NonFiniteError: A score or a map is NaN or infinite.
        CxrIgniteError: The table cannot be written, or a worker process was killed.
        StopRequested: A signal asked for the end.
    """
    stream = FilmStream(
        work.films,
        work.pipeline,
        work.image_size,
        batch_size=scorer.batch_size,
        num_workers=data.num_workers,
        prefetch_factor=data.prefetch_factor,
        worker_timeout=data.worker_timeout,
    )
    num_before = output.num_rows
    # `disable=None` keeps the bar out of files.
    bar = tqdm(
        total=num_before + len(work.films),
        initial=num_before,
        desc="predict",
        unit="film",
        disable=None,
    )

    nearly_blank: list[str] = []

    def step(engine: Engine, batch: ReadBatch) -> None:
        rows = _rows(batch, work, scorer, rule, drawer, output.num_rows)
        failures = {work.films[each].name: why for each, why in batch.failures.items()}
        output.append(rows, failures)
        nearly_blank.extend(work.films[each].name for each in batch.nearly_blank)
        bar.update(len(rows) + len(failures))

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
    rule: DecisionRule,
    drawer: MapDrawer | None,
    first: int,
) -> list[Sequence[Any]]:
    """The rows of the films that were read; their maps are drawn by then."""
    if not batch.positions:
        return []
    films = [work.films[each] for each in batch.positions]
    patients = [work.patient_of(film) for film in films]
    y_score = scorer(batch.images)[0].cpu().double().numpy()
    _check_finite(films, y_score)
    natural = rule.imbalance.natural(y_score)
    threshold = rule.threshold
    rows: list[Sequence[Any]] = [
        (
            film.name,
            patient,
            repr(score),
            "" if natural is None else repr(float(natural[number])),
            # Decided on the raw score, as everywhere.
            "" if threshold is None else int(score >= threshold),
            "" if threshold is None else repr(threshold),
            status(rule),
        )
        for number, (film, patient, score) in enumerate(
            zip(films, patients, y_score.tolist(), strict=True)
        )
    ]
    if drawer is None:
        return rows
    drawn = drawer.draw(films, patients, batch.images, y_score, first)
    return [(*row, repr(each.raw_max), each.picture) for row, each in zip(rows, drawn, strict=True)]


def _check_finite(films: Sequence[Film], y_score: NDArray[np.float64]) -> None:
    strange = np.flatnonzero(~np.isfinite(y_score))
    if len(strange):
        raise NonFiniteError(f"the score of {films[strange[0]].name} is NaN or infinite")
