"""Scores and labels as they come, in the one type that everything is computed in."""

from __future__ import annotations

from collections.abc import Sequence
from numbers import Integral
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from cxrignite.errors import NonFiniteError

Numbers = Tensor | NDArray[np.generic] | Sequence[float]
"""One-dimensional numbers: a tensor, an array, or a plain sequence."""

Patients = Sequence[str] | Sequence[int] | NDArray[Any]
"""Whose each image is: names or numbers."""


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
    not_finite = array[~mask & (array != 0)]
    if not_finite.size:
        raise ValueError(
            f"{name} must be 0 or 1, got {not_finite[0]:g} ({not_finite.size} such values)"
        )
    return mask


def as_names(patients: Patients) -> NDArray[Any]:
    """Return whose each image is, after checking that they can be told apart.

    Args:
        patients: Names or whole numbers, shape `(N,)`.

    Returns:
        The same, shape `(N,)`.

    Raises:
        ValueError: If they are neither, such as numbers with NaN for those that are not known.
    """
    names = np.asarray(patients)
    if isinstance(patients, list | tuple) or names.dtype.kind == "O":  # a column of a table, say
        # NumPy makes a name of a NaN among names.
        is_list = isinstance(patients, list | tuple) and names.ndim == 1
        each = patients if is_list else names.ravel().tolist()
        kinds: tuple[type, ...] = (str, bytes, Integral)
        if not any(all(isinstance(name, kind) for name in each) for kind in kinds):
            found = ", ".join(sorted({type(name).__name__ for name in each}))
            raise ValueError(f"patients must be names or whole numbers, got {found}")
        if names.dtype.kind == "O":
            is_number = all(isinstance(name, Integral) for name in each)
            names = names.astype(np.int64 if is_number else str)
    elif names.dtype.kind not in "iuUST":
        raise ValueError(f"patients must be names or whole numbers, got {names.dtype}")
    return names


def check_finite(scores: Numbers) -> None:
    """Refuse what a broken network gives.

    Args:
        scores: Shape `(N,)`.

    Raises:
        NonFiniteError: If some are NaN or infinite.
    """
    array = as_float64(scores, "scores")
    num_not_finite = int(np.sum(~np.isfinite(array)))
    if num_not_finite:
        raise NonFiniteError(f"{num_not_finite} of {array.size} scores are NaN or infinite")


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
