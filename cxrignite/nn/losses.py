"""Losses for imbalanced classes and unknown labels, and a check of losses of other libraries.

With one finding, logits and labels have the shape `(N,)`. With several they have the shape
`(N, K)`, and the label of a finding may be unknown (NaN). Value and gradient of a loss are then
those over the known labels alone, and 0 if no label is known.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from functools import partial
from typing import Literal, Protocol, get_args, runtime_checkable

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from cxrignite.functional.class_balance import soft_pos_weight
from cxrignite.functional.findings import exclusive_class, with_first_class
from cxrignite.functional.image_choice import UNKNOWN_LABEL

ClassForm = Literal["index", "column", "one_hot"]
"""Form of the class of each image, as a loss expects it."""

Counts = int | Sequence[int]
"""Number of images; with several findings, one number for each."""


@runtime_checkable
class NeedsClassCounts(Protocol):
    """A loss that needs the number of training images of each class before the first step.

    Attributes:
        class_counts: Numbers of negatives and positives; null until they are set.
    """

    class_counts: tuple[Counts, Counts] | None

    def set_class_counts(self, num_negative: Counts, num_positive: Counts) -> None:
        """Set the class counts.

        Args:
            num_negative: Number of negative training images, at least 1; with several findings, a
                sequence of the known negatives of each.
            num_positive: Number of positive training images, in the same form.
        """


class KnownLabelsBCE(nn.BCEWithLogitsLoss):
    """Binary cross-entropy, as in torch, over the known labels alone.

    Args:
        weight: Weight of each finding, shape `(K,)`; null weights all the same.
        pos_weight: Weight of positives, 0-d or of each finding, shape `(K,)`; null is 1.
    """

    def __init__(self, weight: Tensor | None = None, pos_weight: Tensor | None = None) -> None:
        super().__init__(weight=weight, pos_weight=pos_weight)

    def forward(self, input: Tensor, target: Tensor) -> Tensor:
        """Return the mean loss of a batch.

        Args:
            input: Logits, shape `(N,)` or `(N, K)`.
            target: 0.0 (negative), 1.0 (positive) or, with several findings, NaN (unknown), in the
                same shape.

        Returns:
            A 0-d tensor, at least 0: the mean over the known labels, weighted by `weight`.
        """
        if target.ndim == 1:
            return super().forward(input, target)
        # Masked by weights, since a selection of the known labels would wait for a GPU.
        known = ~target.isnan()
        weight = known.to(input.dtype)
        if self.weight is not None:
            weight = weight * self.weight
        total = F.binary_cross_entropy_with_logits(
            input,
            torch.where(known, target, 0.0),
            weight,
            pos_weight=self.pos_weight,
            reduction="sum",
        )
        num_known = weight.sum()
        return total / torch.where(num_known > 0, num_known, 1.0)


class SoftPosWeightBCE(KnownLabelsBCE):
    """Binary cross-entropy with a `pos_weight` computed from the class counts.

    `pos_weight = (num_negative / num_positive) ** power` multiplies the loss of positives. In
    ChestXRay2017 PNEUMONIA is the majority (1349 negatives, 3883 positives), so the weight is
    below 1: .589 with a power of 0.5. A balanced sampler shifts the logits as well, in addition to
    this weight (see `PriorShift`). The weight is not part of `state_dict()`, since each start
    computes it from the data. Each of several findings has its own `pos_weight`, and unknown labels
    (NaN) do not count.

    Args:
        power: Degree of balancing, in `[0, 1]`: 0 leaves the loss unweighted, 1 balances the
            classes, 0.5 is the square root.
        class_counts: Numbers of negative and positive training images, each at least 1; null if
            `set_class_counts` sets them later.
        finding_weights: Weight of each finding in the mean loss, at least 0; null weights all the
            same. Only for several findings.

    Raises:
        ValueError: If `power` is outside `[0, 1]`, a count is below 1 or a weight is not a number
            of at least 0.

    Examples:
        >>> loss_fn = SoftPosWeightBCE(power=1.0, class_counts=(1, 4))
        >>> loss_fn.pos_weight
        tensor(0.2500)
    """

    pos_weight: Tensor

    def __init__(
        self,
        power: float = 0.5,
        class_counts: tuple[int, int] | None = None,
        finding_weights: list[float] | None = None,
    ) -> None:
        super().__init__()
        _check_power(power)
        self.power = power
        self.class_counts: tuple[Counts, Counts] | None = None
        self.finding_weights = finding_weights
        if finding_weights is not None:
            weights = torch.tensor(finding_weights, dtype=torch.float32)
            if not (weights.isfinite() & (weights >= 0)).all() or not weights.sum() > 0:
                raise ValueError(
                    "finding_weights must be numbers of at least 0, one of them above 0, "
                    f"got {finding_weights}"
                )
            self.register_buffer("weight", weights, persistent=False)
        # Not persistent, since every start computes it from the data. Still a buffer, so that it
        # follows `.to(device)`, even before the counts are known.
        self.register_buffer("pos_weight", torch.tensor(float("nan")), persistent=False)
        if class_counts is not None:
            self.set_class_counts(*class_counts)

    def set_class_counts(self, num_negative: Counts, num_positive: Counts) -> None:
        """Set the class counts, and compute `pos_weight`.

        Args:
            num_negative: Number of negative training images, at least 1; with several findings, a
                sequence of the known negatives of each.
            num_positive: Number of positive training images, in the same form.

        Raises:
            ValueError: If a count is below 1, or there is not one weight for each finding.
        """
        if isinstance(num_negative, int) and isinstance(num_positive, int):
            weight: float | list[float] = soft_pos_weight(num_negative, num_positive, self.power)
        else:
            pairs = _pairs(num_negative, num_positive)
            weight = [soft_pos_weight(*pair, self.power) for pair in pairs]
            _check_num_weights(self.finding_weights, len(pairs))
        self.pos_weight = self.pos_weight.new_tensor(weight)
        self.class_counts = (num_negative, num_positive)

    def forward(self, input: Tensor, target: Tensor) -> Tensor:
        """Return the mean loss of a batch.

        Args:
            input: Logits, shape `(N,)` or `(N, K)`.
            target: 0.0 (negative), 1.0 (positive) or, with several findings, NaN (unknown), in the
                same shape.

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


