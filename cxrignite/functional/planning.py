"""Plan of a certificate: sensitivity to expect from a number of negative patients.

With few negatives a certified threshold lies above nearly all of them, which costs sensitivity.
"""

from __future__ import annotations

import bisect
import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import scipy

from cxrignite.functional.arrays import Numbers, as_float64
from cxrignite.functional.certificate import (
    num_false_positives_allowed,
    num_negatives_needed,
    umbrella_rank,
)
from cxrignite.functional.intervals import Interval

_LARGEST_FACTOR = 4
_ROUNDING = 1e-9


class ExpectedSensitivity(NamedTuple):
    """True positive rate of the lowest certified threshold, for a number of negatives.

    Attributes:
        num_negatives: Number of independent negatives that choose the threshold.
        num_false_positives: Number of them that the threshold may call positive.
        tpr: Median true positive rate, in `[0, 1]`.
        interval: Its range from the 5 % to the 95 % quantile.
    """

    num_negatives: int
    num_false_positives: int
    tpr: float
    interval: Interval


def expected_sensitivity(
    independent: Numbers,
    positives: Numbers,
    sizes: Sequence[int],
    *,
    min_tnr: float,
    confidence: float,
    min_threshold: float = 0.0,
) -> list[ExpectedSensitivity | None]:
    """Predict the sensitivity of a threshold that is certified on n further negatives.

    The prediction assumes that the further negatives are exchangeable with the given ones, and
    nothing about their distribution (Fligner and Wolfe, The American Statistician 1976, 30:78-85).
    A bootstrap is optimistic, because it draws no score above the highest given one. In a
    simulation with 54 normally distributed negatives, it gave 0.58 as the 5 % quantile for 42
    negatives, on average; the true quantile was 0.29.

    Limitations: A threshold above every given negative is unknown, so its true positive rate counts
    as 0, the worst case. With few given negatives the lower quantile is therefore pessimistic. The
    positives are taken as they are: if they are few, every rate is inaccurate.

    Args:
        independent: Scores of independent negatives, shape `(P,)`, in `[0, 1]`, see
            `certificate.independent_scores`.
        positives: Scores of positive images, shape `(M,)`, in `[0, 1]`.
        sizes: Numbers n of negatives, each at least 0.
        min_tnr: Lowest acceptable true negative rate, in `[0, 1)`.
        confidence: Probability with which the true TNR is at least `min_tnr`, in `(0, 1)`.
        min_threshold: Lowest threshold allowed, in `[0, 1]`.

    Returns:
        One for each size; None if the size is too small for a certificate.

    Raises:
        ValueError: If there are no negatives or no positives, or a setting is out of range.

    Examples:
        >>> negatives, positives = np.arange(0, 0.5, 0.01), np.arange(0.4, 0.9, 0.01)
        >>> for each in expected_sensitivity(
        ...     negatives, positives, [20, 29, 46], min_tnr=0.9, confidence=0.95
        ... ):
        ...     print(each and (each.num_false_positives, each.tpr))
        None
        (0, 0.82)
        (1, 0.84)
    """
    scores = as_float64(positives, "positives")
    given = np.append(np.sort(as_float64(independent, "independent")), np.inf)
    num_given = given.size - 1
    if not num_given or not scores.size:
        raise ValueError(
            f"a plan needs both classes, got {num_given} negatives and {scores.size} positives"
        )

    def expect(number: int) -> ExpectedSensitivity | None:
        rank = umbrella_rank(number, min_tnr, confidence)
        if rank is None:
            return None

        def reaches(place: int) -> float:
            # P(the ranked further score lies below the given score of this place): at least `rank`
            # of the lowest `rank + place - 1` scores of both groups are further ones.
            drawn = rank + place - 1
            return float(scipy.stats.hypergeom.sf(rank - 1, num_given + number, number, drawn))

        def tpr_at(quantile: float) -> float:
            places = range(1, num_given + 1)
            index = bisect.bisect_left(places, quantile - _ROUNDING, key=reaches)
            threshold = max(math.nextafter(given[index], math.inf), min_threshold)
            return float(np.mean(scores >= threshold))

        # The higher the threshold, the lower the rate.
        interval = Interval(tpr_at(0.95), tpr_at(0.05))
        return ExpectedSensitivity(number, number - rank, tpr_at(0.5), interval)

    return [expect(number) for number in sizes]


def planned_sizes(num_negatives: int, min_tnr: float, confidence: float) -> list[int]:
    """Return numbers of negatives worth planning for, up to at least four times the present one.

    Each is the fewest negatives that allow 0, 1, 2, 4, 8, ... false positives. A few more do not
    help: until one more false positive is allowed, the threshold only rises.

    Args:
        num_negatives: Present number of independent negatives; it is one of the sizes.
        min_tnr: Lowest acceptable true negative rate, in `[0, 1)`.
        confidence: Probability with which the true TNR is at least `min_tnr`, in `(0, 1)`.

    Returns:
        The numbers in ascending order, without those too small for a certificate.

    Raises:
        ValueError: If a setting is out of range.

    Examples:
        >>> planned_sizes(54, 0.93, 0.95)
        [42, 54, 66, 88, 129, 203, 343]
    """
    sizes = [num_negatives_needed(min_tnr, confidence)]
    allowed = 1
    while sizes[-1] < _LARGEST_FACTOR * num_negatives:
        sizes.append(num_negatives_needed(min_tnr, confidence, allowed))
        allowed *= 2
    if num_false_positives_allowed(num_negatives, min_tnr, confidence) is not None:
        sizes.append(num_negatives)
    return sorted(set(sizes))
