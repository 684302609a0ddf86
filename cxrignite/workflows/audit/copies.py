"""The same patient or picture where it must not be: on two sides, under two labels, twice."""

from __future__ import annotations

import os
from collections import defaultdict
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from cxrignite.data import Film, read_image
from cxrignite.data.leakage import LeakedPair, leaked_pairs
from cxrignite.data.survey import Survey
from cxrignite.errors import UnreadableImageError
from cxrignite.functional.near_duplicates import (
    MIN_DETAIL_CORRELATION,
    NearPair,
    detail_correlation,
    near_duplicates,
)
from cxrignite.runs.audit_result import Finding, examples, film_row, pair_row
from cxrignite.terminal import counted

MAX_COMPARED = 100_000
"""More films than this are not searched for near duplicates, which would take hours."""

_DETAIL_SIZE = (128, 128)
_MAX_KEPT = 4_096


def check_copies(survey: Survey) -> list[Finding]:
    """Look for patients and pictures that stand in several places.

    Args:
        survey: Of all films, each in its split.
    """
    films = survey.films
    groups: dict[str, list[int]] = defaultdict(list)
    for row, film in enumerate(films):
        groups[film.sha256].append(row)
    copies = [rows for rows in groups.values() if len(rows) > 1]
    distinct = [rows[0] for rows in groups.values()]
    near = _near_pairs(survey, distinct) if len(distinct) <= MAX_COMPARED else []
    across = [pair for pair in near if films[pair.first].split != films[pair.second].split]
    within = [pair for pair in near if films[pair.first].split == films[pair.second].split]
    return [
        *_leaks(films),
        *_near("near_leakage", across, films),
        *_conflicts([*copies, *([pair.first, pair.second] for pair in near)], films),
        *_duplicates(films),
        *_near("near_duplicate", within, films),
        *_not_compared(len(distinct)),
    ]


def _near_pairs(survey: Survey, rows: Sequence[int]) -> list[NearPair]:
    """Pairs that are alike, among one film of each content."""
    found = near_duplicates(survey.thumbnails[list(rows)])
    pairs = [pair._replace(first=rows[pair.first], second=rows[pair.second]) for pair in found]

    @lru_cache(_MAX_KEPT)
    def read(row: int) -> NDArray[np.uint8]:
        return read_image(survey.films[row].file, _DETAIL_SIZE, survey.grey_scaling)

    def shares_detail(pair: NearPair) -> bool:
        try:
            first, second = read(pair.first), read(pair.second)
        except UnreadableImageError:  # it could be read a moment ago
            return False
        return detail_correlation(first, second, pair.likeness) >= MIN_DETAIL_CORRELATION

    with ThreadPoolExecutor(os.cpu_count(), thread_name_prefix="compare") as pool:
        is_copy = pool.map(shares_detail, pairs)
        return [pair for pair, holds in zip(pairs, is_copy, strict=True) if holds]


def _not_compared(num_pictures: int) -> list[Finding]:
    if num_pictures <= MAX_COMPARED:
        return []
    text = f"{num_pictures:,} different files, at most {MAX_COMPARED:,} are compared"
    return [Finding("not_compared", num_pictures, text)]


def _leaks(films: Sequence[Film]) -> list[Finding]:
    places = {id(film): row for row, film in enumerate(films)}
    by_reason: dict[str, list[LeakedPair]] = defaultdict(list)
    for pair in leaked_pairs(films):
        by_reason[pair.reason].append(pair)
    findings = []
    for reason, pairs in by_reason.items():
        keys = {pair.first.patient if reason == "patient" else pair.first.name for pair in pairs}
        what = "patient" if reason == "patient" else "picture"
        also = counted(len(keys), what)
        text = (
            f"{counted(len(pairs), 'film')} outside of train, {also} also in another split: "
            f"{examples(sorted(keys))}"
        )
        rows = [pair_row(pair.first, pair.second) for pair in pairs]
        shown = [[places[id(pair.first)], places[id(pair.second)]] for pair in pairs]
        findings.append(Finding(f"{reason}_leakage", len(pairs), text, rows, shown))
    return findings


def _conflicts(groups: Sequence[Sequence[int]], films: Sequence[Film]) -> list[Finding]:
    conflicts = [rows for rows in groups if len({films[row].label for row in rows}) > 1]
    if not conflicts:
        return []
    named = examples([" and ".join(films[row].name for row in rows) for rows in conflicts], 1)
    text = f"{counted(len(conflicts), 'picture')}: {named}"
    return [Finding("label_conflict", len(conflicts), text, _grouped(conflicts, films), conflicts)]


def _duplicates(films: Sequence[Film]) -> list[Finding]:
    groups: dict[tuple[str, str], list[int]] = defaultdict(list)
    for row, film in enumerate(films):
        groups[film.split, film.sha256].append(row)
    copies = [rows for rows in groups.values() if len(rows) > 1]
    if not copies:
        return []
    num_files = sum(map(len, copies))
    num_pairs = sum(len(rows) * (len(rows) - 1) // 2 for rows in copies)
    text = (
        f"{counted(len(copies), 'group')} of identical files: {counted(num_files, 'file')}, "
        f"{counted(num_pairs, 'pair')}"
    )
    return [Finding("duplicate", len(copies), text, _grouped(copies, films), copies)]


def _near(kind: str, pairs: Sequence[NearPair], films: Sequence[Film]) -> list[Finding]:
    if not pairs:
        return []
    sides = [(films[pair.first], films[pair.second]) for pair in pairs]
    strangers = sum(first.patient != second.patient for first, second in sides)
    named = examples([f"{first.name} and {second.name}" for first, second in sides], 1)
    text = f"{counted(len(pairs), 'pair')}, {strangers} of them of different patients: {named}"
    rows = [
        pair_row(*side, likeness=pair.likeness, correlation=f"{pair.correlation:.4f}")
        for side, pair in zip(sides, pairs, strict=True)
    ]
    return [Finding(kind, len(pairs), text, rows, [[pair.first, pair.second] for pair in pairs])]


def _grouped(groups: Sequence[Sequence[int]], films: Sequence[Film]) -> list[dict[str, object]]:
    return [
        film_row(films[row], group=number)
        for number, rows in enumerate(groups, start=1)
        for row in rows
    ]