class KnownLabels(nn.modules.loss._Loss):
    """Adapter of a loss of one finding to several, some of whose labels are unknown.

    Args:
        loss: Loss that is called with the logits and labels of all findings whose label is known,
            both of shape `(M,)`.
    """

    def __init__(self, loss: nn.Module) -> None:
        super().__init__()
        self.loss = loss

    def forward(self, input: Tensor, target: Tensor) -> Tensor:
        """Return the loss of a batch.

        Args:
            input: Logits, shape `(N, K)`.
            target: 0.0 (negative), 1.0 (positive) or NaN (unknown), shape `(N, K)`.

        Returns:
            The value of the loss, a 0-d tensor; 0 if no label is known.
        """
        known = ~target.isnan()
        if not known.any():
            return 0.0 * input.sum()
        given: Tensor = self.loss(input[known], target[known])
        return given


class ClassLoss(nn.modules.loss._Loss):
    """Adapter of a loss over classes, such as `CrossEntropyLoss`, to exclusive classes.

    The first class has the logit 0. Images whose class is unknown are left out.

    Args:
        loss: Loss that is called with the logits of all classes, shape `(M, K + 1)`, and the class
            of each image.
        form: Form of the class: `index`, shape `(M,)`; `column`, an index of shape `(M, 1)`; or
            `one_hot`, 0.0 and 1.0 of shape `(M, K + 1)`.
    """

    def __init__(self, loss: nn.Module, form: ClassForm = "index") -> None:
        super().__init__()
        self.loss, self.form = loss, form

    def forward(self, input: Tensor, target: Tensor) -> Tensor:
        """Return the loss of a batch.

        Args:
            input: Logits of all classes but the first, shape `(N, K)`.
            target: 0.0, 1.0 or NaN (unknown), shape `(N, K)`, at most one of them 1.

        Returns:
            The value of the loss, a 0-d tensor; 0 if no class is known.
        """
        index = exclusive_class(target)
        known = index != UNKNOWN_LABEL
        if not known.any():
            return 0.0 * input.sum()
        logits = with_first_class(input)[known]
        given: Tensor = self.loss(logits, _formed(index[known], logits.shape[1], self.form))
        return given


