"""Losses for imbalanced classes, and a check of losses of other libraries."""

from __future__ import annotations

import warnings
from typing import Protocol, runtime_checkable

import torch
from torch import Tensor, nn

from cxrignite.functional.class_balance import soft_pos_weight


@runtime_checkable
class NeedsClassCounts(Protocol):
    """A loss that needs the number of training images of each class before the first step.

    Attributes:
        class_counts: Numbers of negatives and positives; null until they are set.
    """

    class_counts: tuple[int, int] | None

    def set_class_counts(self, num_negative: int, num_positive: int) -> None:
        """Set the class counts.

        Args:
            num_negative: Number of negative training images, at least 1.
            num_positive: Number of positive training images, at least 1.
        """


class SoftPosWeightBCE(nn.BCEWithLogitsLoss):
    """Binary cross-entropy with a `pos_weight` computed from the class counts.

    `pos_weight = (num_negative / num_positive) ** power` multiplies the loss of positives. In
    ChestXRay2017 PNEUMONIA is the majority (1349 negatives, 3883 positives), so the weight is
    below 1: .589 with a power of 0.5. A balanced sampler shifts the logits as well, in addition to
    this weight (see `PriorShift`). The weight is not part of `state_dict()`, since each start
    computes it from the data.

    Args:
        power: Degree of balancing, in `[0, 1]`: 0 leaves the loss unweighted, 1 balances the
            classes, 0.5 is the square root.
        class_counts: Numbers of negative and positive training images, each at least 1; null if
            `set_class_counts` sets them later.

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
        # Not persistent, since every start computes it from the data. Still a buffer, so that it
        # follows `.to(device)`, even before the counts are known.
        self.register_buffer("pos_weight", torch.tensor(float("nan")), persistent=False)
        if class_counts is not None:
            self.set_class_counts(*class_counts)

    def set_class_counts(self, num_negative: int, num_positive: int) -> None:
        """Set the class counts, and compute `pos_weight`.

        Args:
            num_negative: Number of negative training images, at least 1.
            num_positive: Number of positive training images, at least 1.

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
                "SoftPosWeightBCE needs the class counts: pass class_counts=(num_negative, "
                "num_positive) or call set_class_counts(num_negative, num_positive) first"
            )
        return super().forward(input, target)

    def extra_repr(self) -> str:
        """Return the settings for `print(loss_fn)`."""
        return f"power={self.power}, class_counts={self.class_counts}"


class ColumnLoss(nn.modules.loss._Loss):
    """Adapter of a loss that expects a channel dimension, such as those of MONAI.

    Args:
        loss: Loss that is called with logits and labels, both of shape `(N, 1)`.
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
            The value of the loss, a 0-d tensor if it reduces over the batch.
        """
        given: Tensor = self.loss(input.unsqueeze(1), target.unsqueeze(1))
        return given


def fitted_loss(loss: nn.Module) -> nn.Module:
    """Check that a loss accepts one logit and one label per image, and adapt it if needed.

    The loss is tried on example values. A loss of torch or MONAI must decrease if the logits agree
    with the labels. `CrossEntropyLoss` does not: without an error it takes the batch for the class
    logits of one image. The values of other losses are not checked, and a loss that
    `NeedsClassCounts` is not tried before its counts are set.

    Args:
        loss: Loss that is called with logits and labels, of shape `(N,)` or `(N, 1)`.

    Returns:
        The loss itself, or a `ColumnLoss` of it.

    Raises:
        ValueError: If the loss does not accept the values, does not decrease, or does not return
            one number per batch.
    """
    if isinstance(loss, NeedsClassCounts) and loss.class_counts is None:
        return loss
    problems = []
    for each in (loss, ColumnLoss(loss)):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # they appear again with the first real batch
            problem = _problem_of(each, loss)
        if not problem:
            return each
        problems.append(problem)
    raise ValueError(next((each for each in problems if "one number" in each), problems[0]))


def _problem_of(called: nn.Module, loss: nn.Module) -> str:
    """Return the problem of a loss; empty if there is none."""
    name, rule = type(loss).__name__, "of one logit and one label per image, as BCEWithLogitsLoss"
    is_own = type(loss).__module__.partition(".")[0] not in ("torch", "monai")
    ones, zeros = torch.ones(4), torch.zeros(4)
    labels = torch.tensor([0.0, 1.0, 0.0, 1.0])
    try:
        given = called(torch.tensor([-1.0, 1.0, 1.0, -1.0]), labels)
        # Logits of 0 and 9 for negatives: a squared error, which is allowed, is equal for 9 and -9.
        falls = is_own or bool(
            (called(9 * ones, ones) < called(-9 * ones, ones)).all()
            and (called(zeros, zeros) < called(9 * ones, zeros)).all()
        )
    except Exception as error:  # a custom loss may raise anything
        reason = f" ({str(error).splitlines()[0][:200]})" if is_own and str(error) else ""
        return f"loss must be {rule}, got {name}{reason}"
    if not isinstance(given, Tensor) or not falls:
        return f"loss must be {rule}, got {name}"
    if given.ndim:
        rule = "one number per batch, which is what reduction: mean gives"
        got = f"shape {tuple(given.shape)}" if is_own else f"reduction: {loss.reduction}"
        return f"loss must be {rule}, got {got}"
    return ""
