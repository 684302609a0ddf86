"""Class counts, weights that balance the classes, and the prior shift that balancing causes."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from numpy.typing import NDArray

from cxrignite.functional.arrays import Numbers, as_float64, positive_mask
from cxrignite.functional.calibrators import (
    checked_probabilities,
    prior_logit_shift,
    shift_logit,
)

if TYPE_CHECKING:
    from torch import Tensor

_NO_SHARE = 1e-9  # rounding of a share of 0


class ClassCounts(NamedTuple):
    """Number of samples of each class.

    Attributes:
        num_negative: Samples with label 0, at least 0.
        num_positive: Samples with label 1, at least 0.
    """

    num_negative: int
    num_positive: int


def class_counts(labels: Numbers) -> ClassCounts:
    """Count the samples of each class.

    Args:
        labels: 0 (negative) or 1 (positive), shape `(N,)`.

    Returns:
        The number of negatives and of positives; either may be 0.

    Raises:
        ValueError: If `labels` is not one-dimensional or holds anything but 0 and 1.

    Examples:
        >>> class_counts([0, 1, 1])
        ClassCounts(num_negative=1, num_positive=2)
    """
    mask = positive_mask(labels)
    num_positive = int(mask.sum())
    return ClassCounts(mask.size - num_positive, num_positive)


def balanced_weights(labels: Numbers) -> Tensor:
    """Return sample weights with which both classes have the same total weight.

    The weight is `N / (2 * n)`, with `n` the size of the sample's class (King and Zeng 2001,
    doi 10.1093/oxfordjournals.pan.a004868; scikit-learn's "balanced"). A sampler that draws with
    these weights shows a network both classes equally often, so that it cannot lower its loss by
    predicting the majority. The probabilities then refer to a prevalence of 0.5: see `PriorShift`.

    Args:
        labels: 0 (negative) or 1 (positive), shape `(N,)`.

    Returns:
        Positive float64 weights, shape `(N,)`, with the sum `N`.

    Raises:
        ValueError: If a class has no sample, or `labels` is not one-dimensional or holds anything
            but 0 and 1.

    Examples:
        >>> balanced_weights([0, 1, 1, 1]).tolist()[:2]
        [2.0, 0.6666666666666666]
    """
    import torch  # here, because the rest of this module does not need it

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
    """Return the loss weight of positives, `(num_negative / num_positive) ** power`.

    The power 0 leaves the loss unweighted and 1 gives both classes the same total weight. The
    default 0.5, the square root, is a compromise: with full weight the few images of a rare class
    dominate the loss. The power is a definition of this library. The weight is below 1 if positives
    are the majority, as in ChestXRay2017 (1349 negatives and 3883 positives give .589).

    Args:
        num_negative: Number of negative training images, at least 1.
        num_positive: Number of positive training images, at least 1.
        power: Degree of balancing, in `[0, 1]`.

    Returns:
        The `pos_weight` of `BCEWithLogitsLoss`, above 0.

    Raises:
        ValueError: If a count is below 1 or `power` is outside `[0, 1]`.

    Examples:
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


