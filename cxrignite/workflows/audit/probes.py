"""Classifiers that predict a label or a split from a few numbers of an image (shortcuts, shift)."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from cxrignite.data import ImageRecord
from cxrignite.data.sources import is_of_class
from cxrignite.data.survey import ImageFacts, Survey
from cxrignite.functional.shift import ShiftCheck, check_shift
from cxrignite.runs.audit_result import MAX_PROBED, Probe

MAX_PATIENTS = 2_000
"""Limit per side; of more patients a random sample is drawn, which is as informative."""

_PIXELS = 16
# These cannot depend on the disease.
_NO_SIGNS = ("size and aspect", "colour mode and format")


def probed_findings(survey: Survey, classes: Sequence[str]) -> tuple[int, ...]:
    """Choose the findings with most positive patients outside of the test split, to probe them.

    Returns:
        The positions of at most `MAX_PROBED` findings in `classes`, in that order.
    """
    findings = range(1, len(classes))
    patients = {
        number: len(
            {
                record.patient
                for record in survey.records
                if record.split != "test" and is_of_class(record, number)
            }
        )
        for number in findings
    }
    return tuple(sorted(sorted(findings, key=lambda each: -patients[each])[:MAX_PROBED]))


def shortcut_probes(
    survey: Survey, classes: Sequence[str], probed: Sequence[int], seed: int
) -> list[Probe]:
    """Predict each finding from acquisition artefacts (shortcuts), and from the grey levels.

    Images of the test split are left out, because a finding here may change the recipe.

    Returns:
        One probe each for `size and aspect`, `colour mode and format`, `bytes a pixel`,
        `grey levels`, and for all of them. A side of fewer than 20 patients leaves it undecided. Of
        several findings, each has these, on the images with a known label.
    """
    kept = [row for row, record in enumerate(survey.records) if record.split != "test"]
    if not kept:
        return []
    records = [survey.records[row] for row in kept]
    columns = _columns([survey.facts[row] for row in kept])
    columns["all of these"] = np.concatenate(list(columns.values()), axis=1)
    labels = np.array([record.labels for record in records])
    probes = []
    for number in probed:
        label = labels[:, number - 1]
        of_one = "" if len(classes) == 2 else f"{classes[number]}: "
        for name, table in columns.items():
            check = _compare(records, table, label == 0, label == 1, seed)
            probes.append(Probe(f"{of_one}{name}", check, may_be_disease=name not in _NO_SIGNS))
    return probes


def shift_probes(
    survey: Survey, classes: Sequence[str], probed: Sequence[int], seed: int
) -> list[Probe]:
    """Distinguish the test images of each class from the others by their thumbnails.

    A second probe of each class compares two random halves of its patients outside the test split.
    Its result is the result of chance.

    Returns:
        Two probes for each class that has test images and others; none without a test split.
    """
    if not survey.records:
        return []
    pixels = _standard_pixels(survey.thumbnails)
    is_test = np.array([record.split == "test" for record in survey.records], dtype=bool)
    random = np.random.default_rng(seed)
    patients, patient = np.unique(
        [record.patient for record in survey.records], return_inverse=True
    )
    is_half = random.random(len(patients))[patient] < 0.5
    probes = []
    for number in (0, *probed):
        name = classes[number]
        ours = np.array([is_of_class(record, number) for record in survey.records], dtype=bool)
        if not (ours & is_test).any() or not (ours & ~is_test).any():
            continue
        others = ours & ~is_test
        shift = _compare(survey.records, pixels, others, ours & is_test, seed)
        chance = _compare(survey.records, pixels, others & is_half, others & ~is_half, seed)
        probes += [
            Probe(f"{name}: test against the others", shift),
            Probe(f"{name}: two random halves", chance, is_control=True),
        ]
    return probes


def _columns(facts: Sequence[ImageFacts]) -> dict[str, NDArray[np.float64]]:
    """Return tables with one row per image, by name."""
    height, width, num_bytes = (
        np.log([float(getattr(each, name)) for each in facts])
        for name in ("height", "width", "num_bytes")
    )
    kinds = [f"{each.format} {each.mode}" for each in facts]
    return {
        "size and aspect": np.stack([height, width, width - height, width + height], axis=1),
        "colour mode and format": np.array(
            [[float(kind == known) for known in sorted(set(kinds))] for kind in kinds]
        ),
        "bytes a pixel": (num_bytes - height - width)[:, None],
        "grey levels": np.array([[each.mean, each.deviation, *each.quantiles] for each in facts]),
    }


def _standard_pixels(thumbnails: NDArray[np.uint8]) -> NDArray[np.float64]:
    """Return 16 x 16 thumbnails with mean 0 and deviation 1, to compare framing, not exposure."""
    factor = thumbnails.shape[1] // _PIXELS
    small = thumbnails.reshape(-1, _PIXELS, factor, _PIXELS, factor).mean(axis=(2, 4))
    flat = small.reshape(len(small), -1)
    flat = flat - flat.mean(axis=1, keepdims=True)
    standard: NDArray[np.float64] = flat / np.maximum(flat.std(axis=1, keepdims=True), 1e-6)
    return standard


def _compare(
    records: Sequence[ImageRecord],
    table: NDArray[np.float64],
    first: NDArray[np.bool_],
    second: NDArray[np.bool_],
    seed: int,
) -> ShiftCheck | None:
    if not len(table) or not np.ptp(table, axis=0).any():
        return None
    sides = [_drawn(records, side, seed) for side in (first, second)]
    patients = [[records[row].patient for row in side.tolist()] for side in sides]
    if not all(patients):
        return None
    return check_shift(table[sides[0]], table[sides[1]], *patients, seed=seed)


def _drawn(records: Sequence[ImageRecord], side: NDArray[np.bool_], seed: int) -> NDArray[np.intp]:
    """Return rows of a side, of at most `MAX_PATIENTS` patients."""
    rows = np.flatnonzero(side)
    patients = [records[row].patient for row in rows.tolist()]
    distinct = sorted(set(patients))
    if len(distinct) <= MAX_PATIENTS:
        return rows
    drawn = np.random.default_rng(seed).choice(len(distinct), MAX_PATIENTS, replace=False)
    kept = {distinct[number] for number in drawn}
    return rows[[patient in kept for patient in patients]]
