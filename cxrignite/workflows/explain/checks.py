"""Whether a run's class activation maps mean anything, measured on its own films."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from cxrignite.data import Film
from cxrignite.errors import DataError
from cxrignite.functional import (
    CamMaps,
    ImageChoice,
    PairedDifference,
    PerturbationCurve,
    clopper_pearson,
    deletion_curve,
    energy_inside,
    insertion_curve,
    paired_difference,
    pointing_game,
    random_maps,
    randomized_copy,
    rank_correlation,
)
from cxrignite.functional.model_access import evaluation_mode
from cxrignite.workflows.scores import SplitScores

_logger = logging.getLogger(__name__)

NUM_RANDOM_MODELS = 5
"""One random model may look where the trained one does, for all films alike; the mean of some
cannot."""

_NUM_STEPS = 20
_BATCH_SIZE = 16
_MAX_MASKED = 200


class MeanCurves(NamedTuple):
    """Mean scores while pixels go, or come.

    Attributes:
        fraction: Share of the pixels that were changed, shape `(S + 1,)`.
        by_map: By the maps, shape `(S + 1,)`.
        by_chance: By random maps, shape `(S + 1,)`.
    """

    fraction: NDArray[np.float64]
    by_map: NDArray[np.float64]
    by_chance: NDArray[np.float64]


@dataclass(frozen=True)
class MapProbe:
    """What is needed to draw maps of films.

    Attributes:
        model: The classifier.
        explain: From a classifier and images to maps.
        read: From a film's file to an image as the classifier takes it, `(1, H, W)`, uint8.
        device: Where the classifier is.
    """

    model: nn.Module
    explain: Callable[[nn.Module, Tensor], CamMaps]
    read: Callable[[Path], Tensor]
    device: torch.device

    def images(self, paths: Sequence[Path]) -> Tensor:
        """The images of these files on the device, `(N, 1, H, W)`."""
        return torch.stack([self.read(path) for path in paths]).to(self.device)

    def score(self, images: Tensor) -> Tensor:
        """Probabilities of the positive class, `(N,)`."""
        with evaluation_mode(self.model):
            return torch.sigmoid(self.model(images).float())


def check_maps(
    probe: MapProbe, scores: SplitScores, threshold: float, num_films: int, root: Path, seed: int
) -> tuple[dict[str, Any], dict[str, MeanCurves]]:
    """Measure the maps: by what the score does without their pixels, by random weights, by masks.

    A map says what speaks for the positive class, so films that are called positive are looked at;
    where none is, all are.

    Args:
        probe: Draws maps.
        scores: Of the films.
        threshold: A score of at least this is called positive.
        num_films: Films at most, drawn by the seed.
        root: The folder that the masks' names are relative to.
        seed: Of the draw and the random maps.

    Returns:
        The figures, ready for JSON, and the mean curves by name.

    Raises:
        UnreadableImageError: A mask cannot be read.
        DataError: A mask has another size than its film.
    """
    films = _sample(scores, threshold, num_films, seed)
    curves, areas, correlations = _perturb(probe, films, seed)
    figures: dict[str, Any] = {"num_images": len(films)}
    owners = [film.patient for film in films]
    for name, (by_map, by_chance) in areas.items():
        figures[name] = _compared(by_map, by_chance, paired_difference(by_map, by_chance, owners))
        # What is left of a film without its pixels: where that scores as high as the film, the
        # curve of deletion cannot fall, whatever the map.
        blank = curves[name].by_map[-1 if name == "deletion" else 0]
        figures[name]["blank"] = float(blank)
    figures["randomization"] = {
        "rank_correlation": _number(float(np.nanmean(correlations))),
        "num_models": NUM_RANDOM_MODELS,
    }
    masked = [film for film in scores.films if film.label == 1 and film.attributes.get("mask")]
    masks = _read_masks(probe, masked[:_MAX_MASKED], root)
    figures["masks"] = _localize(probe, masks) if masks else None
    return figures, curves


def _sample(scores: SplitScores, threshold: float, num_films: int, seed: int) -> list[Film]:
    called = np.flatnonzero(scores.y_score >= threshold)
    among = called if len(called) else np.arange(scores.num_images)
    choice = ImageChoice(threshold, ("random",), num_films, seed=seed)
    chosen = choice.of(scores.y_score[among], scores.y_true[among], among)
    return [scores.films[among[position]] for position in chosen]


def _perturb(
    probe: MapProbe, films: Sequence[Film], seed: int
) -> tuple[dict[str, MeanCurves], dict[str, tuple[Tensor, Tensor]], NDArray[np.float64]]:
    """Curves and areas by map and by chance, and rank correlations with random models' maps."""
    pieces: dict[str, list[tuple[PerturbationCurve, PerturbationCurve]]] = {}
    correlations = []
    for start in range(0, len(films), _BATCH_SIZE):
        images = probe.images([film.path for film in films[start : start + _BATCH_SIZE]])
        found = probe.explain(probe.model, images)
        height, width = images.shape[-2:]
        # As coarse as the maps: a finer or a coarser one would be another question.
        chance = random_maps(len(images), (height, width), grid=found.grid, seed=seed + start)
        for name, curve in (("deletion", deletion_curve), ("insertion", insertion_curve)):
            pair = [
                curve(probe.score, images, maps, num_steps=_NUM_STEPS, seed=seed)
                for maps in (found.maps, chance)
            ]
            pieces.setdefault(name, []).append((pair[0], pair[1]))
        for number in range(NUM_RANDOM_MODELS):
            random_model = randomized_copy(probe.model, images, seed=seed + number)
            others = probe.explain(random_model, images).maps
            correlations.append(rank_correlation(found.maps, others))
    curves, areas = {}, {}
    for name, pairs in pieces.items():
        sides = list(zip(*pairs, strict=True))
        means = [torch.cat([each.score for each in side]).mean(dim=0) for side in sides]
        fraction = pairs[0][0].fraction
        curves[name] = MeanCurves(*(each.double().cpu().numpy() for each in (fraction, *means)))
        by_map, by_chance = (torch.cat([each.area for each in side]) for side in sides)
        areas[name] = (by_map, by_chance)
    return curves, areas, np.concatenate(correlations)


