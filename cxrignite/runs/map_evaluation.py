"""Evaluation of class activation maps: how they were made, and what the checks measured."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from cxrignite.functional.intervals import Interval
from cxrignite.runs.evaluation import Estimate


@dataclass(frozen=True)
class PerturbationCheck:
    """Area under a curve of deletion or insertion, against random maps.

    Attributes:
        by_map: Of the maps.
        by_chance: Of random maps.
        difference: The one less the other, with its interval by patient.
        blank: Score of an image without a pixel; if it is as high as that of the image, the curve
            of deletion cannot fall, whatever the map.
    """

    by_map: float
    by_chance: float
    difference: Estimate
    blank: float


@dataclass(frozen=True)
class PerturbationChecks:
    """Deletion and insertion on the same images.

    Attributes:
        num_images: Images.
        deletion: Lower is better.
        insertion: Higher is better.
    """

    num_images: int
    deletion: PerturbationCheck
    insertion: PerturbationCheck


@dataclass(frozen=True)
class MaskCheck:
    """Position of the maps relative to marked findings.

    Attributes:
        num_images: Images with a mask.
        pointing_game: Share of images whose highest place lies in the mask.
        pointing_game_interval: At 95 %.
        energy: Share of the map inside the mask.
        area: Share of the image inside the mask.
        energy_ratio: `energy` by `area`.
        random_pointing_game: The same of models with random weights.
        random_energy_ratio: The same of models with random weights.
    """

    num_images: int
    pointing_game: float
    pointing_game_interval: Interval
    energy: float
    area: float
    energy_ratio: float
    random_pointing_game: float
    random_energy_ratio: float


@dataclass(frozen=True)
class MapChecks:
    """Checks of whether maps show what moves the score.

    Attributes:
        positive: Of maps for the positive class, on images called positive.
        negative: Of maps for the negative class, on images called negative; None if there is none.
        rank_correlation: With maps of models with random weights; None if undefined.
        num_random_models: How many of those.
        masks: None without masks.
    """

    positive: PerturbationChecks
    negative: PerturbationChecks | None
    rank_correlation: float | None
    num_random_models: int
    masks: MaskCheck | None


@dataclass(frozen=True)
class MapEvaluation:
    """Content of `explain/NAME/explain.json`.

    Attributes:
        weights_sha256: Digest of the weights' file.
        method: Such as `grad_cam`.
        target_layer: Of the model.
        target_class: The positive class, which the maps speak for.
        other_class: The negative class.
        threshold: A score at or above it is called positive.
        checks: None if not requested.
        format: Of the file.
    """

    weights_sha256: str
    method: str
    target_layer: str
    target_class: str
    other_class: str
    threshold: float
    checks: MapChecks | None
    format: Literal[1] = 1
