"""Who is in which split: carved by patient, kept in a file, and checked."""

from __future__ import annotations

import csv
import io
import math
from collections import defaultdict
from collections.abc import Sequence
from itertools import count
from pathlib import Path, PurePosixPath

import numpy as np
from numpy.typing import NDArray
from sklearn.model_selection import StratifiedGroupKFold

from cxrignite.data.sources import SPLITS, Film
from cxrignite.durable_write import write_durably
from cxrignite.errors import DataError, RecipeError

COLUMNS = ("path", "label", "patient", "split", "sha256")
ATTRIBUTE_PREFIX = "attr_"
NUM_NAMED = 3

MAX_DEALT_PATIENTS = 20_000
"""Up to here patients are dealt into even folds; of more they are drawn."""


def carve_split(films: Sequence[Film], split: str, fraction: float, seed: int) -> list[Film]:
    """Moves a share of the training films to another split, whole patients at a time.

    The training patients are dealt into folds of like size and class balance
    (`StratifiedGroupKFold`), some of which become the new split. More than `MAX_DEALT_PATIENTS` are
    drawn by chance within each class, which is as even then.

    Args:
        films: The films of every split; only those of `train` are moved.
        split: `val` or `calibration`; no film may be in it yet.
        fraction: Share of the films in `train`, in `(0, 0.5]`.
        seed: Seed of the deal, at least 0; the same seed and films give the same split.

    Returns:
        The films in the same order, each in one of `SPLITS`.

    Raises:
        RecipeError: If `fraction` or `seed` is out of range.
        DataError: If there is such a split already, a class has too few patients, a split would
            lack a class, or the share cannot be met to within a half of itself.
    """
    if not 0.0 < fraction <= 0.5:
        raise RecipeError(f"the share of {split} must be in (0, 0.5], got {fraction}")
    if seed < 0:
        raise RecipeError(f"seed must be at least 0, got {seed}")
    if any(film.split == split for film in films):
        raise DataError(f"films must have no {split} split yet, got some with split '{split}'")
    candidates = [film for film in films if film.split == "train"]
    labels = np.array([film.label for film in candidates], dtype=np.int64)
    numbers: dict[str, int] = {}
    patients = np.array([numbers.setdefault(film.patient, len(numbers)) for film in candidates])
    num_folds, num_taken = _fold_counts(fraction)
    for label in (0, 1):
        num_patients = len(np.unique(patients[labels == label]))
        if num_patients < num_folds:
            raise DataError(
                f"a {split} split of {fraction:.3g} needs at least {num_folds} patients "
                f"of each class, got {num_patients} of class {label}"
            )
    if len(numbers) > MAX_DEALT_PATIENTS:
        is_moved = _draw(labels, patients, fraction, seed)
    else:
        names = [film.patient for film in candidates]
        is_moved = _deal(labels, names, num_folds, num_taken, seed)
    moves = iter(is_moved.tolist())
    carved = [
        film.moved(split) if film.split == "train" and next(moves) else film for film in films
    ]
    _check_carved(carved, split, float(is_moved.mean()), fraction)
    return carved


def _deal(
    labels: NDArray[np.int64], patients: list[str], num_folds: int, num_taken: int, seed: int
) -> NDArray[np.bool_]:
    """Which films move: those of a few folds of like size and class balance."""
    folds = _PatientFolds(num_folds, shuffle=True, random_state=seed % 2**32).split(
        np.zeros(len(labels)), labels, patients
    )
    # The largest patients go to the first folds, so which folds to take is drawn too.
    taken = np.random.default_rng(seed).choice(num_folds, num_taken, replace=False)
    is_moved = np.zeros(len(labels), dtype=bool)
    for fold, (_, indices) in enumerate(folds):
        if fold in taken:
            is_moved[indices] = True
    return is_moved


