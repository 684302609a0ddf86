"""Distribution-free certificates of rates: the Neyman-Pearson umbrella algorithm.

Tong, Feng and Li, Science Advances 2018, doi 10.1126/sciadv.aao1659.

A TNR of 0.93 on a sample does not show that the true TNR is at least 0.93: the sample is finite,
and the threshold was chosen on it. This algorithm bounds the true TNR in spite of the choice.

Let a threshold lie just above the k-th smallest of n independent negative scores. If the scores
have no ties, its true TNR follows Beta(k, n - k + 1), whatever their distribution; with ties it is
stochastically larger. Hence `P(TNR < min_tnr) <= P(Binomial(n, min_tnr) >= k)`. The certificate
takes the smallest rank k for which this probability is at most `1 - confidence`. The probability is
over random samples of n negatives: of many thresholds chosen this way, at most the share
`1 - confidence` has a true TNR below `min_tnr`.

The true positive rate is certified by the same rule with the classes exchanged: a threshold at the
k-th largest of n independent positive scores. For several images of a patient there are two
readings, see `PatientReading`.

The guarantees assume that the images are exchangeable with future images of their class, and that
they were used neither to train the weights nor to select the checkpoint. Two certificates of the
same confidence c hold together with a probability of at least 2c - 1 (Bonferroni).
"""

from __future__ import annotations

import math
from typing import Literal, NamedTuple

import numpy as np
import scipy
from numpy.typing import NDArray

from cxrignite.functional.arrays import Patients, as_names, patient_codes

PatientReading = Literal["every_image", "any_image"]
"""When a positive patient counts as found: if every image is called positive (the lowest score
counts), or if at least one is (the highest score counts)."""


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


class CertifiedLimit(NamedTuple):
    """Lowest threshold that is certified for the TNR, or highest one for the TPR.

    Attributes:
        threshold: In `[0, 1]`: for the TNR the next float64 above a score, for the TPR a score;
            the score may tie with others.
        rank: Rank of that score. The bound of the rate must be computed from this rank, which is
            fixed before the scores are seen. The number of scores beyond the threshold depends on
            the ties in the sample, so a bound computed from it would not keep its confidence.
    """

    threshold: float
    rank: int


def certified_floor(
    independent: NDArray[np.float64], min_tnr: float, confidence: float
) -> CertifiedLimit | None:
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
    return CertifiedLimit(floor, rank) if floor <= 1 else None


def certified_ceiling(
    independent: NDArray[np.float64], min_tpr: float, confidence: float
) -> CertifiedLimit | None:
    """Return the highest threshold whose true TPR is at least `min_tpr` with this confidence.

    Args:
        independent: Scores of independent positives, shape `(N,)`, in `[0, 1]`.
        min_tpr: Lowest acceptable true positive rate, in `[0, 1)`.
        confidence: Probability with which the true TPR is at least `min_tpr`, in `(0, 1)`.

    Returns:
        The highest threshold; None if there are too few positives.

    Raises:
        ValueError: If a setting is out of range.

    Examples:
        >>> certified_ceiling(np.linspace(0, 1, 101), 0.90, 0.95)
        CertifiedLimit(threshold=0.04, rank=97)
    """
    check_certificate(min_tpr, confidence, "min_tpr")
    rank = umbrella_rank(independent.size, min_tpr, confidence)
    if rank is None:
        return None
    # A score equal to the threshold is positive, so the threshold is the ranked score itself.
    ceiling = float(np.partition(independent, independent.size - rank)[independent.size - rank])
    return CertifiedLimit(ceiling, rank)


def independent_scores(
    scores: NDArray[np.float64],
    selected: NDArray[np.bool_],
    patients: Patients | None,
    kept: Literal["highest", "lowest"] = "highest",
) -> NDArray[np.float64]:
    """Return one score per patient, because images of one patient are correlated.

    Counted as independent they would make a certificate too optimistic. A negative patient is a
    false positive as soon as one image is, so the highest score counts. The score of a positive
    patient depends on the reading, see `PatientReading`. A certified rate is a rate per patient.

    Args:
        scores: Scores of all images, shape `(N,)`.
        selected: Mask of the images of one class, shape `(N,)`.
        patients: Patient of each image, shape `(N,)`; None treats images as independent.
        kept: Score of a patient that is kept.

    Returns:
        Scores, shape `(P,)`, in no particular order.

    Raises:
        ValueError: If `patients` is not one per image, or holds neither names nor whole numbers.
    """
    if patients is None:
        return scores[selected]
    names = as_names(patients)
    if names.shape != scores.shape:
        raise ValueError(
            f"patients must name one for each of the {scores.size} images, got shape {names.shape}"
        )
    owner = patient_codes(names[selected])
    is_highest = kept == "highest"
    found = np.full(owner.max(initial=-1) + 1, -np.inf if is_highest else np.inf)
    (np.maximum if is_highest else np.minimum).at(found, owner, scores[selected])
    return found


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


def num_positives_needed(min_tpr: float, confidence: float, num_false_negative: int = 0) -> int:
    """Return the fewest positives that can certify a TPR; see `num_negatives_needed`.

    Args:
        min_tpr: Lowest acceptable true positive rate, in `[0, 1)`.
        confidence: Probability with which the true TPR is at least `min_tpr`, in `(0, 1)`.
        num_false_negative: Number of false negatives to allow, at least 0.

    Returns:
        The number of independent positives, at least 1.

    Raises:
        ValueError: If a setting is out of range.

    Examples:
        >>> num_positives_needed(0.90, 0.95), num_positives_needed(0.95, 0.95)
        (29, 59)
    """
    check_certificate(min_tpr, confidence, "min_tpr")
    if num_false_negative < 0:
        raise ValueError(f"num_false_negative must be at least 0, got {num_false_negative}")
    return num_negatives_needed(min_tpr, confidence, num_false_negative)


def joint_level(confidence: float) -> float:
    """Return the confidence of each of two certificates that together hold with `confidence`.

    Args:
        confidence: Probability with which both hold, in `(0, 1)`.
    """
    return (1 + confidence) / 2  # Bonferroni


def family_level(confidence: float, num_certificates: int) -> float:
    """Return the confidence of each of several certificates that together hold with `confidence`.

    Args:
        confidence: Probability with which all hold, in `(0, 1)`.
        num_certificates: Number of certificates, at least 1.

    Returns:
        A level of at least `confidence`, by Bonferroni's inequality.

    Raises:
        ValueError: If `num_certificates` is below 1.

    Examples:
        >>> round(family_level(0.95, 10), 4)
        0.995
    """
    if num_certificates < 1:
        raise ValueError(f"num_certificates must be at least 1, got {num_certificates}")
    if num_certificates == 1:
        return confidence
    return 1 - (1 - confidence) / num_certificates


def check_certificate(rate: float, confidence: float, name: str = "min_tnr") -> None:
    """Check the settings of a certificate.

    Args:
        rate: Lowest acceptable rate, in `[0, 1)`.
        confidence: Probability with which the true rate is at least this, in `(0, 1)`.
        name: Name of the setting in an error message.

    Raises:
        ValueError: If either is out of range.
    """
    if not 0 < confidence < 1:
        raise ValueError(f"confidence must be in (0, 1), got {confidence}")
    if not 0 <= rate < 1:
        raise ValueError(
            f"{name} must be in [0, 1) for a certificate, got {rate}: "
            f"no sample can certify a {name[-3:].upper()} of 1"
        )
