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
from cxrignite.functional import DEFAULT_PREVALENCES
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
from cxrignite.workflows.assessment import assess, check_certificate
from cxrignite.workflows.finished_run import load_run, open_folder
from cxrignite.workflows.parts import Computing, build_data, check_image_size
from cxrignite.workflows.plots import plot_scores
from cxrignite.workflows.records import frozen_records, other_records

_logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class EvaluationOptions:
    """Choice of the images to score, and of the results to print.

    Attributes:
        split: `val`, `calibration` or `test`.
        name: Name of the results in the run folder.
        same_images: Take the images from the run's `split.csv`; else from the recipe's source.
        operating_point: The site whose operating point is used; null is the run's own.
        subgroups: A regular expression with named groups, searched in each image's name; null takes
            the attributes from the source.
        prevalences: Shares of positives at which predictive values are computed, in (0, 1).
        prints_decision: Print the decision rule and its warnings with the table.
    """

    split: str
    name: str
    same_images: bool = True
    operating_point: str | None = None
    subgroups: re.Pattern[str] | None = None
    prevalences: Sequence[float] = DEFAULT_PREVALENCES
    prints_decision: bool = True

    @property
    def is_independent(self) -> bool:
        """True if these images had no part in the run, so that its certificate is checked."""
        return self.split == "test" or not self.same_images


def score(recipe: Recipe, run_dir: Path, options: EvaluationOptions) -> None:
    """Score one split of a run, or images of another source, and write the results.

    The recipe is that of the run; its source may be another one.

    Raises:
        RunFolderError: The folder is in use, its run did not finish, or it has no such operating
            point.
        RecipeError: The pattern of the subgroups matches no image.
        DataError: There is no image to score, or an image has changed since the run.
        CheckpointError: The best weights are missing or damaged.
    """
    folder, name, site = RunFolder(run_dir), options.name, options.operating_point
    with open_folder(folder, recipe.trainer) as (session, stack):
        run = load_run(folder, session, recipe.trainer, recipe.model, site)
        if options.is_independent:  # a damaged file is refused before anything is written
            folder.read_reference(site)
            folder.read_evaluation_counts()
        records = records_to_score(recipe.data, folder, options)
        _subgroups(
            records, options.subgroups
        )  # a wrong pattern is refused before the images are read
        data = build_data(recipe.data, records, recipe.seed, device=session.device)
        stack.callback(data.close)
        check_image_size(run.model, data.image_size, is_restored=True)
        scores = score_split(
            run.model, data, options.split, run.computing, shows=session.is_main_process
        )
        if session.is_main_process:
            board = TensorBoardWriter(folder.tensorboard_dir)
            stack.callback(board.close)
            publish(scores, run.rule, folder, options, board, run.epoch)
            _logger.info(
                "written to %s and %s", folder.predictions_path(name), folder.metrics_path(name)
            )


def records_to_score(
    data: DataRecipe, folder: RunFolder, options: EvaluationOptions
) -> list[ImageRecord]:
    """Return the checked records to score, without those that chose the operating point.

    Raises:
        DataError: There is no image to score, one has changed since the run, or was used in it.
    """
    if options.same_images:
        records = frozen_records(data, folder, options.split)
    else:
        records = other_records(data, folder, options.split)
    records = [record for record in records if record.split == options.split]
    if not records:
        raise DataError(f"{data.source.root} must have {options.split} images to score, got none")
    return _not_used(records, folder, options.operating_point)


def publish(
    scores: SplitScores,
    rule: DecisionRule,
    folder: RunFolder,
    options: EvaluationOptions,
    board: TensorBoardWriter,
    step: int,
) -> None:
    """Write predictions, metrics, figures and TensorBoard entries, and print the table."""
    name = options.name
    write_scores(folder, name, scores, rule)
    evaluation = assess(
        scores, rule, _subgroups(scores.records, options.subgroups), options.prevalences
    )
    if options.is_independent:
        shift = _shift_from(folder.read_reference(options.operating_point), scores)
        evaluation = replace(
            evaluation,
            shift=shift,
            certificate=check_certificate(scores, rule, shift),
            num_evaluations=folder.record_evaluation(scores.records),
        )
    folder.write_evaluation(name, evaluation)
    plot_scores(folder, name, scores, evaluation, board, step)
    sys.stdout.write("\n".join(_lines(name, scores, evaluation, options)) + "\n")


def _lines(
    name: str, scores: SplitScores, evaluation: Evaluation, options: EvaluationOptions
) -> list[str]:
    """Format an evaluation for the terminal: alarms, the table, remarks."""
    lines = [score_table(name, scores.classes, evaluation)]
    remarks = []
    if options.prints_decision:
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
    """Write the score, the probability and the decision of every image as CSV."""
    write_predictions(
        folder.predictions_path(name),
        [{"path": record.name, "patient": record.patient} for record in scores.records],
        scores.y_score,
        scores.y_true,
        np.arange(scores.num_images),
        rule.threshold,
        rule.prior_shift.probability(scores.y_score),
        folder.files.write,
        lower=rule.lower_threshold,
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
    """Score the images of one split, each once, on any number of processes.

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
        raise NonFiniteError(
            f"scores must be finite, got {num_not_finite} of {len(y_score)} NaN or infinite"
        )
    return SplitScores(data.records(split), data.classes, y_score, y_true, features.gather()[0])


def _not_used(records: list[ImageRecord], folder: RunFolder, site: str | None) -> list[ImageRecord]:
    """Leave out the images that chose a site's operating point: they cannot test it."""
    if site is None:
        return records
    used = {record.sha256 for record in folder.read_site_records(site)}
    left = [record for record in records if record.sha256 not in used]
    if len(left) < len(records):
        _logger.info(
            "left out %d images that chose the operating point %s", len(records) - len(left), site
        )
    if not left:
        raise DataError(
            f"all {len(records)} images chose the operating point {site}; "
            "evaluate it on other images"
        )
    return left


def _shift_from(reference: Reference | None, scores: SplitScores) -> ShiftCheck | None:
    if reference is None:
        return None
    new = Reference.of(scores)
    return check_shift(reference.features, new.features, reference.patients, new.patients)


def _subgroups(
    records: Sequence[ImageRecord], pattern: re.Pattern[str] | None
) -> Sequence[Mapping[str, str]]:
    """Return the subgroups of each image, by attribute."""
    if pattern is None:
        return [record.attributes for record in records]
    matches = [pattern.search(record.name) for record in records]
    if not any(matches):
        raise RecipeError(
            f"--subgroups must match the name of an image, got '{pattern.pattern}', which matches "
            f"none of {len(records)} names, such as {records[0].name}"
        )
    return [
        {key: value for key, value in match.groupdict().items() if value} if match else {}
        for match in matches
    ]