class _PatientFolds(StratifiedGroupKFold):  # type: ignore[misc]  # it ships no types
    """scikit-learn's folds, in a tenth of the time.

    It tries each fold for each patient in turn (1.9: a second for 4,000 patients, at every start of
    a run); here all are tried at once. Where a later version has no such method, its own is used.
    """

    def _find_best_fold(
        self,
        y_counts_per_fold: NDArray[np.float64],
        y_cnt: NDArray[np.int64],
        group_y_counts: NDArray[np.float64],
    ) -> int:
        num_folds = len(y_counts_per_fold)
        tried = np.repeat(y_counts_per_fold[None], num_folds, axis=0)
        tried[np.arange(num_folds), np.arange(num_folds)] += group_y_counts
        spreads = (tried / y_cnt).std(axis=1).mean(axis=1).tolist()
        sizes = y_counts_per_fold.sum(axis=1).tolist()
        best, least, size = 0, math.inf, math.inf
        for fold in range(num_folds):
            # `numpy.isclose`, for two numbers.
            is_close = abs(spreads[fold] - least) <= 1e-8 + 1e-5 * abs(least) < math.inf
            if spreads[fold] < least or (is_close and sizes[fold] < size):
                best, least, size = fold, spreads[fold], sizes[fold]
        return best


def _draw(
    labels: NDArray[np.int64], patients: NDArray[np.int64], fraction: float, seed: int
) -> NDArray[np.bool_]:
    """Which films move: those of patients drawn until the share is met.

    Drawn among patients with a positive film and among those without, it is as even as a deal where
    there are so many, and takes a second where that takes minutes.
    """
    random = np.random.default_rng(seed)
    num_films = np.bincount(patients)
    has_positive = np.bincount(patients, weights=labels) > 0
    is_moved = np.zeros(len(num_films), dtype=bool)
    for stratum in (np.flatnonzero(~has_positive), np.flatnonzero(has_positive)):
        order = random.permutation(stratum)
        before = np.cumsum(num_films[order]) - num_films[order]
        is_moved[order[before < fraction * num_films[stratum].sum()]] = True
    return is_moved[patients]


def check_patient_leakage(films: Sequence[Film]) -> None:
    """Checks that no patient is in more than one split.

    Args:
        films: The films of every split.

    Raises:
        DataError: If one is; it counts them and names the first few.
    """
    splits: dict[str, set[str]] = defaultdict(set)
    for film in films:
        splits[film.patient].add(film.split)
    leaks = sorted(patient for patient, where in splits.items() if len(where) > 1)
    if leaks:
        named = ", ".join(f"{p} ({' and '.join(sorted(splits[p]))})" for p in leaks[:NUM_NAMED])
        raise DataError(
            f"a patient must be in one split only, got {len(leaks)} in more: "
            f"{named}{', ...' if len(leaks) > NUM_NAMED else ''}"
        )


def check_same_films(frozen: Sequence[Film], current: Sequence[Film]) -> None:
    """Checks that a source still holds the films that a split was made of.

    Args:
        frozen: The films of the split, with their digests.
        current: The films of the source now, with their digests.

    Raises:
        DataError: If a file is missing, new or changed; it counts them and names the first.
    """
    before = {film.name: film.sha256 for film in frozen}
    now = {film.name: film.sha256 for film in current}
    differences = {
        "missing": sorted(before.keys() - now.keys()),
        "new": sorted(now.keys() - before.keys()),
        "changed": sorted(name for name in before.keys() & now.keys() if before[name] != now[name]),
    }
    if any(differences.values()):
        counts = ", ".join(f"{len(names)} {kind}" for kind, names in differences.items())
        kind, names = next((kind, names) for kind, names in differences.items() if names)
        raise DataError(
            f"the data must be the {len(before)} files that the split was made of, got {counts}; "
            f"first {kind}: {names[0]}"
        )