class SoftClassWeightCE(nn.modules.loss._Loss):
    """Cross-entropy of exclusive classes, with weights computed from the class counts.

    A class with n of N images in K + 1 classes has the weight `(N / ((K + 1) n)) ** power`. The
    loss is the weighted mean over the images whose class is known. For two classes the ratio of the
    weights is the `pos_weight` of `SoftPosWeightBCE`.

    Args:
        power: Degree of balancing, in `[0, 1]`: 0 leaves the loss unweighted, 1 balances the
            classes, 0.5 is the square root.

    Attributes:
        class_counts: Numbers of negatives and positives of each finding; null until they are set.

    Raises:
        ValueError: If `power` is outside `[0, 1]`.

    Examples:
        >>> loss_fn = SoftClassWeightCE(power=1.0)
        >>> loss_fn.set_class_counts([5, 7], [3, 1])  # 8 images: 4, 3 and 1 of the three classes
        >>> loss_fn.weight
        tensor([0.6667, 0.8889, 2.6667])
    """

    weight: Tensor

    def __init__(self, power: float = 0.5) -> None:
        super().__init__()
        _check_power(power)
        self.power = power
        self.class_counts: tuple[Counts, Counts] | None = None
        self.register_buffer("weight", torch.tensor(float("nan")), persistent=False)

    def set_class_counts(self, num_negative: Counts, num_positive: Counts) -> None:
        """Set the class counts, and compute the weights.

        Args:
            num_negative: Numbers of training images without each finding.
            num_positive: Numbers of training images with each finding, each at least 1.

        Raises:
            ValueError: If a class has no image, or the counts do not add up to the same number of
                images for each finding.
        """
        pairs = _pairs(num_negative, num_positive)
        totals = {sum(pair) for pair in pairs}
        if len(totals) != 1:
            raise ValueError(
                "exclusive classes must have the same number of images for each finding, "
                f"got {sorted(totals)}"
            )
        (total,) = totals
        found = [positive for _, positive in pairs]
        counts = [total - sum(found), *found]
        if min(counts) < 1:
            raise ValueError(f"each class must have at least 1 training image, got {counts}")
        weights = [(total / (len(counts) * count)) ** self.power for count in counts]
        self.weight = self.weight.new_tensor(weights)
        self.class_counts = (num_negative, num_positive)

    def forward(self, input: Tensor, target: Tensor) -> Tensor:
        """Return the mean loss of a batch.

        Args:
            input: Logits of all classes but the first, shape `(N, K)`.
            target: 0.0, 1.0 or NaN (unknown), shape `(N, K)`, at most one of them 1.

        Returns:
            A 0-d tensor, at least 0; 0 if no class is known.

        Raises:
            RuntimeError: If the class counts are not known yet.
        """
        if self.class_counts is None:
            raise RuntimeError(
                "SoftClassWeightCE needs the class counts: call "
                "set_class_counts(num_negative, num_positive) first"
            )
        index = exclusive_class(target)
        total = F.cross_entropy(
            with_first_class(input), index, self.weight, ignore_index=UNKNOWN_LABEL, reduction="sum"
        )
        weight = torch.where(index != UNKNOWN_LABEL, self.weight[index.clamp_min(0)], 0.0).sum()
        return total / torch.where(weight > 0, weight, 1.0)

    def extra_repr(self) -> str:
        """Return the settings for `print(loss_fn)`."""
        return f"power={self.power}, class_counts={self.class_counts}"


