"""First table of the report of a run with several findings: one row for each."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from cxrignite.reporting.numbers import UNDEFINED, Figure, decimal_estimate, share_text, zone_text
from cxrignite.reporting.wording import RuleStatement
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
