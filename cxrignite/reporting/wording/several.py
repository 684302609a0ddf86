"""Sentences about several findings of a run."""

from __future__ import annotations

from collections.abc import Sequence

from cxrignite.functional import OperatingPoint
from cxrignite.reporting.numbers import plain_percent
from cxrignite.runs.decision_rule import DecisionRule
from cxrignite.terminal import counted


def listed(names: Sequence[str], word: str = "and") -> str:
    """List names in a sentence.

    Args:
        names: At least one name.
        word: The word before the last name.

    Examples:
        >>> listed(["Effusion", "Nodule", "Mass"])
        'Effusion, Nodule and Mass'
    """
    *first, last = names
    return f"{', '.join(first)} {word} {last}" if first else last


def describe_findings(classes: Sequence[str], *, is_exclusive: bool) -> str:
    """Describe which findings an image may have, and that each is decided by itself."""
    if is_exclusive:
        return (
            f"Each image is labelled with one of {len(classes)} classes: {listed(classes, 'or')}. "
            "Each finding has its own score and its own threshold and is decided by itself, so one "
            "image may be called positive for several findings, or for none."
        )
    return (
        "An image may show several of these findings, or none. Each finding has its own score and "
        "its own threshold and is decided by itself."
    )


def describe_negatives(
    classes: Sequence[str], index: int, *, is_exclusive: bool, num_unknown: int = 0
) -> str:
    """Describe the images that are negative for one of several findings."""
    finding = classes[index + 1]
    if is_exclusive:
        others = listed([each for each in classes if each != finding], "or")
        return f"An image counts as no {finding} if it is labelled {others}."
    text = f"An image counts as no {finding} if its label is negative; it may show other findings."
    if num_unknown:
        left_out = counted(num_unknown, "image")
        text += (
            f" The label of {finding} is unknown in {left_out} of this run, which "
            f"{'is' if num_unknown == 1 else 'are'} left out here."
        )
    return text


def describe_family(rules: Sequence[DecisionRule | None]) -> str:
    """Describe with which confidence all certificates of a run hold together.

    Args:
        rules: The rule of each finding; None without one.

    Returns:
        Empty if fewer than two thresholds are certified.
    """
    points = [rule.point for rule in rules if rule and rule.point and rule.is_certified]
    if len(points) < 2:
        return ""
    # Bonferroni's inequality: the probabilities of an error add up.
    confidence = 1 - sum(_error(point) for point in points)
    together = f"all hold together with at least {plain_percent(round(confidence, 6))} confidence"
    if confidence <= 0:
        together = "no confidence is known with which all hold together"
    kept = f"{len(points)} of {counted(len(rules), 'finding')} have a certified threshold"
    return (
        f"{kept}. Each certificate holds by itself with its confidence, for images like those "
        f"that chose the threshold; {together}."
    )


def describe_ensemble(num_folds: int) -> str:
    """Describe the scores of an ensemble, and those of its training images.

    Args:
        num_folds: Number of folds, each with a model of its own.
    """
    return (
        f"This is an ensemble of {num_folds} folds: the score of an image is the mean of the "
        f"scores of {num_folds} models, each trained without the images of its fold. The "
        "validation results are out-of-fold: each training image was scored by the one model that "
        "had not trained on it. They do not show the effect of the mean."
    )


def _error(point: OperatingPoint) -> float:
    """Return the probability that a certificate does not hold."""
    num_limits = 1 if point.joint or point.min_tpr is None else 2
    return num_limits * (1 - (point.confidence or 0))


def describe_class_decisions(nothing: str) -> str:
    """Describe the decisions among exclusive classes."""
    return (
        f"Here each image gets one class, that of the highest score. The score of {nothing} is 1 "
        "minus those of the findings. No threshold is used, and no certificate covers these "
        "decisions."
    )
