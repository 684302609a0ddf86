"""Losses that know about class imbalance, and which of torch's fit."""

from __future__ import annotations

from contextlib import suppress
from typing import Protocol, runtime_checkable

import torch
from torch import Tensor, nn

from cxrignite.functional.class_balance import soft_pos_weight


@runtime_checkable
class NeedsClassCounts(Protocol):
    """A loss that wants to know how many training images each class has, before the first step.

    Attributes:
        class_counts: Negatives and positives; null as long as nobody has said.
    """

    class_counts: tuple[int, int] | None

    def set_class_counts(self, num_negative: int, num_positive: int) -> None:
        """Take the counts.

        Args:
            num_negative: Negatives among the training images, at least 1.
            num_positive: Positives among the training images, at least 1.
        """


class SoftPosWeightBCE(nn.BCEWithLogitsLoss):
    """Binary cross-entropy that works out its own `pos_weight` from the class counts.

    `pos_weight = (num_negative / num_positive) ** power` multiplies the loss of positives. In
    ChestXRay2017 PNEUMONIA is the majority (1349 negatives, 3883 positives), so the weight is
    below 1: .589 at the power 0.5. A balanced sampler beside it moves the logits once more. It is
    no part of `state_dict()`: each start knows it from the data again.

    Args:
        power: 0 leaves the loss alone, 1 balances the classes, 0.5 is the square root; in
            `[0, 1]`.
        class_counts: Negatives and positives of the training images, each at least 1; null where
            `set_class_counts` gives them later.

    Raises:
        ValueError: If `power` is outside `[0, 1]` or a count is below 1.

    Examples:
        >>> loss_fn = SoftPosWeightBCE(power=1.0, class_counts=(1, 4))
        >>> loss_fn.pos_weight
        tensor(0.2500)
    """

    pos_weight: Tensor

    def __init__(self, power: float = 0.5, class_counts: tuple[int, int] | None = None) -> None:
        super().__init__()
        if not 0 <= power <= 1:
            raise ValueError(f"power must be in [0, 1], got {power}")
        self.power = power
        self.class_counts: tuple[int, int] | None = None
        # Known from the data again on every start, so no part of a saved state; a buffer still,
        # so that it follows `.to(device)`, also before the counts are known.
        self.register_buffer("pos_weight", torch.tensor(float("nan")), persistent=False)
        if class_counts is not None:
            self.set_class_counts(*class_counts)

    def set_class_counts(self, num_negative: int, num_positive: int) -> None:
        """Work out `pos_weight`.

        Args:
            num_negative: Negatives among the training images, at least 1.
            num_positive: Positives among the training images, at least 1.

        Raises:
            ValueError: If a count is below 1.
        """
        self.pos_weight.fill_(soft_pos_weight(num_negative, num_positive, self.power))
        self.class_counts = (num_negative, num_positive)

    def forward(self, input: Tensor, target: Tensor) -> Tensor:
        """Return the mean loss of a batch.

        Args:
            input: Logits, shape `(N,)`.
            target: 0.0 (negative) or 1.0 (positive), shape `(N,)`.

        Returns:
            A 0-d tensor, at least 0.

        Raises:
            RuntimeError: If the class counts are not known yet.
        """
        if self.class_counts is None:
            raise RuntimeError(
                "SoftPosWeightBCE does not know its class counts: give class_counts=(num_negative, "
                "num_positive) or call set_class_counts(num_negative, num_positive) first"
            )
        return super().forward(input, target)

    def extra_repr(self) -> str:
        """Return the settings for `print(loss_fn)`."""
        return f"power={self.power}, class_counts={self.class_counts}"


def check_loss(loss: nn.Module) -> None:
    """Refuse a loss of torch's that does not fall where one logit an image speaks for its label.

    `CrossEntropyLoss` takes a batch of logits for the classes of one image, and says nothing.

    Args:
        loss: Called with logits and labels, both of shape `(N,)`; one of your own is not tried.

    Raises:
        ValueError: It does not fall, or gives no single number a batch.
    """
    if not type(loss).__module__.startswith("torch."):
        return
    ones, zeros, falls, num_dims = torch.ones(4), torch.zeros(4), False, 0
    with suppress(RuntimeError, ValueError, TypeError, IndexError):
        # 0 beside 9: a squared error, which will do, is the same for 9 and -9.
        right, wrong = loss(9 * ones, ones), loss(-9 * ones, ones)
        right_of_zeros, wrong_of_zeros = loss(zeros, zeros), loss(9 * ones, zeros)
        falls = bool((right < wrong).all() and (right_of_zeros < wrong_of_zeros).all())
        num_dims = right.ndim
    if not falls:
        rule = "of one logit and one label an image, as BCEWithLogitsLoss"
        raise ValueError(f"loss must be {rule}, got {type(loss).__name__}")
    if num_dims:
        rule = "one number a batch, which is what reduction: mean gives"
        raise ValueError(f"loss must be {rule}, got reduction: {loss.reduction}")
