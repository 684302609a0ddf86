"""Scoring films with a run's best weights and a stored threshold: the verbs `validate` and `test`.

Neither can choose a threshold: they read the one that `fit` or `recalibrate` stored.
"""

from __future__ import annotations

import contextlib
import logging
import re
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from cxrignite.data import Film, XrayData
from cxrignite.engines import create_evaluator
from cxrignite.engines.session import Session, open_session
from cxrignite.errors import DataError, NonFiniteError, RecipeError
from cxrignite.functional.shift import ShiftCheck, check_shift
from cxrignite.handlers import (
    Attachable,
    BoardWriter,
    FeatureCollector,
    GracefulStop,
    ProgressLine,
    ScoreCollector,
)
from cxrignite.handlers.prediction_writer import write_predictions
from cxrignite.nn import BinaryClassifier
from cxrignite.recipe import DataRecipe, Recipe
from cxrignite.reporting.tables import alarm, indented, score_table, statement_lines
from cxrignite.reporting.wording import (
    alarm_of_evaluation,
    alarm_of_rule,
    check_rule,
    describe_repetition,
    describe_rule,
    describe_shift,
)
from cxrignite.runs.checkpoints import load_best
from cxrignite.runs.decision_rule import DecisionRule
from cxrignite.runs.evaluation import Evaluation
from cxrignite.runs.reference import Reference
from cxrignite.runs.run_folder import RunFolder
from cxrignite.runs.scores import SplitScores
from cxrignite.workflows.assessment import assess, judge
from cxrignite.workflows.films import frozen_films, other_films
from cxrignite.workflows.illustrations import illustrate_scores
from cxrignite.workflows.parts import (
    Computing,
    build_data,
    build_model,
    check_image_size,
    choose_computing,
)

_logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Scoring:
    """What is to be scored, and how it is told.

    Attributes:
        split: `val`, `calibration` or `test`.
        name: Name of the results in the run folder.
        same_films: Take the films from the run's `split.csv`; else those of the recipe's source.
        operating_point: The site whose operating point decides; null is the run's own.
        subgroups: A regular expression with named groups, searched in each film's name; null takes
            the attributes that the source gives.
    """

    split: str
    name: str
    same_films: bool = True
    operating_point: str | None = None
    subgroups: re.Pattern[str] | None = None
    tells_decision: bool = True

    @property
    def is_judged(self) -> bool:
        """Whether these films had no part in the run, so that its promises are held to them."""
        return self.split == "test" or not self.same_films


def score(recipe: Recipe, run_dir: Path, scoring: Scoring) -> None:
    """Score one split of a run, or another source's films, and write the results.

    Args:
        recipe: The run's own recipe; its source may be another one.
        run_dir: The run folder.
        scoring: Which films, under which name, by which operating point.

    Raises:
        RunFolderError: The folder is in use, its run did not finish, or it has no such operating
            point.
        RecipeError: The subgroups' pattern fits no film.
        DataError: There is no film to score, or a film changed since the run.
        CheckpointError: The best weights are missing or damaged.
    """
    settings = recipe.trainer
    with open_session(settings.device, settings.profile) as session:
        _score(recipe, RunFolder(run_dir), scoring, session)


def _score(recipe: Recipe, folder: RunFolder, scoring: Scoring, session: Session) -> None:
    split, name = scoring.split, scoring.name
    with contextlib.ExitStack() as stack:
        if session.leads:
            stack.enter_context(folder.lock())
            stack.enter_context(folder.logging())
        rule = folder.read_rule(scoring.operating_point)
        best = load_best(folder.best_path)
        if scoring.is_judged:  # damage is refused before anything is written
            folder.read_reference(scoring.operating_point)
            folder.read_looks()
        films = films_to_score(recipe.data, folder, scoring)
        _subgroups(films, scoring.subgroups)  # refused before the films are looked at
        data = build_data(recipe.data, films, recipe.seed, device=session.device)
        stack.callback(data.close)
        computing = choose_computing(recipe.trainer, session)
        model = build_model(recipe.model, computing, best.weights)
        check_image_size(model, data.image_size, is_restored=True)
        scores = score_split(model, data, split, computing, shows=session.leads)
        if not session.leads:
            return
        board = BoardWriter(folder.tensorboard_dir)
        stack.callback(board.close)
        publish(scores, rule, folder, scoring, board, step=best.epoch)
        _logger.info(
            "written to %s and %s", folder.predictions_path(name), folder.metrics_path(name)
        )


def films_to_score(data: DataRecipe, folder: RunFolder, scoring: Scoring) -> list[Film]:
    """The films of a split or of another source, checked, without those that chose the threshold.

    Args:
        data: The run's own; its source may be another one.
        folder: The run.
        scoring: Which films, by which operating point.

    Raises:
        DataError: There is no film to score, one changed since the run, or one took part in it.
    """
    if scoring.same_films:
        films = frozen_films(data, folder, scoring.split)
    else:
        films = other_films(data, folder, scoring.split)
    films = [film for film in films if film.split == scoring.split]
    if not films:
        raise DataError(f"{data.source.root} has no {scoring.split} films to score")
    return _not_used(films, folder, scoring.operating_point)


