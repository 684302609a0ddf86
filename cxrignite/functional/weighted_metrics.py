"""Metrics for many weightings of the same images at once, as a bootstrap needs them.

A weight is the number of times that an image counts. The order of the scores and the decisions do
not depend on the weights and are computed once. A metric that is undefined for a weighting, such as
a rate over no images, is NaN.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from cxrignite.functional.arrays import Numbers
from cxrignite.functional.confusion import checked_scores, decision_cells
from cxrignite.functional.intervals import Statistics


def ranking_statistics(y_score: Numbers, y_true: Numbers) -> Statistics:
    """Return a function that computes the area under the ROC curve and the average precision.

    A tie between a positive and a negative counts half in `roc_auc` (Hanley and McNeil 1982, doi
    10.1148/radiology.143.1.7063747). `average_precision` is the sum over distinct scores without
    interpolation, as in scikit-learn.

    Args:
        y_score: Probabilities of the positive class, shape `(N,)`, in `[0, 1]`.
        y_true: 0 (negative) or 1 (positive), shape `(N,)`.

    Returns:
        A function from weights, shape `(B, N)`, at least 0, to `roc_auc` and `average_precision`,
        each of shape `(B,)`, in `[0, 1]`. It raises `ValueError` if the weights have another shape.
        `roc_auc` is NaN without both classes, `average_precision` without positives.

    Raises:
        ValueError: If scores are not finite or outside `[0, 1]`, labels are not 0 or 1, or their
            lengths differ.

    Examples:
        >>> metrics = ranking_statistics([0.1, 0.4, 0.4, 0.9], [0, 0, 1, 1])
        >>> metrics(np.array([[1.0, 1, 1, 1], [1, 0, 1, 1]]))["roc_auc"].tolist()
        [0.875, 1.0]
    """
    scores, positive = checked_scores(y_score, y_true)
    order = np.argsort(-scores, kind="stable")
    ranked_positive = positive[order]
    # Last position of each distinct score: images with equal scores are called positive together.
    last = np.flatnonzero(np.diff(scores[order], append=-1.0))

    def statistics(weights: NDArray[np.float64]) -> dict[str, NDArray[np.float64]]:
        ranked = _checked(weights, scores.size)[:, order]
        tp = np.cumsum(ranked * ranked_positive, axis=1)[:, last]
        fp = np.cumsum(ranked * ~ranked_positive, axis=1)[:, last]
        tp_step = np.diff(tp, axis=1, prepend=0.0)
        fp_step = np.diff(fp, axis=1, prepend=0.0)
        num_positive = tp_step.sum(axis=1)
        num_negative = fp_step.sum(axis=1)
        area = np.einsum("bs,bs->b", fp_step, tp - tp_step / 2)
        called = tp + fp
        # With weights of 0 no image is called positive; the step is then 0 as well.
        precision = np.divide(tp, called, out=np.zeros_like(tp), where=called > 0)
        return {
            "roc_auc": _ratio(area, num_positive * num_negative),
            "average_precision": _ratio(np.einsum("bs,bs->b", tp_step, precision), num_positive),
        }

    return statistics


def decision_statistics(
    y_score: Numbers, y_true: Numbers, threshold: float, lower: float | None = None
) -> Statistics:
    """Return a function that computes the rates of the decisions at a threshold, or at two.

    The rates are those of `Confusion`.

    Args:
        y_score: Probabilities of the positive class, shape `(N,)`, in `[0, 1]`.
        y_true: 0 (negative) or 1 (positive), shape `(N,)`.
        threshold: A score at or above it is positive, compared in float64.
        lower: A score below it is negative; None if every score below `threshold` is.

    Returns:
        A function from weights, shape `(B, N)`, at least 0, to `tnr` (specificity), `tpr`
        (sensitivity), `ppv`, `npv`, `balanced_accuracy`, `accuracy`, `referred`,
        `negatives_referred` and `positives_referred`, each of shape `(B,)`, in `[0, 1]`, NaN over
        no images. It raises `ValueError` if the weights have another shape.

    Raises:
        ValueError: If scores are not finite or outside `[0, 1]`, labels are not 0 or 1, their
            lengths differ, `threshold` is NaN, or `lower` is above it.

    Examples:
        >>> rates = decision_statistics([0.1, 0.6, 0.7], [0, 0, 1], 0.5)
        >>> rates(np.array([[1.0, 1, 1], [2, 1, 1]]))["tnr"].round(3).tolist()
        [0.5, 0.667]
    """
    scores, positive = checked_scores(y_score, y_true)
    cells = decision_cells(scores, positive, threshold, lower).astype(np.float64)

    def statistics(weights: NDArray[np.float64]) -> dict[str, NDArray[np.float64]]:
        tn, fp, fn, tp, rn, rp = (_checked(weights, scores.size) @ cells).T
        negative, positive = tn + fp + rn, tp + fn + rp
        return {
            "tnr": _ratio(tn + rn, negative),
            "tpr": _ratio(tp + rp, positive),
            "ppv": _ratio(tp, tp + fp),
            "npv": _ratio(tn, tn + fn),
            "balanced_accuracy": (_ratio(tn + rn / 2, negative) + _ratio(tp + rp / 2, positive))
            / 2,
            "accuracy": _ratio(tn + tp, tn + fp + fn + tp),
            "referred": _ratio(rn + rp, negative + positive),
            "negatives_referred": _ratio(rn, negative),
            "positives_referred": _ratio(rp, positive),
        }

    return statistics


def _checked(weights: NDArray[np.float64], num_images: int) -> NDArray[np.float64]:
    if weights.ndim != 2 or weights.shape[1] != num_images:
        raise ValueError(f"weights must have shape (B, {num_images}), got {weights.shape}")
    return weights


def _ratio(part: NDArray[np.float64], whole: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.divide(part, whole, out=np.full_like(part, np.nan), where=whole > 0)
