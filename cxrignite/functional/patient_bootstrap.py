"""Bootstrap and jackknife by patient, since images of one patient are not independent.

A resample is represented by weights (how often each image counts). Many resamples are then computed
at once, and no data are copied.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence

import numpy as np
import scipy
from numpy.typing import NDArray

from cxrignite.functional.arrays import as_names

Statistics = Callable[[NDArray[np.float64]], Mapping[str, NDArray[np.float64]]]
"""Function from the weights of the images in each of B resamples, shape `(B, N)`, to statistics by
name, each of shape `(B,)` and NaN in resamples in which it is undefined."""

# Number of weights in memory at once: 2 MiB of float64, and some temporary arrays of that size.
_CHUNK_SIZE = 2**18
# With more groups the acceleration is small and does not become more accurate.
_MAX_GROUPS = 400


def patient_resamples(
    patients: Sequence[str], num_resamples: int = 2000, seed: int = 0
) -> Iterator[NDArray[np.float64]]:
    """Draw resamples of the patients with replacement, and return the weights of the images.

    Args:
        patients: Patient of each image, shape `(N,)`, at least one.
        num_resamples: Number of resamples, at least 1.
        seed: Seed; the same seed and patients give the same resamples.

    Returns:
        Chunks of weights, each of shape `(b, N)`; all images of a patient have the same weight.

    Raises:
        ValueError: If there is no patient, or `num_resamples` is below 1.

    Examples:
        >>> [weights] = patient_resamples(["a", "a", "b"], num_resamples=3)
        >>> weights.shape, bool((weights[:, 0] + weights[:, 2] == 2).all())
        ((3, 3), True)
    """
    patient, num_patients = _numbered(patients)
    if num_resamples < 1:
        raise ValueError(f"num_resamples must be at least 1, got {num_resamples}")
    return _draw(patient, num_patients, num_resamples, seed)


def bootstrap_samples(
    statistics: Statistics, patients: Sequence[str], *, num_resamples: int = 2000, seed: int = 0
) -> dict[str, NDArray[np.float64]]:
    """Compute statistics on resamples of the patients.

    Args:
        statistics: Function from weights to statistics, such as `ranking_statistics` returns.
        patients: Patient of each image, shape `(N,)`, in the order of the images.
        num_resamples: Number of resamples, at least 1.
        seed: Seed; the same seed and patients give the same resamples.

    Returns:
        Statistics by name, shape `(num_resamples,)`, NaN in resamples in which one is undefined.

    Raises:
        ValueError: If there is no patient, or `num_resamples` is below 1.
    """
    return _joined(statistics, patient_resamples(patients, num_resamples, seed))


def left_out_samples(
    statistics: Statistics, patients: Sequence[str]
) -> dict[str, NDArray[np.float64]]:
    """Compute statistics without one patient at a time (jackknife).

    Args:
        statistics: Function from weights to statistics, such as `ranking_statistics` returns.
        patients: Patient of each image, shape `(N,)`, in the order of the images.

    Returns:
        Statistics by name, shape `(G,)`, NaN if undefined. More than 400 patients are divided into
        400 groups, and one group is left out at a time.

    Raises:
        ValueError: If there is no patient.
    """
    patient, num_patients = _numbered(patients)
    return _joined(statistics, _leave_out(patient, min(num_patients, _MAX_GROUPS)))


def accelerated_ends(
    resampled: NDArray[np.float64],
    left_out: NDArray[np.float64],
    whole: float,
    confidence: float,
) -> tuple[float, float]:
    """Return the ends of the bias-corrected and accelerated (BCa) bootstrap interval.

    Efron 1987, doi 10.1080/01621459.1987.10478410.

    Args:
        resampled: Statistic on each resample, shape `(B,)`; NaN is ignored.
        left_out: Statistic without each patient, shape `(G,)`; NaN is ignored.
        whole: Statistic of all images.
        confidence: Coverage probability, in `(0, 1)`.

    Returns:
        The two ends; NaN if `whole` is not finite, if more than half of `resampled` is not, or if
        all finite values of `resampled` are equal.
    """
    values = _finite(resampled)
    if values is None or not math.isfinite(whole):
        return math.nan, math.nan
    # A statistic outside all its resamples would shift the quantiles to infinity.
    rim = 1 / (values.size + 1)
    below = (np.mean(values < whole) + np.mean(values <= whole)) / 2
    shift = scipy.stats.norm.ppf(np.clip(below, rim, 1 - rim))
    without = left_out[np.isfinite(left_out)]
    pull = without.mean() - without if without.size else np.zeros(1)
    spread = float(np.sum(pull**2))
    acceleration = float(np.sum(pull**3)) / (6 * spread**1.5) if spread else 0.0
    tails = shift + scipy.stats.norm.ppf([(1 - confidence) / 2, (1 + confidence) / 2])
    stretch = np.maximum(1 - acceleration * tails, np.finfo(np.float64).tiny)
    low, high = np.quantile(values, scipy.stats.norm.cdf(shift + tails / stretch)).tolist()
    return low, high


def percentile_ends(resampled: NDArray[np.float64], confidence: float) -> tuple[float, float]:
    """Return the ends of the percentile bootstrap interval.

    Args:
        resampled: Statistic on each resample, shape `(B,)`; NaN is ignored.
        confidence: Coverage probability, in `(0, 1)`.

    Returns:
        The two ends; NaN if more than half of `resampled` is not finite, or if all finite values
        are equal.
    """
    values = _finite(resampled)
    if values is None:
        return math.nan, math.nan
    low, high = np.quantile(values, [(1 - confidence) / 2, (1 + confidence) / 2]).tolist()
    return low, high


def _finite(resampled: NDArray[np.float64]) -> NDArray[np.float64] | None:
    """Return the finite values; None if fewer than half are finite, or if all are equal."""
    values = resampled[np.isfinite(resampled)]
    return None if 2 * values.size < resampled.size or np.ptp(values) == 0 else values


def _numbered(patients: Sequence[str]) -> tuple[NDArray[np.intp], int]:
    names, patient = np.unique(as_names(patients), return_inverse=True)
    if patient.ndim != 1 or not patient.size:
        raise ValueError(f"patients must have shape (N,) with N above 0, got {patient.shape}")
    return patient, names.size


def _draw(
    patient: NDArray[np.intp], num_patients: int, num_resamples: int, seed: int
) -> Iterator[NDArray[np.float64]]:
    generator = np.random.default_rng(seed)
    rows = max(1, _CHUNK_SIZE // patient.size)
    for start in range(0, num_resamples, rows):
        size = min(rows, num_resamples - start)
        drawn = generator.integers(num_patients, size=(size, num_patients))
        drawn += np.arange(size)[:, None] * num_patients
        counts = np.bincount(drawn.ravel(), minlength=size * num_patients)
        yield counts.reshape(size, num_patients).astype(np.float64)[:, patient]


def _leave_out(patient: NDArray[np.intp], num_groups: int) -> Iterator[NDArray[np.float64]]:
    # Patients are numbered in the order of their names, so patients of one class or series may be
    # adjacent. Assignment by turns gives every group some of each.
    group_of_image = patient % num_groups
    rows = max(1, _CHUNK_SIZE // patient.size)
    for start in range(0, num_groups, rows):
        groups = np.arange(start, min(start + rows, num_groups))
        yield (group_of_image != groups[:, None]).astype(np.float64)


def _joined(
    statistics: Statistics, weightings: Iterator[NDArray[np.float64]]
) -> dict[str, NDArray[np.float64]]:
    chunks = [statistics(weights) for weights in weightings]
    return {name: np.concatenate([chunk[name] for chunk in chunks]) for name in chunks[0]}
