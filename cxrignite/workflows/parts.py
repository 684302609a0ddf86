"""From a recipe to its parts: films with their split, the data module, the classifier."""

from __future__ import annotations

import logging
import math
import sys
from collections.abc import Mapping
from dataclasses import replace

import torch
from torch import nn

from cxrignite.data import Film, LoaderSettings, XrayData
from cxrignite.data.inspection import inspect_films
from cxrignite.data.splits import (
    carve_split,
    check_patient_leakage,
    check_same_films,
    read_split,
)
from cxrignite.errors import ConstraintError, DataError, RecipeError
from cxrignite.functional import ImbalanceLedger, num_negatives_needed
from cxrignite.handlers import ThresholdSearch
from cxrignite.nn import BinaryClassifier, NeedsClassCounts
from cxrignite.recipe import Recipe
from cxrignite.workflows.run_folder import RunFolder

_logger = logging.getLogger(__name__)


def split_films(recipe: Recipe, films: list[Film]) -> list[Film]:
    """Read every film once, and carve the validation and calibration splits by patient.

    Args:
        recipe: Policy for unreadable images, shares of the splits, seed.
        films: What the source lists.

    Raises:
        DataError: An image cannot be read (policy `raise`), or a patient stands on two sides.
    """
    films = _readable(recipe, films)
    # Both are shares of the films as they come, so the second is one of what the first left.
    left = 1.0
    if not any(film.split == "val" for film in films):
        films = carve_split(films, "val", recipe.data.val_fraction, recipe.seed)
        left -= recipe.data.val_fraction
    if recipe.data.calibration_fraction:
        fraction = recipe.data.calibration_fraction / left
        films = carve_split(films, "calibration", fraction, recipe.seed)
    check_patient_leakage(films)
    return films


def frozen_films(recipe: Recipe, folder: RunFolder, split: str | None = None) -> list[Film]:
    """The films of a run as `split.csv` froze them, checked against the files as they are now.

    Args:
        recipe: The run's recipe.
        folder: The run.
        split: The one split whose files are checked; null checks all.

    Raises:
        DataError: A film is gone or has other content than in this run.
    """
    frozen = read_split(folder.split_path, recipe.data.source.root)
    wanted = [film for film in frozen if split in (None, film.split)]
    names = {film.name for film in wanted}
    current = [film for film in recipe.data.source.films() if film.name in names]
    check_same_films(wanted, _readable(recipe, current))
    return frozen


def other_films(recipe: Recipe, folder: RunFolder, split: str) -> list[Film]:
    """Films of another source to be scored as `split`: those of its split of that name, else all.

    Raises:
        DataError: The source has no usable films, an image cannot be read (policy `raise`), or a
            film took part in this run's training or in the choice of its threshold.
    """
    films = recipe.data.source.films()
    wanted = [film for film in films if film.split == split] or films
    readable = _readable(recipe, wanted)
    used = {film.sha256 for film in read_split(folder.split_path, "") if film.split != "test"}
    seen = [film for film in readable if film.sha256 in used]
    if seen:
        raise DataError(
            f"{len(seen)} of {len(readable)} films took part in training or validation of this "
            f"run, the first is {seen[0].name}"
        )
    root = recipe.data.source.root
    _logger.info("scoring %d of the %d films in %s", len(readable), len(films), root)
    return [replace(film, split=split) for film in readable]


def _readable(recipe: Recipe, films: list[Film]) -> list[Film]:
    if not films:
        return []
    policy = recipe.data.on_unreadable
    inspection = inspect_films(films, on_unreadable=policy, progress=sys.stderr.isatty())
    for unreadable in inspection.unreadable:
        _logger.warning("left out: %s", unreadable)
    if inspection.unreadable:
        _logger.warning("%d of %d images left out", len(inspection.unreadable), len(films))
    if not inspection.films:
        raise DataError(f"none of the {len(films)} images in {recipe.data.source.root} can be read")
    return inspection.films


def build_data(recipe: Recipe, films: list[Film]) -> XrayData:
    """The data module of a recipe over these films."""
    data = recipe.data
    return XrayData(
        films,
        data.source.classes,
        preprocess=data.preprocess,
        augment=data.augment,
        sampler=data.sampler,
        loader=LoaderSettings(data.batch_size, data.num_workers, data.prefetch_factor),
        seed=recipe.seed,
    )


