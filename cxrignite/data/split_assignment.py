"""Splits carved out of the training images, whole patients at a time; folds by patient."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from itertools import count
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from sklearn.model_selection import StratifiedGroupKFold

from cxrignite.data.sources import ImageRecord
from cxrignite.errors import DataError, RecipeError

_logger = logging.getLogger(__name__)

MAX_STRATIFIED_PATIENTS = 5_000
"""Up to here patients are dealt into even folds, which takes 2 s with 5,000 patients and 5 folds;
of more they are drawn."""


def split_off(
    records: Sequence[ImageRecord], split: str, fraction: float, seed: int
) -> list[ImageRecord]:
    """Moves a share of the training images to another split, whole patients at a time.

    The training patients are dealt into folds of like size and class balance
    (`StratifiedGroupKFold`), some of which become the new split. More than
    `MAX_STRATIFIED_PATIENTS` are drawn by chance within each class, which is as even then. Patients
    who have a file in common, to the byte, stay together: they may be one patient under two names,
    and one picture must not stand on two sides.

    Args:
        records: The images of every split; only those of `train` are moved.
        split: `val`, `calibration` or `test`; no image may be in it yet.
        fraction: Share of the images in `train`, in `(0, 0.5]`.
        seed: Seed of the deal, at least 0; the same seed and images give the same split.

    Returns:
        The images in the same order, each in one of `SPLITS`.

    Raises:
        RecipeError: If `fraction` or `seed` is out of range.
        DataError: If there is such a split already, a class has too few patients, a split would
            lack a class, or the share cannot be met to within a half of itself.
    """
    if not 0.0 < fraction <= 0.5:
        raise RecipeError(f"the share of {split} must be in (0, 0.5], got {fraction}")
    pool = _Pool.of(records, split, seed)
    what, (num_folds, num_taken) = f"a {split} split of {fraction:.3g}", _fold_counts(fraction)
    pool.check_enough(num_folds, what)
    if pool.num_patients > MAX_STRATIFIED_PATIENTS:
        before, in_all = _queue(pool, seed)
        is_moved = (before < fraction * in_all)[pool.numbers]
    else:
        # The largest patients go to the first folds, so which folds to take is drawn too.
        taken = np.random.default_rng(seed).choice(num_folds, num_taken, replace=False)
        is_moved = np.isin(_stratify(pool, num_folds, seed), taken)
    achieved = float(is_moved.mean())
    assigned = _moved(records, is_moved, split, what)
    if abs(achieved - fraction) > 0.5 * fraction:
        raise DataError(
            f"the share of {split} must be near {fraction:.3g}, got {achieved:.3f}: "
            "some patients have too many images to be dealt evenly"
        )
    return assigned


def split_off_fold(
    records: Sequence[ImageRecord], index: int, num_folds: int, seed: int
) -> list[ImageRecord]:
    """Moves one of several folds of the training images to `val`, whole patients at a time.

    Over all indices each training image is validated exactly once. The folds are dealt as
    `split_off` deals them; where patients are drawn by chance, each is drawn into one fold.

    Args:
        records: The images of every split; only those of `train` are moved, none may be in `val`.
        index: Which fold, in `[0, num_folds)`.
        num_folds: How many folds there are, at least 2.
        seed: Seed of the deal, at least 0; the same seed and images give the same folds.

    Returns:
        The images in the same order, each in one of `SPLITS`.

    Raises:
        RecipeError: If a number is out of range.
        DataError: If there is a `val` split already, a class has fewer patients than there are
            folds, this fold or the rest would lack a class, or the fold's share cannot be met to
            within a half of itself.
    """
    if num_folds < 2:
        raise RecipeError(f"the number of folds must be at least 2, got {num_folds}")
    if not 0 <= index < num_folds:
        raise RecipeError(f"the fold's index must be in [0, {num_folds}), got {index}")
    pool, what = _Pool.of(records, "val", seed), f"fold {index} of {num_folds}"
    pool.check_enough(num_folds, what)
    if pool.num_patients > MAX_STRATIFIED_PATIENTS:
        before, in_all = _queue(pool, seed)
        folds = (before * num_folds // in_all)[pool.numbers]
    else:
        folds = _stratify(pool, num_folds, seed)
    achieved = float((folds == index).mean())
    if abs(achieved - 1 / num_folds) > 0.5 / num_folds:
        raise DataError(
            f"{what} must have near {1 / num_folds:.3g} of the images, got {achieved:.3f}: "
            "some patients have too many images to be dealt evenly"
        )
    return _moved(records, folds == index, "val", what)


class _Pool(NamedTuple):
    """The training images as arrays, `(N,)` each.

    Attributes:
        labels: Of each image.
        patients: Whom it stays with: its patient, or one of the patients joined to that.
        numbers: The same as numbers from 0, in the order of the images.
        num_patients: How many of them there are.
    """

    labels: NDArray[np.int64]
    patients: list[str]
    numbers: NDArray[np.int64]
    num_patients: int

    @classmethod
    def of(cls, records: Sequence[ImageRecord], split: str, seed: int) -> _Pool:
        """The training images, from which `split` is to be carved.

        Raises:
            RecipeError: If `seed` is out of range.
            DataError: If there is such a split already.
        """
        if seed < 0:
            raise RecipeError(f"seed must be at least 0, got {seed}")
        splits = [record.split for record in records]
        if split in splits:
            raise DataError(f"images must have no {split} split yet, got some with split '{split}'")
        candidates = [record for record in records if record.split == "train"]
        labels = np.array([record.label for record in candidates], dtype=np.int64)
        patients = _joined_patients(candidates)
        numbers: dict[str, int] = {}
        each = [numbers.setdefault(patient, len(numbers)) for patient in patients]
        return cls(labels, patients, np.array(each, dtype=np.int64), len(numbers))

    def check_enough(self, num_folds: int, what: str) -> None:
        """Check that each fold can have a patient of each class.

        Raises:
            DataError: It cannot.
        """
        for label in (0, 1):
            num_patients = np.count_nonzero(np.bincount(self.numbers[self.labels == label]))
            if num_patients < num_folds:
                raise DataError(
                    f"{what} needs at least {num_folds} patients of each class, "
                    f"got {num_patients} of the {('negative', 'positive')[label]} one"
                )


def _joined_patients(records: Sequence[ImageRecord]) -> list[str]:
    """Whom each image stays with: its patient, or the first of the patients joined to that.

    Patients are joined who share a file's content, and so on along a chain of such pairs.
    """
    patients = [record.patient for record in records]
    digests = [record.sha256 or record.name for record in records]
    if len(set(digests)) == len(digests):
        return patients  # as a rule; the rest takes a second for a million images
    last = dict(zip(digests, patients, strict=True))
    owners = [last[digest] for digest in digests]
    parents: dict[str, str] = {}

    def root(patient: str) -> str:
        while (parent := parents.get(patient, patient)) != patient:
            parents[patient] = patient = parents.get(parent, parent)
        return patient

    for owner, patient in zip(owners, patients, strict=True):
        if owner != patient:
            parents[root(owner)] = root(patient)
    if not parents:
        return patients
    involved = {*parents, *parents.values()}
    _logger.info("%d patients have files in common: they stay together", len(involved))
    # Named by whoever comes first, so that the name does not depend on how they were joined.
    first: dict[str, str] = {}
    for patient in patients:
        if patient in involved:
            first.setdefault(root(patient), patient)
    return [first[root(each)] if each in involved else each for each in patients]


def _stratify(pool: _Pool, num_folds: int, seed: int) -> NDArray[np.int64]:
    """The fold of each image, `(N,)`: folds of like size and class balance."""
    folds = np.zeros(len(pool.labels), dtype=np.int64)
    splitter = StratifiedGroupKFold(num_folds, shuffle=True, random_state=seed % 2**32)
    stratified = splitter.split(np.zeros(len(folds)), pool.labels, pool.patients)
    for fold, (_, indices) in enumerate(stratified):
        folds[indices] = fold
    return folds


def _queue(pool: _Pool, seed: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Patients in a drawn order: how many images come before each, and how many there are in all.

    Drawn among patients with a positive image and among those without, a split is as even as a deal
    where there are so many, and takes a second where that takes minutes.
    """
    random = np.random.default_rng(seed)
    num_images = np.bincount(pool.numbers)
    has_positive = np.bincount(pool.numbers, weights=pool.labels) > 0
    before, in_all = np.zeros_like(num_images), np.zeros_like(num_images)
    for stratum in (np.flatnonzero(~has_positive), np.flatnonzero(has_positive)):
        order = random.permutation(stratum)
        before[order] = np.cumsum(num_images[order]) - num_images[order]
        in_all[order] = num_images[stratum].sum()
    return before, in_all


def _fold_counts(fraction: float) -> tuple[int, int]:
    """How many folds to deal, and how many of them to take, for a share within 5 % of `fraction`.

    For the usual shares that is 1 of `round(1 / fraction)`; 0.4 takes 2 of 5.
    """
    for num_folds in count(2):
        num_taken = round(fraction * num_folds)
        if abs(num_taken / num_folds - fraction) <= 0.05 * fraction:
            return num_folds, num_taken
    raise AssertionError("unreachable: the shares k / n are dense")


def _moved(
    records: Sequence[ImageRecord], is_moved: NDArray[np.bool_], split: str, what: str
) -> list[ImageRecord]:
    """The images with some of those of `train`, `(N,)`, in another split."""
    moves = iter(is_moved.tolist())
    assigned = [
        record.moved(split) if record.split == "train" and next(moves) else record
        for record in records
    ]
    for each in ("train", split):
        labels = {record.label for record in assigned if record.split == each}
        if labels != {0, 1}:
            raise DataError(
                f"{what} must leave both classes in train and {split}, "
                f"got classes {sorted(labels)} in {each}"
            )
    return assigned
