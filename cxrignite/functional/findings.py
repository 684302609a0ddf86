"""Several findings: scores from logits, averages over findings, and metrics of exclusive classes.

Scores and labels have one column for each finding, `(N, K)`. A label is 1, 0 or unknown
(`UNKNOWN_LABEL` or NaN). An unknown label takes part in no metric of its finding.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from cxrignite.functional.arrays import Numbers, all_as_float64
from cxrignite.functional.confusion import checked_scores, highest_class
from cxrignite.functional.image_choice import UNKNOWN_LABEL
from cxrignite.functional.patient_bootstrap import Statistics
from cxrignite.functional.weighted_metrics import ranking_statistics


def scores_from_logits(logits: Tensor, exclusive: bool = False) -> Tensor:
    """Return the probability of each finding.

    Findings side by side have independent sigmoids. Of exclusive classes, the first one ("nothing
    found") has the fixed logit 0 and no output; the scores of the others are the softmax over all
    classes. With one finding both are the sigmoid.

    Args:
        logits: Shape `(N,)` or `(N, K)`.
        exclusive: True if at most one finding is present in an image.

    Returns:
        Probabilities, the same shape.

    Examples:
        >>> scores_from_logits(torch.zeros(1, 3)).tolist()
        [[0.5, 0.5, 0.5]]
        >>> scores_from_logits(torch.zeros(1, 3), exclusive=True).tolist()
        [[0.25, 0.25, 0.25]]
    """
    if not exclusive or logits.ndim < 2 or logits.shape[1] == 1:
        return torch.sigmoid(logits)
    return torch.softmax(with_first_class(logits), dim=1)[:, 1:]


def with_first_class(logits: Tensor) -> Tensor:
    """Return the logits of all exclusive classes; that of the first one is 0.

    Args:
        logits: Shape `(N, K)`.

    Returns:
        Shape `(N, K + 1)`.
    """
    return torch.nn.functional.pad(logits, (1, 0))


def finding_logit(logits: Tensor, index: int, exclusive: bool = False) -> Tensor:
    """Return the log odds of the score of one finding.

    Its sigmoid is the column of `scores_from_logits`. With side by side findings and with one it is
    the finding's own logit. Of exclusive classes it is this logit minus the logarithm of the summed
    exponentials of all others, among them the first class with its logit 0.

    Args:
        logits: Shape `(N,)` or `(N, K)`.
        index: Position of the finding, from 0.
        exclusive: True if at most one finding is present in an image.

    Returns:
        Shape `(N,)`.

    Examples:
        >>> finding_logit(torch.zeros(1, 3), 1, exclusive=True).exp()  # 1 to 3
        tensor([0.3333])
    """
    columns = logits.reshape(len(logits), -1)
    if not exclusive or columns.shape[1] == 1:
        return columns[:, index]
    classes = with_first_class(columns)
    others = torch.cat([classes[:, : index + 1], classes[:, index + 2 :]], dim=1)
    return columns[:, index] - torch.logsumexp(others, dim=1)


def exclusive_class(y_true: Tensor) -> Tensor:
    """Return the exclusive class of each image.

    Args:
        y_true: Labels 0.0 and 1.0, NaN if unknown, shape `(N, K)`, at most one of them 1.

    Returns:
        Shape `(N,)`, int64: 0 if no finding is present, k if finding k - 1 is, `UNKNOWN_LABEL` if
        no label is 1 and some are unknown.
    """
    found, position = (y_true == 1).max(dim=1)
    unknown = ~found & y_true.isnan().any(dim=1)
    return torch.where(found, position + 1, 0).masked_fill(unknown, UNKNOWN_LABEL)


def finding_names(findings: Sequence[str], num_findings: int) -> list[str]:
    """Return the name of each finding.

    Args:
        findings: The names; if empty, the findings are numbered from 0.
        num_findings: Number of findings.

    Returns:
        One name for each.

    Raises:
        ValueError: If there is another number of names.
    """
    names = list(findings) or [str(number) for number in range(num_findings)]
    if len(names) != num_findings:
        raise ValueError(
            f"findings must name each of the {num_findings} columns of scores, got {len(names)}: "
            f"{', '.join(names)}"
        )
    return names


def checked_findings(
    y_score: Tensor | NDArray[np.generic], y_true: Tensor | NDArray[np.generic]
) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """Check the scores and labels of several findings.

    Args:
        y_score: Probabilities, shape `(N, K)`, in `[0, 1]`.
        y_true: 1, 0, or `UNKNOWN_LABEL` or NaN if unknown, shape `(N, K)`.

    Returns:
        Scores in float64 and labels in int64 with `UNKNOWN_LABEL`, each of shape `(N, K)`.

    Raises:
        ValueError: If scores are not finite or outside `[0, 1]`, a label has another value, or the
            shapes are not the same `(N, K)`.
    """
    scores, labels = all_as_float64(y_score), all_as_float64(y_true)
    if scores.ndim != 2 or scores.shape != labels.shape:
        raise ValueError(
            "y_score and y_true must have the same shape (N, K), "
            f"got {scores.shape} and {labels.shape}"
        )
    unknown = np.isnan(labels) | (labels == UNKNOWN_LABEL)
    flat, positive = checked_scores(scores.ravel(), np.where(unknown, 0, labels).ravel())
    found = np.where(unknown, UNKNOWN_LABEL, positive.reshape(scores.shape))
    return flat.reshape(scores.shape), found.astype(np.int64)


class FindingRanks(NamedTuple):
    """Ranking metrics of several findings; NaN if a class is absent.

    Attributes:
        roc_auc: Area under the ROC curve of each finding, shape `(K,)`.
        average_precision: Average precision of each finding, shape `(K,)`.
        roc_auc_macro: Mean of `roc_auc` over the findings that have both classes.
        average_precision_macro: Mean of `average_precision` over the same findings.
        roc_auc_micro: Area over all known labels, as if they were of one finding.
        average_precision_micro: Average precision over all known labels.
    """

    roc_auc: NDArray[np.float64]
    average_precision: NDArray[np.float64]
    roc_auc_macro: float
    average_precision_macro: float
    roc_auc_micro: float
    average_precision_micro: float


def rank_findings(
    y_score: Tensor | NDArray[np.generic], y_true: Tensor | NDArray[np.generic]
) -> FindingRanks:
    """Compute the ranking metrics of several findings, their macro and their micro averages.

    Args:
        y_score: Probabilities, shape `(N, K)`, in `[0, 1]`.
        y_true: 1, 0, or `UNKNOWN_LABEL` or NaN if unknown, shape `(N, K)`.

    Returns:
        The metrics.

    Raises:
        ValueError: See `checked_findings`.

    Examples:
        >>> y_score = np.array([[0.1, 0.7], [0.9, 0.4], [0.8, 0.3]])
        >>> ranks = rank_findings(y_score, np.array([[0, 1], [1, 0], [0, -1]]))
        >>> ranks.roc_auc.tolist(), ranks.roc_auc_macro, round(ranks.roc_auc_micro, 3)
        ([1.0, 1.0], 1.0, 0.833)
    """
    scores, labels = checked_findings(y_score, y_true)
    pairs = np.array([_areas(*each) for each in zip(scores.T, labels.T, strict=True)])
    pairs = pairs.reshape(-1, 2)
    defined = pairs[~np.isnan(pairs).any(axis=1)]
    macro = defined.mean(axis=0) if len(defined) else np.full(2, np.nan)
    micro = _areas(scores.ravel(), labels.ravel())
    return FindingRanks(
        pairs[:, 0], pairs[:, 1], float(macro[0]), float(macro[1]), micro[0], micro[1]
    )


def average_statistics(
    y_score: Tensor | NDArray[np.generic],
    y_true: Tensor | NDArray[np.generic],
    thresholds: Numbers | None = None,
) -> Statistics:
    """Return a function that computes macro and micro averages for many weightings of the images.

    A macro average is the mean over the findings that have both classes among these images; it is
    NaN for a weighting in which the metric of one of them is undefined. A micro average is over all
    known labels, as if they were of one finding.

    Args:
        y_score: Probabilities, shape `(N, K)`, in `[0, 1]`.
        y_true: 1, 0, or `UNKNOWN_LABEL` or NaN if unknown, shape `(N, K)`.
        thresholds: Threshold of each finding, shape `(K,)`; a score at or above it is positive.
            None leaves out `f1`.

    Returns:
        A function from weights, shape `(B, N)`, at least 0, to `roc_auc`, `average_precision`,
        `roc_auc_micro`, `average_precision_micro` and, with thresholds, `f1` and `f1_micro`, each
        of shape `(B,)`.

    Raises:
        ValueError: See `checked_findings`; if there is not one threshold for each finding.

    Examples:
        >>> y_score, y_true = np.array([[0.1, 0.7], [0.9, 0.4]]), np.array([[0, 1], [1, 0]])
        >>> averages = average_statistics(y_score, y_true, thresholds=[0.5, 0.8])
        >>> averages(np.ones((1, 2)))["f1"].tolist()
        [0.5]
    """
    scores, labels = checked_findings(y_score, y_true)
    num_findings = scores.shape[1]
    known = labels != UNKNOWN_LABEL
    both = [each for each in range(num_findings) if {0, 1} <= set(labels[:, each].tolist())]
    ranks = {
        each: ranking_statistics(scores[known[:, each], each], labels[known[:, each], each])
        for each in both
    }
    image, _ = np.nonzero(known)
    pooled = ranking_statistics(scores[known], labels[known])
    # One 0-1 column for each finding: called positive, positive, and both.
    limits = None if thresholds is None else np.asarray(thresholds, dtype=np.float64)
    if limits is not None and limits.shape != (num_findings,):
        raise ValueError(
            f"thresholds must be one for each of the {num_findings} findings, "
            f"got shape {limits.shape}"
        )
    called = known & (scores >= (np.inf if limits is None else limits))
    positive = labels == 1

    def statistics(weights: NDArray[np.float64]) -> dict[str, NDArray[np.float64]]:
        undefined = np.full(len(weights), np.nan)
        each = {index: ranks[index](weights[:, known[:, index]]) for index in both}
        micro = pooled(weights[:, image])
        found = {
            **{
                name: np.mean([of[name] for of in each.values()], axis=0) if both else undefined
                for name in ("roc_auc", "average_precision")
            },
            **{f"{name}_micro": micro[name] for name in ("roc_auc", "average_precision")},
        }
        if limits is not None:
            hits = 2 * (weights @ (called & positive))
            total = weights @ called.astype(np.float64) + weights @ positive.astype(np.float64)
            parts = _ratio(hits, total)[:, both]
            found["f1"] = parts.mean(axis=1) if both else undefined
            found["f1_micro"] = _ratio(hits.sum(axis=1), total.sum(axis=1))
        return found

    return statistics


def exclusive_confusion(
    y_score: Tensor | NDArray[np.generic], y_true: Tensor | NDArray[np.generic]
) -> NDArray[np.int64]:
    """Count the images of each exclusive class by the class with the highest probability.

    Args:
        y_score: Probabilities of all classes but the first, shape `(N, K)`, with sums of at most 1.
        y_true: 1, 0, or `UNKNOWN_LABEL` or NaN if unknown, shape `(N, K)`, at most one of them 1.
            Images without a known class are left out.

    Returns:
        Shape `(K + 1, K + 1)`: the true class by row and the predicted one by column.

    Raises:
        ValueError: See `checked_findings`; if an image has two findings.

    Examples:
        >>> y_score = np.array([[0.1, 0.2], [0.6, 0.3], [0.5, 0.1]])
        >>> exclusive_confusion(y_score, np.array([[0, 0], [1, 0], [0, 1]])).tolist()
        [[1, 0, 0], [0, 1, 0], [0, 1, 0]]
    """
    true, predicted, size = _exclusive(y_score, y_true)
    known = true != UNKNOWN_LABEL
    counts = np.bincount(true[known] * size + predicted[known], minlength=size**2)
    return counts.reshape(size, size).astype(np.int64)


def exclusive_statistics(
    y_score: Tensor | NDArray[np.generic], y_true: Tensor | NDArray[np.generic]
) -> Statistics:
    """Return a function that computes metrics of exclusive classes for many weightings.

    An image is called the class with the highest probability.

    Args:
        y_score: Probabilities of all classes but the first, shape `(N, K)`.
        y_true: 1, 0, or `UNKNOWN_LABEL` or NaN if unknown, shape `(N, K)`, at most one of them 1.

    Returns:
        A function from weights, shape `(B, N)`, at least 0, to `accuracy`, `balanced_accuracy` (the
        mean share of correct decisions over the classes that occur) and `kappa` (Cohen 1960), each
        of shape `(B,)`.

    Raises:
        ValueError: See `exclusive_confusion`.
    """
    true, predicted, size = _exclusive(y_score, y_true)
    known = true != UNKNOWN_LABEL
    is_true = np.eye(size)[true[known]]
    is_called = np.eye(size)[predicted[known]]

    def statistics(weights: NDArray[np.float64]) -> dict[str, NDArray[np.float64]]:
        weights = weights[:, known]
        of_class, called, right = (
            weights @ each for each in (is_true, is_called, is_true * is_called)
        )
        total, num_right = of_class.sum(axis=1), right.sum(axis=1)
        recall, occurs = _ratio(right, of_class), of_class > 0
        num_classes = occurs.sum(axis=1).astype(np.float64)
        by_chance = (of_class * called).sum(axis=1)
        return {
            "accuracy": _ratio(num_right, total),
            "balanced_accuracy": _ratio(np.where(occurs, recall, 0.0).sum(axis=1), num_classes),
            "kappa": _ratio(total * num_right - by_chance, total**2 - by_chance),
        }

    return statistics


def _exclusive(
    y_score: Tensor | NDArray[np.generic], y_true: Tensor | NDArray[np.generic]
) -> tuple[NDArray[np.int64], NDArray[np.int64], int]:
    """Return the true and the predicted class of each image, and the number of classes."""
    scores, labels = checked_findings(y_score, y_true)
    several = int(((labels == 1).sum(axis=1) > 1).sum())
    if several:
        raise ValueError(f"an image must have at most one exclusive class, got {several} with more")
    known = np.where(labels == UNKNOWN_LABEL, np.nan, labels)
    true = exclusive_class(torch.from_numpy(known)).numpy()
    return true, highest_class(scores), scores.shape[1] + 1


def _areas(scores: NDArray[np.float64], labels: NDArray[np.int64]) -> tuple[float, float]:
    """Return the area under the ROC curve and the average precision of one finding.

    Only the scores of the positives are looked up among those of the negatives. With many findings,
    most of which are rare, this takes a fraction of the time of scikit-learn.
    """
    positive, negative = np.sort(scores[labels == 1]), np.sort(scores[labels == 0])
    if not positive.size or not negative.size:
        return np.nan, np.nan
    below = np.searchsorted(negative, positive, side="left")
    up_to = np.searchsorted(negative, positive, side="right")
    area = int(below.sum() + up_to.sum()) / (2 * positive.size * negative.size)
    tp = positive.size - np.searchsorted(positive, positive, side="left")
    fp = negative.size - below
    return area, float(np.mean(tp / (tp + fp)))


def _ratio(part: NDArray[np.float64], whole: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.divide(part, whole, out=np.full_like(part, np.nan), where=whole > 0)
