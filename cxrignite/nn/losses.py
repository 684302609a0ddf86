"""Losses that know about class imbalance, and which of others' fit."""

from __future__ import annotations

import warnings
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


class ColumnLoss(nn.modules.loss._Loss):
    """A loss that takes images by channels, given one logit per image as one channel.

    MONAI's losses look for the classes in the second dimension.

    Args:
        loss: Called with logits and labels, both of shape `(N, 1)`.
    """

    def __init__(self, loss: nn.Module) -> None:
        super().__init__()
        self.loss = loss

    def forward(self, input: Tensor, target: Tensor) -> Tensor:
        """Return the loss of a batch.

        Args:
            input: Logits, shape `(N,)`.
            target: 0.0 (negative) or 1.0 (positive), shape `(N,)`.

        Returns:
            What the loss gives.
        """
        given: Tensor = self.loss(input.unsqueeze(1), target.unsqueeze(1))
        return given


def fitted_loss(loss: nn.Module) -> nn.Module:
    """A loss that takes one logit and one label per image, tried on a few made-up ones.

    One of a library has to fall where a logit speaks for its label: `CrossEntropyLoss` takes a
    batch of logits for the classes of one image, and says nothing. One of your own may do as it
    likes; one that `NeedsClassCounts` is not tried before it knows them.

    Args:
        loss: Called with logits and labels, of shape `(N,)` or `(N, 1)`.

    Returns:
        The loss itself, or a `ColumnLoss` of it.

    Raises:
        ValueError: It does not take them, does not fall, or gives no single number a batch.
    """
    if isinstance(loss, NeedsClassCounts) and loss.class_counts is None:
        return loss
    problems = []
    for each in (loss, ColumnLoss(loss)):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # which are for images, and come again with them
            problem = _problem_of(each, loss)
        if not problem:
            return each
        problems.append(problem)
    raise ValueError(next((each for each in problems if "one number" in each), problems[0]))


def _problem_of(called: nn.Module, loss: nn.Module) -> str:
    """Find what is wrong with a loss; empty if nothing is."""
    name, rule = type(loss).__name__, "of one logit and one label per image, as BCEWithLogitsLoss"
    is_own = type(loss).__module__.partition(".")[0] not in ("torch", "monai")
    ones, zeros = torch.ones(4), torch.zeros(4)
    labels = torch.tensor([0.0, 1.0, 0.0, 1.0])
    try:
        given = called(torch.tensor([-1.0, 1.0, 1.0, -1.0]), labels)
        # 0 beside 9: a squared error, which will do, is the same for 9 and -9.
        falls = is_own or bool(
            (called(9 * ones, ones) < called(-9 * ones, ones)).all()
            and (called(zeros, zeros) < called(9 * ones, zeros)).all()
        )
    except Exception as error:  # of somebody's own loss, which may raise anything
        reason = f" ({str(error).splitlines()[0][:200]})" if is_own and str(error) else ""
        return f"loss must be {rule}, got {name}{reason}"
    if not isinstance(given, Tensor) or not falls:
        return f"loss must be {rule}, got {name}"
    if given.ndim:
        rule = "one number per batch, which is what reduction: mean gives"
        got = f"shape {tuple(given.shape)}" if is_own else f"reduction: {loss.reduction}"
        return f"loss must be {rule}, got {got}"
    return ""
