"""Evaluation of scores: every metric of a split with its confidence intervals."""

from __future__ import annotations

import logging
import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from cxrignite.data.masks import BOXES, MASK
from cxrignite.functional import (
    DEFAULT_PREVALENCES,
    Confusion,
    confusion_at,
    predictive_intervals,
    predictive_values,
)
from cxrignite.functional.calibration import calibration_statistics, ece_interval, reliability_bins
from cxrignite.functional.certificate import independent_scores
from cxrignite.functional.findings import (
    average_statistics,
    exclusive_confusion,
    exclusive_statistics,
)
from cxrignite.functional.intervals import (
    Interval,
    Statistics,
    bootstrap_intervals,
    clopper_pearson,
    delong_interval,
)
from cxrignite.functional.shift import ShiftCheck
from cxrignite.functional.weighted_metrics import decision_statistics, ranking_statistics
from cxrignite.runs.decision_rule import DecisionRule
from cxrignite.runs.evaluation import (
    Averages,
    Calibration,
    CertificateCheck,
    ClassDecisions,
    Decisions,
    Estimate,
    Evaluation,
    PredictiveValues,
    Subgroup,
)
from cxrignite.runs.informativeness import measure_informativeness, num_resamples
from cxrignite.runs.scores import FindingScores, SplitScores

_logger = logging.getLogger(__name__)

_MAX_SUBGROUPS = 12  # values of one attribute


def assess(
    scores: SplitScores,
    rule: DecisionRule,
    attributes: Sequence[Mapping[str, str]],
    prevalences: Sequence[float] = DEFAULT_PREVALENCES,
) -> Evaluation:
    """Evaluate one split: every metric with its intervals."""
    y_score, y_true, patients = scores.y_score, scores.y_true, scores.patients
    scales = rule.scales(scores)
    prepared: dict[str, Statistics] = {
        "ranking": ranking_statistics(y_score, y_true),
        "at_half": decision_statistics(y_score, y_true, 0.5),
        **{scale: calibration_statistics(part, y_true) for scale, part in scales.items()},
    }
    if rule.threshold is not None:
        prepared["at_threshold"] = _with_prevalences(
            decision_statistics(y_score, y_true, rule.threshold, rule.lower_threshold), prevalences
        )
    values, drawn = _values_and_intervals(prepared, patients)
    ranking, at_threshold = drawn["ranking"], None
    at_prevalences: tuple[PredictiveValues, ...] = ()
    if rule.threshold is not None:
        thresholds = rule.threshold, rule.lower_threshold
        cells = scores.confusion(*thresholds)
        at_threshold = _decisions(*thresholds, cells, drawn["at_threshold"])
        at_prevalences = _at_prevalences(
            *(cells, prevalences, drawn["at_threshold"]),
            refers=rule.lower_threshold is not None,
        )
    calibration = {}
    for scale, part in scales.items():
        ece = ece_interval(part, y_true, patients) if patients else drawn[scale]["ece"]
        intervals = drawn[scale] | {"ece": ece}
        calibration[scale] = Calibration(
            **{
                name: _estimate(values[scale][name], None, each) for name, each in intervals.items()
            },
            bins=tuple(each for each in reliability_bins(part, y_true) if each.num_images),
        )
    return Evaluation(
        rule=rule,
        num_images=scores.num_images,
        num_negative=scores.num_images - scores.num_positive,
        num_positive=scores.num_positive,
        num_patients=len(set(patients)),
        roc_auc=_estimate(
            values["ranking"]["roc_auc"], _delong(y_score, y_true), ranking["roc_auc"]
        ),
        average_precision=_estimate(
            values["ranking"]["average_precision"], None, ranking["average_precision"]
        ),
        at_half=_decisions(0.5, None, scores.confusion(0.5), drawn["at_half"]),
        at_threshold=at_threshold,
        calibration=calibration,
        subgroups=_subgroups(scores, rule, attributes),
        informativeness=measure_informativeness(
            *(scores, rule.threshold, ranking | drawn.get("at_threshold", {})),
            rule.lower_threshold,
        ),
        at_prevalences=at_prevalences,
    )


def average(scores: FindingScores, rules: Sequence[DecisionRule]) -> Averages | None:
    """Average metrics over the findings, with intervals by patient.

    Returns:
        The averages; None with one finding.
    """
    if len(scores) == 1:
        return None
    arrays = scores.y_score, scores.y_true
    thresholds = [rule.threshold for rule in rules if rule.threshold is not None]
    limits = thresholds if len(thresholds) == len(rules) else None
    prepared = {"averages": average_statistics(*arrays, limits)}
    if scores.exclusive:
        prepared["classes"] = exclusive_statistics(*arrays)
    values, drawn = _values_and_intervals(prepared, scores.patients)
    estimates = {
        group: {name: _estimate(value, None, drawn[group][name]) for name, value in each.items()}
        for group, each in values.items()
    }
    decisions = None
    if scores.exclusive:
        counts = exclusive_confusion(*arrays).tolist()
        decisions = ClassDecisions(tuple(map(tuple, counts)), **estimates["classes"])
    num_ranked = sum(each.has_both_classes for each in scores)
    return Averages(num_findings=num_ranked, **estimates["averages"], decisions=decisions)


