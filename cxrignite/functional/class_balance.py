"""How many of each class there are, and the weights that even them out."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

Numbers = Tensor | NDArray[np.generic] | Sequence[float]
"""One-dimensional numbers: a tensor, an array, or a plain sequence."""


class ClassCounts(NamedTuple):
    """How many samples each class has."""

    num_negative: int
    num_positive: int


def positive_mask(labels: Numbers, name: str = "labels") -> NDArray[np.bool_]:
    """Return which labels are positive, after checking that they are labels.

    Args:
        labels: 0 (negative) or 1 (positive), shape `(N,)`; bool, int or float.
        name: What to call them in an error.

    Returns:
        True where the label is 1, shape `(N,)`.

    Raises:
        ValueError: If `labels` is not one-dimensional or holds anything but 0 and 1.
    """
    array = as_float64(labels, name)
    mask: NDArray[np.bool_] = array == 1
    strange = array[~mask & (array != 0)]
    if strange.size:
        raise ValueError(f"{name} must be 0 or 1, got {strange[0]:g} ({strange.size} such values)")
    return mask


def as_float64(values: Numbers, name: str) -> NDArray[np.float64]:
    """Return one-dimensional numbers as a float64 array; any dtype, bfloat16 included.

    Args:
        values: Numbers, shape `(N,)`, on any device.
        name: What to call them in an error.

    Returns:
        The same numbers, shape `(N,)`.

    Raises:
        ValueError: If `values` is not one-dimensional.
    """
    if isinstance(values, Tensor):
        array = values.detach().to(device="cpu", dtype=torch.float64).numpy()
    else:
        array = np.asarray(values, dtype=np.float64)
    if array.ndim != 1:
        raise ValueError(f"{name} must have shape (N,), got {tuple(array.shape)}")
    return array


def class_counts(labels: Numbers) -> ClassCounts:
    """Count the classes.

    Args:
        labels: 0 (negative) or 1 (positive), shape `(N,)`.

    Returns:
        The number of negatives and of positives; either may be 0.

    Raises:
        ValueError: If `labels` is not one-dimensional or holds anything but 0 and 1.

    Example:
        >>> class_counts([0, 1, 1])
        ClassCounts(num_negative=1, num_positive=2)
    """
    mask = positive_mask(labels)
    num_positive = int(mask.sum())
    return ClassCounts(mask.size - num_positive, num_positive)


def balanced_weights(labels: Numbers) -> Tensor:
    """Weigh each sample so that both classes have the same total mass.

    The weight is `N / (2 * n)`, with `n` the size of the sample's class (King and Zeng 2001,
    doi 10.1093/oxfordjournals.pan.a004868; scikit-learn's "balanced").

    Args:
        labels: 0 (negative) or 1 (positive), shape `(N,)`.

    Returns:
        Positive float64 weights, shape `(N,)`, with the sum `N`.

    Raises:
        ValueError: If a class has no sample, or `labels` are no labels.

    Example:
        >>> balanced_weights([0, 1, 1, 1]).tolist()[:2]
        [2.0, 0.6666666666666666]
    """
    mask = positive_mask(labels)
    num_positive = int(mask.sum())
    num_negative = mask.size - num_positive
    if not num_negative or not num_positive:
        raise ValueError(
            f"labels must hold both classes, got {num_negative} negatives "
            f"and {num_positive} positives"
        )
    weights = np.where(mask, mask.size / (2 * num_positive), mask.size / (2 * num_negative))
    return torch.from_numpy(weights)


def soft_pos_weight(num_negative: int, num_positive: int, power: float = 0.5) -> float:
    """Return the weight of a positive in the loss, softened by a power (ours).

    `(num_negative / num_positive) ** power`: 0 leaves the loss alone, 1 balances the classes,
    0.5 is the square root between them. Below 1 where the positives are the majority, as in
    ChestXRay2017 (1349 and 3883 images give .589).

    Args:
        num_negative: Negatives the loss will see, at least 1.
        num_positive: Positives the loss will see, at least 1.
        power: In `[0, 1]`.

    Returns:
        The `pos_weight` of `BCEWithLogitsLoss`, above 0.

    Raises:
        ValueError: If a count is below 1 or `power` is outside `[0, 1]`.

    Example:
        >>> round(soft_pos_weight(1349, 3883), 3)
        0.589
    """
    if num_negative < 1 or num_positive < 1:
        raise ValueError(
            f"num_negative and num_positive must be at least 1, got {num_negative} "
            f"and {num_positive}"
        )
    if not 0 <= power <= 1:
        raise ValueError(f"power must be in [0, 1], got {power}")
    return float((num_negative / num_positive) ** power)
