"""What the scores of a split are worth: every figure with its interval, as plain JSON values."""

from __future__ import annotations

import logging
import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cxrignite.functional import Confusion, confusion_at
from cxrignite.functional.calibration import (
    calibration_statistics,
    ece_interval,
    reliability_bins,
)
from cxrignite.functional.certificate import independent_negatives
from cxrignite.functional.intervals import (
    Interval,
    Statistics,
    bootstrap_intervals,
    clopper_pearson,
    delong_interval,
)
from cxrignite.functional.shift import ShiftCheck
from cxrignite.functional.weighted_metrics import decision_statistics, ranking_statistics
from cxrignite.runs.decision import Decision
from cxrignite.runs.scores import SplitScores
from cxrignite.runs.usability import num_resamples, why_not_usable

_logger = logging.getLogger(__name__)

_MOST_SUBGROUPS = 12  # values of one attribute


def assess(
    scores: SplitScores, decision: Decision, attributes: Sequence[Mapping[str, str]]
) -> dict[str, Any]:
    """Every figure of one split, with intervals: what `metrics/*.json` holds.

    Args:
        scores: The films and their scores.
        decision: The operating point and the scale of the scores.
        attributes: What subgroups each film belongs to.

    Returns:
        Plain values; a figure that is undefined is null, since JSON has no NaN.
    """
    y_score, y_true, patients = scores.y_score, scores.y_true, scores.patients
    scales = decision.scales(y_score)
    prepared: dict[str, Statistics] = {
        "ranking": ranking_statistics(y_score, y_true),
        "at_half": decision_statistics(y_score, y_true, 0.5),
        **{scale: calibration_statistics(part, y_true) for scale, part in scales.items()},
    }
    if decision.threshold is not None:
        prepared["at_threshold"] = decision_statistics(y_score, y_true, decision.threshold)
    values, by_patient = _values_and_intervals(prepared, patients)
    content: dict[str, Any] = {
        "num_images": scores.num_images,
        "num_negative": scores.num_images - scores.num_positive,
        "num_positive": scores.num_positive,
        "num_patients": len(set(patients)),
        **values["ranking"],
        "intervals": {"roc_auc": _pair(_delong(y_score, y_true))},
        "patient_intervals": by_patient["ranking"],
        "at_half": _decisions(0.5, scores.confusion(0.5), by_patient["at_half"]),
    }
    if decision.point is not None:
        threshold = decision.point.threshold
        confusion = scores.confusion(threshold)
        content["at_threshold"] = _decisions(threshold, confusion, by_patient["at_threshold"])
    drawn = by_patient["ranking"] | by_patient.get("at_threshold", {})
    intervals = {name: Interval(*(pair or (math.nan, math.nan))) for name, pair in drawn.items()}
    content["not_usable"] = list(why_not_usable(scores, decision.threshold, intervals))
    content["operating_point"] = decision.to_dict()
    content["calibration"] = dict.fromkeys(("raw", "natural", "platt", "temperature")) | {
        scale: {
            **values[scale],
            "patient_intervals": by_patient[scale]
            | {"ece": _pair(ece_interval(part, y_true, patients))},
            "bins": [list(map(json_number, each)) for each in reliability_bins(part, y_true)],
        }
        for scale, part in scales.items()
    }
    content["subgroups"] = _subgroups(scores, decision.threshold, attributes)
    return content


def judge(
    scores: SplitScores, decision: Decision, shift: ShiftCheck | None
) -> dict[str, Any] | None:
    """Whether these films contradict what the threshold was chosen for.

    What is certified is a TNR by patient, so that is what it is held to; what was asked for without
    a certificate is held to the TNR by film.

    Args:
        scores: The films and their scores.
        decision: The operating point.
        shift: How well these negatives are told from those that chose it; null where not checked.

    Returns:
        The certified and the observed TNR side by side; null where no threshold was chosen.
    """
    point = decision.point
    if point is None:
        return None
    cells = scores.confusion(point.threshold)
    by_film = clopper_pearson(cells.tn, cells.tn + cells.fp)
    highest = independent_negatives(scores.y_score, scores.y_true == 0, scores.patients)
    num_cleared = int(np.sum(highest < point.threshold))
    by_patient = clopper_pearson(num_cleared, highest.size)
    tnr_by_patient = num_cleared / highest.size if highest.size else math.nan
    certified = point.tnr_lower_bound if point.verdict == "certified" else None
    contradictions = []
    if certified is not None and by_patient.high < certified:
        contradictions.append(
            f"the TNR by patient is {tnr_by_patient:.3f} here ({_range(by_patient)}), "
            f"below the certified {certified:.3f}"
        )
    if by_film.high < point.min_tnr:
        contradictions.append(
            f"the TNR is {cells.tnr:.3f} here ({_range(by_film)}), "
            f"below the {point.min_tnr:g} that was asked for"
        )
    differences = []
    if shift is not None and shift.is_detected and shift.interval is not None:
        differences.append(
            "these films are unlike those that chose the threshold: a classifier tells the "
            f"{scores.classes[0]} films of the two apart with an AUC of {shift.roc_auc:.3f} "
            f"({_range(shift.interval)}), where 0.5 would be no difference"
        )
    return {
        "verdict": point.verdict,
        "chosen_on": decision.chosen_on,
        "min_tnr": point.min_tnr,
        "confidence": point.confidence,
        "certified_tnr": certified,
        "observed_tnr": json_number(cells.tnr),
        "interval": _pair(by_film),
        "observed_tnr_by_patient": json_number(tnr_by_patient),
        "interval_by_patient": _pair(by_patient),
        "is_contradicted": bool(contradictions),
        "is_void": certified is not None and bool(contradictions or differences),
        "reasons": [*contradictions, *differences],
    }


