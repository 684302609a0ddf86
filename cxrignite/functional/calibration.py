"""Calibration: agreement of scores with the observed share of positives.

This module also exports the calibration maps of `calibrators.py`.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import scipy
from numpy.typing import NDArray

from cxrignite.functional.arrays import Numbers
from cxrignite.functional.calibrators import (
    Platt,
    Temperature,
    finite_logits,
    fit_platt,
    fit_temperature,
    prior_logit_shift,
    shift_logit,
)
from cxrignite.functional.confusion import checked_scores
from cxrignite.functional.intervals import Interval, Statistics, bootstrap_samples
from cxrignite.functional.logistic import fit_logistic

__all__ = [
    "Platt",
    "ReliabilityBin",
    "Temperature",
    "calibration_statistics",
    "ece_interval",
    "fit_platt",
    "fit_temperature",
    "prior_logit_shift",
    "reliability_bins",
    "shift_logit",
]


class ReliabilityBin(NamedTuple):
    """Images whose scores lie in one bin of a reliability diagram.

    Attributes:
        low: Lower edge of the bin, included.
        high: Upper edge, excluded except by the last bin, which includes the score 1.
        num_images: Number of images in the bin.
        mean_score: Mean score of the images, in `[0, 1]`; NaN in an empty bin.
        positive_share: Share of positive images, in `[0, 1]`; NaN in an empty bin.
    """

    low: float
    high: float
    num_images: int
    mean_score: float
    positive_share: float


def reliability_bins(y_score: Numbers, y_true: Numbers, num_bins: int = 10) -> list[ReliabilityBin]:
    """Return the mean score and the share of positives in bins of equal width.

    Args:
        y_score: Probabilities of the positive class, shape `(N,)`, in `[0, 1]`; `N` may be 0.
        y_true: 0 (negative) or 1 (positive), shape `(N,)`.
        num_bins: Number of bins over `[0, 1]`, at least 1.

    Returns:
        All bins in ascending order, including empty ones.

    Raises:
        ValueError: If scores are not finite or outside `[0, 1]`, labels are not 0 or 1, their
            lengths differ, or `num_bins` is below 1.

    Examples:
        >>> reliability_bins([0.1, 0.7, 1.0], [0, 0, 1], num_bins=2)[1]
        ReliabilityBin(low=0.5, high=1.0, num_images=2, mean_score=0.85, positive_share=0.5)
    """
    scores, positive = checked_scores(y_score, y_true)
    members = _bin_members(scores, num_bins)
    edges = np.arange(num_bins + 1) / num_bins
    return [
        ReliabilityBin(
            low=float(low),
            high=float(high),
            num_images=int(inside.sum()),
            mean_score=float(scores[inside].mean()) if inside.any() else math.nan,
            positive_share=float(positive[inside].mean()) if inside.any() else math.nan,
        )
        for low, high, inside in zip(edges[:-1], edges[1:], members.T, strict=True)
    ]


def calibration_statistics(y_score: Numbers, y_true: Numbers, num_bins: int = 10) -> Statistics:
    """Return a function that computes calibration statistics for many weightings of the images.

    The function returned takes weights of shape `(B, N)`, each at least 0, and returns under
    each name an array of shape `(B,)`:

    - `brier`: mean of `(score - label)**2`, in `[0, 1]` (Brier 1950,
      doi 10.1175/1520-0493(1950)078<0001:VOFEIT>2.0.CO;2).
    - `log_loss`: mean of the negative log likelihood, in nats.
    - `ece`: expected calibration error, the mean absolute difference between score and share of
      positives over bins of equal width, in `[0, 1]` (Guo et al. 2017, arXiv:1706.04599). It is
      biased upwards in small samples, and more so in resamples (Roelofs et al. 2022,
      arXiv:2012.08668). Use `ece_interval` for its interval.
    - `calibration_slope`: slope of a logistic regression of the label on the logit of the score; 1
      is ideal, below 1 the scores are overconfident (Cox 1958, doi 10.1093/biomet/45.3-4.562).
    - `calibration_intercept`: calibration in the large, the intercept of that regression with the
      slope fixed at 1, in logits; 0 is ideal, above 0 the scores are too low.

    A statistic is NaN if it is undefined for a weighting. All are undefined if the total weight is
    0, the last two with one class only, and the slope if a score separates the classes.

    Args:
        y_score: Probabilities of the positive class, shape `(N,)`, in `[0, 1]`; clipped to
            `[2**-24, 1 - 2**-24]` for logarithms.
        y_true: 0 (negative) or 1 (positive), shape `(N,)`.
        num_bins: Number of bins of the ECE, at least 1.

    Returns:
        The function. It raises `ValueError` for weights of another shape.

    Raises:
        ValueError: If scores are not finite or outside `[0, 1]`, labels are not 0 or 1, their
            lengths differ, or `num_bins` is below 1.

    Examples:
        >>> values = calibration_statistics([0.2, 0.9, 0.4, 0.6], [0, 1, 1, 0])(np.ones((1, 4)))
        >>> round(float(values["brier"][0]), 4)
        0.1925
    """
    scores, positive = checked_scores(y_score, y_true)
    labels = positive.astype(np.float64)
    logits = finite_logits(scores)
    squares = (scores - labels) ** 2
    losses = np.logaddexp(0, np.where(positive, -logits, logits))
    gaps = _bin_members(scores, num_bins) * (labels - scores)[:, None]
    both = np.column_stack([squares, losses, gaps])

    def statistics(weights: NDArray[np.float64]) -> dict[str, NDArray[np.float64]]:
        if weights.ndim != 2 or weights.shape[1] != scores.size:
            raise ValueError(f"weights must have shape (B, {scores.size}), got {weights.shape}")
        totals = weights.sum(axis=1)
        with np.errstate(invalid="ignore"):
            means = weights @ both / totals[:, None]
        slope, intercept = _recalibrate(logits, positive, weights)
        return {
            "brier": means[:, 0],
            "log_loss": means[:, 1],
            "ece": np.abs(means[:, 2:]).sum(axis=1),
            "calibration_slope": slope,
            "calibration_intercept": intercept,
        }

    return statistics


def ece_interval(
    y_score: Numbers,
    y_true: Numbers,
    patients: Sequence[str],
    *,
    num_bins: int = 10,
    num_resamples: int = 2000,
    confidence: float = 0.95,
    seed: int = 0,
) -> Interval:
    """Return a bias-corrected bootstrap interval of the expected calibration error.

    The method is this library's own and resamples patients. The mean excess of the resamples over
    the error is subtracted once. The width comes from resamples in which each bin keeps its sign,
    since absolute values vary too little.

    The lower end is 0 if the error is not significant, that is if perfectly calibrated scores give
    as large an error with a probability above `1 - confidence`. This test draws labels from the
    scores (Broecker and Smith 2007, doi 10.1175/WAF993.1). The interval covers the true error in 92
    to 97 % of simulated samples of 200 and 600 images.

    Args:
        y_score: Probabilities of the positive class, shape `(N,)`, in `[0, 1]`.
        y_true: 0 (negative) or 1 (positive), shape `(N,)`.
        patients: Patient of each image, shape `(N,)`, at least one.
        num_bins: Number of bins of equal width, at least 1.
        num_resamples: Number of resamples, at least 1.
        confidence: Coverage probability, in `(0, 1)`.
        seed: Seed of both draws, at least 0.

    Returns:
        The interval within `[0, 1]`, which contains the error itself; NaN if all resamples are
        equal, as with a single patient.

    Raises:
        ValueError: If an argument is out of range, or scores, labels and patients do not fit.
    """
    if not 0 < confidence < 1:
        raise ValueError(f"confidence must be in (0, 1), got {confidence}")
    scores, positive = checked_scores(y_score, y_true)
    members = _bin_members(scores, num_bins).astype(np.float64)
    gaps = members * (positive - scores)[:, None]
    total = gaps.sum(axis=0)
    error = float(np.abs(total).sum() / scores.size)

    def statistics(weights: NDArray[np.float64]) -> dict[str, NDArray[np.float64]]:
        means = weights @ gaps / weights.sum(axis=1, keepdims=True)
        return {"ece": np.abs(means).sum(axis=1), "signed": means @ np.sign(total)}

    resamples = bootstrap_samples(statistics, patients, num_resamples=num_resamples, seed=seed)
    unbiased = 2 * error - float(resamples["ece"].mean())
    if np.ptp(resamples["ece"]) == 0:
        return Interval(math.nan, math.nan)
    width = float(scipy.stats.norm.ppf((1 + confidence) / 2) * resamples["signed"].std())
    generator = np.random.default_rng(seed)
    perfect = [
        np.abs(((generator.random(scores.size) < scores) - scores) @ members).sum() / scores.size
        for _ in range(num_resamples)
    ]
    is_perfect = error <= np.quantile(perfect, confidence)
    low = 0.0 if is_perfect else min(error, max(0.0, unbiased - width))
    return Interval(low, min(1.0, max(error, unbiased + width)))


def _recalibrate(
    logits: NDArray[np.float64], positive: NDArray[np.bool_], weights: NDArray[np.float64]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return the calibration slope and intercept of each weighting, shapes `(B,)`."""
    labels = positive.astype(np.float64)
    ones, zeros = np.ones_like(logits), np.zeros_like(logits)
    low, high = _extremes(logits[positive], weights[:, positive])
    other_low, other_high = _extremes(logits[~positive], weights[:, ~positive])
    has_both = np.isfinite(low) & np.isfinite(other_low)
    # With one predictor a finite slope exists exactly if the ranges of the two classes overlap.
    overlap = has_both & (low < other_high) & (other_low < high)
    slope, intercept = np.full(len(weights), np.nan), np.full(len(weights), np.nan)
    fitted = fit_logistic(ones[:, None], labels, weights[has_both], offset=logits)
    intercept[has_both] = fitted[:, 0]
    fitted = fit_logistic(np.column_stack([ones, logits]), labels, weights[overlap], offset=zeros)
    slope[overlap] = fitted[:, 1]
    return slope, intercept


def _extremes(
    logits: NDArray[np.float64], weights: NDArray[np.float64]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return the lowest and the highest logit that has weight; infinite if none has."""
    present = weights > 0
    low = np.min(np.where(present, logits, np.inf), axis=1, initial=np.inf)
    high = np.max(np.where(present, logits, -np.inf), axis=1, initial=-np.inf)
    return low, high


def _bin_members(scores: NDArray[np.float64], num_bins: int) -> NDArray[np.bool_]:
    """Return the bin of each score as a mask, shape `(N, num_bins)`; lower edges are included."""
    if num_bins < 1:
        raise ValueError(f"num_bins must be at least 1, got {num_bins}")
    # Not `linspace`: with ten bins its third edge lies above 0.3.
    edges = np.arange(1, num_bins) / num_bins
    numbers = np.searchsorted(edges, scores, side="right")
    members: NDArray[np.bool_] = numbers[:, None] == np.arange(num_bins)
    return members
