"""Rows of the tables of a report and a model card: decisions, ranking, calibration, subgroups."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

from cxrignite.data.sources import UNKNOWN
from cxrignite.reporting.numbers import (
    UNDEFINED,
    Figure,
    count_text,
    decimal_estimate,
    observed_share,
    plain_percent,
    score_text,
    share_estimate,
    share_text,
    zone_text,
)
from cxrignite.reporting.wording import read_evaluation, split_name
from cxrignite.runs.evaluation import Averages, ClassDecisions, Decisions, Estimate, Evaluation
from cxrignite.runs.run_results import RunResults
from cxrignite.terminal import counted

MAX_SUBGROUPS = 60
"""Maximum number of rows of the subgroup table; an attribute may have many values."""

CALIBRATION_SCALES = {
    "score": "Score",
    "probability": "Probability",
    "platt": "Platt scaling",
    "temperature": "Temperature scaling",
}


class Cell(NamedTuple):
    """Cell of a confusion matrix: number of images, and their share of its row."""

    num_images: str
    share: Figure
    is_right: bool


class ConfusionTable(NamedTuple):
    """Decisions at one threshold, or at two.

    Attributes:
        title: Name of the threshold.
        columns: Titles of the columns.
        rows: A class and its cells, each with its kind.
    """

    title: str
    columns: Sequence[str]
    rows: Sequence[tuple[str, Sequence[tuple[str, Cell]]]]


class RateRow(NamedTuple):
    """Figure at two thresholds or on several sets of images, with both its intervals."""

    name: str
    meaning: str
    by_image: Sequence[Figure]
    by_patient: Sequence[Figure]


class Measure(NamedTuple):
    """Named figure on several scales."""

    name: str
    meaning: str
    figures: Sequence[Figure]


class SubgroupRow(NamedTuple):
    """Rates of one subgroup at the threshold."""

    name: str
    size: str
    tnr: Figure
    tpr: Figure
    roc_auc: Figure


class Observation(NamedTuple):
    """Rates of a set of images at the threshold.

    Attributes:
        images: Name of the images.
        size: Number of images by class, and of patients.
        threshold: The threshold as text.
        tnr: Specificity.
        tpr: Sensitivity.
        reading: Comparison with the guarantee.
    """

    images: str
    size: str
    threshold: str = UNDEFINED
    tnr: Figure = Figure()
    tpr: Figure = Figure()
    reading: str = ""


class ClassTable(NamedTuple):
    """Decisions among exclusive classes.

    Attributes:
        classes: Names of the classes.
        rows: A class and its cells.
        measures: Accuracy, balanced accuracy and kappa.
    """

    classes: Sequence[str]
    rows: Sequence[tuple[str, Sequence[Cell]]]
    measures: Sequence[Measure]


def confusion_tables(evaluation: Evaluation, classes: tuple[str, str]) -> list[ConfusionTable]:
    """Lay out the decisions at 0.5 and, if one was chosen, at the threshold."""
    negative, positive = classes
    tables = []
    for title, each in _decided(evaluation):
        columns = [f"called {negative}", f"called {positive}"]
        rn, rp = each.num_referred
        rows = [
            [
                ("true negatives", _cell(each.tn, each.fp + rn, is_right=True)),
                ("false positives", _cell(each.fp, each.tn + rn)),
            ],
            [
                ("false negatives", _cell(each.fn, each.tp + rp)),
                ("true positives", _cell(each.tp, each.fn + rp, is_right=True)),
            ],
        ]
        if each.lower_threshold is not None:
            columns.insert(1, "referred to a reader")
            rows[0].insert(1, ("referred", _cell(rn, each.tn + each.fp, is_right=True)))
            rows[1].insert(1, ("referred", _cell(rp, each.fn + each.tp, is_right=True)))
        tables.append(ConfusionTable(title, columns, list(zip(classes, rows, strict=True))))
    return tables


def _decided(evaluation: Evaluation) -> list[tuple[str, Decisions]]:
    """Return the thresholds with their titles."""
    both = [("Threshold 0.5", evaluation.at_half)]
    if evaluation.at_threshold is not None:
        each = evaluation.at_threshold
        title = f"Chosen threshold {score_text(each.threshold)}"
        if each.lower_threshold is not None:
            title = f"Referred: {zone_text(each.threshold, each.lower_threshold)}"
        both.append((title, each))
    return both


def _cell(count: int, rest: int, *, is_right: bool = False) -> Cell:
    return Cell(count_text(count), observed_share(count, rest), is_right)


def rate_rows(evaluation: Evaluation, classes: tuple[str, str]) -> list[RateRow]:
    """Lay out the rates at both thresholds."""
    negative, positive = classes
    refers = evaluation.at_threshold and evaluation.at_threshold.lower_threshold is not None
    of_negatives, of_positives = f"called {negative}", f"called {positive}"
    if refers:
        of_negatives, of_positives = f"not called {positive}", f"not called {negative}"
    meanings = [
        ("tnr", "Specificity (TNR)", f"share of {negative} images {of_negatives}"),
        ("tpr", "Sensitivity (TPR)", f"share of {positive} images {of_positives}"),
        (
            "ppv",
            "Positive predictive value",
            f"share of images called {positive} that are {positive}",
        ),
        (
            "npv",
            "Negative predictive value",
            f"share of images called {negative} that are {negative}",
        ),
        (
            "balanced_accuracy",
            "Balanced accuracy",
            "mean of specificity and sensitivity" + (", a referral counts half" if refers else ""),
        ),
        (
            "accuracy",
            "Accuracy",
            f"share of all {'other ' if refers else ''}images called correctly",
        ),
    ]
    if refers:
        meanings += [
            ("referred", "Referred", "share of all images"),
            ("negatives_referred", f"{negative} referred", f"share of {negative} images"),
            ("positives_referred", f"{positive} referred", f"share of {positive} images"),
        ]
    rows = []
    for key, name, meaning in meanings:
        rates: list[Estimate] = [
            getattr(each, key) or Estimate(0.0) for _, each in _decided(evaluation)
        ]
        by_image = [share_text(rate) for rate in rates]
        by_patient = [share_estimate(rate.value, rate.by_patient) for rate in rates]
        rows.append(RateRow(name, meaning, by_image, by_patient))
    return rows


def prevalence_rows(evaluation: Evaluation, classes: tuple[str, str]) -> list[RateRow]:
    """Lay out PPV and NPV at the threshold at each prevalence."""
    return [
        RateRow(
            f"If {plain_percent(each.prevalence)} of the images are {classes[1]}",
            "",
            [share_text(value) for value in values],
            [share_estimate(value.value, value.by_patient) for value in values],
        )
        for each in evaluation.at_prevalences
        for values in [[value for value in (each.ppv, each.npv, each.referred) if value]]
    ]


def ranking_rows(evaluations: Mapping[str, Evaluation]) -> tuple[list[str], list[RateRow]]:
    """Lay out AUC and average precision of every set of images.

    Returns:
        The names of the images, and one row per measure with a figure for each of them.
    """
    usual = [name for name in ("val", "calibration", "test") if name in evaluations]
    names = [*usual, *sorted(evaluations.keys() - set(usual))]
    rows = (
        (
            "AUC",
            "probability that a positive image scores above a negative one; 0.5 is guessing",
            [evaluations[name].roc_auc for name in names],
        ),
        (
            "Average precision",
            "area under the precision-recall curve; depends on the share of positives",
            [evaluations[name].average_precision for name in names],
        ),
    )
    return [split_name(name) for name in names], [
        RateRow(
            name,
            meaning,
            [decimal_estimate(each.value, each.interval) for each in estimates],
            [decimal_estimate(each.value, each.by_patient) for each in estimates],
        )
        for name, meaning, estimates in rows
    ]


def calibration_rows(evaluation: Evaluation) -> tuple[list[str], list[Measure]]:
    """Lay out the calibration of scores and probabilities.

    Returns:
        The names of the scales, and one row per measure with a figure on each of them.
    """
    scales = [each for each in CALIBRATION_SCALES if each in evaluation.calibration]
    rows = (
        ("brier", "Brier score", "mean squared difference from the label; 0 is best"),
        (
            "ece",
            "Expected calibration error",
            "mean gap between the value and the observed share of positives; 0 is best",
        ),
        ("calibration_slope", "Calibration slope", "below 1: values too extreme; 1 is best"),
        ("calibration_intercept", "Calibration intercept", "below 0: values too high; 0 is best"),
    )
    measures = []
    for key, name, meaning in rows:
        estimates: list[Estimate] = [
            getattr(evaluation.calibration[scale], key) for scale in scales
        ]
        figures = [decimal_estimate(each.value, each.by_patient) for each in estimates]
        measures.append(Measure(name, meaning, figures))
    return [CALIBRATION_SCALES[scale] for scale in scales], measures


def subgroup_rows(
    evaluation: Evaluation, classes: tuple[str, str]
) -> tuple[list[SubgroupRow], int]:
    """Lay out the subgroups at the threshold.

    Returns:
        The first `MAX_SUBGROUPS` rows, and the number of further subgroups.
    """
    rows = []
    for group in evaluation.subgroups[:MAX_SUBGROUPS]:
        sizes = (
            (group.num_negative, classes[0]),
            (group.num_positive, classes[1]),
            (group.num_patients, "patients"),
        )
        size = ", ".join(f"{number:,} {what}" for number, what in sizes if number)
        area = decimal_estimate(group.roc_auc.value, group.roc_auc.interval)
        name = f"{group.attribute}: {group.value or UNDEFINED}"
        rows.append(SubgroupRow(name, size, share_text(group.tnr), share_text(group.tpr), area))
    return rows, len(evaluation.subgroups) - len(rows)


def observation_rows(results: RunResults) -> list[Observation]:
    """Lay out the rates of each set of images, first of those the threshold was chosen on."""
    evaluations, classes = results.evaluations, results.classes
    chosen_on = results.rule.chosen_on if results.rule else "val"
    usual = [chosen_on, "val", "calibration", "test"]
    rows = []
    for name in dict.fromkeys([*usual, *evaluations]):
        each = evaluations.get(name)
        if each is not None:
            decisions = each.at_threshold
            rows.append(
                Observation(
                    split_name(name),
                    _size(each.num_negative, each.num_positive, each.num_patients, classes),
                    zone_text(decisions.threshold, decisions.lower_threshold)
                    if decisions
                    else UNDEFINED,
                    share_text(decisions.tnr) if decisions else Figure(),
                    share_text(decisions.tpr) if decisions else Figure(),
                    read_evaluation(name, each),
                )
            )
        elif name == "test" and "test" in results.split_names:
            records = [
                record
                for record in results.records
                if record.split == "test" and record.label != UNKNOWN
            ]
            positives = sum(record.label == 1 for record in records)
            patients = {record.patient for record in records}
            size = _size(len(records) - positives, positives, len(patients), classes)
            rows.append(Observation("test", size, reading="not evaluated"))
    return rows


def _size(negatives: int, positives: int, patients: int, classes: tuple[str, str]) -> str:
    return f"{negatives:,} {classes[0]}, {positives:,} {classes[1]}, {counted(patients, 'patient')}"


def average_rows(averages: Averages) -> list[Measure]:
    """Lay out the macro and the micro average of each measure."""
    rows = (
        (
            "AUC",
            "probability that a positive image scores above a negative one; 0.5 is guessing",
            (averages.roc_auc, averages.roc_auc_micro),
        ),
        (
            "Average precision",
            "area under the precision-recall curve; depends on the share of positives",
            (averages.average_precision, averages.average_precision_micro),
        ),
        (
            "F1 at the thresholds",
            "harmonic mean of positive predictive value and sensitivity; 1 is best",
            (averages.f1, averages.f1_micro),
        ),
    )
    return [
        _row(name, meaning, [each for each in estimates if each is not None])
        for name, meaning, estimates in rows
        if None not in estimates
    ]


def class_table(decisions: ClassDecisions, classes: Sequence[str]) -> ClassTable:
    """Lay out the decisions among exclusive classes, by the highest probability."""
    rows = [
        (
            name,
            [
                Cell(
                    count_text(count),
                    observed_share(count, sum(counts) - count),
                    is_right=column == row,
                )
                for column, count in enumerate(counts)
            ],
        )
        for row, (name, counts) in enumerate(zip(classes, decisions.counts, strict=True))
    ]
    shares = (
        ("Accuracy", "share of images in the right class", decisions.accuracy),
        (
            "Balanced accuracy",
            "mean over the classes of the share of images in the right class",
            decisions.balanced_accuracy,
        ),
    )
    measures = [
        Measure(name, meaning, [share_estimate(each.value, each.by_patient)])
        for name, meaning, each in shares
    ]
    kappa = _row("Kappa", "agreement beyond chance; 0 is chance, 1 is best", [decisions.kappa])
    return ClassTable(classes, rows, [*measures, kappa])


def _row(name: str, meaning: str, estimates: Sequence[Estimate]) -> Measure:
    figures = [decimal_estimate(each.value, each.by_patient) for each in estimates]
    return Measure(name, meaning, figures)
