"""Validation and calibration films carved out of the training films, whole patients at a time."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import count

import numpy as np
from numpy.typing import NDArray
from sklearn.model_selection import StratifiedGroupKFold

from cxrignite.data.sources import Film
from cxrignite.errors import DataError, RecipeError

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
    """scikit-learn's folds, in a fraction of the time.

    For each patient it tries each fold with several calls of numpy (1.9), at every start of a run.
    Here it is the same arithmetic, to the last bit, on single numbers. Where a later version has no
    such method, its own is used.
    """

    def _find_best_fold(
        self,
        y_counts_per_fold: NDArray[np.float64],
        y_cnt: NDArray[np.int64],
        group_y_counts: NDArray[np.float64],
    ) -> int:
        columns, sizes = y_counts_per_fold.T.tolist(), y_counts_per_fold.sum(axis=1).tolist()
        spreads = [0.0] * len(sizes)
        for counts, total, added in zip(
            columns, y_cnt.tolist(), group_y_counts.tolist(), strict=True
        ):
            shares = [each / total for each in counts]
            if not added:  # as of every patient with one class: the same whatever the fold
                deviation = _deviation(shares)
                spreads = [spread + deviation for spread in spreads]
                continue
            for fold, own in enumerate(counts):
                kept, shares[fold] = shares[fold], (own + added) / total
                spreads[fold] += _deviation(shares)
                shares[fold] = kept
        best, least, size = 0, math.inf, math.inf
        for fold, spread in enumerate(each / len(columns) for each in spreads):
            # `numpy.isclose`, for two numbers.
            is_close = abs(spread - least) <= 1e-8 + 1e-5 * abs(least) < math.inf
            if spread < least or (is_close and sizes[fold] < size):
                best, least, size = fold, spread, sizes[fold]
        return best


def _deviation(values: list[float]) -> float:
    """As `numpy.std` of a few numbers, to the last bit."""
    mean = sum(values) / len(values)
    return math.sqrt(sum([(value - mean) ** 2 for value in values]) / len(values))


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
