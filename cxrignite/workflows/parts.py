"""Parts built from a recipe: the data module, the classifier, the loss."""

from __future__ import annotations

import logging
import math
import re
from collections.abc import Callable, Iterable, Mapping
from itertools import product
from typing import Any, NamedTuple

import torch
from torch import nn

from cxrignite.data import ImageRecord, LoaderSettings, XrayData
from cxrignite.data.image_cache import ImageCache
from cxrignite.data.pipeline import Pipeline
from cxrignite.data.sources import class_pair
from cxrignite.engines import Precision, choose_precision
from cxrignite.engines.session import Session
from cxrignite.errors import ConstraintError, DataError, RecipeError
from cxrignite.functional import PriorShift, grad_cam, num_negatives_needed
from cxrignite.functional.model_access import evaluation_mode
from cxrignite.handlers import ThresholdSearch
from cxrignite.nn import BinaryClassifier, NeedsClassCounts, SoftPosWeightBCE
from cxrignite.nn.losses import ClassLoss, KnownLabels, SoftClassWeightCE
from cxrignite.recipe import DataRecipe, TrainerRecipe
from cxrignite.runs.checkpoints import does_not_run, load_weights

_logger = logging.getLogger(__name__)


class Computing(NamedTuple):
    """Settings of a forward pass."""

    device: torch.device
    precision: Precision
    channels_last: bool


def choose_computing(settings: TrainerRecipe, session: Session) -> Computing:
    """Choose device, precision and memory order of a recipe's forward passes."""
    precision = choose_precision(settings.precision, session.device)
    return Computing(session.device, precision, settings.channels_last)


def build_pipeline(data: DataRecipe) -> Pipeline:
    """Build the pipeline that reads, preprocesses and augments the images of a recipe."""
    return Pipeline(
        data.preprocess,
        data.augment,
        image_size=data.image_size,
        batch_augment=data.batch_augment,
        grey_scaling=data.grey_scaling,
    )


def build_data(
    data: DataRecipe,
    records: list[ImageRecord],
    seed: int,
    *,
    device: torch.device,
    pipeline: Pipeline | None = None,
    cache: ImageCache | None = None,
) -> XrayData:
    """Build the data module of a recipe over these images.

    A GPU also augments the batches. A pipeline that has been built is used again.
    """
    return XrayData(
        records,
        data.source.classes,
        exclusive=data.source.exclusive,
        pipeline=pipeline or build_pipeline(data),
        cache=cache,
        sampler=data.sampler,
        loader=LoaderSettings(
            data.batch_size,
            data.num_workers,
            data.prefetch_factor,
            data.eval_batch_size,
            augment_on_device=device.type == "cuda",
            worker_timeout=data.worker_timeout,
        ),
        seed=seed,
        views=data.views,
    )


def check_image_size(
    model: BinaryClassifier, size: tuple[int, int], *, is_restored: bool = False
) -> None:
    """Refuse images that the model cannot take, before the first step.

    Args:
        model: The classifier.
        size: Rows and columns of the preprocessed images.
        is_restored: True if the weights come from a checkpoint, and took images of this size.

    Raises:
        RecipeError: The preprocessed images have another size than the backbone was built for, or
            its layers cannot take them: images too small, or layers that do not fit each other.
        CheckpointError: It is a user's model, whose code has changed since it was trained.
    """
    if model.image_size not in (None, size):
        raise RecipeError(
            f"data.image_size must be {list(model.image_size)} for this model, got {list(size)}"
        )
    blank = torch.zeros(1, 1, *size, device=next(model.parameters()).device)
    try:
        with torch.no_grad(), evaluation_mode(model):
            shape = tuple(model(blank).shape)
    except Exception as error:  # a user's model may raise anything
        if is_restored and not isinstance(error, MemoryError | torch.OutOfMemoryError):
            raise does_not_run(model, error) from error
        # Other errors, such as memory that runs out, are reported as in a training step.
        is_size = re.search(r"\b(size|shape)s?\b", str(error))
        if not (is_size and isinstance(error, RuntimeError | ValueError)):
            raise
        reason = str(error).splitlines()[0]
        raise RecipeError(
            f"the model cannot take images of data.image_size {list(size)}: {reason}"
        ) from error
    if model.num_findings > 1 and shape != (1, model.num_findings):
        raise RecipeError(
            f"the model must return {model.num_findings} logits for each image, one for each "
            f"finding, got an output of shape {list(shape)} for one image"
        )


