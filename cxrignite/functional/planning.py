"""Plan of a certificate: sensitivity or referral to expect from a number of patients.

With few negatives a certified threshold lies above nearly all of them, which costs sensitivity.
With few positives the lower of two certified thresholds lies below nearly all of them, so many
images are referred.

All plans assume that further patients are exchangeable with the given ones, and nothing about the
distribution of the scores (Fligner and Wolfe, The American Statistician 1976, 30:78-85).
"""

from __future__ import annotations

import bisect
import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import scipy
from numpy.typing import NDArray

from cxrignite.functional.arrays import Numbers, as_float64
from cxrignite.functional.certificate import (
    check_certificate,
    num_false_positives_allowed,
    num_negatives_needed,
    umbrella_rank,
)
from cxrignite.functional.intervals import Interval

_LARGEST_FACTOR = 4
_LARGEST_GROWTH = 100
_ROUNDING = 1e-9
_TAIL = 1e-6


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
        further = _Further.of(num_given, number, min_tnr, confidence)
        if further is None:
            return None

        def tpr_at(quantile: float) -> float:
            threshold = math.nextafter(given[further.index_at(quantile)], math.inf)
            return float(np.mean(scores >= max(threshold, min_threshold)))

        # The higher the threshold, the lower the rate.
        interval = Interval(tpr_at(0.95), tpr_at(0.05))
        allowed = number - further.rank
        return ExpectedSensitivity(number, allowed, tpr_at(0.5), interval)

    return [expect(number) for number in sizes]


class ExpectedReferral(NamedTuple):
    """Share of the images between two certified thresholds, for numbers of patients.

    Attributes:
        num_negatives: Number of independent negatives that choose the upper threshold.
        num_positives: Number of independent positives that choose the lower threshold.
        referred: Median share of the images that are referred, in `[0, 1]`; 0 if one threshold
            keeps both limits.
        interval: Its range from the 5 % to the 95 % quantile.
    """

    num_negatives: int
    num_positives: int
    referred: float
    interval: Interval


def expected_referral(
    negatives: Numbers,
    positives: Numbers,
    scores: Numbers,
    sizes: Sequence[tuple[int, int]],
    *,
    min_tnr: float,
    min_tpr: float,
    confidence: float,
    min_threshold: float = 0.0,
) -> list[ExpectedReferral | None]:
    """Predict the share referred if both thresholds are certified on further patients.

    Limitations: A threshold beyond every given score of its class is unknown. All images on that
    side are then counted as referred, the worst case. So with few given patients the share is
    pessimistic.

    Args:
        negatives: Scores of independent negatives, shape `(P,)`, in `[0, 1]`, see
            `certificate.independent_scores`.
        positives: Scores of independent positives, shape `(M,)`, in `[0, 1]`.
        scores: Scores of the images of which the share is computed, shape `(N,)`.
        sizes: Pairs of numbers of negatives and of positives, each at least 0.
        min_tnr: Lowest acceptable true negative rate, in `[0, 1)`.
        min_tpr: Lowest acceptable true positive rate, in `[0, 1)`.
        confidence: Confidence of each of the two certificates, in `(0, 1)`.
        min_threshold: Lowest upper threshold allowed, in `[0, 1]`.

    Returns:
        One for each pair; None if a number is too small for its certificate.

    Raises:
        ValueError: If there are no negatives, positives or scores, or a setting is out of range.

    Examples:
        >>> negatives, positives = np.arange(0, 0.6, 0.01), np.arange(0.4, 1, 0.01)
        >>> [plan] = expected_referral(
        ...     negatives, positives, np.append(negatives, positives), [(60, 60)],
        ...     min_tnr=0.9, min_tpr=0.9, confidence=0.95,
        ... )
        >>> round(plan.referred, 3), plan.interval
        (0.308, Interval(low=0.2, high=1.0))
    """
    limits = _Limits(negatives, positives, min_tnr, min_tpr, confidence, min_threshold)
    ordered = np.sort(as_float64(scores, "scores"))
    if not ordered.size:
        raise ValueError("a plan needs the scores of the images, got none")

    def expect(num_negatives: int, num_positives: int) -> ExpectedReferral | None:
        pair = limits.further(num_negatives, num_positives)
        if pair is None:
            return None
        (uppers, of_upper), (lowers, of_lower) = (
            (values[each.indices], each.probabilities)
            for values, each in zip((limits.uppers, limits.lowers), pair, strict=True)
        )
        # Both thresholds come from different patients, so their joint probability is the product.
        below = [np.searchsorted(ordered, each) for each in (uppers, lowers)]
        shares = np.maximum(below[0][:, None] - below[1], 0).ravel() / ordered.size
        order = np.argsort(shares)
        reached = np.cumsum(np.outer(of_upper, of_lower).ravel()[order])
        at = np.searchsorted(reached, np.array([0.05, 0.5, 0.95]) * reached[-1] - _ROUNDING)
        low, median, high = shares[order[at]].tolist()
        return ExpectedReferral(num_negatives, num_positives, median, Interval(low, high))

    return [expect(*each) for each in sizes]


