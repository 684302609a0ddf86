"""How far a figure may be from the truth, having been measured on these images.

Clopper-Pearson for shares, DeLong for areas under the ROC curve, and for anything the bootstrap by
patient. The first two take images as independent, which several images of one patient are not. In
simulation (100 negative and 100 positive patients of 1 to 4 images, half of a score's variance
between patients) 95 % intervals of DeLong covered an area in 87 % of cases and a difference of two
in 90 %; those of the bootstrap both in 95 %.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import scipy
from numpy.typing import NDArray

from cxrignite.functional.arrays import Numbers
from cxrignite.functional.delong import area_and_error, delong_covariance, placements
from cxrignite.functional.patient_bootstrap import (
    Statistics,
    accelerated_ends,
    bootstrap_samples,
    left_out_samples,
    patient_resamples,
    percentile_ends,
)

__all__ = [
    "Interval",
    "Statistics",
    "bootstrap_differences",
    "bootstrap_intervals",
    "bootstrap_samples",
    "clopper_pearson",
    "clopper_pearson_lower",
    "delong_covariance",
    "delong_difference",
    "delong_interval",
    "patient_resamples",
]


class Interval(NamedTuple):
    """Two ends between which the true figure lies, with the confidence asked for.

    Attributes:
        low: The lower end, in the unit of the figure; NaN where nothing can be said.
        high: The upper end.
    """

    low: float
    high: float


def clopper_pearson(num_successes: int, num_trials: int, confidence: float = 0.95) -> Interval:
    """Return the exact two-sided interval of a share.

    Clopper and Pearson 1934, doi 10.1093/biomet/26.4.404, by quantiles of the beta distribution. It
    covers the truth at least as often as it says, for independent trials.

    Args:
        num_successes: From 0 to `num_trials`.
        num_trials: At least 0.
        confidence: In `(0, 1)`.

    Returns:
        The interval, within `[0, 1]`; all of it where there were no trials.

    Raises:
        ValueError: If a count or `confidence` is out of range.

    Examples:
        >>> low, high = clopper_pearson(189, 234)
        >>> round(low, 3), round(high, 3)
        (0.751, 0.856)
    """
    _check_counts(num_successes, num_trials)
    _check_confidence(confidence)
    tail = (1 - confidence) / 2
    return Interval(
        _share_bound(num_successes, num_trials, tail),
        1 - _share_bound(num_trials - num_successes, num_trials, tail),
    )


def clopper_pearson_lower(num_successes: int, num_trials: int, confidence: float = 0.95) -> float:
    """Return the exact one-sided lower bound of a share (see `clopper_pearson`).

    Args:
        num_successes: From 0 to `num_trials`.
        num_trials: At least 0.
        confidence: In `(0, 1)`.

    Returns:
        The bound, in `[0, 1]`; 0 where there were no trials.

    Raises:
        ValueError: If a count or `confidence` is out of range.

    Examples:
        >>> round(clopper_pearson_lower(42, 42), 3)
        0.931
    """
    _check_counts(num_successes, num_trials)
    _check_confidence(confidence)
    return _share_bound(num_successes, num_trials, 1 - confidence)


def delong_interval(y_score: Numbers, y_true: Numbers, confidence: float = 0.95) -> Interval:
    """Return the interval of an area under the ROC curve, symmetric on the scale of its logit.

    See `delong_covariance`; on that scale an end cannot leave `[0, 1]`, and small samples or large
    areas are covered better (Kottas, Kuss and Zapf 2014, doi 10.1186/1471-2288-14-26). Where the
    variance cannot be estimated (every negative below every positive, or a class of one image) the
    interval is `area - u` to `area + u` within `[0, 1]` (ours): `u` is the upper Clopper-Pearson
    bound of a share that was seen 0 times among the images of the smaller class. Were more than `u`
    of them on the wrong side of the other class, one would most likely have been seen.

    Args:
        y_score: Probabilities of the positive class, shape `(N,)`, in `[0, 1]`.
        y_true: 0 (negative) or 1 (positive), shape `(N,)`.
        confidence: In `(0, 1)`.

    Returns:
        The interval, within `[0, 1]`; NaN where a class has no image.

    Raises:
        ValueError: If `confidence` is out of range, scores are not finite or outside `[0, 1]`,
            labels are not 0 or 1, or their lengths differ.

    Examples:
        >>> low, high = delong_interval([0.1, 0.2, 0.6, 0.4, 0.7, 0.9], [0, 0, 0, 1, 1, 1])
        >>> round(low, 3), round(high, 3)
        (0.261, 0.995)
    """
    _check_confidence(confidence)
    of_positives, of_negatives = placements([y_score], y_true)
    area, error = area_and_error(of_positives[0], of_negatives[0])
    if math.isnan(area):
        return Interval(math.nan, math.nan)
    if not error > 0 or not 0 < area < 1:
        margin = _unseen_share(of_positives.shape[1], of_negatives.shape[1], confidence)
        return Interval(max(0.0, area - margin), min(1.0, area + margin))
    half = _normal_quantile(confidence) * error / (area * (1 - area))
    centre = scipy.special.logit(area)
    return Interval(*scipy.special.expit([centre - half, centre + half]).tolist())


def delong_difference(
    y_score_a: Numbers, y_score_b: Numbers, y_true: Numbers, confidence: float = 0.95
) -> Interval:
    """Return the interval of the difference of two areas under the ROC curve on the same images.

    See `delong_covariance`. Where the variance cannot be estimated (both models rank the images
    alike, or a class of one image) it is the difference plus and minus `u`, as in
    `delong_interval`.

    Args:
        y_score_a: Probabilities of the positive class by model a, shape `(N,)`, in `[0, 1]`.
        y_score_b: The same by model b, in the same order of images, shape `(N,)`.
        y_true: 0 (negative) or 1 (positive), shape `(N,)`.
        confidence: In `(0, 1)`.

    Returns:
        The interval of area a minus area b, within `[-1, 1]`; NaN where a class has no image.

    Raises:
        ValueError: If `confidence` is out of range, scores are not finite or outside `[0, 1]`,
            labels are not 0 or 1, or their lengths differ.
    """
    _check_confidence(confidence)
    of_positives, of_negatives = placements([y_score_a, y_score_b], y_true)
    difference, error = area_and_error(
        of_positives[0] - of_positives[1], of_negatives[0] - of_negatives[1]
    )
    if math.isnan(difference):
        return Interval(math.nan, math.nan)
    if error > 0:
        margin = _normal_quantile(confidence) * error
    else:
        margin = _unseen_share(of_positives.shape[1], of_negatives.shape[1], confidence)
    return Interval(max(-1.0, difference - margin), min(1.0, difference + margin))


def bootstrap_intervals(
    statistics: Statistics,
    patients: Sequence[str],
    *,
    num_resamples: int = 2000,
    confidence: float = 0.95,
    seed: int = 0,
) -> dict[str, Interval]:
    """Return the bias-corrected and accelerated bootstrap interval of each figure, by patient.

    Efron 1987, doi 10.1080/01621459.1987.10478410. In the simulation above intervals of 95 %
    covered an area in 95 % and rates between .5 and .98 in 94 to 95 % of cases; plain percentiles
    covered a rate of .95 or .98 in 92 %. With 20 patients a class it was 94 % for an area.

    Resamples that leave a figure undefined are left out. The interval is `(nan, nan)` if the figure
    is undefined, if more than half of its resamples are, or if all agree: a TNR of 1, say, of which
    the bootstrap cannot tell how far from the truth it is (`clopper_pearson` can).

    Args:
        statistics: From weights to figures, such as `ranking_statistics` prepares.
        patients: Whose each image is, shape `(N,)`, in the order of the images.
        num_resamples: At least 1.
        confidence: In `(0, 1)`.
        seed: The same seed and patients give the same resamples.

    Returns:
        Name to interval.

    Raises:
        ValueError: If there is no patient, or `num_resamples` or `confidence` is out of range.

    Examples:
        >>> def share(weights):
        ...     return {"share": weights @ [1, 1, 1, 1, 0, 1, 0, 1] / weights.sum(axis=1)}
        >>> bootstrap_intervals(share, list("abcdefgh"))["share"]
        Interval(low=0.375, high=1.0)
    """
    _check_confidence(confidence)
    resampled = bootstrap_samples(statistics, patients, num_resamples=num_resamples, seed=seed)
    left_out = left_out_samples(statistics, patients)
    whole = statistics(np.ones((1, len(patients))))
    return {
        name: Interval(*accelerated_ends(values, left_out[name], float(whole[name][0]), confidence))
        for name, values in resampled.items()
    }


def bootstrap_differences(
    statistics_a: Statistics,
    statistics_b: Statistics,
    patients: Sequence[str],
    *,
    num_resamples: int = 2000,
    confidence: float = 0.95,
    seed: int = 0,
) -> dict[str, Interval]:
    """Return the interval of each difference of two models' figures on the same images, by patient.

    Both are computed on the same resamples. A difference lies in the middle of its range, where
    plain percentiles do better: in the simulation above they covered one of areas, average
    precisions or rates in 94 to 96 % of cases, those of `bootstrap_intervals` in 92 to 95 %.

    Args:
        statistics_a: From weights to figures of model a, such as `ranking_statistics` prepares.
        statistics_b: The same figures of model b.
        patients: Whose each image is, shape `(N,)`, in the order of the images.
        num_resamples: At least 1.
        confidence: In `(0, 1)`.
        seed: The same seed and patients give the same resamples.

    Returns:
        Name to interval of a's figure minus b's; NaN as in `bootstrap_intervals`.

    Raises:
        ValueError: If there is no patient, or `num_resamples` or `confidence` is out of range.
    """
    _check_confidence(confidence)

    def differ(weights: NDArray[np.float64]) -> dict[str, NDArray[np.float64]]:
        figures_a, figures_b = statistics_a(weights), statistics_b(weights)
        return {name: figures_a[name] - figures_b[name] for name in figures_a}

    resampled = bootstrap_samples(differ, patients, num_resamples=num_resamples, seed=seed)
    return {
        name: Interval(*percentile_ends(values, confidence)) for name, values in resampled.items()
    }


def _unseen_share(num_positive: int, num_negative: int, confidence: float) -> float:
    """The upper bound of a share that none of the smaller class showed."""
    return clopper_pearson(0, min(num_positive, num_negative), confidence).high


def _share_bound(num_successes: int, num_trials: int, tail: float) -> float:
    if num_successes == 0:
        return 0.0
    return float(scipy.stats.beta.ppf(tail, num_successes, num_trials - num_successes + 1))


def _normal_quantile(confidence: float) -> float:
    return float(scipy.stats.norm.ppf((1 + confidence) / 2))


def _check_counts(num_successes: int, num_trials: int) -> None:
    if not 0 <= num_successes <= num_trials:
        raise ValueError(
            f"num_successes must be between 0 and num_trials, got {num_successes} of {num_trials}"
        )


def _check_confidence(confidence: float) -> None:
    if not 0 < confidence < 1:
        raise ValueError(f"confidence must be in (0, 1), got {confidence}")
