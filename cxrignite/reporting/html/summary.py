"""Opening of the report of a run with several findings: findings, averages, exclusive classes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from cxrignite.reporting.html.tables import Cell, Measure
from cxrignite.reporting.numbers import (
    UNDEFINED,
    Figure,
    count_text,
    decimal_estimate,
    observed_share,
    share_estimate,
    share_text,
    zone_text,
)
from cxrignite.reporting.wording import RuleStatement
from cxrignite.runs.evaluation import Averages, ClassDecisions, Estimate
from cxrignite.runs.run_results import RunResults


class FindingRow(NamedTuple):
    """One of several findings in the first table of the page.

    Attributes:
        name: Name of the finding.
        anchor: Id of its section.
        size: Number of positive images, and of images with a known label.
        unknown: In how many of the images the label is known; empty if in all.
        roc_auc: Area under the ROC curve.
        threshold: The threshold as text, or both.
        tnr: Observed specificity.
        tpr: Observed sensitivity.
        tnr_terms: Guaranteed specificity.
        tpr_terms: Guaranteed sensitivity.
        status: Status of the threshold.
        problems: Further statements that limit the use of the threshold.
        is_alarming: True if the threshold is not usable, or its certificate is not valid.
    """

    name: str
    anchor: str
    size: str
    unknown: str
    roc_auc: Figure
    threshold: str
    tnr: Figure
    tpr: Figure
    tnr_terms: str
    tpr_terms: str
    status: str
    problems: tuple[str, ...]
    is_alarming: bool


def finding_row(
    results: RunResults,
    shown: str,
    anchor: str,
    rule: RuleStatement,
    problems: Sequence[str],
    *,
    is_invalid: bool,
) -> FindingRow:
    """Lay out one finding.

    Args:
        results: Results of the finding.
        shown: Name of the images.
        anchor: Id of the section of the finding.
        rule: Statement on its threshold.
        problems: Further statements that limit the use of the threshold.
        is_invalid: True if its certificate does not hold for some evaluated images.
    """
    evaluation = results.evaluations.get(shown)
    decisions = evaluation.at_threshold if evaluation else None
    num_images = sum(record.split == shown for record in results.records)
    num_unknown = max(num_images - evaluation.num_images, 0) if evaluation else 0
    guarantee = results.rule and results.rule.is_certified and results.rule.point
    return FindingRow(
        name=results.classes[1],
        anchor=anchor,
        size=f"{evaluation.num_positive:,} of {evaluation.num_images:,}"
        if evaluation
        else UNDEFINED,
        unknown=f"known in {evaluation.num_images:,} of {num_images:,} images"
        if evaluation and num_unknown
        else "",
        roc_auc=decimal_estimate(evaluation.roc_auc.value, evaluation.roc_auc.interval)
        if evaluation
        else Figure(),
        threshold=zone_text(results.rule.threshold, results.rule.lower_threshold)
        if results.rule
        else UNDEFINED,
        tnr=share_text(decisions.tnr) if decisions else Figure(),
        tpr=share_text(decisions.tpr) if decisions else Figure(),
        tnr_terms=f"guaranteed: {rule.guarantee}",
        tpr_terms=rule.tpr_terms
        if guarantee and guarantee.min_tpr is not None
        else "guaranteed: none",
        status=rule.title,
        problems=tuple(problems),
        is_alarming=bool(rule.alarms) or is_invalid,
    )


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
