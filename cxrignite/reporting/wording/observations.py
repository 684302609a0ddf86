"""Sentences about what was observed: evaluations, shifts, warnings and alarms."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from cxrignite.functional.shift import MIN_PATIENTS, ShiftCheck
from cxrignite.reporting.numbers import plain_percent, zone_text
from cxrignite.runs.decision_rule import DecisionRule
from cxrignite.runs.evaluation import Estimate, Evaluation
from cxrignite.runs.informativeness import Informativeness

NOT_USABLE = "not usable"

_SPLITS = {"val": "validation", "train": "training"}


@dataclass(frozen=True)
class Statement:
    """A statement for a reader.

    Attributes:
        title: A few words, without a full stop.
        text: One or two sentences.
        reasons: Further lines.
        level: Severity.
    """

    title: str
    text: str = ""
    reasons: tuple[str, ...] = ()
    level: Literal["alarm", "warning"] = "warning"


def split_name(name: str) -> str:
    """Name a set of images: `val` becomes "validation", a site keeps its name."""
    return _SPLITS.get(name, name)


def chosen_images(chosen_on: str) -> str:
    """Name the images that a threshold was chosen on."""
    return {"val": "the validation split", "calibration": "the calibration split"}.get(
        chosen_on, chosen_on
    )


def describe_missing_labels(finding: str) -> str:
    """Describe images, of a site or a split, none of which has a known label of a finding.

    Args:
        finding: Name of the finding.

    Examples:
        >>> describe_missing_labels("Mass")
        'no labels for Mass'
    """
    return f"no labels for {finding}"


def reasons_not_usable(measured: Informativeness | None, positive: str) -> list[str]:
    """List why images do not show that a threshold is better than chance; empty if they do."""
    if measured is None or measured.is_informative:
        return []
    reasons = []
    low, high = measured.youden_interval
    if not measured.num_found and low <= 0:
        reasons.append(f"none of {measured.num_positive} {positive} images is called {positive}")
    elif low <= 0:
        reasons.append(
            f"Youden's J (twice the balanced accuracy - 1) is {measured.youden:.3f} "
            f"({low:.3f} to {high:.3f}), 0 is chance"
        )
    else:
        reasons += [
            f"the {name} threshold alone is worse than chance, Youden's J is {youden:.3f}"
            for name, youden in zip(("lower", "upper"), measured.youden_of_each, strict=False)
            if youden < 0
        ]
    low, high = measured.roc_auc_interval
    if low <= 0.5:
        chance = "0.5 is chance" if high >= 0.5 else "worse than chance, which is 0.5"
        reasons.append(f"the AUC is {measured.roc_auc:.3f} ({low:.3f} to {high:.3f}), {chance}")
    return reasons


def alarm_of_rule(rule: DecisionRule) -> str:
    """Return the alarm if a threshold is not usable on the images it was chosen on; else empty."""
    reasons = reasons_not_usable(rule.informativeness, rule.finding)
    return _alarm(reasons, chosen_images(rule.chosen_on))


def alarm_of_evaluation(name: str, evaluation: Evaluation) -> str:
    """Return the alarm if the threshold is not usable on evaluated images; else empty."""
    reasons = reasons_not_usable(evaluation.informativeness, evaluation.rule.finding)
    return _alarm(reasons, f"the {split_name(name)} images")


def _alarm(reasons: list[str], images: str) -> str:
    if not reasons:
        return ""
    return f"THE THRESHOLD IS {NOT_USABLE.upper()}: on {images}, {'; '.join(reasons)}"


def describe_shift(check: ShiftCheck) -> str:
    """Describe a shift check in one line."""
    sides = (
        f"{check.num_images} images of {check.num_image_patients} patients against "
        f"{check.num_reference} of {check.num_reference_patients}"
    )
    if check.roc_auc is None or check.interval is None:
        return f"shift not decidable: each side needs {MIN_PATIENTS} patients, got {sides}"
    found = "shift detected" if check.is_detected else "no shift detected"
    return f"{found}: a classifier separates the images from the reference, {_auc(check)}; {sides}"


def describe_repetition(evaluation: Evaluation) -> str:
    """Return a warning if images were evaluated before; empty at the first time."""
    number = evaluation.num_evaluations
    if number is None or number < 2:
        return ""
    return (
        f"these images were evaluated {number} times with this run; if a choice was based on them, "
        "evaluate on other images"
    )


def check_rule(name: str, evaluation: Evaluation) -> Statement | None:
    """State that evaluated images contradict a threshold or differ from those it was chosen on."""
    rule, check = evaluation.rule, evaluation.certificate
    images = f"{split_name(name)} images"
    if rule.point is None or check is None or not (check.is_contradicted or check.is_shifted):
        return None
    point = rule.point
    reasons = []
    if check.is_below_certificate:
        reasons.append(
            f"the TNR by patient is {_interval(check.tnr_by_patient)}, below the certified "
            f"{point.tnr_lower_bound:.3f}"
        )
    if check.is_below_min_tnr:
        reasons.append(
            f"the TNR by image is {_interval(check.tnr)}, below the requested {point.min_tnr:g}"
        )
    if check.is_below_certified_tpr:
        reasons.append(
            f"the TPR by patient is {_interval(check.tpr_by_patient)}, below the certified "
            f"{point.tpr_lower_bound:.3f}"
        )
    if check.is_below_min_tpr:
        by_image = point.patient_found == "every_image"
        rate, unit = (check.tpr, "image") if by_image else (check.tpr_by_patient, "patient")
        reasons.append(
            f"the TPR by {unit} is {_interval(rate)}, below the requested {point.min_tpr:g}"
        )
    if check.is_shifted and evaluation.shift is not None:
        reasons.append(
            "these images differ from those the threshold was chosen on: a classifier separates "
            f"the negative images of the two, {_auc(evaluation.shift)}; 0.5 means no difference"
        )
    limits = f"TNR of at least {point.min_tnr:g}"
    if point.min_tpr is not None:
        limits += f" and{'' if point.joint else ', by itself,'} a TPR of at least {point.min_tpr:g}"
    if check.is_invalid:
        title = f"The certificate is not valid for the {images}"
        text = (
            f"It guaranteed a {limits} with "
            f"{100 * (point.confidence or 0):g} % confidence, for images like those the threshold "
            "was chosen on."
        )
    elif check.is_contradicted:
        is_tnr = check.is_below_certificate or check.is_below_min_tnr
        title = f"The {'TNR' if is_tnr else 'TPR'} of the {images} is lower than requested"
        text = f"A {limits} was requested."
    else:
        title, text = "The threshold was chosen on different data", ""
    if rule.is_of_site:
        advice = (
            f"The threshold of {rule.chosen_on} does not fit these images: choose another on "
            "images like these."
        )
    else:
        advice = "Choose a threshold for this site with `cxrignite recalibrate`."
    return Statement(title, f"{text} {advice}".strip(), tuple(reasons), "alarm")


def read_evaluation(name: str, evaluation: Evaluation) -> str:
    """Compare what was observed on images with what was guaranteed, in a few words."""
    if not evaluation.num_images:
        return describe_missing_labels(evaluation.rule.finding)
    parts = reasons_not_usable(evaluation.informativeness, evaluation.rule.finding)
    parts = [f"{NOT_USABLE}: {'; '.join(parts)}"] if parts else []
    if evaluation.rule.chosen_on == name:
        parts.append(f"the threshold was chosen here; {_requested(evaluation.rule)}")
    else:
        if evaluation.rule.is_of_site:
            parts.append(f"threshold of {evaluation.rule.chosen_on}")
        parts.append(_observed(evaluation))
    if name == "val":
        # The best epoch was chosen by its result on these images.
        parts.append("the weights were chosen here too, so the results are optimistic")
    number = evaluation.num_evaluations
    if number is not None and number > 1:
        parts.append(f"evaluated {number} times")
    return "; ".join(filter(None, parts))


def _requested(rule: DecisionRule) -> str:
    if rule.point is None:
        return ""
    share = plain_percent(rule.point.min_tnr)
    if rule.point.min_tpr is not None:
        share = f"specificity {share}, sensitivity {plain_percent(rule.point.min_tpr)}"
    return {
        "certified": f"guaranteed: at least {share}",
        "empirical": f"requested: {share}, nothing guaranteed",
        "infeasible": f"requested: {share}, not met",
    }[rule.point.status]


def _observed(evaluation: Evaluation) -> str:
    point, check, decisions = (
        evaluation.rule.point,
        evaluation.certificate,
        evaluation.at_threshold,
    )
    if point is None or decisions is None:
        return ""
    if check is not None and check.is_invalid:
        if check.is_contradicted:
            return "contradicts the certificate"
        return "the guarantee does not cover these images"
    kind = "guaranteed" if evaluation.rule.is_certified else "requested"
    reading = _agreement(decisions.tnr, point.min_tnr, kind)
    if point.min_tpr is None:
        return reading
    tpr = decisions.tpr
    if point.patient_found == "any_image" and check is not None:
        tpr = check.tpr_by_patient
    other = _agreement(tpr, point.min_tpr, kind)
    return "; ".join(
        f"{name} {text}"
        for name, text in (("specificity", reading), ("sensitivity", other))
        if text
    )


def _agreement(rate: Estimate, limit: float, kind: str) -> str:
    """Compare a rate with its limit, in a few words; empty if it is undefined."""
    if rate.value is None or rate.interval is None:
        return ""
    text = f"the {kind} {plain_percent(limit)}"
    if rate.interval.high < limit:
        return f"below {text}, as is its whole interval"
    if rate.value < limit:
        return f"below {text}, which its interval includes"
    return f"agrees with {text}"


def check_freshness(
    name: str, evaluation: Evaluation, rule: DecisionRule | None
) -> Statement | None:
    """State that images were evaluated at another threshold than the run has now."""
    theirs = evaluation.rule
    # A site's threshold differs on purpose.
    if rule is None or theirs.chosen_on != rule.chosen_on:
        return None
    if all(
        getattr(theirs, name) == getattr(rule, name)
        for name in ("threshold", "lower_threshold", "weights_sha256")
    ):
        return None
    old, new = (zone_text(each.threshold, each.lower_threshold) for each in (theirs, rule))
    text = (
        f"They belong to the threshold {old} and the weights of that "
        f"time; the run's threshold is now {new}, or its weights have "
        "changed. Evaluate the images again."
    )
    return Statement(f"The results on the {split_name(name)} images are out of date", text)


def _interval(estimate: Estimate) -> str:
    value = "undefined" if estimate.value is None else f"{estimate.value:.3f}"
    if estimate.interval is None:
        return value
    return f"{value} ({estimate.interval.low:.3f} to {estimate.interval.high:.3f})"


def _auc(check: ShiftCheck) -> str:
    if check.roc_auc is None or check.interval is None:
        return "AUC undefined"
    return f"AUC {check.roc_auc:.3f} ({check.interval.low:.3f} to {check.interval.high:.3f})"