def patients_for_one_threshold(
    negatives: Numbers,
    positives: Numbers,
    *,
    min_tnr: float,
    min_tpr: float,
    confidence: float,
    min_threshold: float = 0.0,
) -> tuple[int, int] | None:
    """Return numbers of patients with which one threshold is expected to keep both limits.

    Expected means a probability of at least 0.5 that the threshold certified for the TNR is at most
    the one certified for the TPR. The numbers have the proportion of the given classes.

    Args:
        negatives: Scores of independent negatives, shape `(P,)`, in `[0, 1]`.
        positives: Scores of independent positives, shape `(M,)`, in `[0, 1]`.
        min_tnr: Lowest acceptable true negative rate, in `[0, 1)`.
        min_tpr: Lowest acceptable true positive rate, in `[0, 1)`.
        confidence: Confidence of each of the two certificates, in `(0, 1)`.
        min_threshold: Lowest threshold allowed, in `[0, 1]`.

    Returns:
        The number of negatives and of positives; None if a hundred times as many patients as given
        are not expected to suffice, or the given numbers are.

    Raises:
        ValueError: If there are no negatives or no positives, or a setting is out of range.

    Examples:
        >>> negatives, positives = np.arange(0, 0.6, 0.01), np.arange(0.55, 1, 0.01)
        >>> patients_for_one_threshold(
        ...     negatives, positives, min_tnr=0.9, min_tpr=0.9, confidence=0.95
        ... )
        (192, 144)
    """
    limits = _Limits(negatives, positives, min_tnr, min_tpr, confidence, min_threshold)
    given = limits.uppers.size - 1, limits.lowers.size - 1

    def sizes(tenth: int) -> tuple[int, int]:
        num_negatives, num_positives = (-(-number * tenth // 10) for number in given)
        return num_negatives, num_positives

    def is_expected(tenth: int) -> bool:
        return limits.probability_of_one_threshold(*sizes(tenth)) >= 0.5

    low, high = 10, 10 * _LARGEST_GROWTH
    if is_expected(low) or not is_expected(high):
        return None
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if is_expected(middle) else (middle, high)
    return sizes(high)


class _Further(NamedTuple):
    """Distribution of the ranked score of further patients among the given ones of their class.

    Scores are counted from the side of many correct decisions: negatives from the lowest, positives
    from the highest. An index is the number of given scores that the ranked one has passed; that
    given score, or none, is the next one, and so bounds the threshold.
    """

    num_given: int
    number: int
    rank: int

    @classmethod
    def of(cls, num_given: int, number: int, rate: float, confidence: float) -> _Further | None:
        """Return the distribution; None if the number is too small for a certificate."""
        rank = umbrella_rank(number, rate, confidence)
        return None if rank is None else cls(num_given, number, rank)

    def reaches(self, place: int | NDArray[np.int64]) -> Any:
        """Return the probability that the ranked score comes before the given one of this place."""
        # At least `rank` of the first `rank + place - 1` scores of both groups are further ones.
        drawn = self.rank + place - 1
        total = self.num_given + self.number
        return scipy.stats.hypergeom.sf(self.rank - 1, total, self.number, drawn)

    def index_at(self, quantile: float) -> int:
        """Return the index that is not exceeded with this probability."""
        places = range(1, self.num_given + 1)
        return bisect.bisect_left(places, quantile - _ROUNDING, key=self.reaches)

    @property
    def indices(self) -> NDArray[np.int64]:
        """Indices without the very improbable ones."""
        return np.arange(self.index_at(_TAIL), self.index_at(1 - _TAIL) + 1)

    @property
    def probabilities(self) -> NDArray[np.float64]:
        """Probability of each of `indices`."""
        indices = self.indices
        reached = np.where(indices < self.num_given, self.reaches(indices + 1), 1.0)
        return np.diff(reached, prepend=self.reaches(indices[0]) if indices[0] else 0.0)


class _Limits:
    """Certified thresholds by the index of the score that bounds them; see `_Further`."""

    def __init__(
        self,
        negatives: Numbers,
        positives: Numbers,
        min_tnr: float,
        min_tpr: float,
        confidence: float,
        min_threshold: float,
    ) -> None:
        check_certificate(min_tnr, confidence)
        check_certificate(min_tpr, confidence, "min_tpr")
        lowest_first = np.sort(as_float64(negatives, "negatives"))
        highest_first = np.sort(as_float64(positives, "positives"))[::-1]
        if not lowest_first.size or not highest_first.size:
            raise ValueError(
                f"a plan needs both classes, got {lowest_first.size} negatives and "
                f"{highest_first.size} positives"
            )
        above = np.nextafter(np.append(lowest_first, np.inf), np.inf)
        self.uppers = np.maximum(above, min_threshold)
        self.lowers = np.append(highest_first, -np.inf)
        self._rates = min_tnr, min_tpr
        self._confidence = confidence

    def further(self, num_negatives: int, num_positives: int) -> tuple[_Further, _Further] | None:
        """Return the distributions of both ranked scores; None without a certificate of both."""
        sizes = (self.uppers.size - 1, num_negatives), (self.lowers.size - 1, num_positives)
        negative, positive = (
            _Further.of(*size, rate, self._confidence)
            for size, rate in zip(sizes, self._rates, strict=True)
        )
        return None if negative is None or positive is None else (negative, positive)

    def probability_of_one_threshold(self, num_negatives: int, num_positives: int) -> float:
        """Return the probability that the upper threshold is at most the lower one."""
        pair = self.further(num_negatives, num_positives)
        if pair is None:
            return 0.0
        negative, positive = pair
        # The lower threshold is at or above the upper one if its score comes before the first
        # positive that is below that one.
        place = np.searchsorted(-self.lowers[:-1], -self.uppers[negative.indices], side="right")
        reached = np.where(place > 0, positive.reaches(np.maximum(place, 1)), 0.0)
        return float(negative.probabilities @ reached)


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
