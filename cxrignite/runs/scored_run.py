"""Scores of a finished run, read from its folder for a comparison with other runs."""

from __future__ import annotations

import csv
import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from cxrignite.csv_text import CsvReader
from cxrignite.errors import DamagedRunError, RunFolderError
from cxrignite.runs.evaluation import Evaluation
from cxrignite.runs.run_folder import RunFolder, how_to_evaluate

_COLUMNS = ["path", "patient", "label", "score", "probability", "decision"]


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

    Args:
        run_dir: The run folder.
        name: A split or a given name.

    Returns:
        The scores of each finding, without the images whose label of it is unknown.

    Raises:
        RunFolderError: The run is not finished, or has not scored these images with its weights.
        DamagedRunError: A file is damaged, lost, or of another format, or was changed.
        CheckpointError: The best weights are missing or damaged.
    """
    folder = RunFolder(run_dir)
    folder.finished_recipe()
    path, remedy = folder.predictions_path(name), _remedy(run_dir, name)
    folder.files.check(path, folder.metrics_path(name), folder.operating_point_path)
    if not path.is_file():
        raise RunFolderError(f"{run_dir} has no {path.relative_to(run_dir)}; {remedy}")
    evaluations = _evaluations(folder, name)
    try:
        rows = _rows(path, len(evaluations) > 1)
        return [_scored_run(run_dir, rows, each) for each in evaluations]
    except (OSError, ValueError, csv.Error) as error:
        raise DamagedRunError(f"{path} is damaged: {error}; {remedy}") from error


def _scored_run(
    run_dir: Path, all_rows: Sequence[Mapping[str, str]], evaluation: Evaluation
) -> ScoredRun:
    finding = evaluation.rule.finding
    rows = [
        row
        for row in all_rows
        if "finding" not in row or (row["finding"] == finding and row["label"])
    ]
    probability = [row["probability"] for row in rows]
    return ScoredRun(
        run=str(run_dir),
        finding=finding,
        paths=[row["path"] for row in rows],
        patients=[row["patient"] for row in rows],
        y_true=np.array([_label(row["label"]) for row in rows], dtype=np.int64),
        y_score=_probabilities([row["score"] for row in rows]),
        probability=_probabilities(probability) if any(probability) else None,
        evaluation=evaluation,
    )


def _remedy(run_dir: Path, name: str) -> str:
    if name == "calibration":
        return "`cxrignite fit` writes it if data.calibration_fraction is above 0"
    return f"`cxrignite {how_to_evaluate(run_dir, name)}` writes it"


def _rows(path: Path, has_several: bool) -> list[dict[str, str]]:
    columns = [*_COLUMNS[:2], "finding", *_COLUMNS[2:]] if has_several else _COLUMNS
    # `surrogateescape` keeps file names that are not UTF-8.
    with path.open(encoding="utf-8", errors="surrogateescape", newline="") as file:
        reader = CsvReader(file)
        if reader.fieldnames != columns:
            found = ", ".join(reader.fieldnames or ["none"])
            raise ValueError(f"its columns must be {', '.join(columns)}, got {found}")
        rows = sorted(reader, key=_identity)
    if any(None in row or None in row.values() for row in rows):
        raise ValueError(f"each row must have {len(columns)} cells")
    for row, following in itertools.pairwise(rows):
        if _identity(row) == _identity(following):
            raise ValueError(f"duplicate row {row['path']}")
    return rows


def _identity(row: Mapping[str, str]) -> tuple[str, str]:
    return row["path"], row.get("finding", "")


def _label(text: str) -> int:
    if text not in ("0", "1"):
        raise ValueError(f"a label must be 0 or 1, got {text!r}")
    return int(text)


def _probabilities(texts: Sequence[str]) -> NDArray[np.float64]:
    scores = np.array([float(text) for text in texts], dtype=np.float64)
    outside = scores[~((scores >= 0) & (scores <= 1))]
    if outside.size:
        raise ValueError(f"a score must be in [0, 1], got {outside[0]:g}")
    return scores


def _evaluations(folder: RunFolder, name: str) -> tuple[Evaluation, ...]:
    """Read the evaluations of the same scores.

    Raises:
        RunFolderError: There is none, or it belongs to other weights than the run has now.
        DamagedRunError: It is damaged or of another format.
    """
    path, evaluations = folder.metrics_path(name), folder.find_evaluations(name)
    remedy = _remedy(folder.root, name)
    if evaluations is None:
        raise RunFolderError(f"{folder.root} has no {path.relative_to(folder.root)}; {remedy}")
    if evaluations.findings[0].rule.weights_sha256 != folder.weights_sha256():
        raise RunFolderError(
            f"{path} belongs to other weights than {folder.root} has now; {remedy}"
        )
    return evaluations.findings