def write_split(films: Sequence[Film], path: Path | str) -> None:
    """Writes the split as a CSV file, whole or not at all.

    Columns: `path` (the film's name), `label`, `patient`, `split`, `sha256`, then `attr_<name>` for
    each attribute that some film has; an empty cell is an attribute that the film does not have.

    Args:
        films: The films of every split.
        path: The file; replaced if it exists.

    Raises:
        CxrIgniteError: If the file cannot be written; what stood there before is then untouched.
    """
    path = Path(path)
    attributes = sorted({name for film in films for name in film.attributes})
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow([*COLUMNS, *(ATTRIBUTE_PREFIX + name for name in attributes)])
    writer.writerows(
        (
            *(film.name, film.label, film.patient, film.split, film.sha256),
            *(film.attributes.get(name, "") for name in attributes),
        )
        for film in films
    )
    # `surrogateescape` keeps file names that are not UTF-8.
    write_durably(path, text.getvalue().encode(errors="surrogateescape"))


def read_split(path: Path | str, source_root: Path | str) -> list[Film]:
    """Reads what `write_split` wrote.

    Args:
        path: The CSV file.
        source_root: The folder that the names are relative to.

    Returns:
        The films in the file's order. Whether they exist is not checked.

    Raises:
        DataError: If the file cannot be read, or a row is not a film; it names the line.
    """
    path, source_root = Path(path), Path(source_root)
    try:
        with path.open(encoding="utf-8", errors="surrogateescape", newline="") as file:
            reader = csv.DictReader(file, strict=True)
            missing = [name for name in COLUMNS if name not in (reader.fieldnames or [])]
            if missing:
                raise DataError(f"{path} must have columns {', '.join(COLUMNS)}, lacks {missing}")
            films = []
            for row in reader:
                problem = _row_problem(row)
                if problem:
                    raise DataError(f"{path}, line {reader.line_num}: {problem}")
                films.append(_film_of(row, source_root))
    except OSError as error:
        raise DataError(f"cannot read the split {path}: {error.strerror or error}") from error
    except csv.Error as error:
        raise DataError(f"{path} must be a CSV file, got: {error}") from error
    names = {film.name for film in films}
    if len(names) < len(films):
        raise DataError(f"{path} must name each film once, got {len(films) - len(names)} repeats")
    return films


def _fold_counts(fraction: float) -> tuple[int, int]:
    """How many folds to deal, and how many of them to take, for a share within 5 % of `fraction`.

    For the usual shares that is 1 of `round(1 / fraction)`; 0.4 takes 2 of 5.
    """
    for num_folds in count(2):
        num_taken = round(fraction * num_folds)
        if abs(num_taken / num_folds - fraction) <= 0.05 * fraction:
            return num_folds, num_taken
    raise AssertionError("unreachable: the shares k / n are dense")


def _check_carved(films: Sequence[Film], split: str, achieved: float, fraction: float) -> None:
    for each in ("train", split):
        labels = {film.label for film in films if film.split == each}
        if labels != {0, 1}:
            raise DataError(
                f"a {split} split of {fraction:.3g} must leave both classes in train and {split}, "
                f"got classes {sorted(labels)} in {each}"
            )
    if abs(achieved - fraction) > 0.5 * fraction:
        raise DataError(
            f"the share of {split} must be near {fraction:.3g}, got {achieved:.3f}: "
            "some patients have too many images to be dealt evenly"
        )


def _row_problem(row: dict[str, str | None]) -> str | None:
    if None in row or None in row.values():
        return "the row must have as many cells as the header"
    name = PurePosixPath(row["path"] or "")
    if not name.parts or name.is_absolute() or ".." in name.parts:
        return f"path must stay inside the source's root, got {row['path']!r}"
    if row["label"] not in {"0", "1"}:
        return f"label must be 0 or 1, got {row['label']!r}"
    if row["split"] not in SPLITS:
        return f"split must be one of {', '.join(SPLITS)}, got {row['split']!r}"
    return None


def _film_of(row: dict[str, str], source_root: Path) -> Film:
    return Film(
        path=source_root / row["path"],
        name=row["path"],
        label=int(row["label"]),
        patient=row["patient"],
        split=row["split"],
        attributes={
            column.removeprefix(ATTRIBUTE_PREFIX): value
            for column, value in row.items()
            if column.startswith(ATTRIBUTE_PREFIX) and value
        },
        sha256=row["sha256"],
    )