@dataclass(frozen=True)
class PriorShift:
    """The shift of the class prior that a sampler and a loss weight cause.

    A network estimates the probability of the positive class at the prevalence that the loss sees.
    A balanced sampler and a `pos_weight` change this prevalence. In effect both add a constant to
    every logit, so a score is not a probability at the prevalence of the training images. This
    class records the constant, and `probability` subtracts it (Elkan 2001; Menon et al. 2021,
    arXiv:2007.07314). The correction is monotone, so it changes no ranking. Decisions are made on
    the scores, so it changes no decision either.

    The shift of one of several exclusive classes depends on the scores of all of them. Then
    `exclusive_probabilities` removes it, not `probability`.

    Args:
        num_negative: Number of negative training images, at least 1.
        num_positive: Number of positive training images, at least 1.
        sampled_prevalence: Expected share of positives among the sampled images, in `(0, 1)`.
        pos_weight: Loss weight of positives, above 0; None if the effect of the loss on the logits
            is unknown. Of exclusive classes, the weight of this class divided by the mean weight of
            the other images that the sampler draws.

    Raises:
        ValueError: If a value is out of range.

    Examples:
        >>> prior_shift = PriorShift(1349, 3883, sampled_prevalence=0.5, pos_weight=0.589)
        >>> round(prior_shift.prevalence, 3), round(prior_shift.seen_prevalence, 3)
        (0.742, 0.371)
    """

    num_negative: int
    num_positive: int
    sampled_prevalence: float
    pos_weight: float | None

    def __post_init__(self) -> None:
        if self.num_negative < 1 or self.num_positive < 1:
            raise ValueError(
                "num_negative and num_positive must be at least 1, "
                f"got {self.num_negative} and {self.num_positive}"
            )
        if not 0 < self.sampled_prevalence < 1:
            raise ValueError(f"sampled_prevalence must be in (0, 1), got {self.sampled_prevalence}")
        if self.pos_weight is not None and not 0 < self.pos_weight < math.inf:
            raise ValueError(f"pos_weight must be above 0 and finite, got {self.pos_weight}")

    @property
    def prevalence(self) -> float:
        """Share of positives among the training images, in `(0, 1)`."""
        return self.num_positive / (self.num_negative + self.num_positive)

    @property
    def seen_prevalence(self) -> float | None:
        """Weighted share of positives in the loss, in `(0, 1)`; None if unknown."""
        if self.pos_weight is None:
            return None
        positive = self.pos_weight * self.sampled_prevalence
        return positive / (positive + 1 - self.sampled_prevalence)

    @property
    def logit_shift(self) -> float | None:
        """Constant that sampler and loss weight add to every logit; None if unknown."""
        if self.pos_weight is None:
            return None
        return prior_logit_shift(self.pos_weight, self.sampled_prevalence, self.prevalence)

    @property
    def corrects_twice(self) -> bool:
        """True if sampler and loss weight shift the prior in the same direction.

        Each alone is enough to correct an imbalance; together they overcorrect it.
        """
        sampler = _logit(self.sampled_prevalence) - _logit(self.prevalence)
        loss = math.log(self.pos_weight) if self.pos_weight is not None else 0.0
        # A tenth of a logit may be due to random sampling.
        return min(abs(sampler), abs(loss)) > 0.1 and sampler * loss > 0

    def probability(
        self, y_score: Numbers, prevalence: float | None = None
    ) -> NDArray[np.float64] | None:
        """Return scores as probabilities at a prevalence.

        Args:
            y_score: Probabilities of the positive class, shape `(N,)`, in `[0, 1]`.
            prevalence: Share of positives for which the probabilities hold, in `(0, 1)`; None is
                that of the training images.

        Returns:
            Probabilities, shape `(N,)`, in `[0, 1]`; 0 and 1 are unchanged. None if the shift is
            unknown.

        Raises:
            ValueError: If `y_score` is not one-dimensional, not finite or outside `[0, 1]`, or
                `prevalence` is out of range.

        Examples:
            >>> shift = PriorShift(1349, 3883, sampled_prevalence=0.5, pos_weight=0.589)
            >>> shift.probability([0.9]).round(3), shift.probability([0.9], 0.1).round(3)
            (array([0.978]), array([0.629]))
        """
        if self.pos_weight is None:
            return None
        target = self.prevalence if prevalence is None else prevalence
        shift = prior_logit_shift(self.pos_weight, self.sampled_prevalence, target)
        return shift_logit(y_score, shift)

    def to_dict(self) -> dict[str, float | int | None]:
        """Return the fields and the derived values as plain Python values."""
        return {
            **asdict(self),
            "prevalence": self.prevalence,
            "seen_prevalence": self.seen_prevalence,
            "logit_shift": self.logit_shift,
        }


