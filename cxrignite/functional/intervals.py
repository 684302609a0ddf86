"""Confidence intervals of statistics that are computed from a sample of images.

Clopper-Pearson for proportions, DeLong for areas under the ROC curve, and the patient bootstrap for
any statistic. The first two assume independent images, which images of one patient are not. In
simulation 95 % intervals of DeLong covered an area in 87 % of cases and a difference of two areas
in 90 %. Those of the bootstrap covered both in 95 %. The simulation had 100 negative and 100
positive patients with 1 to 4 images, and half of the variance of the scores between patients.
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
    "clopper_pearson_lower_ends",
    "delong_covariance",
    "delong_difference",
    "delong_interval",
    "patient_resamples",
]


class Interval(NamedTuple):
    """Confidence interval of a statistic.

    Attributes:
        low: Lower end, in the unit of the statistic; NaN if the interval is undefined.
        high: Upper end; NaN if the interval is undefined.
    """

    low: float
    high: float


def clopper_pearson(num_successes: int, num_trials: int, confidence: float = 0.95) -> Interval:
    """Return the exact two-sided confidence interval of a proportion.

    Clopper and Pearson 1934, doi 10.1093/biomet/26.4.404, by quantiles of the beta distribution.
    For independent trials the coverage is at least `confidence`.

    Args:
        num_successes: Number of successes, from 0 to `num_trials`.
        num_trials: Number of trials, at least 0.
        confidence: Coverage probability, in `(0, 1)`.

    Returns:
        The interval, within `[0, 1]`; `[0, 1]` itself without trials.

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
    """Return the exact one-sided lower bound of a proportion (see `clopper_pearson`).

    Args:
        num_successes: Number of successes, from 0 to `num_trials`.
        num_trials: Number of trials, at least 0.
        confidence: Coverage probability, in `(0, 1)`.

    Returns:
        The bound, in `[0, 1]`; 0 without trials.

    Raises:
        ValueError: If a count or `confidence` is out of range.

    Examples:
        >>> round(clopper_pearson_lower(42, 42), 3)
        0.931
    """
    _check_counts(num_successes, num_trials)
    _check_confidence(confidence)
    return _share_bound(num_successes, num_trials, 1 - confidence)


def clopper_pearson_lower_ends(
    num_trials: int, num_steps: int, confidence: float = 0.95
) -> NDArray[np.float64]:
    """Return the lower ends of `clopper_pearson` at evenly spaced numbers of successes.

    The upper end at k successes is 1 minus the lower end at `num_trials - k`.

    Args:
        num_trials: Number of trials, at least 0.
        num_steps: Number of steps from 0 to `num_trials` successes, at most `num_trials`.
        confidence: Coverage probability, in `(0, 1)`.

    Returns:
        The lower ends, `(num_steps + 1,)`; 0 without trials.

    Raises:
        ValueError: If a count or `confidence` is out of range.

    Examples:
        >>> clopper_pearson_lower_ends(4, 2).round(3).tolist()
        [0.0, 0.068, 0.398]
    """
    if not 0 <= num_steps <= num_trials:
        raise ValueError(
            f"num_steps must be between 0 and num_trials, got {num_steps} of {num_trials}"
        )
    _check_confidence(confidence)
    counts = np.linspace(0, num_trials, num_steps + 1)
    ends = np.zeros(num_steps + 1)
    ends[1:] = scipy.stats.beta.ppf((1 - confidence) / 2, counts[1:], num_trials - counts[1:] + 1)
    return ends


