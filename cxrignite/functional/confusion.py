"""Confusion counts and rates at one threshold, or at two.

The positive class is the last of `classes`. A score at or above the threshold is positive. With a
lower threshold too, a score below that one is negative, and an image between the two is *referred*:
a reader decides. Scores are compared in float64, so that a decision does not depend on the
precision of the array: `np.float32(0.9) >= 0.9` is true, `float(np.float32(0.9)) >= 0.9` is false.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import numpy as np
from numpy.typing import NDArray

from cxrignite.functional.arrays import Numbers, all_as_float64, as_float64, positive_mask

if TYPE_CHECKING:
    from torch import Tensor

HIGHEST_CLASS = "highest_class"
"""Column after `decision` if the findings are exclusive classes; see `highest_class`."""

Decision = Literal["negative", "refer", "positive"]
"""Decision for an image; `refer`: a reader decides."""


@dataclass(frozen=True)
class Confusion:
    """The counts of a binary confusion matrix, and their rates in `[0, 1]`.

    A rate over no images is NaN.

    Args:
        tn: Number of true negatives.
        fp: Number of false positives.
        fn: Number of false negatives.
        tp: Number of true positives.
        referred_negative: Number of negative images that are referred.
        referred_positive: Number of positive images that are referred.
    """

    tn: int
    fp: int
    fn: int
    tp: int
    referred_negative: int = 0
    referred_positive: int = 0

    @property
    def num_negative(self) -> int:
        """Number of negative images."""
        return self.tn + self.fp + self.referred_negative

    @property
    def num_positive(self) -> int:
        """Number of positive images."""
        return self.tp + self.fn + self.referred_positive

    @property
    def tnr(self) -> float:
        """True negative rate, the specificity; a referred image counts as not called positive."""
        return _share(self.num_negative - self.fp, self.num_negative)

    @property
    def tpr(self) -> float:
        """True positive rate, the sensitivity; a referred image counts as not called negative."""
        return _share(self.num_positive - self.fn, self.num_positive)

    @property
    def ppv(self) -> float:
        """Positive predictive value, the precision; without the referred images."""
        return _share(self.tp, self.tp + self.fp)

    @property
    def npv(self) -> float:
        """Negative predictive value; without the referred images."""
        return _share(self.tn, self.tn + self.fn)

    @property
    def balanced_accuracy(self) -> float:
        """Mean over the classes of the share of correct decisions; a referral counts half."""
        return (
            _share(self.tn + self.referred_negative / 2, self.num_negative)
            + _share(self.tp + self.referred_positive / 2, self.num_positive)
        ) / 2

    @property
    def accuracy(self) -> float:
        """Share of correct decisions; without the referred images."""
        return _share(self.tn + self.tp, self.tn + self.fp + self.fn + self.tp)

    @property
    def referred(self) -> float:
        """Share of the images that are referred."""
        num_referred = self.referred_negative + self.referred_positive
        return _share(num_referred, self.num_negative + self.num_positive)

    @property
    def negatives_referred(self) -> float:
        """Share of the negative images that are referred."""
        return _share(self.referred_negative, self.num_negative)

    @property
    def positives_referred(self) -> float:
        """Share of the positive images that are referred."""
        return _share(self.referred_positive, self.num_positive)


def confusion_at(
    y_score: Numbers, y_true: Numbers, threshold: float, lower: float | None = None
) -> Confusion:
    """Count correct and wrong decisions at a threshold, or at two.

    Args:
        y_score: Probabilities of the positive class, shape `(N,)`, in `[0, 1]`; `N` may be 0.
        y_true: 0 (negative) or 1 (positive), shape `(N,)`.
        threshold: A score at or above it is positive, compared in float64.
        lower: A score below it is negative; None if every score below `threshold` is.

    Returns:
        The confusion matrix.

    Raises:
        ValueError: If scores are not finite or outside `[0, 1]`, labels are not 0 or 1, their
            lengths differ, `threshold` is NaN, or `lower` is above it.

    Examples:
        >>> confusion_at([0.2, 0.9, 0.9], [0, 0, 1], 0.9)
        Confusion(tn=1, fp=1, fn=0, tp=1, referred_negative=0, referred_positive=0)
    """
    scores, positive = checked_scores(y_score, y_true)
    return Confusion(*map(int, decision_cells(scores, positive, threshold, lower).sum(axis=0)))


def decide(score: float, threshold: float, lower: float | None = None) -> Decision:
    """Return the decision for one score.

    Args:
        score: Probability of the positive class, in `[0, 1]`.
        threshold: A score at or above it is positive.
        lower: A score below it is negative; None if every score below `threshold` is.

    Returns:
        The decision.

    Examples:
        >>> decide(0.7, 0.8), decide(0.7, 0.8, lower=0.3), decide(0.8, 0.8)
        ('negative', 'refer', 'positive')
    """
    if score >= threshold:
        return "positive"
    return "negative" if lower is None or score < lower else "refer"


def highest_class(y_score: Tensor | NDArray[np.generic]) -> NDArray[np.int64]:
    """Return the exclusive class with the highest score of each image.

    Args:
        y_score: Scores of all classes but the first, shape `(N, K)`, with sums of at most 1. That
            of the first class is the rest.

    Returns:
        Shape `(N,)`: 0 for the first class, k for column k - 1. Of equal scores the first counts.

    Examples:
        >>> highest_class(np.array([[0.1, 0.2], [0.6, 0.3], [0.4, 0.5]])).tolist()
        [0, 1, 2]
    """
    scores = all_as_float64(y_score)
    rest = 1 - scores.sum(axis=1, keepdims=True)
    highest: NDArray[np.int64] = np.hstack([rest, scores]).argmax(axis=1).astype(np.int64)
    return highest


def decision_cells(
    scores: NDArray[np.float64],
    positive: NDArray[np.bool_],
    threshold: float,
    lower: float | None = None,
) -> NDArray[np.bool_]:
    """Mark the cell of each image in the confusion matrix.

    Args:
        scores: Checked scores, shape `(N,)`.
        positive: Mask of the positives, shape `(N,)`.
        threshold: A score at or above it is positive.
        lower: A score below it is negative; None if every score below `threshold` is.

    Returns:
        One column for each field of `Confusion`, shape `(N, 6)`.

    Raises:
        ValueError: If `threshold` is NaN, or `lower` is above it.
    """
    if math.isnan(threshold):
        raise ValueError("threshold must be a number, got nan")
    lower = threshold if lower is None else lower
    if not lower <= threshold:
        raise ValueError(f"the lower threshold must be at most {threshold}, got {lower}")
    called, cleared = scores >= float(threshold), scores < float(lower)
    referred = ~called & ~cleared
    columns = (cleared & ~positive, called & ~positive, cleared & positive, called & positive)
    return np.stack([*columns, referred & ~positive, referred & positive], axis=1)


def checked_scores(
    y_score: Numbers, y_true: Numbers
) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
    """Check scores and labels, and return them as float64 and bool arrays.

    Args:
        y_score: Probabilities of the positive class, shape `(N,)`, in `[0, 1]`.
        y_true: 0 (negative) or 1 (positive), shape `(N,)`.

    Returns:
        The scores in float64 and the mask of positives, each of shape `(N,)`.

    Raises:
        ValueError: If scores are not finite or outside `[0, 1]`, labels are not 0 or 1, or their
            lengths differ.
    """
    scores = as_float64(y_score, "y_score")
    positive = positive_mask(y_true, "y_true")
    if scores.size != positive.size:
        raise ValueError(
            "y_score and y_true must have the same length, "
            f"got {scores.size} scores and {positive.size} labels"
        )
    num_not_finite = int(np.sum(~np.isfinite(scores)))
    if num_not_finite:
        raise ValueError(f"y_score must be finite, got {num_not_finite} NaN or infinite values")
    outside = scores[(scores < 0) | (scores > 1)]
    if outside.size:
        raise ValueError(
            f"y_score must be in [0, 1], got {outside[0]:.8g} ({outside.size} such values)"
        )
    return scores, positive


def counts_by_threshold(
    scores: NDArray[np.float64], positive: NDArray[np.bool_], lowest: float
) -> tuple[NDArray[np.float64], NDArray[np.int64], NDArray[np.int64]]:
    """Count false and true positives at every threshold that leads to different decisions.

    Args:
        scores: Checked scores, shape `(N,)`.
        positive: Mask of the positives, shape `(N,)`.
        lowest: Lowest threshold.

    Returns:
        The thresholds (`lowest` and every distinct score above it, descending), the number of false
        positives and the number of true positives at each.
    """
    reached = scores >= lowest
    order = np.argsort(-scores[reached])
    ordered = scores[reached][order]
    tp = np.cumsum(positive[reached][order], dtype=np.int64)
    is_last_of_equals = np.append(ordered[1:] < ordered[:-1], True)[: ordered.size]
    thresholds, tp = ordered[is_last_of_equals], tp[is_last_of_equals]
    fp = np.flatnonzero(is_last_of_equals) + 1 - tp
    if not thresholds.size or thresholds[-1] > lowest:
        thresholds = np.append(thresholds, lowest)
        tp = np.append(tp, tp[-1] if tp.size else 0)
        fp = np.append(fp, fp[-1] if fp.size else 0)
    return thresholds, fp, tp


def _share(part: float, whole: int) -> float:
    return part / whole if whole else math.nan
