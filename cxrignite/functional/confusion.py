"""Confusion counts and rates at a threshold.

The positive class is the last of `classes`. A score at or above the threshold is positive. Scores
are compared in float64, so that a decision does not depend on the precision of the array:
`np.float32(0.9) >= 0.9` is true, `float(np.float32(0.9)) >= 0.9` is false.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from cxrignite.functional.arrays import Numbers, as_float64, positive_mask


@dataclass(frozen=True)
class Confusion:
    """The four counts of a binary confusion matrix, and their rates in `[0, 1]`.

    A rate over no images is NaN.

    Args:
        tn: Number of true negatives.
        fp: Number of false positives.
        fn: Number of false negatives.
        tp: Number of true positives.
    """

    tn: int
    fp: int
    fn: int
    tp: int

    @property
    def tnr(self) -> float:
        """True negative rate, the specificity."""
        return _share(self.tn, self.tn + self.fp)

    @property
    def tpr(self) -> float:
        """True positive rate, the sensitivity or recall."""
        return _share(self.tp, self.tp + self.fn)

    @property
    def ppv(self) -> float:
        """Positive predictive value, the precision."""
        return _share(self.tp, self.tp + self.fp)

    @property
    def npv(self) -> float:
        """Negative predictive value."""
        return _share(self.tn, self.tn + self.fn)

    @property
    def balanced_accuracy(self) -> float:
        """Mean of `tnr` and `tpr`."""
        return (self.tnr + self.tpr) / 2

    @property
    def accuracy(self) -> float:
        """Share of correct decisions."""
        return _share(self.tn + self.tp, self.tn + self.fp + self.fn + self.tp)


def confusion_at(y_score: Numbers, y_true: Numbers, threshold: float) -> Confusion:
    """Count correct and wrong decisions at a threshold.

    Args:
        y_score: Probabilities of the positive class, shape `(N,)`, in `[0, 1]`; `N` may be 0.
        y_true: 0 (negative) or 1 (positive), shape `(N,)`.
        threshold: A score at or above it is positive, compared in float64.

    Returns:
        The confusion matrix.

    Raises:
        ValueError: If scores are not finite or outside `[0, 1]`, labels are not 0 or 1, their
            lengths differ, or `threshold` is NaN.

    Examples:
        >>> confusion_at([0.2, 0.9, 0.9], [0, 0, 1], 0.9)
        Confusion(tn=1, fp=1, fn=0, tp=1)
    """
    scores, positive = checked_scores(y_score, y_true)
    if math.isnan(threshold):
        raise ValueError("threshold must be a number, got nan")
    called = scores >= float(threshold)
    return Confusion(
        tn=int(np.sum(~called & ~positive)),
        fp=int(np.sum(called & ~positive)),
        fn=int(np.sum(~called & positive)),
        tp=int(np.sum(called & positive)),
    )


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


def _share(part: int, whole: int) -> float:
    return part / whole if whole else math.nan
