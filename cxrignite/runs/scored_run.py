"""The scores of a finished run, read back from its folder to be compared with another run's."""

from __future__ import annotations

import csv
import itertools
from collections.abc import Sequence
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
    """The images that a run scored, sorted by their paths.

    Attributes:
        run: The run folder, as it was named.
        paths: Of the images, relative to their source's root.
        patients: Patient of each image.
        y_true: Labels 0 and 1, `(N,)`.
        y_score: Probabilities of the positive class, `(N,)`.
        probability: The same at the natural prevalence, `(N,)`; None if it is not known.
        evaluation: Of these images, with the rule that decided.
    """

    run: str
    paths: list[str]
    patients: list[str]
    y_true: NDArray[np.int64]
    y_score: NDArray[np.float64]
    probability: NDArray[np.float64] | None
    evaluation: Evaluation

    @property
    def threshold(self) -> float | None:
        """The one these scores were decided by; None if there was none."""
        return self.evaluation.rule.threshold


def read_scored_run(run_dir: Path, name: str) -> ScoredRun:
    """Read what a finished run scored under a name, and the threshold that decided there.

    Args:
        run_dir: The run folder.
        name: A split, or a given name.

    Returns:
        The scores.

    Raises:
        RunFolderError: The run did not finish, or has not scored these images with its weights.
        DamagedRunError: A file is damaged, lost, not as it was written, or of another form.
        CheckpointError: The best weights are missing or damaged.
    """
    folder = RunFolder(run_dir)
    folder.finished_recipe()
    path, remedy = folder.predictions_path(name), _remedy(run_dir, name)
    folder.files.check(path, folder.metrics_path(name), folder.operating_point_path)
    if not path.is_file():
        raise RunFolderError(f"{run_dir} has no {path.relative_to(run_dir)}; {remedy}")
    evaluation = _evaluation(folder, name)
    try:
        rows = _rows(path)
        probability = [row["probability"] for row in rows]
        return ScoredRun(
            run=str(run_dir),
            paths=[row["path"] for row in rows],
            patients=[row["patient"] for row in rows],
            y_true=np.array([_label(row["label"]) for row in rows], dtype=np.int64),
            y_score=_probabilities([row["score"] for row in rows]),
            probability=_probabilities(probability) if any(probability) else None,
            evaluation=evaluation,
        )
    except (OSError, ValueError, csv.Error) as error:
        raise DamagedRunError(f"{path} is damaged: {error}; {remedy}") from error


def _remedy(run_dir: Path, name: str) -> str:
    if name == "calibration":
        return "`cxrignite fit` writes it where data.calibration_fraction is above 0"
    return f"`cxrignite {how_to_evaluate(run_dir, name)}` writes it"


def _rows(path: Path) -> list[dict[str, str]]:
    # `surrogateescape` keeps file names that are not UTF-8.
    with path.open(encoding="utf-8", errors="surrogateescape", newline="") as file:
        reader = CsvReader(file)
        if reader.fieldnames != _COLUMNS:
            found = ", ".join(reader.fieldnames or ["none"])
            raise ValueError(f"its columns must be {', '.join(_COLUMNS)}, got {found}")
        rows = sorted(reader, key=lambda row: row["path"])
    if any(None in row or None in row.values() for row in rows):
        raise ValueError(f"each row must have {len(_COLUMNS)} cells")
    for row, following in itertools.pairwise(rows):
        if row["path"] == following["path"]:
            raise ValueError(f"{row['path']} is there twice")
    return rows


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


def _evaluation(folder: RunFolder, name: str) -> Evaluation:
    """Read the evaluation of the same scoring.

    Raises:
        RunFolderError: There is none, or it is of other weights than the run has now.
        DamagedRunError: It is damaged or of another form.
    """
    path, evaluation = folder.metrics_path(name), folder.find_evaluation(name)
    remedy = _remedy(folder.root, name)
    if evaluation is None:
        raise RunFolderError(f"{folder.root} has no {path.relative_to(folder.root)}; {remedy}")
    if evaluation.rule.weights_sha256 != folder.weights_sha256():
        raise RunFolderError(f"{path} is of other weights than {folder.root} has now; {remedy}")
    return evaluation