def fitted_loss(loss: nn.Module, num_findings: int = 1, exclusive: bool = False) -> nn.Module:
    """Check that a loss accepts the logits and labels of a classifier, and adapt it if needed.

    The loss is tried on example values. A loss of torch or MONAI must decrease if the logits agree
    with the labels. `CrossEntropyLoss` does not for one finding: without an error it takes the
    batch for the class logits of one image. The values of other losses are not checked, and a loss
    that `NeedsClassCounts` is not tried before its counts are set.

    With several findings, a loss of torch or MONAI is called with the known labels alone, as if
    they were of one finding. Of exclusive classes it gets the logits of all classes, and the class
    as an index or as 0 and 1; see `ClassLoss`. It must decrease for each class, and stay the same
    if a constant is added to all logits of an image, as their softmax does. A loss of another
    library is called with logits and labels of shape `(N, K)`, if it gives a finite number for
    labels of which some are NaN, and else in the same way.

    Args:
        loss: Loss that is called with logits and labels, of shape `(N,)` or `(N, 1)`.
        num_findings: Number of findings, K, at least 1.
        exclusive: True if at most one finding is present in an image.

    Returns:
        The loss itself, or an adapter of it.

    Raises:
        ValueError: If the loss does not accept the values, does not decrease, or does not return
            one number per batch.
    """
    if isinstance(loss, SoftPosWeightBCE):
        _check_num_weights(loss.finding_weights, num_findings)
    is_weighted_ce = isinstance(loss, SoftClassWeightCE)
    if num_findings > 1 and exclusive:
        adapt = partial(_class_loss, num_classes=num_findings + 1)
        if isinstance(loss, nn.BCEWithLogitsLoss) or not (is_weighted_ce or _is_own(loss)):
            return adapt(loss)
        return loss if is_weighted_ce else _own_loss(loss, num_findings, adapt)
    if is_weighted_ce:
        raise ValueError(
            "loss must be of findings that may occur together, as SoftPosWeightBCE, got "
            "SoftClassWeightCE, which is for three or more exclusive classes"
        )
    if num_findings > 1:
        if type(loss) is nn.BCEWithLogitsLoss and loss.reduction == "mean":
            _check_num_weights(loss.pos_weight, num_findings)
            return KnownLabelsBCE(loss.weight, loss.pos_weight)
        if isinstance(loss, KnownLabelsBCE):
            return loss
        return _own_loss(loss, num_findings, lambda each: KnownLabels(fitted_loss(each)))
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


def _own_loss(
    loss: nn.Module, num_findings: int, adapt: Callable[[nn.Module], nn.Module]
) -> nn.Module:
    """Return the loss if it handles several findings and unknown labels itself, else adapted."""
    if isinstance(loss, NeedsClassCounts) and loss.class_counts is None:
        return loss
    if _is_own(loss):
        # Labels of every kind: unknown, none, and one finding.
        labels = torch.zeros(4, num_findings)
        labels[0], labels[2, 0], labels[3, -1] = float("nan"), 1.0, 1.0
        logits = torch.zeros(4, num_findings, requires_grad=True)
        try:
            given = loss(logits, labels)
            given.backward()
        except Exception:  # a custom loss may raise anything; the adapted one is tried next
            return adapt(loss)
        # An unknown label must not train its output, as it would if it counted as negative.
        is_left_out = logits.grad is not None and not logits.grad[labels.isnan()].any()
        if given.ndim == 0 and given.isfinite() and is_left_out:
            return loss
    return adapt(loss)


def _formed(index: Tensor, num_classes: int, form: ClassForm) -> Tensor:
    """Return the classes of images in the form that a loss expects."""
    if form == "one_hot":
        return F.one_hot(index, num_classes).float()
    return index if form == "index" else index.unsqueeze(1)


