"""Logistic regression of a few coefficients, of many weightings of the same images at once."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

_Array = NDArray[np.float64]

_MAX_EVALUATIONS = 60

# Half of the squared Newton decrement is how far the mean loss still lies above its minimum. The
# step that is taken from there squares it once more.
_CLOSE_ENOUGH = 1e-10

# Added to the mean curvature: where the classes hardly overlap it is singular to working precision.
# It shortens steps and moves no optimum.
_RIDGE = 1e-12

# No logit moves further in one step: where all are far from 0 the curvature tells nothing.
_LONGEST_STEP = 8.0


def fit_logistic(design: _Array, target: _Array, weights: _Array, *, offset: _Array) -> _Array:
    """Fit the coefficients of least log loss, without a penalty, by Newton's method from 0.

    The probability of an image is `expit(offset + design @ coefficients)`. A step that does not
    lessen the loss is halved, and a long one is cut, since Newton's method alone may run away.

    Args:
        design: What the coefficients multiply, shape `(N, K)`, of full rank in every weighting.
        target: Probabilities to come near to, or labels, shape `(N,)`, in `[0, 1]`.
        weights: How often each image counts, shape `(B, N)`, at least 0. In every weighting a
            finite optimum must exist: no coefficients may separate the classes.
        offset: Added to each logit, shape `(N,)`.

    Returns:
        Coefficients, shape `(B, K)`; NaN in a row that did not converge.
    """
    num_fits, size = len(weights), design.shape[1]
    products = np.einsum("ni,nj->nij", design, design).reshape(-1, size * size)
    found = np.full((num_fits, size), np.nan)
    rows = np.arange(num_fits)
    totals = weights.sum(axis=1)
    reached, steps = np.zeros((num_fits, size)), np.zeros((num_fits, size))
    least = np.full(num_fits, np.inf)
    reach = np.abs(design).max(axis=0, initial=0)
    for _ in range(_MAX_EVALUATIONS):
        tried = reached + steps
        losses, slopes, curvatures = _expand(design, products, target, weights, offset, tried)
        curvatures += _RIDGE * totals[:, None, None] * np.eye(size)
        better = losses <= least
        reached[better], least[better] = tried[better], losses[better]
        steps[~better] /= 2
        steps[better] = -np.linalg.solve(curvatures[better], slopes[better, :, None])[..., 0]
        steps /= np.maximum(1, np.abs(steps) @ reach / _LONGEST_STEP)[:, None]
        decrement = np.full(rows.size, np.inf)
        decrement[better] = -np.einsum("bk,bk->b", slopes[better], steps[better])
        done = decrement <= _CLOSE_ENOUGH * totals
        found[rows[done]] = reached[done] + steps[done]
        if done.all():
            break
        going_on = ~done
        rows, totals, least = rows[going_on], totals[going_on], least[going_on]
        weights, reached, steps = weights[going_on], reached[going_on], steps[going_on]
    return found


def _expand(
    design: _Array,
    products: _Array,
    target: _Array,
    weights: _Array,
    offset: _Array,
    coefficients: _Array,
) -> tuple[_Array, _Array, _Array]:
    """Return the loss `(B,)`, its first `(B, K)` and its second derivatives `(B, K, K)`."""
    size = design.shape[1]
    logits = coefficients @ design.T + offset
    # One exponential serves the loss and the probability, and cannot overflow.
    small = np.exp(-np.abs(logits))
    losses = np.maximum(logits, 0) + np.log(1 + small) - target * logits
    probability = np.where(logits >= 0, 1, small) / (1 + small)
    slopes = (weights * (probability - target)) @ design
    curvatures = (weights * probability * (1 - probability)) @ products
    return (
        np.einsum("bn,bn->b", weights, losses),
        slopes,
        curvatures.reshape(-1, size, size),
    )