def check_certificate(
    scores: SplitScores, rule: DecisionRule, shift: ShiftCheck | None
) -> CertificateCheck | None:
    """Compare the rates on independent images with the limits guaranteed by a threshold.

    Returns:
        The comparison; None without a threshold.
    """
    point = rule.point
    if point is None:
        return None
    cells = scores.confusion(point.threshold, point.lower_threshold)
    highest = independent_scores(scores.y_score, scores.y_true == 0, scores.patients)
    tnr_by_patient = _share(int(np.sum(highest < point.threshold)), highest.size)
    reading = point.patient_found
    of_positives = independent_scores(
        *(scores.y_score, scores.y_true == 1, scores.patients),
        "lowest" if reading == "every_image" else "highest",
    )
    lower = point.threshold if point.lower_threshold is None else point.lower_threshold
    tpr_by_patient = _share(int(np.sum(of_positives >= lower)), of_positives.size)
    tnr = _share(cells.num_negative - cells.fp, cells.num_negative)
    tpr = _share(cells.num_positive - cells.fn, cells.num_positive)
    requested = tpr if reading == "every_image" else tpr_by_patient
    return CertificateCheck(
        tnr=tnr,
        tnr_by_patient=tnr_by_patient,
        is_below_certificate=rule.is_certified and _is_below(tnr_by_patient, point.tnr_lower_bound),
        is_below_min_tnr=_is_below(tnr, point.min_tnr),
        tpr=tpr,
        tpr_by_patient=tpr_by_patient,
        is_below_certified_tpr=rule.is_certified
        and _is_below(tpr_by_patient, point.tpr_lower_bound or 0.0),
        is_below_min_tpr=_is_below(requested, point.min_tpr or 0.0),
        is_shifted=shift is not None and bool(shift.is_detected),
        is_certified=rule.is_certified,
    )


def _values_and_intervals(
    prepared: Mapping[str, Statistics], patients: Sequence[str]
) -> tuple[dict[str, dict[str, float]], dict[str, dict[str, Interval]]]:
    """Return the metrics of each group, and patient intervals from one set of resamples."""

    def joined(weights: NDArray[np.float64]) -> dict[str, NDArray[np.float64]]:
        return {
            f"{group}.{name}": values
            for group, statistics in prepared.items()
            for name, values in statistics(weights).items()
        }

    once = joined(np.ones((1, len(patients))))
    # No label of a finding may be known.
    intervals = dict.fromkeys(once, Interval(math.nan, math.nan))
    if patients:
        number = num_resamples(len(patients))
        intervals = bootstrap_intervals(joined, patients, num_resamples=number)
    values: dict[str, dict[str, float]] = {group: {} for group in prepared}
    drawn: dict[str, dict[str, Interval]] = {group: {} for group in prepared}
    for key, value in once.items():
        group, _, name = key.partition(".")
        values[group][name] = float(value[0])
        drawn[group][name] = intervals[key]
    return values, drawn


def _with_prevalences(decisions: Statistics, prevalences: Sequence[float]) -> Statistics:
    """Add the predictive values at each prevalence to the rates of the decisions."""

    def statistics(weights: NDArray[np.float64]) -> dict[str, NDArray[np.float64]]:
        rates = dict(decisions(weights))
        for each in prevalences:
            of_each = rates["negatives_referred"], rates["positives_referred"]
            values = predictive_values(rates["tnr"], rates["tpr"], each, *of_each)
            rates[f"ppv at {each}"], rates[f"npv at {each}"] = values
            rates[f"referred at {each}"] = (1 - each) * of_each[0] + each * of_each[1]
        return rates

    return statistics


def _at_prevalences(
    cells: Confusion,
    prevalences: Sequence[float],
    by_patient: Mapping[str, Interval],
    *,
    refers: bool,
) -> tuple[PredictiveValues, ...]:
    found = []
    for each in prevalences:
        of_each = cells.negatives_referred, cells.positives_referred
        ppv, npv = predictive_values(cells.tnr, cells.tpr, each, *of_each)
        referred = (1 - each) * of_each[0] + each * of_each[1]
        of_ppv, of_npv = predictive_intervals(cells, each)
        found.append(
            PredictiveValues(
                each,
                _estimate(float(ppv), of_ppv, by_patient[f"ppv at {each}"]),
                _estimate(float(npv), of_npv, by_patient[f"npv at {each}"]),
                _estimate(referred, None, by_patient[f"referred at {each}"]) if refers else None,
            )
        )
    return tuple(found)


def _estimate(
    value: float, interval: Interval | None = None, by_patient: Interval | None = None
) -> Estimate:
    """Make an estimate; a number that is not finite is undefined."""
    if not math.isfinite(value):
        return Estimate(None)
    return Estimate(float(value), _known(interval), _known(by_patient))


