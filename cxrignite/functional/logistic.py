"""Logistic regression with few coefficients, for many weightings of the same images at once."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

_Array = NDArray[np.float64]

_MAX_EVALUATIONS = 60

# Half of the squared Newton decrement estimates the distance of the mean loss from its minimum. The
# final step reduces it quadratically.
_CLOSE_ENOUGH = 1e-10

# Added to the mean curvature, which is numerically singular if the classes hardly overlap. It only
# shortens steps and does not move the optimum.
_RIDGE = 1e-12

# Limits the change of a logit in one step, since the curvature vanishes far from 0.
_LONGEST_STEP = 8.0


def fit_logistic(design: _Array, target: _Array, weights: _Array, *, offset: _Array) -> _Array:
    """Fit unpenalised logistic regressions by maximum likelihood, with Newton's method from 0.

    The probability of an image is `expit(offset + design @ coefficients)`. A step that does not
    reduce the loss is halved and a long step is shortened, since plain Newton steps may diverge.

    Args:
        design: Design matrix, shape `(N, K)`, of full rank in every weighting.
        target: Target probabilities or labels, shape `(N,)`, in `[0, 1]`.
        weights: Weight of each image, shape `(B, N)`, at least 0. A finite optimum must exist in
            every weighting: no coefficients may separate the classes.
        offset: Constant added to each logit, shape `(N,)`.

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
        active = ~done
        rows, totals, least = rows[active], totals[active], least[active]
        weights, reached, steps = weights[active], reached[active], steps[active]
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
    # One exponential for both loss and probability; it cannot overflow.
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
