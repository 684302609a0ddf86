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
from cxrignite.reporting.tables import findings_table, score_table, statement_lines
from cxrignite.reporting.text_table import alarm, indented
from cxrignite.reporting.wording import (
    alarm_of_evaluation,
    alarm_of_rule,
    check_rule,
    describe_missing_labels,
    describe_repetition,
    describe_rule,
    describe_shift,
)
from cxrignite.runs.decision_rule import DecisionRule, probabilities
from cxrignite.runs.evaluation import Evaluation, Evaluations
from cxrignite.runs.reference import Reference
from cxrignite.runs.run_folder import RunFolder
from cxrignite.runs.scores import FindingScores, SplitScores, results_name
from cxrignite.terminal import print_output
from cxrignite.workflows.assessment import assess, average, check_certificate
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
        run = load_run(folder, session, recipe, site)
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
            publish(scores, run.rules, folder, options, board, run.epoch)
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
        is_ensemble = options.split == "val" and folder.is_ensemble
        why = "; those of an ensemble are in its folds" if is_ensemble else ""
        raise DataError(
            f"{data.source.root} must have {options.split} images to score, got none{why}"
        )
    return _not_used(records, folder, options.operating_point)


def publish(
    scores: FindingScores,
    rules: Sequence[DecisionRule],
    folder: RunFolder,
    options: EvaluationOptions,
    board: TensorBoardWriter,
    step: int,
) -> None:
    """Write predictions, metrics, figures and TensorBoard entries, and print the table.

    `step` is the epoch of the weights.
    """
    name = options.name
    if scores.exclusive:
        known = [each for each in probabilities(rules, scores.y_score) if each is not None]
        scores = replace(scores, probability=np.stack(known, axis=1) if known else None)
    write_scores(folder, name, scores, rules)
    names = [record.name for record in scores.records]
    # Of all images at once: those with a known label of one finding may all lack a match.
    matched = dict(zip(names, _subgroups(scores.records, options.subgroups), strict=True))
    evaluations = []
    for each, rule in zip(scores, rules, strict=True):
        # Without a pattern these are the attributes, among them the mask of this finding only.
        groups = [
            matched[record.name] if options.subgroups else record.attributes
            for record in each.records
        ]
        evaluations.append(assess(each, rule, groups, options.prevalences))
    if options.is_independent:
        references = {
            is_of_site: folder.read_reference(options.operating_point if is_of_site else None)
            for is_of_site in {rule.is_of_site for rule in rules}
        }
        number = folder.record_evaluation(scores.records)
        new = Reference.of(scores)
        for index, each in enumerate(scores):
            # A finding that a site has no labels for has kept the run's threshold.
            shift = _shift_from(references[rules[index].is_of_site], new, index)
            evaluations[index] = replace(
                evaluations[index],
                shift=shift,
                certificate=check_certificate(each, rules[index], shift),
                num_evaluations=number,
            )
    result = Evaluations(tuple(evaluations), average(scores, rules))
    folder.write_evaluations(name, result)
    for index, each in enumerate(scores):
        of_one = results_name(name, scores.classes, index)
        plot_scores(folder, of_one, each, evaluations[index], board, step)
    if len(scores) == 1:
        lines = _lines(name, scores.of(0), evaluations[0], options)
    else:
        lines = _lines_of_findings(name, scores, result, options)
    print_output("\n".join(lines) + "\n")


def _lines_of_findings(
    name: str, scores: FindingScores, evaluations: Evaluations, options: EvaluationOptions
) -> list[str]:
    """Format the evaluations of several findings for the terminal: alarms, a table, remarks."""
    alarms, remarks = [], []
    for each in evaluations.findings if options.prints_decision else ():
        for text in (alarm_of_rule(each.rule), alarm_of_evaluation(name, each)):
            alarms += alarm(text, each.rule.finding)
    for each in evaluations.findings:
        if not each.num_images:
            remarks += ["", indented(describe_missing_labels(each.rule.finding))]
        statement = check_rule(name, each)
        if statement is not None:
            title = f"{each.rule.finding}: {statement.title}"
            remarks += statement_lines(replace(statement, title=title))
    repetition = describe_repetition(evaluations.findings[0])
    return [
        *alarms,
        findings_table(
            *(name, scores.classes, scores.num_images, len(set(scores.patients))), evaluations
        ),
        *(["", indented(repetition)] if repetition else []),
        *remarks,
    ]


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


def write_scores(
    folder: RunFolder,
    name: str,
    scores: FindingScores,
    rules: Sequence[DecisionRule],
    folds: Sequence[int] | None = None,
) -> None:
    """Write the score, the probability and the decision of every image and finding as CSV.

    `folds` is the fold of each image, for a column of its own.
    """
    about = [{"path": record.name, "patient": record.patient} for record in scores.records]
    if folds is not None:
        about = [{**each, "fold": str(fold)} for each, fold in zip(about, folds, strict=True)]
    known = [each for each in probabilities(rules, scores.y_score) if each is not None]
    # One finding has arrays without a second dimension, and no column of that name.
    shape = (-1, len(rules)) if len(rules) > 1 else (-1,)
    write_predictions(
        folder.predictions_path(name),
        about,
        scores.y_score.reshape(shape),
        scores.y_true.reshape(shape),
        np.arange(scores.num_images),
        [rule.threshold for rule in rules],
        np.stack(known, axis=1).reshape(shape) if len(known) == len(rules) else None,
        folder.files.write,
        lower=[rule.lower_threshold for rule in rules],
        findings=[rule.finding for rule in rules],
        classes=scores.classes if scores.exclusive else (),
    )


def score_split(
    model: BinaryClassifier,
    data: XrayData,
    split: str,
    computing: Computing,
    *,
    shows: bool = False,
    handlers: Sequence[Attachable] = (),
) -> FindingScores:
    """Score the images of one split with their views, each image once, on all processes.

    Raises:
        NonFiniteError: A score is NaN or infinite.
    """
    evaluator = create_evaluator(
        model,
        **computing._asdict(),
        batch_size=data.eval_batch_size(split),
        exclusive=data.exclusive,
        findings=data.findings if len(data.findings) > 1 else (),
        views=data.views,
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
    shape = len(y_score), len(data.findings)
    return FindingScores(
        *(data.records(split), data.classes, data.exclusive),
        *(y_score.reshape(shape), y_true.reshape(shape)),
        features.gather()[0],
    )


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


def _shift_from(reference: Reference | None, new: Reference, index: int) -> ShiftCheck | None:
    if reference is None:
        return None
    features, patients = reference.negatives(index)
    new_features, new_patients = new.negatives(index)
    return check_shift(features, new_features, patients, new_patients)


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
