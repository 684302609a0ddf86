"""Score images with a run's best weights and a stored threshold: commands `validate` and `test`.

Neither can choose a threshold: they read the one that `fit` or `recalibrate` stored.
"""

from __future__ import annotations

import logging
import re
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from cxrignite.data import ImageRecord, XrayData
from cxrignite.engines import create_evaluator
from cxrignite.errors import DataError, NonFiniteError, RecipeError
from cxrignite.functional.shift import ShiftCheck, check_shift
from cxrignite.handlers import (
    Attachable,
    FeatureCollector,
    GracefulStop,
    ProgressLine,
    ScoreCollector,
    TensorBoardWriter,
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
from cxrignite.runs.decision_rule import DecisionRule
from cxrignite.runs.evaluation import Evaluation
from cxrignite.runs.reference import Reference
from cxrignite.runs.run_folder import RunFolder
from cxrignite.runs.scores import SplitScores
from cxrignite.workflows.assessment import assess, judge
from cxrignite.workflows.finished_run import load_run, open_folder
from cxrignite.workflows.parts import Computing, build_data, check_image_size
from cxrignite.workflows.plots import plot_scores
from cxrignite.workflows.records import frozen_records, other_records

_logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class EvaluationOptions:
    """What is to be scored, and how it is told.

    Attributes:
        split: `val`, `calibration` or `test`.
        name: Name of the results in the run folder.
        same_images: Take the images from the run's `split.csv`; else those of the recipe's source.
        operating_point: The site whose operating point decides; null is the run's own.
        subgroups: A regular expression with named groups, searched in each image's name; null takes
            the attributes that the source gives.
    """

    split: str
    name: str
    same_images: bool = True
    operating_point: str | None = None
    subgroups: re.Pattern[str] | None = None
    prints_decision: bool = True

    @property
    def is_judged(self) -> bool:
        """Whether these images had no part in the run, so that its promises are held to them."""
        return self.split == "test" or not self.same_images


def score(recipe: Recipe, run_dir: Path, scoring: EvaluationOptions) -> None:
    """Score one split of a run, or another source's images, and write the results.

    Args:
        recipe: The run's own recipe; its source may be another one.
        run_dir: The run folder.
        scoring: Which images, under which name, by which operating point.

    Raises:
        RunFolderError: The folder is in use, its run did not finish, or it has no such operating
            point.
        RecipeError: The subgroups' pattern fits no image.
        DataError: There is no image to score, or an image changed since the run.
        CheckpointError: The best weights are missing or damaged.
    """
    folder, name, site = RunFolder(run_dir), scoring.name, scoring.operating_point
    with open_folder(folder, recipe.trainer) as (session, stack):
        run = load_run(folder, session, recipe.trainer, recipe.model, site)
        if scoring.is_judged:  # damage is refused before anything is written
            folder.read_reference(site)
            folder.read_evaluation_counts()
        records = records_to_score(recipe.data, folder, scoring)
        _subgroups(records, scoring.subgroups)  # refused before the images are looked at
        data = build_data(recipe.data, records, recipe.seed, device=session.device)
        stack.callback(data.close)
        check_image_size(run.model, data.image_size, is_restored=True)
        scores = score_split(
            run.model, data, scoring.split, run.computing, shows=session.is_main_process
        )
        if session.is_main_process:
            board = TensorBoardWriter(folder.tensorboard_dir)
            stack.callback(board.close)
            publish(scores, run.rule, folder, scoring, board, run.epoch)
            _logger.info(
                "written to %s and %s", folder.predictions_path(name), folder.metrics_path(name)
            )


def records_to_score(
    data: DataRecipe, folder: RunFolder, scoring: EvaluationOptions
) -> list[ImageRecord]:
    """The images of a split or of another source, checked, without those that chose the threshold.

    Args:
        data: The run's own; its source may be another one.
        folder: The run.
        scoring: Which images, by which operating point.

    Raises:
        DataError: There is no image to score, one changed since the run, or one took part in it.
    """
    if scoring.same_images:
        records = frozen_records(data, folder, scoring.split)
    else:
        records = other_records(data, folder, scoring.split)
    records = [record for record in records if record.split == scoring.split]
    if not records:
        raise DataError(f"{data.source.root} has no {scoring.split} images to score")
    return _not_used(records, folder, scoring.operating_point)


def publish(
    scores: SplitScores,
    rule: DecisionRule,
    folder: RunFolder,
    scoring: EvaluationOptions,
    board: TensorBoardWriter,
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
    evaluation = assess(scores, rule, _subgroups(scores.records, scoring.subgroups))
    if scoring.is_judged:
        shift = _shift_from(folder.read_reference(scoring.operating_point), scores)
        evaluation = replace(
            evaluation,
            shift=shift,
            certificate=judge(scores, rule, shift),
            num_evaluations=folder.record_evaluation(scores.records),
        )
    folder.write_evaluation(name, evaluation)
    plot_scores(folder, name, scores, evaluation, board, step)
    sys.stdout.write("\n".join(_lines(name, scores, evaluation, scoring)) + "\n")


def _lines(
    name: str, scores: SplitScores, evaluation: Evaluation, scoring: EvaluationOptions
) -> list[str]:
    """Lay out an evaluation for the terminal: alarms, the table, remarks."""
    lines = [score_table(name, scores.classes, evaluation)]
    remarks = []
    if scoring.prints_decision:
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
    """Write every image's score on both scales and its decision as CSV.

    Args:
        folder: The run.
        name: Of the images.
        scores: The scores.
        rule: The threshold and the natural scale.
    """
    write_predictions(
        folder.predictions_path(name),
        [{"path": record.name, "patient": record.patient} for record in scores.records],
        scores.y_score,
        scores.y_true,
        np.arange(scores.num_images),
        rule.threshold,
        rule.prior_shift.probability(scores.y_score),
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
    """Score the images of one split, each once, whatever the number of processes.

    Args:
        model: The classifier.
        data: The images.
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
    num_not_finite = int((~np.isfinite(y_score)).sum())
    if num_not_finite:
        raise NonFiniteError(f"{num_not_finite} of {len(y_score)} scores are NaN or infinite")
    return SplitScores(data.records(split), data.classes, y_score, y_true, features.gather()[0])


def _not_used(records: list[ImageRecord], folder: RunFolder, site: str | None) -> list[ImageRecord]:
    """Leave out the images that chose a site's operating point: it is not judged by them."""
    if site is None:
        return records
    used = {record.sha256 for record in folder.read_site_records(site)}
    left = [record for record in records if record.sha256 not in used]
    if len(left) < len(records):
        _logger.info(
            "%d images chose the operating point %s: left out", len(records) - len(left), site
        )
    if not left:
        raise DataError(f"all {len(records)} images chose the operating point {site}: none is left")
    return left


def _shift_from(reference: Reference | None, scores: SplitScores) -> ShiftCheck | None:
    if reference is None:
        return None
    new = Reference.of(scores)
    return check_shift(reference.features, new.features, reference.patients, new.patients)


def _subgroups(
    records: Sequence[ImageRecord], pattern: re.Pattern[str] | None
) -> Sequence[Mapping[str, str]]:
    """What subgroups each image belongs to.

    Raises:
        RecipeError: The pattern fits no image.
    """
    if pattern is None:
        return [record.attributes for record in records]
    matches = [pattern.search(record.name) for record in records]
    if not any(matches):
        raise RecipeError(
            f"--subgroups '{pattern.pattern}' fits none of {len(records)} names, "
            f"such as {records[0].name}"
        )
    return [
        {key: value for key, value in match.groupdict().items() if value} if match else {}
        for match in matches
    ]
