"""Sentences about a decision rule: its thresholds, its certificate, and a plan of one."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from cxrignite.functional import OperatingPoint
from cxrignite.reporting.numbers import percent, plain_percent, score_text
from cxrignite.reporting.wording.observations import (
    NOT_USABLE,
    Statement,
    alarm_of_evaluation,
    alarm_of_rule,
    chosen_images,
    describe_missing_labels,
    split_name,
)
from cxrignite.runs.decision_rule import DecisionRule
from cxrignite.runs.evaluation import Evaluation
from cxrignite.terminal import counted

Classes = tuple[str, str]

_TITLES = {
    "certified": "Certified specificity",
    "empirical": "Not certified: specificity reached on the sample only",
    "infeasible": "Requested specificity not reached",
}
_USUAL_CONFIDENCE = 0.95


@dataclass(frozen=True)
class RuleStatement:
    """A decision rule for a reader.

    Attributes:
        kind: `certified`, `empirical`, `infeasible` or `none`.
        title: The status in a few words.
        text: What is guaranteed or was observed, and on which images.
        remarks: Why no more is guaranteed, and what that would need.
        guarantee: The guaranteed specificity in a few words.
        terms: Terms of the guarantee.
        alarms: Why the threshold is not usable, one line for each set of images that shows it.
        tpr_terms: What is guaranteed or requested for the sensitivity.
    """

    kind: str
    title: str
    text: str
    remarks: tuple[str, ...] = ()
    guarantee: str = "none"
    terms: str = ""
    alarms: tuple[str, ...] = ()
    tpr_terms: str = ""


def status(rule: DecisionRule) -> str:
    """Return the status of a rule, marked if it is not usable; empty without a threshold."""
    status = rule.point.status if rule.point else ""
    return status if rule.is_usable or not status else f"{NOT_USABLE} ({status})"


def thresholds_text(point: OperatingPoint) -> str:
    """Name the threshold of an operating point, or both."""
    if point.lower_threshold is None:
        return f"threshold {point.threshold:.4f}"
    return f"thresholds {point.lower_threshold:.4f} and {point.threshold:.4f}"


def describe_point(point: OperatingPoint) -> str:
    """Describe an operating point in one line, for a log."""
    rate, unit = _limited_tpr(point)
    tpr_limit = "" if point.min_tpr is None else f" {_compared(rate, point.min_tpr)}"
    if unit == "patients" and tpr_limit:
        tpr_limit = f", by patient {rate:.3f}{tpr_limit}"
    tnr = f"{point.tnr:.3f} {_compared(point.tnr, point.min_tnr)}"
    parts = [
        f"{thresholds_text(point)} ({point.status}): TNR {tnr} "
        f"({counted(point.num_false_positive, 'false positive')} of "
        f"{counted(point.num_negative, 'negative')}), TPR {point.tpr:.3f}{tpr_limit} "
        f"({counted(point.num_false_negative, 'false negative')} of "
        f"{counted(point.num_positive, 'positive')})"
    ]
    if point.lower_threshold is not None:
        parts.append(
            f"referred to a reader: {counted(point.num_referred_negative, 'negative')} and "
            f"{counted(point.num_referred_positive, 'positive')}"
        )
    if point.status == "certified":
        level = f"with {100 * (point.confidence or 0):g} % confidence"
        bound = f"{level} the true TNR by patient is at least {point.tnr_lower_bound:.3f}"
        if point.min_tpr is not None:
            join = " and" if point.joint else f"; {level} by itself"
            bound += f"{join} the true TPR {_found(point)} {point.tpr_lower_bound:.3f}"
        both = ", both" if point.min_tpr is not None and not point.joint else ""
        parts.append(f"{bound} for images like these{both}")
    if point.note:
        parts.append(point.note)
    if point.status == "infeasible":
        parts.append(_what_is_missing(point))
    return "; ".join(parts)


def _limited_tpr(point: OperatingPoint) -> tuple[float, str]:
    """Return the TPR that `min_tpr` limits on the sample, and what it counts."""
    if point.patient_found == "any_image" and point.tpr_by_patient is not None:
        return point.tpr_by_patient, "patients"
    return point.tpr, "images"


def _compared(rate: float, limit: float) -> str:
    return f"{'<' if rate < limit else '>='} {limit:g}"


def _found(point: OperatingPoint) -> str:
    reading = "every image" if point.patient_found == "every_image" else "at least one image"
    return f"by patient ({reading} found) is at least"


def _what_is_missing(point: OperatingPoint) -> str:
    parts = _shortages(point) or [_why_infeasible(point)]
    if point.num_negatives_expected is not None:
        parts.append(
            f"about {point.num_negatives_expected:,} negative and "
            f"{point.num_positives_expected:,} positive patients like these are expected to allow "
            "one certified threshold"
        )
    return "; ".join(parts)


def _shortages(point: OperatingPoint) -> list[str]:
    """List the classes with fewer patients than a certificate needs."""
    if point.confidence is None and point.min_tpr is not None:
        return []
    level = f"{100 * (point.level or _USUAL_CONFIDENCE):g} %"
    shortages = []
    needed, have = point.num_negatives_needed, point.num_negative_patients
    if needed is not None and needed > have:
        shortages.append(
            f"a certificate of the TNR at {level} needs at least {needed} independent negatives "
            f"with no more false positives, there are {have}"
        )
    needed, have = point.num_positives_needed, point.num_positive_patients or 0
    if needed is not None and needed > have:
        shortages.append(
            f"a certificate of the TPR at {level} needs at least {needed} independent positives, "
            f"there are {have}"
        )
    return shortages


def _why_infeasible(point: OperatingPoint) -> str:
    if point.min_tpr is None:
        if point.min_tnr == 1:
            return "no number of negatives certifies a TNR of 1"
        return "there are enough negative patients, but a few of them have many images"
    allowed = f" of at least {point.min_threshold:g}" if point.min_threshold else ""
    if point.refer or point.tnr < point.min_tnr:
        return f"no threshold{allowed} keeps the TNR on these images"
    ways = ["lower min_threshold"] if point.min_threshold else []
    ways.append("set refer: true to refer the images between two thresholds")
    return f"no single threshold{allowed} keeps both limits on these images; {', or '.join(ways)}"


def describe_plan(point: OperatingPoint) -> str:
    """Describe a plan of the numbers of patients, with its limitations."""
    confidence = f"{100 * (point.level or 0):g} % confidence"
    if point.min_tpr is not None:
        return (
            "median (5 to 95 %) of the share of these images between two thresholds certified on "
            f"that many other patients of this site, for a TNR of {point.min_tnr:g} and a TPR of "
            f"{point.min_tpr:g}, each at {confidence}; 0 means that one threshold keeps both; "
            f"predicted from these {counted(point.num_negative_patients, 'negative patient')} and "
            f"{counted(point.num_positive_patients or 0, 'positive patient')}; if a threshold lies "
            "beyond all their scores, all images on that side count as referred, the worst case"
        )
    return (
        "median (5 to 95 %) of the lowest threshold certified on that many other patients of this "
        f"site, for a TNR of {point.min_tnr:g} at {confidence}; "
        f"predicted from these {counted(point.num_negative_patients, 'negative patient')} and "
        f"{counted(point.num_positive, 'positive')}; a threshold above all their negative scores "
        "counts as TPR 0, the worst case"
    )


def describe_rule(rule: DecisionRule) -> str:
    """Describe a decision rule in one line, the threshold on both scales."""
    if rule.point is None:
        return "no operating point was chosen"
    probability = rule.threshold_probability
    scale = ""
    if probability is not None:
        which = "" if rule.lower_threshold is None else "the upper threshold "
        scale = f" ({which}as a probability at the training prevalence: {probability:.4f})"
    scores = "".join(f"; {each}" for each in _kind_of_scores(rule))
    return f"chosen on {chosen_images(rule.chosen_on)}{scale}: {describe_point(rule.point)}{scores}"


def _kind_of_scores(rule: DecisionRule) -> list[str]:
    """State in what the scores differ from those of the weights for the image itself."""
    kinds = []
    if rule.views:
        kinds.append(f"a score is the mean over the image and {counted(len(rule.views), 'view')}")
    if rule.batch_norm is not None:
        images = counted(rule.batch_norm.num_images, "image")
        kinds.append(f"the batch statistics are those of {images} of {rule.chosen_on}")
    return kinds


def describe_other_threshold(rule: DecisionRule | None) -> str:
    """Describe what is known of thresholds other than the stored one."""
    text = "Choosing another threshold by these images needs other images to test it."
    is_certified = rule is not None and rule.is_certified
    return f"Only the stored threshold has a certificate. {text}" if is_certified else text


def state_rule(
    rule: DecisionRule | None,
    classes: Classes,
    evaluations: Mapping[str, Evaluation],
) -> RuleStatement:
    """State what a decision rule guarantees."""
    if rule is None or rule.point is None:
        text = "This run has no threshold of its own; decisions are shown at 0.5 only."
        return RuleStatement("none", "No operating point", text)
    point, negative = rule.point, classes[0]
    later = (
        alarm_of_evaluation(name, each)
        for name, each in evaluations.items()
        if name != rule.chosen_on
    )
    alarms = tuple(filter(None, (alarm_of_rule(rule), *later)))
    title = _TITLES[point.status]
    invalid = [split_name(name) for name, each in evaluations.items() if each.is_invalid]
    if rule.is_certified and invalid:
        title = f"The specificity guarantee does not hold for the {' and '.join(invalid)} images"
    if alarms:
        title = f"{NOT_USABLE.capitalize()} ({title[0].lower()}{title[1:]})"
    text = {
        "certified": _certified_text,
        "empirical": _empirical_text,
        "infeasible": _infeasible_text,
    }[point.status](rule, point, classes)
    requested = plain_percent(point.min_tnr)
    tpr_terms = "no guarantee covers the sensitivity"
    if point.min_tpr is not None:
        title = title.replace("specificity", "specificity and sensitivity")
        kind = "guaranteed: at least" if rule.is_certified else "requested:"
        tpr_terms = f"{kind} {plain_percent(point.min_tpr)}"
    if rule.is_certified:
        guarantee = f"at least {requested}"
        terms = (
            f"with {plain_percent(point.confidence)} confidence, for images like those the "
            "threshold was chosen on"
        )
    else:
        guarantee, terms = "none", f"requested: {requested}"
    kinds = (f"{each[0].upper()}{each[1:]}." for each in _kind_of_scores(rule))
    remarks = (*_remarks(point, negative), *kinds)
    return RuleStatement(point.status, title, text, remarks, guarantee, terms, alarms, tpr_terms)


def state_kept_rule(rule: DecisionRule) -> RuleStatement:
    """State that a site keeps the run's threshold of a finding, which it has no labels for.

    Args:
        rule: The run's rule.
    """
    text = "The site keeps the run's threshold; nothing is guaranteed for its images."
    return RuleStatement("none", describe_missing_labels(rule.finding), text)


def _certified_text(rule: DecisionRule, point: OperatingPoint, classes: Classes) -> str:
    requested, confidence = plain_percent(point.min_tnr), plain_percent(point.confidence)
    negative, positive = classes
    whose = "patients have all their images" if _is_by_patient(point) else "images are"
    upper, lower = _names(point)
    text = (
        f"With {confidence} confidence, at least {requested} of {negative} {whose} below {upper}. "
    )
    if point.min_tpr is not None:
        part = "all their images" if point.patient_found == "every_image" else "at least one image"
        are_grouped = point.num_positive_patients != point.num_positive
        whose = f"patients have {part}" if are_grouped else "images are"
        certain = "" if point.joint else f"With {confidence} confidence by itself, "
        also = (
            f"at least {plain_percent(point.min_tpr)} of {positive} {whose} at or above {lower}. "
        )
        text = text.rstrip(". ") + f", and {also}" if point.joint else f"{text}{certain}{also}"
    return f"{text}This holds for images like those it was chosen on.{_zone(point)}"


def _names(point: OperatingPoint) -> tuple[str, str]:
    """Name the threshold that limits false positives, and the one that limits false negatives."""
    if point.lower_threshold is None:
        return "the threshold", "it"
    return "the upper threshold", "the lower one"


def _zone(point: OperatingPoint) -> str:
    if point.lower_threshold is None:
        return ""
    return (
        f" Images between the thresholds {score_text(point.lower_threshold)} and "
        f"{score_text(point.threshold)} are referred to a reader: {percent(point.referred)} of "
        "those it was chosen on."
    )


def _empirical_text(rule: DecisionRule, point: OperatingPoint, classes: Classes) -> str:
    upper, lower = _names(point)
    rates = (
        f"{percent(point.tnr)} of the {_sample(rule, point, classes[0])} are below {upper} "
        f"({plain_percent(point.min_tnr)} was requested)"
    )
    if point.min_tpr is not None:
        rate, unit = _limited_tpr(point)
        number = point.num_positive if unit == "images" else point.num_positive_patients
        whose = "are" if unit == "images" else "have an image"
        rates += (
            f", and {percent(rate)} of the {number:,} {classes[1]} {unit} {whose} at or above "
            f"{lower} ({plain_percent(point.min_tpr)} was requested)"
        )
    return (
        f"{rates}. The threshold was chosen on these images, so this is no guarantee for others."
        f"{_zone(point)}"
    )


def _infeasible_text(rule: DecisionRule, point: OperatingPoint, classes: Classes) -> str:
    negative, positive = classes
    with_confidence = (
        "" if point.confidence is None else f", with {plain_percent(point.confidence)} confidence"
    )
    also, found = "", "specificity"
    if point.min_tpr is not None:
        also = f", and {plain_percent(point.min_tpr)} of {positive} images at or above it"
        needed = point.num_negatives_needed or 0
        has_too_few = point.confidence is not None and needed > point.num_negative_patients
        if point.tnr >= point.min_tnr and not has_too_few:
            found = "sensitivity"
    images = _sample(rule, point, negative) if point.min_tpr is None else "images it was chosen on"
    return (
        f"The recipe requests that {plain_percent(point.min_tnr)} of {negative} images are below "
        f"the threshold, which is at least {score_text(point.min_threshold)}{also}"
        f"{with_confidence}. "
        f"The {images} do not support that at any threshold. The threshold "
        f"shown has the highest {found} found; do not rely on it."
    )


def _remarks(point: OperatingPoint, negative: str) -> list[str]:
    remarks = []
    if point.note:
        remarks.append(f"Why it is not certified: {point.note}")
    elif point.status == "empirical" and point.confidence is None:
        remarks.append("Why it is not certified: the recipe requests no confidence.")
    if point.status == "certified":
        whose = "patient" if _is_by_patient(point) else "image"
        remarks.append(
            f"Lower bound of the specificity by {whose} at this threshold, with the same "
            f"confidence: {percent(point.tnr_lower_bound)}."
        )
        if point.min_tpr is not None:
            remarks.append(f"The same for the sensitivity: {percent(point.tpr_lower_bound)}.")
    if point.status == "infeasible" and point.min_tpr is not None:
        missing = _what_is_missing(point)
        return [*remarks, f"{missing[0].upper()}{missing[1:]}."]
    if point.status == "infeasible" and point.num_negatives_needed is not None:
        unit = "patients" if _is_by_patient(point) else "images of different patients"
        remarks.append(
            f"A certificate for {plain_percent(point.min_tnr)} needs at least "
            f"{point.num_negatives_needed:,} {negative} {unit} with no more false positives than "
            f"here; there were {point.num_negative_patients:,}."
        )
    return remarks


def _sample(rule: DecisionRule, point: OperatingPoint, negative: str) -> str:
    images = f"{point.num_negative:,} {negative} images"
    if _is_by_patient(point):
        images += f" ({counted(point.num_negative_patients, 'patient')})"
    return f"{images} of {chosen_images(rule.chosen_on)}"


def _is_by_patient(point: OperatingPoint) -> bool:
    """True if counting negatives by patient differs from counting them by image."""
    return point.num_negative_patients != point.num_negative


def check_weights(rule: DecisionRule | None, weights_sha256: str) -> Statement | None:
    """State that a threshold was chosen on scores of other weights than the run has."""
    if rule is None or rule.weights_sha256 == weights_sha256:
        return None
    text = (
        "A threshold is valid only for the weights whose scores it was chosen on. Choose it again."
    )
    return Statement("The threshold belongs to other weights than this run has", text)