def publish(
    scores: SplitScores,
    rule: DecisionRule,
    folder: RunFolder,
    scoring: Scoring,
    board: BoardWriter,
    step: int,
) -> None:
    """Write predictions, metrics, figures and TensorBoard entries, and print the table.

    Args:
        scores: What was scored.
        rule: The threshold, and the scale of the scores.
        folder: Where the files go.
        scoring: Their name, and the subgroups.
        board: Open to be written to.
        step: The epoch of the weights.
    """
    name = scoring.name
    write_scores(folder, name, scores, rule)
    evaluation = assess(scores, rule, _subgroups(scores.films, scoring.subgroups))
    if scoring.is_judged:
        shift = _shift_from(folder.read_reference(scoring.operating_point), scores)
        evaluation = replace(
            evaluation,
            shift=shift,
            certificate=judge(scores, rule, shift),
            num_evaluations=folder.count_look(scores.films),
        )
    folder.write_evaluation(name, evaluation)
    illustrate_scores(folder, name, scores, evaluation, board, step)
    sys.stdout.write("\n".join(_lines(name, scores, evaluation, scoring)) + "\n")


def _lines(name: str, scores: SplitScores, evaluation: Evaluation, scoring: Scoring) -> list[str]:
    """Lay out an evaluation for the terminal: alarms, the table, remarks."""
    lines = [score_table(name, scores.classes, evaluation)]
    remarks = []
    if scoring.tells_decision:
        alarms = alarm_of_rule(evaluation.rule), alarm_of_evaluation(name, evaluation)
        lines = [*alarm(alarms[0]), *alarm(alarms[1]), *lines]
        remarks = [describe_rule(evaluation.rule)]
    if evaluation.shift is not None:
        remarks.append(describe_shift(evaluation.shift))
    remarks.append(describe_repetition(evaluation))
    remarks = [indented(remark) for remark in remarks if remark]
    return [
        *lines,
        *([""] if remarks else []),
        *remarks,
        *statement_lines(check_rule(name, evaluation)),
    ]


def write_scores(folder: RunFolder, name: str, scores: SplitScores, rule: DecisionRule) -> None:
    """Write every film's score on both scales and its decision as CSV.

    Args:
        folder: The run.
        name: Of the films.
        scores: The scores.
        rule: The threshold and the natural scale.
    """
    write_predictions(
        folder.predictions_path(name),
        [{"path": film.name, "patient": film.patient} for film in scores.films],
        scores.y_score,
        scores.y_true,
        np.arange(scores.num_images),
        rule.threshold,
        rule.imbalance.natural(scores.y_score),
        folder.files.write,
    )


def score_split(
    model: BinaryClassifier,
    data: XrayData,
    split: str,
    computing: Computing,
    *,
    shows: bool = False,
    handlers: Sequence[Attachable] = (),
) -> SplitScores:
    """Score the films of one split, each once, whatever the number of processes.

    Args:
        model: The classifier.
        data: The films.
        split: Which of them.
        computing: Settings of the forward pass.
        shows: True to show a progress bar in a terminal.
        handlers: Attached to the evaluator, beside those that collect.

    Returns:
        The same on every process.

    Raises:
        NonFiniteError: A score is NaN or infinite.
    """
    evaluator = create_evaluator(
        model,
        **computing._asdict(),
        batch_size=data.eval_batch_size(split),
    )
    GracefulStop().attach(evaluator)
    collector = ScoreCollector.on(evaluator)
    features = FeatureCollector(model.head)
    features.attach(evaluator)
    for handler in handlers:
        handler.attach(evaluator)
    if shows and sys.stderr.isatty():
        ProgressLine(f"score {split}").attach(evaluator)
    evaluator.run(data.eval_loader(split))
    y_score, y_true, _ = collector.gather()
    num_strange = int((~np.isfinite(y_score)).sum())
    if num_strange:
        raise NonFiniteError(f"{num_strange} of {len(y_score)} scores are NaN or infinite")
    return SplitScores(data.films(split), data.classes, y_score, y_true, features.gather()[0])


def _not_used(films: list[Film], folder: RunFolder, site: str | None) -> list[Film]:
    """Leave out the films that chose a site's operating point: it is not judged by them."""
    if site is None:
        return films
    used = {film.sha256 for film in folder.read_site_films(site)}
    left = [film for film in films if film.sha256 not in used]
    if len(left) < len(films):
        _logger.info(
            "%d films chose the operating point %s: left out", len(films) - len(left), site
        )
    if not left:
        raise DataError(f"all {len(films)} films chose the operating point {site}: none is left")
    return left


def _shift_from(reference: Reference | None, scores: SplitScores) -> ShiftCheck | None:
    if reference is None:
        return None
    new = Reference.of(scores)
    return check_shift(reference.features, new.features, reference.patients, new.patients)


def _subgroups(
    films: Sequence[Film], pattern: re.Pattern[str] | None
) -> Sequence[Mapping[str, str]]:
    """What subgroups each film belongs to.

    Raises:
        RecipeError: The pattern fits no film.
    """
    if pattern is None:
        return [film.attributes for film in films]
    matches = [pattern.search(film.name) for film in films]
    if not any(matches):
        raise RecipeError(
            f"--subgroups '{pattern.pattern}' fits none of {len(films)} names, "
            f"such as {films[0].name}"
        )
    return [
        {key: value for key, value in match.groupdict().items() if value} if match else {}
        for match in matches
    ]
