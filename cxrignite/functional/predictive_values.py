"""Predictive values of decisions at a prevalence other than that of the images."""

from __future__ import annotations

import math

import numpy as np
import scipy
from numpy.typing import ArrayLike, NDArray

from cxrignite.functional.confusion import Confusion
from cxrignite.functional.intervals import Interval

DEFAULT_PREVALENCES = (0.01, 0.05, 0.2)
"""Prevalences of a report, if the user names none."""


def predictive_values(
    tnr: ArrayLike,
    tpr: ArrayLike,
    prevalence: float,
    negatives_referred: ArrayLike = 0.0,
    positives_referred: ArrayLike = 0.0,
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return the predictive values at a prevalence, by Bayes' rule.

    They hold if TNR and TPR are the same at that prevalence, so if only the numbers of negatives
    and positives differ.

    Args:
        tnr: Specificity, in `[0, 1]`, any shape; NaN if undefined.
        tpr: Sensitivity, of the same shape.
        prevalence: Share of positives among the images, in `(0, 1)`.
        negatives_referred: Share of the negatives that are referred, of the same shape; see
            `Confusion` for `tnr` and `tpr` in that case.
        positives_referred: Share of the positives that are referred, of the same shape.

    Returns:
        `ppv`, the share of positives among the images called positive, and `npv`, the share of
        negatives among those called negative, in `[0, 1]` and of the same shape; NaN over no
        images.

    Raises:
        ValueError: If `prevalence` is out of range.

    Examples:
        >>> ppv, npv = predictive_values(0.9, 0.8, 0.01)
        >>> round(float(ppv), 3), round(float(npv), 3)
        (0.075, 0.998)
    """
    if not 0 < prevalence < 1:
        raise ValueError(f"prevalence must be in (0, 1), got {prevalence}")
    negative, positive = np.asarray(tnr, np.float64), np.asarray(tpr, np.float64)
    tn, tp = negative - np.asarray(negatives_referred), positive - np.asarray(positives_referred)
    tn, fp = tn * (1 - prevalence), (1 - negative) * (1 - prevalence)
    tp, fn = tp * prevalence, (1 - positive) * prevalence
    with np.errstate(invalid="ignore"):
        return tp / (tp + fp), tn / (tn + fn)


def predictive_intervals(
    cells: Confusion, prevalence: float, confidence: float = 0.95
) -> tuple[Interval, Interval]:
    """Return the logit confidence intervals of the predictive values at a prevalence.

    Mercaldo, Lau and Zhou 2007, doi 10.1002/sim.2677, for independent images. If the TNR or the TPR
    is 0 or 1, its two counts are adjusted as they propose: `z ** 2 / 2` is added to each, with `z`
    the normal quantile. The interval then includes the value itself, which may be 0 or 1.

    Args:
        cells: Decisions on images of any prevalence.
        prevalence: Share of positives for which the values hold, in `(0, 1)`.
        confidence: Coverage probability, in `(0, 1)`.

    Returns:
        The intervals of `ppv` and `npv`, within `[0, 1]`; NaN if the value is undefined.

    Raises:
        ValueError: If `prevalence` or `confidence` is out of range.

    Examples:
        >>> (low, high), _ = predictive_intervals(Confusion(tn=90, fp=10, fn=20, tp=80), 0.01)
        >>> round(low, 3), round(high, 3)
        (0.043, 0.128)
    """
    if not 0 < confidence < 1:
        raise ValueError(f"confidence must be in (0, 1), got {confidence}")
    referred = cells.negatives_referred, cells.positives_referred
    ppv, npv = predictive_values(cells.tnr, cells.tpr, prevalence, *referred)
    quantile = float(scipy.stats.norm.ppf((1 + confidence) / 2))
    counts = np.array(
        [
            [cells.tn, cells.fp, cells.referred_negative],
            [cells.fn, cells.tp, cells.referred_positive],
        ],
        np.float64,
    )
    counts[~counts[:, :2].all(axis=1), :2] += quantile**2 / 2
    (tn, fp, _), (fn, tp, _) = counts.tolist()
    negatives, positives = counts.sum(axis=1).tolist()
    logit = math.log(prevalence / (1 - prevalence))
    return (
        _logit_interval(ppv, logit, quantile, (tp, positives), (fp, negatives)),
        _logit_interval(npv, -logit, quantile, (tn, negatives), (fn, positives)),
    )


def _logit_interval(
    value: NDArray[np.float64],
    prior_logit: float,
    quantile: float,
    right: tuple[float, float],
    wrong: tuple[float, float],
) -> Interval:
    """Return the interval of the share of right calls, from the two rates as counts and totals."""
    (num_right, of_right), (num_wrong, of_wrong) = right, wrong
    centre = prior_logit + math.log(num_right / of_right) - math.log(num_wrong / of_wrong)
    half = quantile * math.sqrt(1 / num_right - 1 / of_right + 1 / num_wrong - 1 / of_wrong)
    low, high = scipy.special.expit([centre - half, centre + half])
    return Interval(float(np.minimum(low, value)), float(np.maximum(high, value)))
