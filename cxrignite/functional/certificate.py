"""How many negatives say how much about a true negative rate: the Neyman-Pearson umbrella.

Tong, Feng, Li, Science Advances 2018, doi 10.1126/sciadv.aao1659. A threshold just above the k-th
smallest of n negative scores has a true negative rate that follows Beta(k, n - k + 1), whatever the
distribution of the scores. It holds for negatives that are exchangeable with those to come, and
that chose neither the weights nor the checkpoint.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
import scipy
from numpy.typing import NDArray

from cxrignite.functional.arrays import Patients, as_names


def umbrella_rank(num_negatives: int, min_tnr: float, confidence: float) -> int | None:
    """Return the smallest rank k that a threshold may stand above.

    Args:
        num_negatives: Independent negatives, at least 0.
        min_tnr: The true negative rate to be kept, in `[0, 1)`.
        confidence: With this probability, in `(0, 1)`.

    Returns:
        k, from 1 to `num_negatives`: scores strictly above the k-th smallest may be called
        positive. None where even the largest does not do.

    Raises:
        ValueError: If a setting is out of range.

    Examples:
        >>> umbrella_rank(135, 0.93, 0.95), umbrella_rank(41, 0.93, 0.95)
        (131, None)
    """
    check_certificate(min_tnr, confidence)
    if num_negatives < 0:
        raise ValueError(f"num_negatives must be at least 0, got {num_negatives}")
    ranks = np.arange(1, num_negatives + 1)
    # P(TNR < min_tnr) for a threshold above each rank; it falls as the rank grows.
    violation = scipy.stats.binom.sf(ranks - 1, num_negatives, min_tnr)
    sound = np.flatnonzero(violation <= 1 - confidence)
    return int(ranks[sound[0]]) if sound.size else None


class CertifiedFloor(NamedTuple):
    """The lowest threshold of a certificate.

    Attributes:
        threshold: In `(0, 1]`, the next number above a score, which may tie with others.
        rank: That of the score. The bound of the true negative rate follows from it, and not from
            the number of scores below: that one depends on the ties the sample happens to have.
    """

    threshold: float
    rank: int


def certified_floor(
    independent: NDArray[np.float64], min_tnr: float, confidence: float
) -> CertifiedFloor | None:
    """Return the lowest threshold that keeps the true negative rate with the asked confidence.

    Args:
        independent: Scores of independent negatives, shape `(N,)`, in `[0, 1]`.
        min_tnr: The true negative rate to be kept, in `[0, 1)`.
        confidence: With this probability, in `(0, 1)`.

    Returns:
        The floor; None where there are too few negatives, or too many of them score 1.0.

    Raises:
        ValueError: If a setting is out of range.
    """
    rank = umbrella_rank(independent.size, min_tnr, confidence)
    if rank is None:
        return None
    floor = math.nextafter(float(np.partition(independent, rank - 1)[rank - 1]), math.inf)
    return CertifiedFloor(floor, rank) if floor <= 1 else None


def independent_negatives(
    scores: NDArray[np.float64], negative: NDArray[np.bool_], patients: Patients | None
) -> NDArray[np.float64]:
    """Return one score an independent negative: a patient counts once, with the highest score.

    Args:
        scores: One an image, shape `(N,)`.
        negative: Which images are negative, shape `(N,)`.
        patients: Whose each image is, shape `(N,)`; None takes each image for itself.

    Returns:
        Shape `(P,)`, in the order of the patients' names.

    Raises:
        ValueError: If `patients` does not name one an image, or holds neither names nor numbers.
    """
    if patients is None:
        return scores[negative]
    names = as_names(patients)
    if names.shape != scores.shape:
        raise ValueError(
            f"patients must name one for each of the {scores.size} images, got shape {names.shape}"
        )
    unique, owner = np.unique(names[negative], return_inverse=True)
    highest = np.full(unique.size, -np.inf)
    np.maximum.at(highest, owner, scores[negative])
    return highest


def num_false_positives_allowed(
    num_negatives: int, min_tnr: float, confidence: float
) -> int | None:
    """Return how many of the negatives may lie above a threshold that is to be certified.

    Args:
        num_negatives: Independent negatives, at least 0.
        min_tnr: The true negative rate to be kept, in `[0, 1)`.
        confidence: With this probability, in `(0, 1)`.

    Returns:
        The number; None where there are too few negatives for any certificate.

    Raises:
        ValueError: If a setting is out of range.

    Examples:
        >>> [num_false_positives_allowed(n, 0.93, 0.95) for n in (135, 234, 400)]
        [4, 9, 19]
    """
    rank = umbrella_rank(num_negatives, min_tnr, confidence)
    return None if rank is None else num_negatives - rank


def num_negatives_needed(min_tnr: float, confidence: float, num_false_positive: int = 0) -> int:
    """Plan a sample: the fewest negatives that can certify a true negative rate.

    Count independent negatives: patients, where a patient has several images.

    Args:
        min_tnr: The true negative rate to be kept, in `[0, 1)`.
        confidence: With this probability, in `(0, 1)`.
        num_false_positive: How many of them may lie above the threshold, at least 0.

    Returns:
        The number of negatives, at least 1.

    Raises:
        ValueError: If a setting is out of range.

    Examples:
        >>> num_negatives_needed(0.93, 0.95), num_negatives_needed(0.90, 0.95)
        (42, 29)
    """
    check_certificate(min_tnr, confidence)
    if num_false_positive < 0:
        raise ValueError(f"num_false_positive must be at least 0, got {num_false_positive}")

    def suffices(number: int) -> bool:
        return bool(
            scipy.stats.binom.cdf(num_false_positive, number, 1 - min_tnr) <= 1 - confidence
        )

    # Doubling finds a number that does, halving the interval the smallest one.
    high = num_false_positive + 1
    while not suffices(high):
        high *= 2
    low = num_false_positive
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if suffices(middle) else (middle, high)
    return high


def check_certificate(min_tnr: float, confidence: float) -> None:
    """Check what a certificate is asked for.

    Args:
        min_tnr: In `[0, 1)`.
        confidence: In `(0, 1)`.

    Raises:
        ValueError: If either is out of range.
    """
    if not 0 < confidence < 1:
        raise ValueError(f"confidence must be in (0, 1), got {confidence}")
    if not 0 <= min_tnr < 1:
        raise ValueError(
            f"min_tnr must be in [0, 1) to be certified, got {min_tnr}: "
            "no number of negatives certifies that none is ever called positive"
        )
