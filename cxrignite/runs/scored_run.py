"""The scores of a finished run, read back from its folder to be set against another run's."""

from __future__ import annotations

import csv
import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from cxrignite.csv_text import CsvReader
from cxrignite.errors import DamagedRunError, DataError, RunFolderError
from cxrignite.runs.evaluation import Evaluation
from cxrignite.runs.run_folder import RunFolder

_COLUMNS = ("path", "patient", "label", "score")


@dataclass(frozen=True)
class ScoredRun:
    """The films that a run scored, sorted by their paths.

    Attributes:
        run: The run folder, as it was named.
        paths: Of the films, relative to their source's root.
        patients: Whose each film is.
        y_true: Labels 0 and 1, `(N,)`.
        y_score: Probabilities of the positive class, `(N,)`.
        natural_score: The same at the natural prevalence, `(N,)`; None where a film has none.
        evaluation: Of these images, with the rule that decided.
    """

    run: str
    paths: list[str]
    patients: list[str]
    y_true: NDArray[np.int64]
    y_score: NDArray[np.float64]
    natural_score: NDArray[np.float64] | None
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
        RunFolderError: The run did not finish, or has not scored these films with its weights.
        DamagedRunError: A file is damaged, lost, or not as it was written.
        CheckpointError: The best weights are missing or damaged.
    """
    folder = RunFolder(run_dir)
    folder.finished_recipe()
    path = folder.predictions_path(name)
    folder.files.check(path, folder.metrics_path(name), folder.operating_point_path)
    if not path.is_file():
        raise RunFolderError(
            f"{run_dir} has no {path.relative_to(run_dir)}; {_remedy(run_dir, name)}"
        )
    try:
        rows = _rows(path)
        evaluation = _evaluation(folder, name)
        natural = [row.get("natural_score") or "" for row in rows]
        return ScoredRun(
            run=str(run_dir),
            paths=[row["path"] for row in rows],
            patients=[row["patient"] for row in rows],
            y_true=np.array([_label(row["label"]) for row in rows], dtype=np.int64),
            y_score=_probabilities([row["score"] for row in rows]),
            natural_score=_probabilities(natural) if all(natural) else None,
            evaluation=evaluation,
        )
    except (OSError, ValueError, csv.Error) as error:
        raise DamagedRunError(f"{path} is damaged: {error}") from error


def check_same_films(run: ScoredRun, baseline: ScoredRun) -> None:
    """Make sure that two runs scored the same films, with the same labels.

    Raises:
        DataError: They did not; it says how many differ and names the first.
    """
    ours = dict(zip(run.paths, run.y_true.tolist(), strict=True))
    theirs = dict(zip(baseline.paths, baseline.y_true.tolist(), strict=True))
    differing = sorted(
        path for path in ours.keys() | theirs.keys() if ours.get(path) != theirs.get(path)
    )
    if not differing:
        return
    first = differing[0]
    if first not in theirs:
        reason = f"only in {run.run}"
    elif first not in ours:
        reason = f"only in {baseline.run}"
    else:
        reason = f"label {ours[first]} in {run.run} and {theirs[first]} in {baseline.run}"
    raise DataError(
        f"{run.run} and {baseline.run} scored different films: "
        f"{len(differing)} differ, the first is {first} ({reason})"
    )


def _remedy(run_dir: Path, name: str) -> str:
    if name == "calibration":
        return "`cxrignite fit` writes it where data.calibration_fraction is above 0"
    if name in ("val", "test"):
        verb, films = ("validate" if name == "val" else "test"), ""
    else:
        films_name, _, site = name.partition("@")
        own = films_name in ("val", "test")
        verb = "validate" if films_name == "val" else "test"
        films = "" if own else f" --name {films_name} --data.source.root ..."
        films += f" --operating_point {site}" if site else ""
    return f"score these films first: `cxrignite {verb} --run {run_dir}{films}`"


def _rows(path: Path) -> list[dict[str, str]]:
    # `surrogateescape` keeps file names that are not UTF-8.
    with path.open(encoding="utf-8", errors="surrogateescape", newline="") as file:
        reader = CsvReader(file, restval="")
        missing = [column for column in _COLUMNS if column not in (reader.fieldnames or ())]
        if missing:
            raise ValueError(f"it has no column {', '.join(missing)}")
        rows = sorted(reader, key=lambda row: row["path"])
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
    strange = scores[~((scores >= 0) & (scores <= 1))]
    if strange.size:
        raise ValueError(f"a score must be in [0, 1], got {strange[0]:g}")
    return scores


def _evaluation(folder: RunFolder, name: str) -> Evaluation:
    """Read the evaluation of the same scoring, which must be of today's weights."""
    path = folder.metrics_path(name)
    evaluation = folder.find_evaluation(name)
    if evaluation is None:
        raise RunFolderError(f"{folder.root} has no {path.name}; {_remedy(folder.root, name)}")
    if evaluation.rule.weights_sha256 != folder.weights_sha256():
        raise RunFolderError(
            f"{path} is of other weights than {folder.root} has now; {_remedy(folder.root, name)}"
        )
    return evaluation
