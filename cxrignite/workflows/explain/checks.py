"""Checks of a run's class activation maps, measured on its images."""

from __future__ import annotations

import logging
import math
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from cxrignite.data import ImageRecord
from cxrignite.data.masks import check_mask_size, has_mask
from cxrignite.functional import (
    CamMaps,
    CamTarget,
    ImageChoice,
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
from cxrignite.functional.faithfulness import MeanCurves
from cxrignite.functional.model_access import evaluation_mode
from cxrignite.handlers.progress_line import progress_bar
from cxrignite.runs.evaluation import Estimate
from cxrignite.runs.map_evaluation import (
    MapChecks,
    MaskCheck,
    PerturbationCheck,
    PerturbationChecks,
)
from cxrignite.runs.scores import SplitScores

_logger = logging.getLogger(__name__)

NUM_RANDOM_MODELS = 5
"""A single random model may highlight the same place as the trained one by chance; the mean of
several does not."""

_NUM_STEPS = 20
_BATCH_SIZE = 16
_MAX_MASKED = 200


@dataclass(frozen=True)
class MapProbe:
    """Functions and objects to draw maps of images.

    Attributes:
        explain: Returns the maps for a classifier, images and the target class of the maps.
        to_scores: Returns the probabilities of the target class, `(N,)`, from logits.
        read: Reads a file as an input of the classifier, `(1, H, W)`, uint8.
        read_mask: Reads the mask or draws the boxes of an image, `(1, H, W)`, above 127 inside.
        advance: Called after each batch.
    """

    model: nn.Module
    explain: Callable[[nn.Module, Tensor, CamTarget], CamMaps]
    to_scores: Callable[[CamTarget, Tensor], Tensor]
    read: Callable[[Path], Tensor]
    read_mask: Callable[[ImageRecord, Path], Tensor | None]
    device: torch.device
    advance: Callable[[], object] = lambda: None

    def images(self, paths: Sequence[Path]) -> Tensor:
        """Read the images of these files to the device, `(N, 1, H, W)`."""
        return torch.stack([self.read(path) for path in paths]).to(self.device)

    def score(self, target: CamTarget, images: Tensor) -> Tensor:
        """Return probabilities of the target class of the maps, `(N,)`."""
        with evaluation_mode(self.model):
            return self.to_scores(target, self.model(images).float())


def check_maps(
    probe: MapProbe,
    scores: SplitScores,
    thresholds: tuple[float, float | None],
    num_images: int,
    root: Path,
    seed: int,
) -> tuple[MapChecks, dict[str, MeanCurves]]:
    """Measure the maps: by the score without their pixels, by random weights, by masks.

    Maps for the positive class are measured on images called positive; on all, if there are none.
    Maps for the negative class are measured on images called negative. Both are needed, because a
    network may recognise one class by its signs, and the other by their absence.

    Args:
        probe: Draws the maps.
        scores: Scores of the images.
        thresholds: Scores of at least the first value are positive; those below the second, or
            below the first if it is None, are negative.
        num_images: Maximum number of images of each kind, a random sample.
        root: The folder of the masks' relative names.
        seed: Seed of the sample and the random maps.

    Returns:
        The checks, and the mean curves by name. Curves of the negative class begin with `against_`.

    Raises:
        UnreadableImageError: A mask cannot be read.
        DataError: A mask has another size than its image.
    """
    upper, lower = thresholds
    called = scores.y_score >= upper
    cleared = scores.y_score < (upper if lower is None else lower)
    records = _sample(scores, called if called.any() else ~called, num_images, seed)
    others = _sample(scores, cleared, num_images, seed) if cleared.any() else []
    masked = [record for record in scores.records if record.label == 1 and has_mask(record)]
    masked = masked[:_MAX_MASKED]
    num_parts = 2 * len(_parts(records)) + len(_parts(others)) + len(_parts(masked))
    shown = sys.stderr.isatty()
    with progress_bar("measure the maps", num_parts, is_shown=shown) as line:
        probe = replace(probe, advance=line.update)
        return _measure(probe, records, others, (masked, root), seed)


def _measure(
    probe: MapProbe,
    records: Sequence[ImageRecord],
    others: Sequence[ImageRecord],
    masked: tuple[Sequence[ImageRecord], Path],
    seed: int,
) -> tuple[MapChecks, dict[str, MeanCurves]]:
    """Measure maps of images called positive, of the others, and of images with masks."""
    positive, curves = _perturb(probe, records, "positive", seed)
    parts = [each for part in _parts(records) for each in _correlations(probe, part, seed)]
    known = np.concatenate(parts)
    known = known[np.isfinite(known)]  # a map of one value has no ranks
    correlation = float(known.mean()) if known.size else math.nan
    masks = _read_masks(probe, *masked)
    negative = None
    if others:
        negative, against = _perturb(probe, others, "negative", seed)
        curves |= {f"against_{name}": curve for name, curve in against.items()}
    checks = MapChecks(
        positive=positive,
        negative=negative,
        rank_correlation=correlation if math.isfinite(correlation) else None,
        num_random_models=NUM_RANDOM_MODELS,
        masks=_localize(probe, masks) if masks else None,
    )
    return checks, curves


def _sample(
    scores: SplitScores, is_one: NDArray[np.bool_], num_images: int, seed: int
) -> list[ImageRecord]:
    among = np.flatnonzero(is_one)
    choice = ImageChoice(kinds=("random",), max_images=num_images, seed=seed)
    chosen = choice.of(scores.y_score[among], scores.y_true[among], among)
    return [scores.records[among[position]] for position in chosen]


def _parts(records: Sequence[ImageRecord]) -> list[Sequence[ImageRecord]]:
    return [records[start : start + _BATCH_SIZE] for start in range(0, len(records), _BATCH_SIZE)]


def _correlations(
    probe: MapProbe, records: Sequence[ImageRecord], seed: int
) -> list[NDArray[np.float64]]:
    """Correlate the maps with those of random models, for each of them and each image."""
    images = probe.images([record.path for record in records])
    maps = probe.explain(probe.model, images, "positive").maps
    others = (
        randomized_copy(probe.model, images, seed=seed + number)
        for number in range(NUM_RANDOM_MODELS)
    )
    found = [
        rank_correlation(maps, probe.explain(other, images, "positive").maps) for other in others
    ]
    probe.advance()
    return found


def _perturb(
    probe: MapProbe, records: Sequence[ImageRecord], target: CamTarget, seed: int
) -> tuple[PerturbationChecks, dict[str, MeanCurves]]:
    """Measure deletion and insertion by map and by chance; also return the mean curves."""
    pieces: dict[str, list[tuple[PerturbationCurve, PerturbationCurve]]] = {}
    for number, part in enumerate(_parts(records)):
        images = probe.images([record.path for record in part])
        found = probe.explain(probe.model, images, target)
        height, width = images.shape[-2:]
        # With the same grid as the maps, because coarseness alone changes the curves.
        chance = random_maps(len(part), (height, width), grid=found.grid, seed=seed + number)
        for name, curve in (("deletion", deletion_curve), ("insertion", insertion_curve)):
            by_map, by_chance = (
                curve(partial(probe.score, target), images, maps, num_steps=_NUM_STEPS, seed=seed)
                for maps in (found.maps, chance)
            )
            pieces.setdefault(name, []).append((by_map, by_chance))
        probe.advance()
    found_checks, curves = {}, {}
    patients = [record.patient for record in records]
    for name, pairs in pieces.items():
        sides = list(zip(*pairs, strict=True))
        means = [torch.cat([each.score for each in side]).mean(dim=0) for side in sides]
        fraction = pairs[0][0].fraction
        curves[name] = MeanCurves(*(each.double().cpu().numpy() for each in (fraction, *means)))
        by_map_area, by_chance_area = (torch.cat([each.area for each in side]) for side in sides)
        difference = paired_difference(by_map_area, by_chance_area, patients)
        is_known = all(map(math.isfinite, difference.interval))
        found_checks[name] = PerturbationCheck(
            by_map=float(by_map_area.mean()),
            by_chance=float(by_chance_area.mean()),
            difference=Estimate(
                difference.mean, by_patient=difference.interval if is_known else None
            ),
            blank=float(curves[name].by_map[-1 if name == "deletion" else 0]),
        )
    return PerturbationChecks(len(records), **found_checks), curves


def _read_masks(
    probe: MapProbe, records: Sequence[ImageRecord], root: Path
) -> list[tuple[ImageRecord, Tensor, Tensor]]:
    """Return records, images and masks, `(1, H, W)` each; empty masks are left out."""
    found = []
    for record in records:
        # Read by the same pipeline, so that a mask is aligned with its image.
        image, mask = probe.read(record.path), probe.read_mask(record, root)
        if mask is None:
            continue
        check_mask_size(mask, (image.shape[1], image.shape[2]), record)
        if (mask > 127).any():
            found.append((record, image, mask > 127))
    if len(found) < len(records):
        _logger.warning(
            "left out %d of %d masks without a pixel", len(records) - len(found), len(records)
        )
    return found


def _localize(probe: MapProbe, masked: Sequence[tuple[ImageRecord, Tensor, Tensor]]) -> MaskCheck:
    """Measure the agreement of maps with masks, for the model and for random models."""
    hits, energy, area = [], [], []
    random_hits, random_energy = [], []
    for start in range(0, len(masked), _BATCH_SIZE):
        _, pixels, mask_pixels = zip(*masked[start : start + _BATCH_SIZE], strict=True)
        images = torch.stack(pixels).to(probe.device)
        masks = torch.cat(mask_pixels).to(probe.device)
        maps = probe.explain(probe.model, images, "positive").maps
        inside = energy_inside(maps, masks)
        hits.append(pointing_game(maps, masks))
        energy.append(inside.energy)
        area.append(inside.area)
        for number in range(NUM_RANDOM_MODELS):
            random_model = randomized_copy(probe.model, images, seed=number)
            maps = probe.explain(random_model, images, "positive").maps
            random_hits.append(pointing_game(maps, masks))
            random_energy.append(energy_inside(maps, masks).energy)
        probe.advance()
    hit, share = torch.cat(hits), float(torch.cat(area).mean())
    inside_share = float(torch.cat(energy).mean())
    return MaskCheck(
        num_images=len(masked),
        pointing_game=float(hit.float().mean()),
        pointing_game_interval=clopper_pearson(int(hit.sum()), len(hit)),
        energy=inside_share,
        area=share,
        energy_ratio=inside_share / share,
        random_pointing_game=float(torch.cat(random_hits).float().mean()),
        random_energy_ratio=float(torch.cat(random_energy).mean()) / share,
    )