def exclusive_probabilities(
    y_score: Numbers, shifts: Sequence[PriorShift]
) -> NDArray[np.float64] | None:
    """Return scores of exclusive classes as probabilities at the training prevalence.

    Sampler and loss multiply the odds of each class, the first one too, by its share in the loss
    divided by its share of the training images. The probabilities are the scores divided by these
    factors, scaled to the sum 1. They may rank images in another order than the scores of one
    class, since they depend on the scores of all.

    Args:
        y_score: Probabilities of all classes but the first, shape `(N, K)`, in `[0, 1]`, with sums
            of at most 1.
        shifts: The prior shift of each of these K classes.

    Returns:
        Probabilities of the same classes, shape `(N, K)`. None if a shift is unknown.

    Raises:
        ValueError: If `y_score` has another shape or is not finite or outside `[0, 1]`, or the
            shares of the classes leave none for the first.

    Examples:
        Balanced sampling of 60, 30 and 10 images: each class has a third of the draws.

        >>> shifts = [PriorShift(70, 30, 1 / 3, 1.0), PriorShift(90, 10, 1 / 3, 1.0)]
        >>> exclusive_probabilities([[1 / 3, 1 / 3]], shifts).round(3).tolist()
        [[0.3, 0.1]]
    """
    scores = np.asarray(y_score, dtype=np.float64)
    if scores.ndim != 2 or scores.shape[1] != len(shifts):
        raise ValueError(f"y_score must have shape (N, {len(shifts)}), got {scores.shape}")
    checked_probabilities(scores.ravel())
    factors = exclusive_factors(shifts)
    if factors is None:
        return None
    # Rounding may make the sum of the scores slightly larger than 1.
    rest = np.clip(1 - scores.sum(axis=1, keepdims=True), 0, None)
    shares = np.hstack([rest, scores]) * factors
    found: NDArray[np.float64] = shares[:, 1:] / shares.sum(axis=1, keepdims=True)
    return found


def exclusive_factors(shifts: Sequence[PriorShift]) -> NDArray[np.float64] | None:
    """Return the factors of `exclusive_probabilities` for the score of each class.

    Args:
        shifts: The prior shift of each of the K classes but the first.

    Returns:
        Shape `(K + 1,)`, that of the first class in front. None if a shift is unknown.

    Raises:
        ValueError: If the shares of the classes leave none for the first.

    Examples:
        >>> exclusive_factors([PriorShift(70, 30, 1 / 3, 1.0), PriorShift(90, 10, 1 / 3, 1.0)])
        array([1.8, 0.9, 0.3])
    """
    seen = [share for shift in shifts if (share := shift.seen_prevalence) is not None]
    if len(seen) < len(shifts):
        return None
    training = [shift.prevalence for shift in shifts]
    first = 1 - sum(training), 1 - sum(seen)
    if min(first) < _NO_SHARE:
        raise ValueError(f"the first class must have a share above 0, got {first[0]}, {first[1]}")
    factors: NDArray[np.float64] = np.array([first[0], *training]) / np.array([first[1], *seen])
    return factors


def finding_probabilities(
    y_score: NDArray[np.float64],
    shifts: Sequence[PriorShift],
    *,
    exclusive: bool,
    prevalence: float | None = None,
) -> list[NDArray[np.float64] | None]:
    """Return the probabilities of each finding, shape `(N,)`; None if unknown.

    Args:
        y_score: Scores of K findings, shape `(N, K)`.
        shifts: The prior shift of each finding.
        exclusive: True if the findings are exclusive classes.
        prevalence: Share of positives for which they hold; None is that of the training images,
            the only one of exclusive classes.

    Examples:
        >>> shifts = [PriorShift(90, 10, 0.5, 1.0)]
        >>> finding_probabilities(np.array([[0.5]]), shifts, exclusive=False)[0].round(3)
        array([0.1])
    """
    if not exclusive:
        pairs = zip(shifts, y_score.T, strict=True)
        return [shift.probability(each, prevalence) for shift, each in pairs]
    found = exclusive_probabilities(y_score, shifts)
    return [None] * len(shifts) if found is None else [*found.T]


def drawn_share(labels: Numbers, weights: Numbers | None) -> float:
    """Return the expected share of positives among the samples of a weighted sampler.

    Args:
        labels: 0 (negative) or 1 (positive), shape `(N,)`.
        weights: Sampling weights, at least 0, shape `(N,)`; None for equal weights.

    Returns:
        The share, in `[0, 1]`.

    Raises:
        ValueError: If there are no labels or weights, or their lengths differ.

    Examples:
        >>> drawn_share([0, 1, 1, 1], [3.0, 1.0, 1.0, 1.0])
        0.5
    """
    mask = positive_mask(labels)
    masses = np.ones(mask.size) if weights is None else as_float64(weights, "weights")
    if masses.size != mask.size or not masses.sum() > 0:
        raise ValueError(
            f"weights must be one per label ({mask.size}) with a sum above 0, "
            f"got {masses.size} with the sum {masses.sum():g}"
        )
    return float(masses[mask].sum() / masses.sum())


def _logit(probability: float) -> float:
    return math.log(probability / (1 - probability))