def build_loss(loss: nn.Module, data: XrayData, device: torch.device) -> nn.Module:
    """Move the loss to `device`, and give it the training class counts if it needs them.

    Raises:
        DataError: It needs them, and one of several findings lacks a class.
    """
    loss = loss.to(device)
    if isinstance(loss, NeedsClassCounts) and loss.class_counts is None:
        counts = [data.class_counts("train", index) for index in range(len(data.findings))]
        for finding, each in zip(data.findings, counts, strict=True):
            if len(counts) > 1 and min(each) == 0:
                raise DataError(
                    f"training needs images with and without {finding}, got {each.num_positive} "
                    f"with and {each.num_negative} without it"
                )
        loss.set_class_counts(*(counts[0] if len(counts) == 1 else zip(*counts, strict=True)))
    return loss


def build_prior_shifts(data: XrayData, loss: nn.Module) -> tuple[PriorShift, ...]:
    """Compute the effect of sampler and loss on the prior of each finding.

    It is known only for `BCEWithLogitsLoss` and its subclasses; of exclusive classes for
    `SoftClassWeightCE` and `CrossEntropyLoss`.

    Raises:
        RecipeError: The weights of positives or of classes in the loss are not numbers above 0.
        DataError: The sampler draws only one class, or none of the first exclusive class.
    """
    weights = _exclusive_weights(data, loss) if data.exclusive else _positive_weights(data, loss)
    shifts = []
    for index, weight in enumerate(weights):
        counts = data.class_counts("train", index)
        try:
            shifts.append(PriorShift(*counts, data.drawn_prevalence(index), weight))
        except ValueError as error:
            name = data.findings[index]
            of_one = "both classes" if len(weights) == 1 else f"both labels of {name}"
            raise DataError(f"training needs {of_one}: {error}") from error
    return tuple(shifts)


def _positive_weights(data: XrayData, loss: nn.Module) -> list[float | None]:
    """Return the loss weight of positives of each finding; None if unknown."""
    num_findings = len(data.findings)
    known: list[float] = []
    loss = loss.loss if isinstance(loss, KnownLabels) else loss
    # A weight of a finding leaves its prior as it is, unless it is 0 and trains nothing.
    of_finding: list[float] = [1.0] * num_findings
    shares = getattr(loss, "weight", None)
    if shares is not None and isinstance(loss, SoftPosWeightBCE):
        of_finding, shares = shares.tolist(), None
    if isinstance(loss, nn.BCEWithLogitsLoss) and shares is None:
        known = [1.0] if loss.pos_weight is None else loss.pos_weight.flatten().tolist()
        if len(known) not in (1, num_findings) or not all(0 < each < math.inf for each in known):
            rule = "one number" if num_findings == 1 else "one number, or one for each finding,"
            raise RecipeError(f"loss.pos_weight must be {rule} above 0, got {known}")
    weights: list[float | None] = [None] * num_findings
    if known:
        each = known if len(known) == num_findings else known * num_findings
        weights = [
            value if share > 0 else None for value, share in zip(each, of_finding, strict=True)
        ]
    return weights


def _exclusive_weights(data: XrayData, loss: nn.Module) -> list[float | None]:
    """Return the loss weight of each class but the first, relative to the others; None if unknown.

    The others have the mean weight of the images that the sampler draws.
    """
    num_findings = len(data.findings)
    loss = loss.loss if isinstance(loss, ClassLoss) else loss
    # Smoothed labels, and a class that is ignored, change the scores in another way.
    is_known = isinstance(loss, SoftClassWeightCE) or (
        type(loss) is nn.CrossEntropyLoss
        and not loss.label_smoothing
        and not 0 <= loss.ignore_index <= num_findings
    )
    if not is_known:
        return [None] * num_findings
    drawn = [data.drawn_prevalence(index) for index in range(num_findings)]
    of_first = 1 - sum(drawn)
    if of_first < 1e-9:  # rounding of 0
        raise DataError(
            f"training needs images of each class, got none of {data.classes[0]} among those that "
            "the sampler draws"
        )
    given = getattr(loss, "weight", None)
    weights = [1.0] * (num_findings + 1) if given is None else given.tolist()
    if len(weights) != num_findings + 1 or not all(0 < each < math.inf for each in weights):
        raise RecipeError(
            f"loss.weight must be a number above 0 for each of the {num_findings + 1} classes, "
            f"got {weights}"
        )
    total = sum(weight * share for weight, share in zip(weights, [of_first, *drawn], strict=True))
    return [
        weight * (1 - share) / (total - weight * share)
        for weight, share in zip(weights[1:], drawn, strict=True)
    ]