def json_number(value: float) -> float | int | None:
    """A number as JSON knows it: null for NaN and infinity."""
    if isinstance(value, int | np.integer):
        return int(value)
    return float(value) if math.isfinite(value) else None


def _values_and_intervals(
    prepared: Mapping[str, Statistics], patients: Sequence[str]
) -> tuple[dict[str, dict[str, Any]], dict[str, dict[str, Any]]]:
    """The figures of each group, and their intervals by patient from one set of resamples."""

    def joined(weights: NDArray[np.float64]) -> dict[str, NDArray[np.float64]]:
        return {
            f"{group}.{name}": values
            for group, statistics in prepared.items()
            for name, values in statistics(weights).items()
        }

    once = joined(np.ones((1, len(patients))))
    intervals = bootstrap_intervals(joined, patients, num_resamples=num_resamples(len(patients)))
    values: dict[str, dict[str, Any]] = {group: {} for group in prepared}
    pairs: dict[str, dict[str, Any]] = {group: {} for group in prepared}
    for key, value in once.items():
        group, _, name = key.partition(".")
        values[group][name] = json_number(float(value[0]))
        pairs[group][name] = _pair(intervals[key])
    return values, pairs


def _decisions(
    threshold: float, confusion: Confusion, by_patient: Mapping[str, Any]
) -> dict[str, Any]:
    names = ("tnr", "tpr", "ppv", "npv", "balanced_accuracy", "accuracy")
    return {
        "threshold": threshold,
        **asdict(confusion),
        **{name: json_number(getattr(confusion, name)) for name in names},
        "intervals": _exact_intervals(confusion),
        "patient_intervals": by_patient,
    }


def _exact_intervals(confusion: Confusion) -> dict[str, Any]:
    tn, fp, fn, tp = confusion.tn, confusion.fp, confusion.fn, confusion.tp
    shares = {
        "tnr": (tn, tn + fp),
        "tpr": (tp, tp + fn),
        "ppv": (tp, tp + fp),
        "npv": (tn, tn + fn),
        "accuracy": (tn + tp, tn + fp + fn + tp),
    }
    return {name: _pair(clopper_pearson(*share)) for name, share in shares.items()}


def _subgroups(
    scores: SplitScores,
    threshold: float | None,
    attributes: Sequence[Mapping[str, str]],
) -> list[dict[str, Any]]:
    """The figures of each value of each attribute; one class alone is ranked against all others."""
    counts: dict[str, Counter[str]] = {}
    for each in attributes:
        for name, value in each.items():
            counts.setdefault(name, Counter())[value] += 1
    # An attribute such as a mask's file, another one for each film, says nothing of a group.
    kept = {
        name: each
        for name, each in counts.items()
        if len(each) <= _MOST_SUBGROUPS and (len(each) <= 2 or max(each.values()) > 1)
    }
    for name in sorted(counts.keys() - kept.keys()):
        _logger.debug("%s has %d values: no subgroups", name, len(counts[name]))
    found = [(name, value) for name in sorted(kept) for value in sorted(kept[name])]
    groups = []
    for attribute, value in found:
        inside = np.array([each.get(attribute) == value for each in attributes])
        y_score, y_true = scores.y_score[inside], scores.y_true[inside]
        classes = set(y_true.tolist())
        ranked = inside if len(classes) == 2 else inside | ~np.isin(scores.y_true, list(classes))
        group: dict[str, Any] = {
            "attribute": attribute,
            "value": value,
            "num_images": int(inside.sum()),
            "num_negative": int((y_true == 0).sum()),
            "num_positive": int((y_true == 1).sum()),
            "num_patients": len({p for p, i in zip(scores.patients, inside, strict=True) if i}),
        }
        cells = None if threshold is None else confusion_at(y_score, y_true, threshold)
        exact = {} if cells is None else _exact_intervals(cells)
        for name in ("tnr", "tpr"):
            group[name] = None if cells is None else json_number(getattr(cells, name))
        auc = _auc(scores.y_score[ranked], scores.y_true[ranked])
        interval = _delong(scores.y_score[ranked], scores.y_true[ranked])
        groups.append(
            group
            | {
                "roc_auc": json_number(auc),
                "intervals": {
                    **{name: exact[name] for name in ("tnr", "tpr") if group[name] is not None},
                    "roc_auc": _pair(interval),
                },
            }
        )
    return groups


def _auc(y_score: NDArray[np.float64], y_true: NDArray[np.int64]) -> float:
    return float(ranking_statistics(y_score, y_true)(np.ones((1, len(y_true))))["roc_auc"][0])


def _delong(y_score: NDArray[np.float64], y_true: NDArray[np.int64]) -> Interval:
    if len(set(y_true.tolist())) < 2:
        return Interval(math.nan, math.nan)
    return delong_interval(y_score, y_true)


def _range(interval: Interval) -> str:
    return f"{interval.low:.3f} to {interval.high:.3f}"


def _pair(interval: Interval) -> list[float | int | None] | None:
    return None if math.isnan(interval.low) else [json_number(each) for each in interval]
