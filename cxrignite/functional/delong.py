"""Variance of areas under the ROC curve by the method of DeLong, DeLong and Clarke-Pearson.

Biometrics 1988, doi 10.2307/2531595, computed from ranks (Sun and Xu 2014,
doi 10.1109/LSP.2014.2337313). The method assumes independent images; `intervals.py` gives the
coverage if a patient has several images.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import scipy
from numpy.typing import NDArray

from cxrignite.functional.arrays import Numbers
from cxrignite.functional.confusion import checked_scores


def delong_covariance(
    y_scores: Sequence[Numbers] | NDArray[np.float64], y_true: Numbers
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return the areas under the ROC curves of several models, and their covariance matrix.

    Args:
        y_scores: Probabilities of the positive class, shape `(K, N)`, in `[0, 1]`; one row per
            model.
        y_true: 0 (negative) or 1 (positive), shape `(N,)`.

    Returns:
        The areas, shape `(K,)`, in `[0, 1]`, NaN if a class has no image; and their covariance
        matrix, shape `(K, K)`, NaN if a class has fewer than two images.

    Raises:
        ValueError: If there is no model, scores are not finite or outside `[0, 1]`, labels are not
            0 or 1, or their lengths differ.

    Examples:
        >>> areas, covariance = delong_covariance([[0.1, 0.4, 0.3, 0.9]], [0, 0, 1, 1])
        >>> areas.tolist(), covariance.tolist()
        ([0.75], [[0.125]])
    """
    of_positives, of_negatives = placements(y_scores, y_true)
    covariance = _covariance_of_mean(of_positives) + _covariance_of_mean(of_negatives)
    return _mean(of_positives), covariance


def placements(
    y_scores: Sequence[Numbers] | NDArray[np.float64], y_true: Numbers
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return the placement of each image: the share of the other class on the correct side of it.

    A tie counts half.

    Args:
        y_scores: Probabilities of the positive class, shape `(K, N)`, in `[0, 1]`; one row per
            model.
        y_true: 0 (negative) or 1 (positive), shape `(N,)`.

    Returns:
        Shares in `[0, 1]` of the m positives, shape `(K, m)`, and of the n negatives, shape
        `(K, n)`, each in the order of the images; NaN if the other class has no image.

    Raises:
        ValueError: If there is no model, scores are not finite or outside `[0, 1]`, labels are not
            0 or 1, or their lengths differ.
    """
    rows = [checked_scores(row, y_true) for row in y_scores]
    if not rows:
        raise ValueError("y_scores must have at least one row, got 0")
    positive = rows[0][1]
    num_positive = int(positive.sum())
    num_negative = positive.size - num_positive
    if not num_positive or not num_negative:
        return np.full((len(rows), num_positive), np.nan), np.full(
            (len(rows), num_negative), np.nan
        )
    scores = np.stack([row for row, _ in rows])
    # The rank among all images minus the rank in the own class is the number of images of the other
    # class below.
    ranks = scipy.stats.rankdata(scores, axis=1)
    below_positives = ranks[:, positive] - scipy.stats.rankdata(scores[:, positive], axis=1)
    below_negatives = ranks[:, ~positive] - scipy.stats.rankdata(scores[:, ~positive], axis=1)
    return below_positives / num_negative, 1 - below_negatives / num_positive


def area_and_error(
    of_positives: NDArray[np.float64], of_negatives: NDArray[np.float64]
) -> tuple[float, float]:
    """Return an area and its standard error, or those of a difference of two areas.

    Args:
        of_positives: Placements of the positives by one model, or their difference between two
            models, shape `(m,)`.
        of_negatives: The same for the negatives, shape `(n,)`.

    Returns:
        The area, NaN if a class has no image; and its standard error, NaN if a class has fewer than
        two images.
    """
    variance = _covariance_of_mean(of_positives[None]) + _covariance_of_mean(of_negatives[None])
    return float(_mean(of_positives[None])[0]), math.sqrt(variance.item())


def _mean(shares: NDArray[np.float64]) -> NDArray[np.float64]:
    return shares.mean(axis=1) if shares.size else np.full(shares.shape[0], np.nan)


def _covariance_of_mean(shares: NDArray[np.float64]) -> NDArray[np.float64]:
    models, images = shares.shape
    if images < 2:
        return np.full((models, models), np.nan)
    covariance: NDArray[np.float64] = np.cov(shares).reshape(models, models) / images
    return covariance
