"""Averages over several findings, and decisions among exclusive classes, for many weightings.

As in `weighted_metrics`, a weight is the number of times that an image counts.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from cxrignite.functional.intervals import Statistics
from cxrignite.functional.weighted_metrics import ranking_statistics


def average_statistics(y_score: NDArray[np.float64], y_true: NDArray[np.int64]) -> Statistics:
    """Return a function that averages the ranking metrics over the findings.

    The macro average is the mean over the findings. The micro average takes each pair of image and
    finding as one image. Pairs with an unknown label, and findings that lack a class, do not count.

    Args:
        y_score: Scores of the findings, shape `(N, K)`, in `[0, 1]`.
        y_true: 0, 1, or -1 if unknown, shape `(N, K)`; at least one finding has both.

    Returns:
        A function from weights, shape `(B, N)`, at least 0, to `roc_auc`, `average_precision`,
        `micro_roc_auc` and `micro_average_precision`, each of shape `(B,)`, in `[0, 1]`. A macro
        average is NaN if the metric of one finding is.

    Raises:
        ValueError: If no finding has both classes, or scores are not finite or outside `[0, 1]`.

    Examples:
        >>> y_score = np.array([[0.1, 0.9], [0.8, 0.2], [0.7, 0.4]])
        >>> y_true = np.array([[0, 1], [1, 0], [-1, 1]])
        >>> float(average_statistics(y_score, y_true)(np.ones((1, 3)))["roc_auc"][0])
        1.0
    """
    used = ranked_findings(y_true)
    if not used:
        raise ValueError("averages need a finding with both classes, got none")
    known = y_true != -1
    of_each = {
        index: ranking_statistics(y_score[known[:, index], index], y_true[known[:, index], index])
        for index in used
    }
    images, columns = np.nonzero(known[:, used])
    findings = np.array(used)[columns]
    of_pairs = ranking_statistics(y_score[images, findings], y_true[images, findings])

    def statistics(weights: NDArray[np.float64]) -> dict[str, NDArray[np.float64]]:
        each = [of_each[index](weights[:, known[:, index]]) for index in used]
        pairs = of_pairs(weights[:, images])
        macro = {name: np.mean([one[name] for one in each], axis=0) for name in pairs}
        return macro | {f"micro_{name}": values for name, values in pairs.items()}

    return statistics


def ranked_findings(y_true: NDArray[np.int64]) -> list[int]:
    """Return the positions of the findings that have both classes.

    Args:
        y_true: 0, 1, or -1 if unknown, shape `(N, K)`.
    """
    has_both = (y_true == 0).any(axis=0) & (y_true == 1).any(axis=0)
    return [int(index) for index in np.flatnonzero(has_both)]


def class_counts_of(y_score: NDArray[np.float64], y_true: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return the cell of each image in the confusion matrix of exclusive classes.

    The decided class is the one with the highest probability; the first class has the probability
    that the findings leave.

    Args:
        y_score: Probabilities of the findings, shape `(N, K)`, of sum at most 1.
        y_true: 0 or 1, shape `(N, K)`, at most one 1 in each row.

    Returns:
        True and decided class of each image, shape `(N, 2)`, from 0 to K.
    """
    rest = 1 - y_score.sum(axis=1, keepdims=True)
    decided = np.concatenate([rest, y_score], axis=1).argmax(axis=1)
    true = np.concatenate([y_true.sum(axis=1, keepdims=True) == 0, y_true], axis=1).argmax(axis=1)
    return np.stack([true, decided], axis=1)


def class_statistics(y_score: NDArray[np.float64], y_true: NDArray[np.int64]) -> Statistics:
    """Return a function that rates the decisions among exclusive classes.

    Args:
        y_score: Probabilities of the findings, shape `(N, K)`, of sum at most 1.
        y_true: 0 or 1, shape `(N, K)`, at most one 1 in each row.

    Returns:
        A function from weights, shape `(B, N)`, at least 0, to `accuracy`, `balanced_accuracy`
        (the mean over the classes of the share of right decisions) and `kappa` (Cohen 1960, doi
        10.1177/001316446002000104), each of shape `(B,)`; NaN if undefined.

    Examples:
        >>> y_score = np.array([[0.1, 0.2], [0.8, 0.1], [0.3, 0.6]])
        >>> y_true = np.array([[0, 0], [1, 0], [0, 1]])
        >>> float(class_statistics(y_score, y_true)(np.ones((1, 3)))["kappa"][0])
        1.0
    """
    num_classes = y_true.shape[1] + 1
    true, decided = class_counts_of(y_score, y_true).T
    is_true = (true[:, None] == np.arange(num_classes)).astype(np.float64)
    is_decided = (decided[:, None] == np.arange(num_classes)).astype(np.float64)
    is_right = (true == decided).astype(np.float64)

    def statistics(weights: NDArray[np.float64]) -> dict[str, NDArray[np.float64]]:
        total = weights.sum(axis=1)
        of_true, of_decided = weights @ is_true, weights @ is_decided
        right = (weights * is_right) @ is_true
        with np.errstate(invalid="ignore", divide="ignore"):
            accuracy = right.sum(axis=1) / total
            chance = (of_true * of_decided).sum(axis=1) / total**2
            # A class without images has no share of right decisions.
            shares = np.where(of_true > 0, right / of_true, np.nan)
            kappa = (accuracy - chance) / (1 - chance)
        present = (of_true > 0).sum(axis=1)
        return {
            "accuracy": accuracy,
            "balanced_accuracy": np.nansum(shares, axis=1) / present,
            "kappa": kappa,
        }

    return statistics