def check_image_size(model: BinaryClassifier, data: XrayData) -> None:
    """Refuse images that the model cannot take, before the first step.

    Raises:
        RecipeError: The preprocessed films have another size than the backbone was built for.
    """
    film = data.films(data.splits[0])[0]
    size = tuple(data.pipeline(film.path).shape[-2:])
    if model.image_size not in (None, size):
        raise RecipeError(
            f"data.preprocess must give images of {model.image_size} for this model, got {size}"
        )


def build_loss(recipe: Recipe, data: XrayData, device: torch.device) -> nn.Module:
    """The recipe's loss on `device`, told the training split's class counts if it wants them."""
    loss = recipe.loss.to(device)
    if isinstance(loss, NeedsClassCounts) and loss.class_counts is None:
        loss.set_class_counts(*data.class_counts("train"))
    return loss


def build_ledger(data: XrayData, loss: nn.Module) -> ImbalanceLedger:
    """What the sampler and the loss do to the prior of the positive class.

    Args:
        data: The films, and the sampler that draws them.
        loss: Of `BCEWithLogitsLoss` and its kind the effect is known.

    Raises:
        RecipeError: The loss weighs positives by no number above 0.
        DataError: The sampler draws one class alone.
    """
    weight: float | None = None
    if isinstance(loss, nn.BCEWithLogitsLoss) and loss.weight is None:
        weights = [1.0] if loss.pos_weight is None else loss.pos_weight.flatten().tolist()
        if len(weights) != 1 or not 0 < weights[0] < math.inf:
            raise RecipeError(f"loss.pos_weight must be one number above 0, got {weights}")
        weight = weights[0]
    counts = data.class_counts("train")
    try:
        return ImbalanceLedger(*counts, data.drawn_prevalence(), weight)
    except ValueError as error:
        raise DataError(f"training needs both classes: {error}") from error


def check_certificates(recipe: Recipe, data: XrayData) -> None:
    """Refuse splits that can choose nothing, and a certificate that the films cannot give.

    Raises:
        DataError: A split that picks the checkpoint or the threshold lacks a class.
        ConstraintError: A `ThresholdSearch` asks for a confidence that needs more negative patients
            than the split has that chooses the threshold.
    """
    split = deciding_split(data)
    for each in ("val", split):
        counts = data.class_counts(each)
        if min(counts) == 0:
            raise DataError(
                f"the {each} split needs films of both classes, got {counts.num_negative} "
                f"{data.classes[0]} and {counts.num_positive} {data.classes[1]}"
            )
    films = data.films(split)
    have = len({film.patient for film in films if film.label == 0})
    for handler in recipe.validator.handlers:
        if not isinstance(handler, ThresholdSearch) or handler.confidence is None:
            continue
        needed = num_negatives_needed(handler.min_tnr, handler.confidence)
        if have < needed:
            raise ConstraintError(
                f"ThresholdSearch asks for a TNR of {handler.min_tnr:g} with "
                f"{100 * handler.confidence:g} % confidence, which needs at least {needed} "
                f"negative patients; the {split} split has {have}"
            )


def deciding_split(data: XrayData) -> str:
    """The split that chooses the threshold: `calibration` where there is one, else `val`."""
    return "calibration" if "calibration" in data.splits else "val"


def build_model(
    recipe: Recipe, device: torch.device, state: Mapping[str, torch.Tensor] | None = None
) -> BinaryClassifier:
    """The recipe's classifier on `device`, in its declared memory order.

    Args:
        recipe: Names the classifier.
        device: Where it is to compute.
        state: Its state from a checkpoint; pretrained weights, which may not be at hand any more,
            are not asked for then.

    Raises:
        RecipeError: A setting is out of its range.
        WeightsError: Its pretrained weights cannot be had or do not fit.
    """
    try:
        keywords = getattr(recipe.model, "keywords", {})
        weightless = {"weights": None} if state is not None and "weights" in keywords else {}
        model = recipe.model(**weightless).to(device)
    except ValueError as error:
        raise RecipeError(f"model: {error}") from error
    if recipe.trainer.channels_last:
        model = model.to(memory_format=torch.channels_last)
    if state is not None:
        model.load_state_dict(state)
    return model
