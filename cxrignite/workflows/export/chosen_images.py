"""Images on which an export is compared with its run, and what their stored scores say."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from cxrignite.data import ImageRecord
from cxrignite.data.image_files import image_files
from cxrignite.data.pipeline import Pipeline
from cxrignite.errors import DataError
from cxrignite.runs.decision_rule import DecisionRule
from cxrignite.runs.run_folder import RunFolder
from cxrignite.runs.run_results import read_predictions
from cxrignite.workflows.export.scoring_model import Limits, limits_of

_logger = logging.getLogger(__name__)

MAX_IMAGES = 64
"""Largest number of images of the run."""

_SPLITS = ("val", "calibration", "test")
_ROUNDING = 1e-5  # largest difference of a score that another program may cause

StoredScores = dict[str, dict[str, NDArray[np.float64]]]
"""Scores of all findings by the name of the image, `(K,)`, by split; NaN if there is none."""


def read_scores(folder: RunFolder, rules: Sequence[DecisionRule]) -> StoredScores:
    """Read the scores that the run has stored of its splits.

    Raises:
        DamagedRunError: A file is damaged or was changed.
    """
    columns = {rule.finding if len(rules) > 1 else "": index for index, rule in enumerate(rules)}
    found: StoredScores = {}
    for split in _SPLITS:
        rows = read_predictions(
            *(folder, split), has_several=len(rules) > 1, is_exclusive=rules[0].exclusive
        )
        scores = found.setdefault(split, {})
        for row in rows or ():
            of_image = scores.setdefault(row.name, np.full(len(rules), np.nan))
            of_image[columns[row.finding]] = row.score
    return found


def graph_limits(rules: Sequence[DecisionRule], stored: StoredScores) -> list[Limits | None]:
    """Return the numbers that an exported model compares the scores of each finding with.

    A threshold is usually the score of an image. Another program computes this score with another
    rounding, which could change the decision for the image. The number is then slightly lower, but
    above the next lower score of the images that chose the threshold. So it decides about them as
    the threshold does, and a certificate, which counts these decisions, covers it.
    """
    limits: list[Limits | None] = []
    for index, rule in enumerate(rules):
        exact = limits_of(rule)
        scores = np.array([each[index] for each in stored.get(rule.chosen_on, {}).values()])
        limits.append(
            exact
            and Limits(
                _below(exact.threshold, scores),
                None if exact.lower is None else _below(exact.lower, scores),
            )
        )
    return limits


def _below(threshold: float, scores: NDArray[np.float64]) -> float:
    if not ((scores >= threshold) & (scores <= threshold + _ROUNDING)).any():
        return threshold
    lower = scores[scores < threshold]
    gap = threshold - lower.max() if lower.size else threshold
    return float(threshold - min(_ROUNDING, gap / 2))


def choose_records(
    records: Sequence[ImageRecord], rules: Sequence[DecisionRule], stored: StoredScores
) -> list[ImageRecord]:
    """Choose images of the run: those with a score near a threshold, and others at equal distances.

    Returns:
        At most `MAX_IMAGES` records of the splits that do not train.
    """
    pool = [record for record in records if record.split in _SPLITS]
    distances = np.array([_distance(record, rules, stored) for record in pool])
    nearest = np.argsort(distances, kind="stable")[: MAX_IMAGES // 2].tolist()
    near = {each for each in nearest if np.isfinite(distances[each])}
    others = [each for each in range(len(pool)) if each not in near]
    num_others = min(MAX_IMAGES - len(near), len(others))
    spread = np.linspace(0, len(others) - 1, num_others).round().astype(int).tolist()
    return [pool[each] for each in sorted(near | {others[at] for at in spread})]


def _distance(record: ImageRecord, rules: Sequence[DecisionRule], stored: StoredScores) -> float:
    """Return the distance of an image's scores from the nearest threshold; infinite if unknown."""
    scores = stored[record.split].get(record.name)
    if scores is None:
        return np.inf
    pairs = [
        abs(score - threshold)
        for rule, score in zip(rules, scores.tolist(), strict=True)
        for threshold in (rule.threshold, rule.lower_threshold)
        if threshold is not None and not np.isnan(score)
    ]
    return min(pairs, default=np.inf)


def read_images(
    records: Sequence[ImageRecord], checked: Sequence[Path], pipeline: Pipeline
) -> tuple[list[NDArray[np.uint8]], int]:
    """Read the images of the run that are available, and all that `--check` names.

    Returns:
        The images, each of shape `(1, H, W)`, and the number of those that `--check` names, which
        are the last ones.

    Raises:
        DataError: One that `--check` names cannot be read, or there is no image at all.
    """
    found = []
    for record in records:
        try:
            found.append(pipeline.read(record.path).numpy())
        except DataError as error:
            if len(found) == 0:
                first = error
    num_missing = len(records) - len(found)
    if num_missing:
        _logger.warning(
            "%d of %d images of the run cannot be read, and the export is not compared on them: %s",
            *(num_missing, len(records), first),
        )
    others = [pipeline.read(path).numpy() for path in image_files(checked)] if checked else []
    if not found and not others:
        raise DataError(
            "an export is compared with its run on images, but none of the run's images can be "
            "read; name others with --check PATH ..."
        )
    return [*found, *others], len(others)
