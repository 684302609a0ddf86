"""Distribution-free certificate of a true negative rate: the Neyman-Pearson umbrella algorithm.

Tong, Feng and Li, Science Advances 2018, doi 10.1126/sciadv.aao1659.

A TNR of 0.93 on a sample does not show that the true TNR is at least 0.93: the sample is finite,
and the threshold was chosen on it. This algorithm bounds the true TNR in spite of the choice.

Let a threshold lie just above the k-th smallest of n independent negative scores. If the scores
have no ties, its true TNR follows Beta(k, n - k + 1), whatever their distribution; with ties it is
stochastically larger. Hence `P(TNR < min_tnr) <= P(Binomial(n, min_tnr) >= k)`. The certificate
takes the smallest rank k for which this probability is at most `1 - confidence`. The probability is
over random samples of n negatives: of many thresholds chosen this way, at most the share
`1 - confidence` has a true TNR below `min_tnr`.

The guarantee assumes that the negatives are exchangeable with future negatives, and that they were
used neither to train the weights nor to select the checkpoint.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
import scipy
from numpy.typing import NDArray

from cxrignite.functional.arrays import Patients, as_names


def umbrella_rank(num_negatives: int, min_tnr: float, confidence: float) -> int | None:
    """Return the smallest rank k such that a threshold above the k-th smallest score is certified.

    A higher rank is certified as well: a higher threshold has at least the same TNR.

    Args:
        num_negatives: Number of independent negatives, at least 0.
        min_tnr: Lowest acceptable true negative rate, in `[0, 1)`.
        confidence: Probability with which the true TNR is at least `min_tnr`, in `(0, 1)`.

    Returns:
        k, from 1 to `num_negatives`: scores strictly above the k-th smallest may be called
        positive. None if `num_negatives` is too small for any rank.

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
    # P(TNR < min_tnr) for a threshold above each rank; it decreases with the rank.
    violation = scipy.stats.binom.sf(ranks - 1, num_negatives, min_tnr)
    allowed = np.flatnonzero(violation <= 1 - confidence)
    return int(ranks[allowed[0]]) if allowed.size else None


class CertifiedFloor(NamedTuple):
    """Lowest threshold that is certified.

    Attributes:
        threshold: In `(0, 1]`, the next float64 above a score, which may tie with others.
        rank: Rank of that score. The bound of the TNR must be computed from this rank, which is
            fixed before the scores are seen. The number of scores below the threshold depends on
            the ties in the sample, so a bound computed from it would not keep its confidence.
    """

    threshold: float
    rank: int


def certified_floor(
    independent: NDArray[np.float64], min_tnr: float, confidence: float
) -> CertifiedFloor | None:
    """Return the lowest threshold whose true TNR is at least `min_tnr` with this confidence.

    Args:
        independent: Scores of independent negatives, shape `(N,)`, in `[0, 1]`.
        min_tnr: Lowest acceptable true negative rate, in `[0, 1)`.
        confidence: Probability with which the true TNR is at least `min_tnr`, in `(0, 1)`.

    Returns:
        The lowest threshold; None if there are too few negatives, or too many of them score 1.0.

    Raises:
        ValueError: If a setting is out of range.
    """
    rank = umbrella_rank(independent.size, min_tnr, confidence)
    if rank is None:
        return None
    # A score equal to the threshold is positive, so the threshold must exceed the ranked score.
    floor = math.nextafter(float(np.partition(independent, rank - 1)[rank - 1]), math.inf)
    return CertifiedFloor(floor, rank) if floor <= 1 else None


def independent_negatives(
    scores: NDArray[np.float64], negative: NDArray[np.bool_], patients: Patients | None
) -> NDArray[np.float64]:
    """Return one score per independent negative: the highest score of each patient.

    Images of one patient are correlated; counted as independent they would make the certificate too
    optimistic. The highest score is used because a patient is a false positive as soon as one image
    is. The certified TNR is therefore a rate per patient.

    Args:
        scores: Scores of all images, shape `(N,)`.
        negative: Mask of the negative images, shape `(N,)`.
        patients: Patient of each image, shape `(N,)`; None treats images as independent.

    Returns:
        Scores, shape `(P,)`, in the order of the patients' names.

    Raises:
        ValueError: If `patients` is not one per image, or holds neither names nor whole numbers.
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
    """Return the largest number of false positives that a certified threshold may have.

    Args:
        num_negatives: Number of independent negatives, at least 0.
        min_tnr: Lowest acceptable true negative rate, in `[0, 1)`.
        confidence: Probability with which the true TNR is at least `min_tnr`, in `(0, 1)`.

    Returns:
        The number of false positives; None if there are too few negatives for a certificate.

    Raises:
        ValueError: If a setting is out of range.

    Examples:
        >>> [num_false_positives_allowed(n, 0.93, 0.95) for n in (135, 234, 400)]
        [4, 9, 19]
    """
    rank = umbrella_rank(num_negatives, min_tnr, confidence)
    return None if rank is None else num_negatives - rank


def num_negatives_needed(min_tnr: float, confidence: float, num_false_positive: int = 0) -> int:
    """Return the sample size for a certificate: the fewest negatives that can certify a TNR.

    Count independent negatives, that is patients if a patient has several images. The minimum
    without false positives forces the threshold above every negative score, which lowers the
    sensitivity: plan for some false positives.

    Args:
        min_tnr: Lowest acceptable true negative rate, in `[0, 1)`.
        confidence: Probability with which the true TNR is at least `min_tnr`, in `(0, 1)`.
        num_false_positive: Number of false positives to allow, at least 0.

    Returns:
        The number of independent negatives, at least 1.

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

    # Doubling finds a sufficient number, bisection the smallest one.
    high = num_false_positive + 1
    while not suffices(high):
        high *= 2
    low = num_false_positive
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if suffices(middle) else (middle, high)
    return high


def check_certificate(min_tnr: float, confidence: float) -> None:
    """Check the settings of a certificate.

    Args:
        min_tnr: Lowest acceptable true negative rate, in `[0, 1)`.
        confidence: Probability with which the true TNR is at least `min_tnr`, in `(0, 1)`.

    Raises:
        ValueError: If either is out of range.
    """
    if not 0 < confidence < 1:
        raise ValueError(f"confidence must be in (0, 1), got {confidence}")
    if not 0 <= min_tnr < 1:
        raise ValueError(
            f"min_tnr must be in [0, 1) for a certificate, got {min_tnr}: "
            "no sample can certify a TNR of 1"
        )
