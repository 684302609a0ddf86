"""Description of an exported model: its rule, its reading and its versions, as `model.json`."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from importlib import metadata
from typing import Any

from cxrignite import __version__
from cxrignite.data.reading import Size
from cxrignite.data.sources import class_pair
from cxrignite.errors import RecipeError
from cxrignite.functional import OperatingPoint, PriorShift
from cxrignite.recipe import DataRecipe
from cxrignite.reporting.wording import alarm_of_rule, describe_reading, describe_rule, status
from cxrignite.runs.decision_rule import DecisionRule
from cxrignite.runs.exported_model import (
    ExportedFinding,
    ExportedPoint,
    ExportedPriorShift,
    PreprocessStep,
    Reading,
    TensorSpec,
)
from cxrignite.runs.run_folder import RunFolder
from cxrignite.runs.run_results import Tree
from cxrignite.workflows.export.graphs import ONNX_PACKAGES, Kind
from cxrignite.workflows.export.scoring_model import OUTPUTS, Limits

_PREPROCESS = "data.preprocess"
_MONAI = "monai.transforms."


def describe_inputs(data: DataRecipe, folder: RunFolder, run_size: Size) -> Reading:
    """Describe the steps from a file to the input of the model.

    Args:
        data: The recipe of the run.
        folder: The run.
        run_size: Rows and columns of the run's images after all steps.

    Raises:
        RecipeError: The run preprocesses images with code that is not MONAI's own. A file cannot
            hold such code, and it is not safe to run a class that a received file names.
    """
    steps: list[PreprocessStep] = []
    # Settings come from the recipe, because transforms do not keep them.
    for step in Tree(folder.read_recipe()).get(_PREPROCESS) or ():
        class_path = step["class_path"]
        own = type(data.preprocess[len(steps)])
        if not own.__module__.startswith(_MONAI):
            raise RecipeError(
                f"{_PREPROCESS} must have only MONAI's transforms for an export, got {class_path}: "
                "the exported model could not read images without its code; preprocess the image "
                "files instead, and train with them"
            )
        steps.append(PreprocessStep(f"{_MONAI}{own.__name__}", dict(step.get("init_args") or {})))
    size, scaling = data.image_size, data.grey_scaling
    rules = describe_reading(size, scaling, tuple(steps))
    return Reading(size, scaling, tuple(steps), rules, run_size, data.source.new_patients())


def describe_findings(
    rules: Sequence[DecisionRule], limits: Sequence[Limits | None], classes: Sequence[str]
) -> tuple[ExportedFinding, ...]:
    """Describe the findings and their decision rules.

    Args:
        rules: The decision rule of each finding.
        limits: Numbers that the exported model compares the scores of each finding with.
        classes: All classes of the run.
    """
    pairs = enumerate(zip(rules, limits, strict=True))
    return tuple(_finding(*each, class_pair(tuple(classes), index)) for index, each in pairs)


def _finding(
    rule: DecisionRule, limits: Limits | None, classes: tuple[str, str]
) -> ExportedFinding:
    decisions: tuple[str, ...] = ()
    point = None
    if rule.point is not None and limits is not None:
        between = () if limits.lower is None else ("refer",)
        decisions = ("negative", *between, "positive")
        point = _point(rule.point, limits, rule.chosen_on)
    return ExportedFinding(
        name=rule.finding,
        classes=classes,
        decisions=decisions,
        point=point,
        prior_shift=_prior_shift(rule.prior_shift, exclusive=rule.exclusive),
        status=status(rule),
        description=describe_rule(rule),
        alarm=alarm_of_rule(rule),
    )


def _point(point: OperatingPoint, limits: Limits, chosen_on: str) -> ExportedPoint:
    others: Mapping[str, Any] = {
        "graph_threshold": limits.threshold,
        "graph_lower_threshold": limits.lower,
        "chosen_on": chosen_on,
    }
    names = [field.name for field in dataclasses.fields(ExportedPoint) if field.name not in others]
    return ExportedPoint(**{name: getattr(point, name) for name in names}, **others)


def _prior_shift(shift: PriorShift, *, exclusive: bool) -> ExportedPriorShift:
    return ExportedPriorShift(
        num_negative=shift.num_negative,
        num_positive=shift.num_positive,
        sampled_prevalence=shift.sampled_prevalence,
        pos_weight=shift.pos_weight,
        logit_shift=None if exclusive else shift.logit_shift,
    )


def output_specs(num_findings: int) -> tuple[TensorSpec, ...]:
    """Describe the outputs of the model."""
    score, probability, decision = OUTPUTS
    shape = ("N", num_findings)
    return (
        TensorSpec(score, "float32", shape),
        TensorSpec(probability, "float32", shape),
        TensorSpec(decision, "int64", shape),
    )


def versions(kind: Kind) -> dict[str, str]:
    """Return the version of each package that makes an export of a format, by name."""
    packages = ("torch", *(ONNX_PACKAGES if kind == "onnx" else ()))
    return {"cxrignite": __version__} | {name: metadata.version(name) for name in packages}
