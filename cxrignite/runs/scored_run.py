"""Scores of a finished run, read from its folder for a comparison with other runs."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from cxrignite.errors import RunFolderError
from cxrignite.functional import UNKNOWN_LABEL
from cxrignite.runs.evaluation import Evaluation
from cxrignite.runs.run_folder import RunFolder, how_to_evaluate
from cxrignite.runs.run_results import read_predictions


@dataclass(frozen=True)
class ScoredRun:
    """Scores of one finding on a set of images by a run, sorted by path.

    Attributes:
        run: Run folder, as given.
        finding: Name of the finding.
        paths: Paths of the images, relative to the root of their source.
        patients: Patient of each image.
        y_true: Labels 0 and 1, `(N,)`.
        y_score: Scores in [0, 1] of the positive class, `(N,)`.
        probability: Probabilities at the training prevalence, `(N,)`; None if unknown.
        evaluation: Evaluation of these images, with its decision rule.
    """

    run: str
    finding: str
    paths: list[str]
    patients: list[str]
    y_true: NDArray[np.int64]
    y_score: NDArray[np.float64]
    probability: NDArray[np.float64] | None
    evaluation: Evaluation

    @property
    def threshold(self) -> float | None:
        """Threshold of the decisions; None if there was none."""
        return self.evaluation.rule.threshold

    @property
    def lower_threshold(self) -> float | None:
        """Score below which an image is negative, if the images between both are referred."""
        return self.evaluation.rule.lower_threshold


def read_scored_run(run_dir: Path, name: str) -> list[ScoredRun]:
    """Read the scores of a finished run on a set of images, with their evaluations.

    Returns:
        The scores of each finding, without the images whose label of it is unknown.

    Raises:
        RunFolderError: The run is not finished, or has not scored these images with its weights.
        DamagedRunError: A file is damaged, lost, or of another format, or was changed.
        CheckpointError: The best weights are missing or damaged.
    """
    folder = RunFolder(run_dir)
    folder.finished_recipe()
    folder.files.check(folder.metrics_path(name), folder.operating_point_path)
    rules = folder.find_rules() or ()
    images = read_predictions(
        *(folder, name),
        has_several=len(rules) > 1,
        is_exclusive=any(rule.exclusive for rule in rules),
    )
    if images is None:
        raise _missing(folder, folder.predictions_path(name), name)
    evaluations = _evaluations(folder, name)
    images.sort(key=lambda image: image.name)
    found = []
    for evaluation in evaluations:
        finding = evaluation.rule.finding
        known = [
            image
            for image in images
            if image.finding in ("", finding) and image.label != UNKNOWN_LABEL
        ]
        probability = [image.probability for image in known if image.probability is not None]
        found.append(
            ScoredRun(
                run=str(run_dir),
                finding=finding,
                paths=[image.name for image in known],
                patients=[image.patient for image in known],
                y_true=np.array([image.label for image in known], dtype=np.int64),
                y_score=np.array([image.score for image in known], dtype=np.float64),
                probability=np.array(probability, dtype=np.float64) if probability else None,
                evaluation=evaluation,
            )
        )
    return found


def _missing(folder: RunFolder, path: Path, name: str) -> RunFolderError:
    return RunFolderError(
        f"{folder.root} has no {path.relative_to(folder.root)}; "
        f"`cxrignite {how_to_evaluate(folder.root, name)}` writes it"
    )


def _evaluations(folder: RunFolder, name: str) -> tuple[Evaluation, ...]:
    """Read the evaluations of the same scores.

    Raises:
        RunFolderError: There is none, or it belongs to other weights than the run has now.
        DamagedRunError: It is damaged or of another format.
    """
    path, evaluations = folder.metrics_path(name), folder.find_evaluations(name)
    if evaluations is None:
        raise _missing(folder, path, name)
    if evaluations.findings[0].rule.weights_sha256 != folder.weights_sha256():
        raise RunFolderError(
            f"{path} belongs to other weights than {folder.root} has now; "
            f"`cxrignite {how_to_evaluate(folder.root, name)}` writes it"
        )
    return evaluations.findings
