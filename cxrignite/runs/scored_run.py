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
from cxrignite.runs.run_folder import RunFolder
from cxrignite.runs.run_json import read_object
from cxrignite.runs.usability import films_in_words, unusable_warning

_COLUMNS = ["path", "patient", "label", "score", "natural_score", "decision"]


@dataclass(frozen=True)
class ScoredRun:
    """The films that a run scored, sorted by their paths.

    Attributes:
        run: The run folder, as it was named.
        paths: Of the films, relative to their source's root.
        patients: Patient of each film.
        y_true: Labels 0 and 1, `(N,)`.
        y_score: Probabilities of the positive class, `(N,)`.
        natural_score: The same at the natural prevalence, `(N,)`; None if it is not known.
        threshold: The one these scores were decided by; None if there was none.
        warnings: Why that threshold is not usable, a line for the films that chose it and one for
            these.
    """

    run: str
    paths: list[str]
    patients: list[str]
    y_true: NDArray[np.int64]
    y_score: NDArray[np.float64]
    natural_score: NDArray[np.float64] | None
    threshold: float | None
    warnings: tuple[str, ...] = ()


def read_scored_run(run_dir: Path, name: str) -> ScoredRun:
    """Read what a finished run scored under a name, and the threshold that decided there.

    Args:
        run_dir: The run folder.
        name: A split, or a given name.

    Returns:
        The scores.

    Raises:
        RunFolderError: The run did not finish, or has not scored these films with its weights.
        DamagedRunError: A file is damaged, lost, not as it was written, or of another form.
        CheckpointError: The best weights are missing or damaged.
    """
    folder = RunFolder(run_dir)
    folder.finished_recipe()
    path, remedy = folder.predictions_path(name), _remedy(run_dir, name)
    folder.files.check(path, folder.metrics_path(name), folder.operating_point_path)
    if not path.is_file():
        raise RunFolderError(f"{run_dir} has no {path.relative_to(run_dir)}; {remedy}")
    threshold, warnings = _threshold(folder, name)
    try:
        rows = _rows(path)
        natural = [row["natural_score"] for row in rows]
        return ScoredRun(
            run=str(run_dir),
            paths=[row["path"] for row in rows],
            patients=[row["patient"] for row in rows],
            y_true=np.array([_label(row["label"]) for row in rows], dtype=np.int64),
            y_score=_probabilities([row["score"] for row in rows]),
            natural_score=_probabilities(natural) if any(natural) else None,
            threshold=threshold,
            warnings=warnings,
        )
    except (OSError, ValueError, csv.Error) as error:
        raise DamagedRunError(f"{path} is damaged: {error}; {remedy}") from error


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
    return f"`cxrignite {verb} --run {run_dir}{films}` writes it"


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


def _threshold(folder: RunFolder, name: str) -> tuple[float | None, tuple[str, ...]]:
    """Read the threshold that decided these scores, and why it is not usable.

    Raises:
        RunFolderError: The threshold is not one of the run's weights of today.
        DamagedRunError: The metrics are damaged or of another form.
    """
    path, remedy = folder.metrics_path(name), _remedy(folder.root, name)
    content = read_object(path)
    try:
        point = content["operating_point"]
        threshold = None if point["threshold"] is None else float(point["threshold"])
        digest = point["weights_sha256"]
        warnings = (
            unusable_warning(point["not_usable"], films_in_words(point["chosen_on"])),
            unusable_warning(content["not_usable"], f"the {name} films"),
        )
        if threshold is not None and not 0 <= threshold <= 1:
            raise ValueError(f"threshold must be in [0, 1], got {threshold}")
    except (ValueError, KeyError, TypeError) as error:
        reason = f"it has no {error}" if isinstance(error, KeyError) else str(error)
        raise DamagedRunError(f"{path} is damaged: {reason}; {remedy}") from error
    if digest != folder.weights_sha256():
        raise RunFolderError(f"{path} is of other weights than {folder.root} has now; {remedy}")
    return threshold, tuple(filter(None, warnings))