def check_certificates(handlers: Iterable[object], data: XrayData) -> None:
    """Check that the splits have both classes and enough patients for the requested certificates.

    Raises:
        DataError: A split that chooses the checkpoint or the threshold lacks a class.
        ConstraintError: The confidence of a `ThresholdSearch` needs more patients of a class than
            the split that chooses the threshold has.
    """
    split = threshold_split(data)
    for each in ("val", split):
        for index, finding in enumerate(data.findings):
            counts = data.class_counts(each, index)
            if min(counts) == 0:
                negative = class_pair(data.classes, index)[0]
                is_known = "" if len(data.findings) == 1 else " by their known labels"
                raise DataError(
                    f"the {each} split needs images of both classes, got {counts.num_negative} "
                    f"{negative} and {counts.num_positive} {finding}{is_known}"
                )
    searches = [handler for handler in handlers if isinstance(handler, ThresholdSearch)]
    for search, (index, finding) in product(searches, enumerate(data.findings)):
        _check_certificate(search, data, split, index, finding)


def _check_certificate(
    search: ThresholdSearch, data: XrayData, split: str, index: int, finding: str
) -> None:
    if (level := search.level_of(finding)) is None:
        return
    records, settings = data.records(split), search.settings_of(finding)
    for label, rate in enumerate(("tnr", "tpr")):
        minimum = settings[f"min_{rate}"]
        have = len({record.patient for record in records if record.labels[index] == label})
        needed = 0 if minimum is None else num_negatives_needed(minimum, level)
        if have < needed:
            of_one = "" if len(data.findings) == 1 else f" for {data.findings[index]}"
            confidence = confidence_text(
                level, search.family_confidence_of(finding), len(data.findings)
            )
            raise ConstraintError(
                f"ThresholdSearch with a {rate.upper()} of {minimum:g} and "
                f"{confidence} needs at least {needed} "
                f"{'positive' if label else 'negative'} patients{of_one}, got {have} in the "
                f"{split} split; add images, or lower min_{rate} or confidence"
            )


def confidence_text(level: float, of_family: float | None, num_findings: int) -> str:
    """Write the confidence of a certificate, and that of all together if they are a family.

    Args:
        level: The confidence of the certificate.
        of_family: The confidence with which all certificates together hold; None if not requested.
        num_findings: Number of findings.

    Examples:
        >>> confidence_text(0.95, None, 14)
        '95 % confidence'
        >>> confidence_text(1 - 0.05 / 14, 0.95, 14)
        '95 % confidence for all 14 findings together (99.6429 % for each certificate)'
    """
    if of_family is None or of_family == level:
        return f"{100 * level:g} % confidence"
    return (
        f"{100 * of_family:g} % confidence for all {num_findings} findings together "
        f"({100 * level:g} % for each certificate)"
    )


def threshold_split(data: XrayData) -> str:
    """Return the split that chooses the threshold: `calibration` if there is one, else `val`."""
    return "calibration" if "calibration" in data.splits else "val"


def build_model(
    make: Callable[..., BinaryClassifier],
    computing: Computing,
    state: Mapping[str, torch.Tensor] | None = None,
    *,
    num_findings: int = 1,
) -> BinaryClassifier:
    """Build the recipe's classifier on its device, in the requested memory order.

    Args:
        make: The recipe's `model`.
        computing: Device and memory order.
        state: Its state from a checkpoint. Then pretrained weights, which may no longer be
            available, are not loaded.
        num_findings: Number of outputs.

    Raises:
        RecipeError: A setting is out of its range, or the model is made for other findings.
        WeightsError: The pretrained weights are not available or do not fit.
        CheckpointError: The state does not fit the model as it is now.
    """
    try:
        keywords = getattr(make, "keywords", {})
        changed: dict[str, Any] = {}
        if state is not None and "weights" in keywords:
            changed["weights"] = None
        if num_findings > 1:
            changed["num_findings"] = num_findings
        model = make(**changed).to(computing.device)
    except ValueError as error:
        raise RecipeError(f"model: {error}") from error
    if model.num_findings != num_findings:
        raise RecipeError(
            f"the model must have num_findings {num_findings}, as the data, got "
            f"{model.num_findings}; pass num_findings to BinaryClassifier"
        )
    if computing.channels_last:
        model = model.to(memory_format=torch.channels_last)
    if state is not None:
        load_weights(model, state)
    return model


def explained_layer(named: str | None, model: BinaryClassifier, image_size: tuple[int, int]) -> str:
    """Return the dotted name of the layer of a recipe's maps.

    Args:
        named: The recipe's `explain.target_layer`; None takes the classifier's default.
        model: The recipe's classifier.
        image_size: Rows and columns of the images.

    Raises:
        RecipeError: The model has no such layer, or maps are impossible there.
    """
    if named is None:
        return model.cam_layer
    device = next(model.parameters()).device
    try:
        # A blank image is enough to check if the layer supports maps.
        grad_cam(model, torch.zeros(1, 1, *image_size, device=device), named)
    except RecipeError as error:
        raise RecipeError(f"explain.{error}") from error
    return named