def delong_interval(y_score: Numbers, y_true: Numbers, confidence: float = 0.95) -> Interval:
    """Return DeLong's confidence interval of an area under the ROC curve, on the logit scale.

    The interval is symmetric on the logit scale. Its ends then stay in `[0, 1]`, and the coverage
    is better for small samples and large areas (Kottas, Kuss and Zapf 2014,
    doi 10.1186/1471-2288-14-26). See `delong_covariance` for the variance.

    The variance cannot be estimated if every negative scores below every positive, or if a class
    has one image. The interval is then `area - u` to `area + u` within `[0, 1]`, a definition of
    this library. `u` is the upper Clopper-Pearson bound of a proportion with 0 events among the
    images of the smaller class. If a larger share of them were misranked, the sample would most
    likely contain one.

    Args:
        y_score: Probabilities of the positive class, shape `(N,)`, in `[0, 1]`.
        y_true: 0 (negative) or 1 (positive), shape `(N,)`.
        confidence: Coverage probability, in `(0, 1)`.

    Returns:
        The interval, within `[0, 1]`; NaN if a class has no image.

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

    See `delong_covariance`. If the variance cannot be estimated (both models rank the images
    equally, or a class has one image), the interval is the difference plus and minus the `u` of
    `delong_interval`.

    Args:
        y_score_a: Probabilities of the positive class by model a, shape `(N,)`, in `[0, 1]`.
        y_score_b: The same by model b, in the same order of images, shape `(N,)`.
        y_true: 0 (negative) or 1 (positive), shape `(N,)`.
        confidence: Coverage probability, in `(0, 1)`.

    Returns:
        The interval of area a minus area b, within `[-1, 1]`; NaN if a class has no image.

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
    """Return the bias-corrected and accelerated (BCa) bootstrap interval of each statistic.

    Patients are resampled (Efron 1987, doi 10.1080/01621459.1987.10478410). In the simulation of
    this module 95 % intervals covered an area in 95 %, and rates between .5 and .98 in 94 to 95 %
    of cases. Percentile intervals covered a rate of .95 or .98 in 92 %. With 20 patients per class
    the BCa interval of an area covered 94 %.

    Resamples in which a statistic is undefined are ignored. The interval is `(nan, nan)` if the
    statistic itself or more than half of its resamples are undefined, or if all resamples are
    equal. The last case includes a TNR of 1, for which `clopper_pearson` gives an interval.

    Args:
        statistics: Function from weights to statistics, such as `ranking_statistics` returns.
        patients: Patient of each image, shape `(N,)`, in the order of the images.
        num_resamples: Number of resamples, at least 1.
        confidence: Coverage probability, in `(0, 1)`.
        seed: Seed; the same seed and patients give the same resamples.

    Returns:
        Interval by name of the statistic.

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
    """Return the bootstrap interval of each difference between two models on the same images.

    Patients are resampled, and both models are evaluated on the same resamples. Percentile
    intervals are used, since a difference usually lies in the middle of its range. In the
    simulation of this module they covered differences of areas, average precisions and rates in 94
    to 96 % of cases, intervals of `bootstrap_intervals` in 92 to 95 %.

    Args:
        statistics_a: Function from weights to statistics of model a, such as `ranking_statistics`
            returns.
        statistics_b: The same function for model b.
        patients: Patient of each image, shape `(N,)`, in the order of the images.
        num_resamples: Number of resamples, at least 1.
        confidence: Coverage probability, in `(0, 1)`.
        seed: Seed; the same seed and patients give the same resamples.

    Returns:
        Interval of the statistic of model a minus that of model b by name; NaN as in
        `bootstrap_intervals`.

    Raises:
        ValueError: If there is no patient, or `num_resamples` or `confidence` is out of range.
    """
    _check_confidence(confidence)

    def differ(weights: NDArray[np.float64]) -> dict[str, NDArray[np.float64]]:
        values_a, values_b = statistics_a(weights), statistics_b(weights)
        return {name: values_a[name] - values_b[name] for name in values_a}

    resampled = bootstrap_samples(differ, patients, num_resamples=num_resamples, seed=seed)
    return {
        name: Interval(*percentile_ends(values, confidence)) for name, values in resampled.items()
    }


def _unseen_share(num_positive: int, num_negative: int, confidence: float) -> float:
    """Return the upper bound of a proportion with no event in the smaller class."""
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