def _known(interval: Interval | None) -> Interval | None:
    if interval is None or math.isnan(interval.low):
        return None
    return Interval(float(interval.low), float(interval.high))


def _share(num_found: int, number: int) -> Estimate:
    return _estimate(num_found / number if number else math.nan, clopper_pearson(num_found, number))


def _is_below(rate: Estimate, limit: float) -> bool:
    """True if the whole interval lies below the limit."""
    return rate.interval is not None and rate.interval.high < limit


def _decisions(
    threshold: float, lower: float | None, cells: Confusion, by_patient: Mapping[str, Interval]
) -> Decisions:
    exact = _exact_intervals(cells)

    def rate(name: str) -> Estimate:
        return _estimate(getattr(cells, name), exact.get(name), by_patient.get(name))

    decisions = Decisions(
        *(threshold, cells.tn, cells.fp, cells.fn, cells.tp),
        tnr=rate("tnr"),
        tpr=rate("tpr"),
        ppv=rate("ppv"),
        npv=rate("npv"),
        balanced_accuracy=rate("balanced_accuracy"),
        accuracy=rate("accuracy"),
    )
    if lower is None:
        return decisions
    return replace(
        decisions,
        lower_threshold=lower,
        num_referred=(cells.referred_negative, cells.referred_positive),
        referred=rate("referred"),
        negatives_referred=rate("negatives_referred"),
        positives_referred=rate("positives_referred"),
    )


def _exact_intervals(confusion: Confusion) -> dict[str, Interval]:
    tn, fp, fn, tp = confusion.tn, confusion.fp, confusion.fn, confusion.tp
    rn, rp = confusion.referred_negative, confusion.referred_positive
    negatives, positives = confusion.num_negative, confusion.num_positive
    shares = {
        "tnr": (tn + rn, negatives),
        "tpr": (tp + rp, positives),
        "referred": (rn + rp, negatives + positives),
        "negatives_referred": (rn, negatives),
        "positives_referred": (rp, positives),
        "ppv": (tp, tp + fp),
        "npv": (tn, tn + fn),
        "accuracy": (tn + tp, tn + fp + fn + tp),
    }
    return {name: clopper_pearson(*share) for name, share in shares.items()}


def _subgroups(
    scores: SplitScores,
    rule: DecisionRule,
    attributes: Sequence[Mapping[str, str]],
) -> tuple[Subgroup, ...]:
    """Evaluate each value of each attribute.

    A subgroup of one class is ranked against all images of the other class.
    """
    counts: dict[str, Counter[str]] = {}
    for each in attributes:
        for name, value in each.items():
            if name not in (MASK, BOXES):
                counts.setdefault(name, Counter())[value] += 1
    # An attribute with a value of its own for each image is no subgroup.
    kept = {
        name: each
        for name, each in counts.items()
        if len(each) <= _MAX_SUBGROUPS and (len(each) <= 2 or max(each.values()) > 1)
    }
    for name in sorted(counts.keys() - kept.keys()):
        _logger.debug("%s has %d values: not used for subgroups", name, len(counts[name]))
    found = [(name, value) for name in sorted(kept) for value in sorted(kept[name])]
    groups = []
    for attribute, value in found:
        inside = np.array([each.get(attribute) == value for each in attributes])
        y_score, y_true = scores.y_score[inside], scores.y_true[inside]
        classes = set(y_true.tolist())
        ranked = inside if len(classes) == 2 else inside | ~np.isin(scores.y_true, list(classes))
        cells = None
        if rule.threshold is not None:
            cells = confusion_at(y_score, y_true, rule.threshold, rule.lower_threshold)
        exact = {} if cells is None else _exact_intervals(cells)
        rates = {
            name: _estimate(getattr(cells, name, math.nan), exact.get(name))
            for name in ("tnr", "tpr")
        }
        ranked_scores, ranked_labels = scores.y_score[ranked], scores.y_true[ranked]
        groups.append(
            Subgroup(
                attribute=attribute,
                value=value,
                num_images=int(inside.sum()),
                num_negative=int((y_true == 0).sum()),
                num_positive=int((y_true == 1).sum()),
                num_patients=len({p for p, i in zip(scores.patients, inside, strict=True) if i}),
                **rates,
                roc_auc=_estimate(
                    _auc(ranked_scores, ranked_labels), _delong(ranked_scores, ranked_labels)
                ),
            )
        )
    return tuple(groups)


def _auc(y_score: NDArray[np.float64], y_true: NDArray[np.int64]) -> float:
    return float(ranking_statistics(y_score, y_true)(np.ones((1, len(y_true))))["roc_auc"][0])


def _delong(y_score: NDArray[np.float64], y_true: NDArray[np.int64]) -> Interval:
    if len(set(y_true.tolist())) < 2:
        return Interval(math.nan, math.nan)
    return delong_interval(y_score, y_true)
