"""Assignment of training images to new splits and folds; a patient is never divided."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from itertools import count
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components
from sklearn.model_selection import StratifiedGroupKFold

from cxrignite.data.label_groups import known_counts
from cxrignite.data.sources import ImageRecord
from cxrignite.errors import DataError, RecipeError
from cxrignite.terminal import counted

_logger = logging.getLogger(__name__)

MAX_STRATIFIED_PATIENTS = 5_000
"""Largest number of patients assigned by `StratifiedGroupKFold`, which takes 2 s with 5 folds.

More patients are drawn at random within each class."""


def split_off(
    records: Sequence[ImageRecord],
    split: str,
    fraction: float,
    seed: int,
    findings: Sequence[str] = (),
) -> list[ImageRecord]:
    """Move a share of the training images to another split; each patient stays in one split.

    The training patients are divided into folds of similar size and class balance
    (`StratifiedGroupKFold`), some of which become the new split. More than
    `MAX_STRATIFIED_PATIENTS` patients are drawn at random within each class, which is then equally
    balanced. Several findings are balanced together, for any number of patients, by iterative
    stratification (Sechidis, Tsoumakas and Vlahavas 2011, doi 10.1007/978-3-642-23808-6_10).
    Patients with an identical file stay together: they may be one patient under two names, and one
    image must not be in two splits.

    Args:
        records: The records of every split; only those of `train` are moved.
        split: `val`, `calibration` or `test`; no record may be in it yet.
        fraction: Share of the images in `train`, in `(0, 0.5]`.
        seed: Seed of the assignment, at least 0; the same seed and records give the same split.
        findings: Names of several findings, for errors.

    Raises:
        RecipeError: If `fraction` or `seed` is out of range.
        DataError: If the split exists already, a class has too few patients, or a split would lack
            a class, or images with or without a finding that other images have. Also if the share
            would deviate from `fraction` by more than half of it.
    """
    if not 0.0 < fraction <= 0.5:
        raise RecipeError(f"the share of {split} must be in (0, 0.5], got {fraction}")
    pool = _Pool.of(records, split, seed)
    what, (num_folds, num_taken) = f"a {split} split of {fraction:.3g}", _fold_counts(fraction)
    pool.check_enough(num_folds, what)
    if pool.has_several_findings:
        is_moved = _stratify_findings(pool, (1 - fraction, fraction), seed) == 1
    elif pool.num_patients > MAX_STRATIFIED_PATIENTS:
        before, in_all = _queue(pool, seed)
        is_moved = (before < fraction * in_all)[pool.numbers]
    else:
        # The first folds get the patients with most images, so the folds to take are drawn too.
        taken = np.random.default_rng(seed).choice(num_folds, num_taken, replace=False)
        is_moved = np.isin(_stratify(pool, num_folds, seed), taken)
    achieved = float(is_moved.mean())
    pool.check_both_sides(is_moved, split, what, findings)
    if abs(achieved - fraction) > 0.5 * fraction:
        raise DataError(
            f"the share of {split} must be near {fraction:.3g}, got {achieved:.3f}: "
            "some patients have too many images for an even split"
        )
    return _moved(records, is_moved, split)


def split_off_fold(
    records: Sequence[ImageRecord],
    index: int,
    num_folds: int,
    seed: int,
    findings: Sequence[str] = (),
) -> list[ImageRecord]:
    """Move one of several folds of the training images to `val`; each patient is in one fold.

    Over all indices each training image is validated exactly once. Patients are assigned to folds
    as in `split_off`; if they are drawn at random, each is still in exactly one fold.

    Args:
        records: The records of every split; only those of `train` are moved, none may be in `val`.
        index: The fold's index, in `[0, num_folds)`.
        num_folds: The number of folds, at least 2.
        seed: Seed of the assignment, at least 0; the same seed and records give the same folds.
        findings: Names of several findings, for errors.

    Raises:
        RecipeError: If a number is out of range.
        DataError: If a `val` split exists already, a class has fewer patients than there are folds,
            or this fold or the rest would lack a class, or images with or without a finding that
            other images have. Also if the fold's share would deviate from `1 / num_folds` by more
            than half of it.
    """
    if num_folds < 2:
        raise RecipeError(f"the number of folds must be at least 2, got {num_folds}")
    if not 0 <= index < num_folds:
        raise RecipeError(f"the fold's index must be in [0, {num_folds}), got {index}")
    pool, what = _Pool.of(records, "val", seed), f"fold {index} of {num_folds}"
    pool.check_enough(num_folds, what)
    if pool.has_several_findings:
        folds = _stratify_findings(pool, [1 / num_folds] * num_folds, seed)
    elif pool.num_patients > MAX_STRATIFIED_PATIENTS:
        before, in_all = _queue(pool, seed)
        folds = (before * num_folds // in_all)[pool.numbers]
    else:
        folds = _stratify(pool, num_folds, seed)
    achieved = float((folds == index).mean())
    if abs(achieved - 1 / num_folds) > 0.5 / num_folds:
        raise DataError(
            f"the share of {what} must be near {1 / num_folds:.3g}, got {achieved:.3f}: "
            "some patients have too many images for even folds"
        )
    pool.check_both_sides(folds == index, "val", what, findings)
    return _moved(records, folds == index, "val")


class _Pool(NamedTuple):
    """The training images as arrays, `(N,)` each.

    Attributes:
        labels: Label of each image; `(N, K)` if there are several findings.
        patients: Group of each image: its patient, or the first of several joined patients.
        numbers: Number of each image's group, from 0, in the order of the images.
    """

    labels: NDArray[np.int64]
    patients: list[str]
    numbers: NDArray[np.int64]
    num_patients: int

    @classmethod
    def of(cls, records: Sequence[ImageRecord], split: str, seed: int) -> _Pool:
        """Return the training images, of which some are to be moved to `split`."""
        if seed < 0:
            raise RecipeError(f"seed must be at least 0, got {seed}")
        splits = [record.split for record in records]
        if split in splits:
            raise DataError(
                f"split '{split}' must not exist yet, got {splits.count(split)} images in it"
            )
        candidates = [record for record in records if record.split == "train"]
        labels = np.array([record.label for record in candidates], dtype=np.int64)
        patients = _joined_patients(candidates)
        return cls(labels, patients, _numbered(patients), len(set(patients)))

    @property
    def has_several_findings(self) -> bool:
        """True if an image has the labels of several findings."""
        return self.labels.ndim == 2

    def check_enough(self, num_folds: int, what: str) -> None:
        """Check that each fold can have a patient of each class, if there is one finding.

        Raises:
            DataError: If it cannot.
        """
        if self.has_several_findings:
            return  # `check_both_sides` checks the result
        for label in (0, 1):
            num_patients = np.count_nonzero(np.bincount(self.numbers[self.labels == label]))
            if num_patients < num_folds:
                raise DataError(
                    f"{what} needs at least {num_folds} patients of each class, "
                    f"got {num_patients} of the {('negative', 'positive')[label]} class"
                )

    def check_both_sides(
        self, is_moved: NDArray[np.bool_], split: str, what: str, findings: Sequence[str]
    ) -> None:
        """Check that both splits have images with and without each finding.

        Of several findings, one that no image is known to have is not checked: no assignment can
        help.

        Raises:
            DataError: If one lacks them; of several findings the message names the one, and gives
                the numbers.
        """
        if not self.has_several_findings:
            for each, mask in (("train", ~is_moved), (split, is_moved)):
                labels = np.unique(self.labels[mask]).tolist()
                if labels != [0, 1]:
                    raise DataError(
                        f"{what} must leave both classes in train and {split}, "
                        f"got classes {labels} in {each}"
                    )
            return
        in_all = known_counts(self.labels)
        for each, mask in (("train", ~is_moved), (split, is_moved)):
            counts = known_counts(self.labels[mask])
            lacking = np.flatnonzero((in_all[:, 1] > 0) & (counts == 0).any(axis=1))
            if lacking.size:
                index = int(lacking[0])
                name = findings[index] if findings else f"finding {index + 1}"
                patients = [
                    len(np.unique(self.numbers[self.labels[:, index] == label])) for label in (0, 1)
                ]
                raise DataError(
                    f"{what} must leave images with and without '{name}' in train and {split}, "
                    f"got {counts[index, 1]} with and {counts[index, 0]} without it in {each}: "
                    f"{counted(patients[1], 'patient')} had it before and {patients[0]} did not; "
                    "use a larger share or fewer folds, or remove it from the findings"
                )


def _joined_patients(records: Sequence[ImageRecord]) -> list[str]:
    """Return the group of each image: its patient, or the first of the patients joined to it.

    Patients with identical files are joined, also through a chain of such pairs.
    """
    patients = [record.patient for record in records]
    digests = [record.sha256 or record.name for record in records]
    if len(set(digests)) == len(digests):
        return patients  # the usual case; the rest takes a second for a million images
    patient_at = _numbered(patients)
    num_patients = int(patient_at.max()) + 1
    content_at = num_patients + _numbered(digests)
    size = int(content_at.max()) + 1
    links = coo_array((np.ones(len(patients)), (patient_at, content_at)), (size, size))
    group = connected_components(links, directed=False)[1][:num_patients]
    num_joined = int((np.bincount(group)[group] > 1).sum())
    if num_joined:
        _logger.info("%d patients share identical files and stay in one split", num_joined)
    # The first patient names the group.
    first: dict[int, str] = {}
    return [
        first.setdefault(number, patient)
        for number, patient in zip(group[patient_at].tolist(), patients, strict=True)
    ]


def _numbered(items: Sequence[str]) -> NDArray[np.int64]:
    """Return the number of each item, `(N,)`, from 0 in the order of their first appearance."""
    numbers: dict[str, int] = {}
    return np.array([numbers.setdefault(each, len(numbers)) for each in items], dtype=np.int64)


def _stratify(pool: _Pool, num_folds: int, seed: int) -> NDArray[np.int64]:
    """Return the fold of each image, `(N,)`; folds have similar size and class balance."""
    folds = np.zeros(len(pool.labels), dtype=np.int64)
    splitter = StratifiedGroupKFold(num_folds, shuffle=True, random_state=seed % 2**32)
    stratified = splitter.split(np.zeros(len(folds)), pool.labels, pool.patients)
    for fold, (_, indices) in enumerate(stratified):
        folds[indices] = fold
    return folds


def _stratify_findings(pool: _Pool, shares: Sequence[float], seed: int) -> NDArray[np.int64]:
    """Return the part of each image, `(N,)`; parts have given shares of the images of each label.

    Iterative stratification with a patient in place of an image: the rarest label first, each of
    its patients goes to the part that lacks most images of this label. Measured on 5,000 patients
    with 14 findings: `StratifiedGroupKFold` on a patient's rarest finding takes forty times as
    long, and its shares of the findings deviate three to thirty times as much.
    """
    random = np.random.default_rng(seed)
    of_images = np.concatenate([pool.labels == 1, pool.labels == 0], axis=1)
    num_images = np.bincount(pool.numbers)
    left = np.stack([np.bincount(pool.numbers, weights=each) for each in of_images.T], axis=1)
    # One more column, which all patients have: it assigns those without a label, at last.
    left = np.concatenate([left, num_images[:, None]], axis=1)
    lacking = np.asarray(shares)[:, None] * left.sum(axis=0)
    parts = np.zeros(pool.num_patients, dtype=np.int64)
    order = random.permutation(pool.num_patients)
    while (totals := left.sum(axis=0)).any():
        label = int(np.argmin(np.where(totals > 0, totals, np.inf)))
        for patient in order[left[order, label] > 0]:
            # Of parts that lack equally many, the one that lacks most images of any kind.
            part = np.lexsort((lacking[:, -1], lacking[:, label]))[-1]
            parts[patient] = part
            lacking[part] -= left[patient]
            left[patient] = 0
    return parts[pool.numbers]


def _queue(pool: _Pool, seed: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Draw an order of the patients; return the images before each patient, and all images.

    Patients with a positive image and those without are drawn separately. With many patients this
    is as balanced as `_stratify`, and takes a second instead of minutes.
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
    """Return the number of folds, and how many of them give a share within 5 % of `fraction`.

    For the usual shares this is 1 of `round(1 / fraction)`; 0.4 takes 2 of 5.
    """
    for num_folds in count(2):
        num_taken = round(fraction * num_folds)
        if abs(num_taken / num_folds - fraction) <= 0.05 * fraction:
            return num_folds, num_taken
    raise AssertionError("unreachable: the shares k / n are dense")


def _moved(
    records: Sequence[ImageRecord], is_moved: NDArray[np.bool_], split: str
) -> list[ImageRecord]:
    """Return the records with some of those of `train`, a mask `(N,)`, moved to another split."""
    moves = iter(is_moved.tolist())
    return [
        record.moved(split) if record.split == "train" and next(moves) else record
        for record in records
    ]
