"""Test that decisions at a threshold are better than chance.

A guaranteed TNR does not show this: a threshold that calls no image positive has a TNR of 1.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from cxrignite.functional import (
    Interval,
    bootstrap_intervals,
    decision_statistics,
    delong_interval,
    ranking_statistics,
)
from cxrignite.functional.youden_interval import youden_interval
from cxrignite.runs.scores import SplitScores

_MANY_IMAGES = 20_000  # enough images for a fine interval from few resamples


@dataclass(frozen=True)
class Informativeness:
    """Evidence that a threshold separates the classes.

    Each interval is the one by image or the one by patient, whichever has the lower end. Images of
    one patient resemble each other, which the first ignores. If all resamples agree, the second
    (a bootstrap) does not exist.

    Two thresholds are judged as one rule: an upper threshold that calls no image positive does no
    harm if the lower one clears negatives. But neither may be worse than chance alone, because its
    decisions would be wrong more often than right.

    Attributes:
        num_found: Number of positive images at or above the threshold.
        youden: Youden's J, TPR + TNR - 1, with a referred image counted half; 0 is chance.
        youden_interval: Its 95 % interval.
        roc_auc: Area under the ROC curve; 0.5 is chance.
        roc_auc_interval: Its 95 % interval.
        youden_of_each: J of the lower and of the upper threshold alone; empty if there is one.
    """

    num_positive: int
    num_found: int
    youden: float
    youden_interval: Interval
    roc_auc: float
    roc_auc_interval: Interval
    youden_of_each: tuple[float, ...] = ()

    @property
    def is_informative(self) -> bool:
        """True if both intervals lie above chance, and neither of two thresholds below it."""
        # Without a positive image found, J of one threshold is at most 0.
        above_chance = self.youden_interval.low > 0 and self.roc_auc_interval.low > 0.5
        return above_chance and min(self.youden_of_each, default=0.0) >= 0


def num_resamples(num_images: int) -> int:
    """Return the number of bootstrap resamples for the intervals of a split."""
    return 2000 if num_images <= _MANY_IMAGES else 500


def measure_informativeness(
    scores: SplitScores,
    threshold: float | None,
    by_patient: Mapping[str, Interval] | None = None,
    lower: float | None = None,
) -> Informativeness | None:
    """Test that decisions at a threshold are better than chance.

    Args:
        scores: Images and their scores.
        threshold: A score at or above it is positive; None if none was chosen.
        by_patient: Intervals of `roc_auc` and `balanced_accuracy` by patient, if known; None
            computes them.
        lower: A score below it is negative, if the images between both are referred.

    Returns:
        The measurement; None without a threshold, or if a class is missing.
    """
    if threshold is None or not scores.has_both_classes:
        return None
    cells = scores.confusion(threshold, lower)
    ranking = ranking_statistics(scores.y_score, scores.y_true)
    if by_patient is None:
        decisions = decision_statistics(scores.y_score, scores.y_true, threshold, lower)
        by_patient = bootstrap_intervals(
            lambda weights: {**ranking(weights), **decisions(weights)},
            scores.patients,
            num_resamples=num_resamples(scores.num_images),
        )
    low, high = by_patient["balanced_accuracy"]
    return Informativeness(
        num_positive=cells.num_positive,
        num_found=cells.tp,
        youden=2 * cells.balanced_accuracy - 1,
        youden_interval=_lower(youden_interval(cells), Interval(2 * low - 1, 2 * high - 1)),
        roc_auc=float(ranking(np.ones((1, scores.num_images)))["roc_auc"][0]),
        roc_auc_interval=_lower(
            delong_interval(scores.y_score, scores.y_true), by_patient["roc_auc"]
        ),
        youden_of_each=()
        if lower is None
        else tuple(2 * scores.confusion(at).balanced_accuracy - 1 for at in (lower, threshold)),
    )


def _lower(by_image: Interval, by_patient: Interval) -> Interval:
    if math.isnan(by_patient.low) or by_image.low <= by_patient.low:
        return by_image
    return by_patient
