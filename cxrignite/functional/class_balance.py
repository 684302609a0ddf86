"""How many of each class there are, the weights that even them out, and what those did."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from cxrignite.functional.arrays import Numbers, as_float64, positive_mask
from cxrignite.functional.calibrators import prior_logit_shift, shift_logit


class ClassCounts(NamedTuple):
    """How many samples each class has.

    Attributes:
        num_negative: Of label 0, at least 0.
        num_positive: Of label 1, at least 0.
    """

    num_negative: int
    num_positive: int


def class_counts(labels: Numbers) -> ClassCounts:
    """Count the classes.

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
    """Weigh each sample so that both classes have the same total mass.

    The weight is `N / (2 * n)`, with `n` the size of the sample's class (King and Zeng 2001,
    doi 10.1093/oxfordjournals.pan.a004868; scikit-learn's "balanced").

    Args:
        labels: 0 (negative) or 1 (positive), shape `(N,)`.

    Returns:
        Positive float64 weights, shape `(N,)`, with the sum `N`.

    Raises:
        ValueError: If a class has no sample, or `labels` are no labels.

    Examples:
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
    """What the sampler and the loss did to the prior of the positive class.

    Both move the logits away from those of the training images as they are. The prior shift says by
    how much, so that a score can be told as a probability at the natural prevalence (Elkan 2001;
    Menon et al. 2021, arXiv:2007.07314). No decision changes: the shift keeps the order of the
    scores.

    Args:
        num_negative: Negatives among the training images, at least 1.
        num_positive: Positives among the training images, at least 1.
        sampled_prevalence: Share of positives that the sampler drew, in `(0, 1)`.
        pos_weight: Weight of a positive in the loss, above 0; None where the loss is of a kind
            whose effect on the logits is unknown.

    Raises:
        ValueError: If a number is out of its range.

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
        """Share of positives that the loss saw, by weight, in `(0, 1)`; None where unknown."""
        if self.pos_weight is None:
            return None
        positive = self.pos_weight * self.sampled_prevalence
        return positive / (positive + 1 - self.sampled_prevalence)

    @property
    def logit_shift(self) -> float | None:
        """What sampler and loss added to the logits; None where unknown."""
        if self.pos_weight is None:
            return None
        return prior_logit_shift(self.pos_weight, self.sampled_prevalence, self.prevalence)

    @property
    def corrects_twice(self) -> bool:
        """Whether sampler and loss both move the prior, the same way."""
        sampler = _logit(self.sampled_prevalence) - _logit(self.prevalence)
        loss = math.log(self.pos_weight) if self.pos_weight is not None else 0.0
        # A tenth of a logit is what drawing by chance may do.
        return min(abs(sampler), abs(loss)) > 0.1 and sampler * loss > 0

    def probability(self, y_score: Numbers) -> NDArray[np.float64] | None:
        """Return scores as probabilities at the prevalence of the training images.

        Args:
            y_score: Probabilities of the positive class, shape `(N,)`, in `[0, 1]`.

        Returns:
            Shape `(N,)`, in `[0, 1]`; 0 and 1 stay. None where the shift is unknown.

        Raises:
            ValueError: If `y_score` is not one-dimensional, not finite or outside `[0, 1]`.
        """
        shift = self.logit_shift
        return None if shift is None else shift_logit(y_score, shift)

    def to_dict(self) -> dict[str, float | int | None]:
        """Return the fields and what follows from them as plain Python values."""
        return {
            **asdict(self),
            "prevalence": self.prevalence,
            "seen_prevalence": self.seen_prevalence,
            "logit_shift": self.logit_shift,
        }


def drawn_share(labels: Numbers, weights: Numbers | None) -> float:
    """Return the share of positives that a weighted sampler draws.

    Args:
        labels: 0 (negative) or 1 (positive), shape `(N,)`.
        weights: Of each sample, at least 0, shape `(N,)`; None draws all alike.

    Returns:
        In `[0, 1]`.

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
            f"weights must be one for each of {mask.size} labels with a sum above 0, "
            f"got {masses.size} with the sum {masses.sum():g}"
        )
    return float(masses[mask].sum() / masses.sum())


def _logit(probability: float) -> float:
    return math.log(probability / (1 - probability))
