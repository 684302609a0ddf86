"""Maps from scores to probabilities: prior correction, Platt scaling and temperature scaling.

All maps are increasing. They change no AUC, and no decision if the threshold is mapped too:
`score >= threshold` equals `map(score) >= map(threshold)`. This is exact for all scores that differ
in float32, as long as the mapped values differ in float64 (logits up to about 36). Decisions are
nevertheless made on the scores, to avoid rounding.

Scores of exactly 0 and 1 have infinite logits, and the maps leave them unchanged. A fit and the log
loss sum logits or logarithms, so they clip scores to `[2**-24, 1 - 2**-24]`; the upper limit is the
last float32 below 1.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import scipy
from numpy.typing import NDArray

from cxrignite.functional.arrays import Numbers, as_float64
from cxrignite.functional.confusion import checked_scores
from cxrignite.functional.logistic import fit_logistic

_EPSILON = 2.0**-24
_LARGEST_SHIFT = 700.0
_TEMPERATURES = (0.05, 100.0)


def prior_logit_shift(pos_weight: float, sampled_prevalence: float, prevalence: float) -> float:
    """Return the constant that a sampler and a loss weight add to every logit.

    `log(pos_weight) + logit(sampled_prevalence) - logit(prevalence)` (Elkan 2001, "The foundations
    of cost-sensitive learning", theorem 2; Menon et al. 2021, arXiv:2007.07314). Subtract it with
    `shift_logit`.

    Args:
        pos_weight: Loss weight of positives, above 0; 1 for an unweighted loss.
        sampled_prevalence: Share of positives among the sampled images, in `(0, 1)`; 0.5 with a
            balanced sampler.
        prevalence: Prevalence at which the probability is to be valid, in `(0, 1)`.

    Returns:
        The shift, in logits.

    Raises:
        ValueError: If an argument is out of range.

    Examples:
        3883 positives and 1349 negatives, balanced sampler, square root of the ratio as weight:

        >>> shift = prior_logit_shift((1349 / 3883) ** 0.5, 0.5, 3883 / (3883 + 1349))
        >>> round(shift, 3), round(float(shift_logit([0.9], shift)[0]), 3)
        (-1.586, 0.978)
    """
    _check_above_zero("pos_weight", pos_weight)
    for name, value in (("sampled_prevalence", sampled_prevalence), ("prevalence", prevalence)):
        if not 0 < value < 1:
            raise ValueError(f"{name} must be in (0, 1), got {value}")
    return (
        math.log(pos_weight)
        + float(scipy.special.logit(sampled_prevalence))
        - float(scipy.special.logit(prevalence))
    )


def shift_logit(y_score: Numbers, shift: float) -> NDArray[np.float64]:
    """Subtract a shift from the logit of every score.

    `expit(logit(y_score) - shift)`, computed on the odds. Rounding then never reverses the order of
    two scores, so a higher score never gets a lower probability.

    Args:
        y_score: Probabilities of the positive class, shape `(N,)`, in `[0, 1]`.
        shift: Shift in logits, in `[-700, 700]`; see `prior_logit_shift`.

    Returns:
        Probabilities, shape `(N,)`; 0 and 1 are unchanged.

    Raises:
        ValueError: If scores are not finite or outside `[0, 1]`, or `shift` is out of range.

    Examples:
        >>> shift_logit([0.0, 0.5, 1.0], -1.0).round(3).tolist()
        [0.0, 0.731, 1.0]
    """
    if not abs(shift) <= _LARGEST_SHIFT:
        raise ValueError(f"shift must be in [-700, 700], got {shift}")
    scores = checked_probabilities(y_score)
    with np.errstate(divide="ignore", over="ignore"):
        return 1 / (1 + (1 - scores) / (scores * math.exp(-shift)))


@dataclass(frozen=True)
class Platt:
    """Platt scaling, `expit(slope * logit(score) + intercept)`.

    Args:
        slope: Slope, above 0 and finite.
        intercept: Intercept in logits, finite.

    Raises:
        ValueError: If a value is out of range.
    """

    slope: float
    intercept: float

    def __post_init__(self) -> None:
        _check_above_zero("slope", self.slope)
        if not math.isfinite(self.intercept):
            raise ValueError(f"intercept must be finite, got {self.intercept}")

    def __call__(self, y_score: Numbers) -> NDArray[np.float64]:
        """Map scores to probabilities.

        Args:
            y_score: Probabilities of the positive class, shape `(N,)`, in `[0, 1]`.

        Returns:
            Probabilities, shape `(N,)`; 0 and 1 stay.

        Raises:
            ValueError: If scores are not finite or outside `[0, 1]`.
        """
        mapped: NDArray[np.float64] = scipy.special.expit(
            self.slope * scipy.special.logit(checked_probabilities(y_score)) + self.intercept
        )
        return mapped


def fit_platt(y_score: Numbers, y_true: Numbers) -> Platt:
    """Fit Platt scaling by maximum likelihood.

    The targets are Platt's smoothed ones, `(n_pos + 1) / (n_pos + 2)` and `1 / (n_neg + 2)`. They
    keep the fit finite if the classes are separable (Platt 1999, "Probabilistic outputs for support
    vector machines"; Lin, Lin, Weng 2007, doi 10.1007/s10994-007-5018-6).

    Args:
        y_score: Probabilities of the positive class, shape `(N,)`, in `[0, 1]`.
        y_true: 0 (negative) or 1 (positive), shape `(N,)`, both present.

    Returns:
        The map.

    Raises:
        ValueError: If scores are not finite, outside `[0, 1]` or all equal, labels are not 0 or 1
            or all of one class, their lengths differ, or the fitted slope is not above 0. Such
            scores do not increase with the label, and no increasing map can calibrate them.
    """
    scores, positive = checked_scores(y_score, y_true)
    _check_both_classes(positive)
    logits = finite_logits(scores)
    if np.ptp(logits) == 0:
        raise ValueError(
            f"y_score must hold at least two different scores, got only "
            f"{scipy.special.expit(logits[0]):g}"
        )
    num_positive = int(positive.sum())
    high, low = (num_positive + 1) / (num_positive + 2), 1 / (positive.size - num_positive + 2)
    intercept, slope = fit_logistic(
        np.column_stack([np.ones_like(logits), logits]),
        np.where(positive, high, low),
        np.ones((1, logits.size)),
        offset=np.zeros_like(logits),
    )[0]
    if not slope > 0:
        raise ValueError(
            f"y_score must increase with the label, got a Platt slope of {slope:.3g}: "
            "positives do not score higher than negatives"
        )
    return Platt(float(slope), float(intercept))


@dataclass(frozen=True)
class Temperature:
    """Temperature scaling, `expit(logit(score) / temperature)`; 0.5 is unchanged.

    Args:
        temperature: Temperature, above 0 and finite; above 1 it makes scores less confident.

    Raises:
        ValueError: If `temperature` is out of range.
    """

    temperature: float

    def __post_init__(self) -> None:
        _check_above_zero("temperature", self.temperature)

    def __call__(self, y_score: Numbers) -> NDArray[np.float64]:
        """Map scores to probabilities.

        Args:
            y_score: Probabilities of the positive class, shape `(N,)`, in `[0, 1]`.

        Returns:
            Probabilities, shape `(N,)`; 0 and 1 stay.

        Raises:
            ValueError: If scores are not finite or outside `[0, 1]`.
        """
        mapped: NDArray[np.float64] = scipy.special.expit(
            scipy.special.logit(checked_probabilities(y_score)) / self.temperature
        )
        return mapped


def fit_temperature(y_score: Numbers, y_true: Numbers) -> Temperature:
    """Fit the temperature that minimises the log loss (Guo et al. 2017, arXiv:1706.04599).

    The search range is `[0.05, 100]`. The lower end results if 0.5 separates the classes, the upper
    end if scores do not increase with the label.

    Args:
        y_score: Probabilities of the positive class, shape `(N,)`, in `[0, 1]`.
        y_true: 0 (negative) or 1 (positive), shape `(N,)`, both present.

    Returns:
        The map.

    Raises:
        ValueError: If scores are not finite or outside `[0, 1]`, labels are not 0 or 1 or all of
            one class, or their lengths differ.
    """
    scores, positive = checked_scores(y_score, y_true)
    _check_both_classes(positive)
    logits = finite_logits(scores)
    signed = np.where(positive, -logits, logits)

    def loss(log_temperature: float) -> float:
        return float(np.logaddexp(0, signed * math.exp(-log_temperature)).mean())

    bounds = tuple(math.log(temperature) for temperature in _TEMPERATURES)
    fit = scipy.optimize.minimize_scalar(
        loss, bounds=bounds, method="bounded", options={"xatol": 1e-9}
    )
    return Temperature(math.exp(float(fit.x)))


def finite_logits(scores: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return finite logits of scores clipped to `[2**-24, 1 - 2**-24]`.

    Args:
        scores: Scores of any shape, in `[0, 1]`.

    Returns:
        Logits of the same shape, in `[-16.7, 16.7]`.
    """
    logits: NDArray[np.float64] = scipy.special.logit(np.clip(scores, _EPSILON, 1 - _EPSILON))
    return logits


def checked_probabilities(y_score: Numbers) -> NDArray[np.float64]:
    """Check scores without labels.

    Args:
        y_score: Probabilities of the positive class, shape `(N,)`, in `[0, 1]`.

    Returns:
        The scores in float64, shape `(N,)`.

    Raises:
        ValueError: If scores are not finite or outside `[0, 1]`.
    """
    scores = as_float64(y_score, "y_score")
    return checked_scores(scores, np.zeros(scores.size))[0]


def _check_both_classes(positive: NDArray[np.bool_]) -> None:
    num_positive = int(positive.sum())
    if num_positive in (0, positive.size):
        raise ValueError(
            "a fit needs both classes, "
            f"got {positive.size - num_positive} negatives and {num_positive} positives"
        )


def _check_above_zero(name: str, value: float) -> None:
    if not 0 < value < math.inf:
        raise ValueError(f"{name} must be above 0 and finite, got {value}")
