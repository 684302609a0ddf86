"""Scoring films with a run's best weights and stored threshold: the verbs `validate` and `test`.

Neither can choose a threshold: they read the one that `fit` stored.
"""

from __future__ import annotations

import contextlib
import logging
import sys
from collections.abc import Iterable
from pathlib import Path

from ignite.engine import Events
from ignite.handlers import ProgressBar
from torch import nn

from cxrignite.data import XrayData
from cxrignite.engines import EVALUATION_METRICS, choose_precision, create_evaluator
from cxrignite.errors import DataError
from cxrignite.functional import OperatingPoint
from cxrignite.handlers import (
    Attachable,
    BoardWriter,
    GracefulStop,
    PredictionWriter,
    ScoreCollector,
    ThresholdSearch,
    load_checkpoint,
)
from cxrignite.nn import BinaryClassifier
from cxrignite.recipe import Recipe
from cxrignite.workflows.parts import build_data, build_loss, build_model, frozen_films, other_films
from cxrignite.workflows.run_folder import RunFolder
from cxrignite.workflows.scores import SplitScores
from cxrignite.workflows.session import Session, open_session

_logger = logging.getLogger(__name__)


def score(recipe: Recipe, run_dir: Path, split: str, *, name: str, same_films: bool = True) -> None:
    """Score one split of a run, or another source's films, and write the results under `name`.

    Args:
        recipe: The run's own recipe; its source may be another one.
        run_dir: The run folder.
        split: `val` or `test`.
        name: Name of the results in the run folder.
        same_films: Take the films from the run's `split.csv`; else those of the recipe's source.

    Raises:
        RunFolderError: The folder is in use, or its run did not finish.
        DataError: There is no film to score, or a film changed since the run.
        CheckpointError: The best weights are missing or damaged.
    """
    folder = RunFolder(run_dir)
    settings = recipe.trainer
    with (
        open_session(settings.device, settings.profile) as session,
        contextlib.ExitStack() as stack,
    ):
        if session.leads:
            stack.enter_context(folder.lock())
            stack.enter_context(folder.logging())
        point = folder.read_operating_point()
        best = load_checkpoint(folder.checkpoints_dir / "best.pt")  # the threshold is of no other
        films = (
            frozen_films(recipe, folder, split)
            if same_films
            else other_films(recipe, folder, split)
        )
        if not any(film.split == split for film in films):
            raise DataError(f"{recipe.data.source.root} has no {split} films to score")
        data = stack.enter_context(contextlib.closing(build_data(recipe, films)))
        model = build_model(recipe, session.device, best["model"])
        path = folder.predictions_path(name)
        scores = score_split(
            model,
            build_loss(recipe, data, session.device) if same_films else None,
            data,
            split,
            recipe=recipe,
            session=session,
            point=point,
            predictions_path=path,
        )
        if session.leads:
            board = BoardWriter(folder.tensorboard_dir)
            stack.callback(board.close)
            scores.write(folder, name, board, step=best["epoch"])
            sys.stdout.write(f"{scores.table(name)}\n")
            _logger.info("written to %s and %s", path, folder.metrics_path(name))


def score_split(
    model: BinaryClassifier,
    loss: nn.Module | None,
    data: XrayData,
    split: str,
    *,
    recipe: Recipe,
    session: Session,
    handlers: Iterable[Attachable] = (),
    point: OperatingPoint | None = None,
    predictions_path: Path,
) -> SplitScores:
    """Score the films of one split, each once, whatever the number of processes.

    Args:
        model: The classifier.
        loss: Published as a metric where given.
        data: The films.
        split: Which of them.
        recipe: Precision, memory order and device.
        session: Where to compute.
        handlers: Attached to the evaluator; a `ThresholdSearch` among them chooses the threshold.
        point: The stored operating point, where none is to be chosen.
        predictions_path: The CSV of scores and decisions.
    """
    evaluator = create_evaluator(
        model,
        loss,
        device=session.device,
        precision=choose_precision(recipe.trainer.precision, session.device),
        channels_last=recipe.trainer.channels_last,
    )
    GracefulStop().attach(evaluator)
    collector = ScoreCollector.on(evaluator)
    for handler in handlers:
        handler.attach(evaluator)
    if session.leads and sys.stderr.isatty():
        ProgressBar(desc=f"score {split}").attach(evaluator)
    films = data.films(split)
    rows = [{"path": film.name, "patient": film.patient} for film in films]
    writer = PredictionWriter(predictions_path, rows, point.threshold if point else None)
    searches = [handler for handler in handlers if isinstance(handler, ThresholdSearch)]

    @evaluator.on(Events.EPOCH_COMPLETED)
    def decide_at_the_threshold_just_found() -> None:
        for search in searches:
            writer.threshold = search.operating_point.threshold if search.operating_point else None

    writer.attach(evaluator)
    evaluator.run(data.eval_loader(split))
    y_score, y_true, _ = collector.gather()
    published = evaluator.state.metrics
    metrics = {name: float(published[name]) for name in EVALUATION_METRICS if name in published}
    point = searches[-1].operating_point if searches else point
    return SplitScores(films, data.classes, y_score, y_true, metrics, point)
