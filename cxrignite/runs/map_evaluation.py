"""Evaluation of class activation maps: their settings, and the results of the checks."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from cxrignite.functional.intervals import Interval
from cxrignite.runs.evaluation import Estimate


@dataclass(frozen=True)
class PerturbationCheck:
    """Area under a curve of deletion or insertion, compared with random maps.

    Attributes:
        by_map: Area with the maps.
        by_chance: Area with random maps.
        difference: `by_map` minus `by_chance`, with its interval by patient.
        blank: Score of a blank image. If it is as high as that of the image, no map can make the
            curve of deletion fall.
    """

    by_map: float
    by_chance: float
    difference: Estimate
    blank: float


@dataclass(frozen=True)
class PerturbationChecks:
    """Deletion and insertion on the same images.

    Attributes:
        deletion: Deletion; lower is better.
        insertion: Insertion; higher is better.
    """

    num_images: int
    deletion: PerturbationCheck
    insertion: PerturbationCheck


@dataclass(frozen=True)
class MaskCheck:
    """Position of the maps relative to marked findings.

    Attributes:
        num_images: Number of images with a mask.
        pointing_game: Share of images whose highest map value lies in the mask.
        pointing_game_interval: Its 95 % interval.
        energy: Share of the map inside the mask.
        area: Share of the image inside the mask.
        energy_ratio: `energy` divided by `area`.
        random_pointing_game: `pointing_game` of models with random weights.
        random_energy_ratio: `energy_ratio` of models with random weights.
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
    """Checks that maps show the regions that move the score.

    Attributes:
        positive: Checks of maps for the positive class, on images called positive.
        negative: Checks of maps for the negative class, on images called negative; None without
            such images.
        rank_correlation: Rank correlation with maps of models with random weights; None if
            undefined.
        num_random_models: Number of models with random weights.
        masks: Comparison with masks; None without masks.
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
        weights_sha256: Digest of the file with the weights.
        method: Method of the maps, such as `grad_cam`.
        target_class: The positive class, which the maps explain.
        other_class: The negative class.
        threshold: A score at or above it is called positive.
        lower_threshold: A score below it is called negative; None if there is one threshold.
        checks: Results of the checks; None if not requested.
    """

    weights_sha256: str
    method: str
    target_layer: str
    target_class: str
    other_class: str
    threshold: float
    checks: MapChecks | None
    lower_threshold: float | None = None
    format: Literal[1] = 1