def _class_loss(loss: nn.Module, num_classes: int) -> nn.Module:
    """Return the adapter of a loss for exclusive classes, with the first form that it accepts."""
    is_bce, name = isinstance(loss, nn.BCEWithLogitsLoss), type(loss).__name__
    is_own = _is_own(loss) and not is_bce
    if not is_own and getattr(loss, "reduction", "mean") != "mean":
        raise ValueError(
            "loss must be one number per batch, which is what reduction: mean gives, "
            f"got reduction: {loss.reduction}"
        )
    reason = ""
    # The values of an own loss are not checked, and it may take a column for any number.
    forms: tuple[ClassForm, ...] = ("index", "one_hot") if is_own else get_args(ClassForm)
    for form in forms:
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # they appear again with the first real batch
                if _is_of_classes(loss, num_classes, form, checks_values=not is_own):
                    return ClassLoss(loss, form)
        except Exception as error:  # a custom loss may raise anything; the next form is tried
            reason = reason or f" ({str(error).splitlines()[0][:200]})" * bool(str(error))
    raise ValueError(
        "loss must be of exclusive classes, as SoftClassWeightCE, torch.nn.CrossEntropyLoss or "
        f"another loss of the softmax of all {num_classes} classes, got {name}"
        f"{reason if is_own or isinstance(loss, nn.CrossEntropyLoss) else ''}"
    )


def _is_of_classes(
    loss: nn.Module, num_classes: int, form: ClassForm, *, checks_values: bool
) -> bool:
    """True if a loss over classes accepts a form of the class, and has sensible values."""
    # Not as many images as classes, so that no label is taken for another dimension.
    index = torch.arange(num_classes + 2) % num_classes
    logits = torch.linspace(-2, 2, len(index) * num_classes).sin().reshape(len(index), -1)
    labels = _formed(index, num_classes, form)
    given = loss(logits, labels)
    if not isinstance(given, Tensor) or given.ndim or not given.isfinite():
        return False
    if not checks_values:
        return True
    # A sigmoid of each logit changes with a constant added to all of them; the softmax does not.
    if not torch.allclose(loss(logits + 3, labels), given, atol=1e-4, rtol=1e-4):
        return False
    favoured = 9 * torch.eye(num_classes)
    for each in range(num_classes):
        size = len(index)
        same = _formed(torch.full((size,), each), num_classes, form)
        agrees, differs = favoured[each], favoured[(each + 1) % num_classes]
        if not loss(agrees.expand(size, -1), same) < loss(differs.expand(size, -1), same):
            return False
    return True


def _is_own(loss: nn.Module) -> bool:
    """True for a loss of neither torch nor MONAI."""
    return type(loss).__module__.partition(".")[0] not in ("torch", "monai")


def _check_power(power: float) -> None:
    if not 0 <= power <= 1:
        raise ValueError(f"power must be in [0, 1], got {power}")


def _pairs(num_negative: Counts, num_positive: Counts) -> list[tuple[int, int]]:
    """Return the number of negatives and positives of each finding."""
    columns = [[each] if isinstance(each, int) else each for each in (num_negative, num_positive)]
    return list(zip(*columns, strict=True))


def _check_num_weights(weights: Sequence[float] | Tensor | None, num_findings: int) -> None:
    number = (
        1 if weights is None or (isinstance(weights, Tensor) and not weights.ndim) else len(weights)
    )
    if weights is not None and number not in (1, num_findings):
        raise ValueError(
            f"a loss must have one weight for each of the {num_findings} findings, got {number}"
        )


def _problem_of(called: nn.Module, loss: nn.Module) -> str:
    """Return the problem of a loss; empty if there is none."""
    name, rule = type(loss).__name__, "of one logit and one label per image, as BCEWithLogitsLoss"
    is_own = _is_own(loss)
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