def _read_masks(
    probe: MapProbe, films: Sequence[Film], root: Path
) -> list[tuple[Film, Tensor, Tensor]]:
    """Films, images and masks, `(1, H, W)` each, without those whose mask has no pixel inside."""
    found = []
    for film in films:
        path = root / film.attributes["mask"]
        # Through the same pipeline as the films, so that a mask lies where its film does.
        image, mask = probe.read(film.path), probe.read(path)
        if mask.shape != image.shape:
            raise DataError(
                f"mask {path} must have the size of its film after preprocessing, "
                f"{image.shape[1]} x {image.shape[2]}, got {mask.shape[1]} x {mask.shape[2]}"
            )
        if (mask > 127).any():
            found.append((film, image, mask > 127))
    if len(found) < len(films):
        _logger.warning(
            "%d of %d masks have no pixel inside: left out", len(films) - len(found), len(films)
        )
    return found


def _localize(probe: MapProbe, masked: Sequence[tuple[Film, Tensor, Tensor]]) -> dict[str, Any]:
    """Whether maps point into the masks, those of the model and those of random models."""
    hits, energy, area = [], [], []
    random_hits, random_energy = [], []
    for start in range(0, len(masked), _BATCH_SIZE):
        _, films, inside_of = zip(*masked[start : start + _BATCH_SIZE], strict=True)
        images = torch.stack(films).to(probe.device)
        masks = torch.cat(inside_of).to(probe.device)
        maps = probe.explain(probe.model, images).maps
        inside = energy_inside(maps, masks)
        hits.append(pointing_game(maps, masks))
        energy.append(inside.energy)
        area.append(inside.area)
        for number in range(NUM_RANDOM_MODELS):
            random_model = randomized_copy(probe.model, images, seed=number)
            maps = probe.explain(random_model, images).maps
            random_hits.append(pointing_game(maps, masks))
            random_energy.append(energy_inside(maps, masks).energy)
    hit, share = torch.cat(hits), float(torch.cat(area).mean())
    low, high = clopper_pearson(int(hit.sum()), len(hit))
    inside_share = float(torch.cat(energy).mean())
    return {
        "num_images": len(masked),
        "pointing_game": float(hit.float().mean()),
        "pointing_game_interval": [low, high],
        "energy": inside_share,
        "area": share,
        "energy_ratio": inside_share / share,
        "randomized": {
            "pointing_game": float(torch.cat(random_hits).float().mean()),
            "energy_ratio": float(torch.cat(random_energy).mean()) / share,
        },
    }


def _compared(by_map: Tensor, by_chance: Tensor, difference: PairedDifference) -> dict[str, Any]:
    return {
        "map": float(by_map.mean()),
        "random": float(by_chance.mean()),
        "difference": difference.mean,
        "interval": [_number(end) for end in difference.interval],
    }


def _number(value: float) -> float | None:
    """JSON knows no NaN."""
    return float(value) if math.isfinite(value) else None
