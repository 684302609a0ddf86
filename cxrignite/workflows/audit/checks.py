"""Checks for damaged or unusual files, and for patients or images in several places."""

from __future__ import annotations

import os
import posixpath
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from cxrignite.data import ImageRecord, read_image
from cxrignite.data.image_formats import SUFFIXES
from cxrignite.data.leakage import leaked_pairs
from cxrignite.data.reading import Size
from cxrignite.data.survey import ImageFacts, Survey
from cxrignite.errors import UnreadableImageError
from cxrignite.functional.near_duplicates import (
    MIN_DETAIL_CORRELATION,
    NearPair,
    detail_correlation,
    near_duplicates,
)
from cxrignite.runs.audit_result import (
    MAX_COMPARED,
    Finding,
    ListedImage,
    ListedPair,
    conflicting,
)

_DETAIL_SIZE = (128, 128)
_MAX_KEPT = 4_096
# Our choice, in grey levels of an image at 64 x 64. The flattest image of ChestXRay2017 has a
# deviation of 18.
_BLANK_DEVIATION = 3.0
_NARROW_RANGE = 40.0
# Rounding in a JPEG file is less than one level.
_COLOUR_LEVELS = 3.0
_ODD_ASPECT = 2.0
_SMALLEST: Size = (64, 64)


def check_files(survey: Survey, image_size: Size | None) -> list[Finding]:
    """Check each file alone, and compared with the others.

    Images smaller than `image_size`, the size after preprocessing, would be enlarged.
    """
    unreadable = [ListedImage(record, error=error.reason) for record, error in survey.unreadable]
    findings = _listed("unreadable", unreadable)
    if not survey.records:
        return findings
    smallest = image_size or _SMALLEST
    usual_aspect = float(np.median([each.width / each.height for each in survey.facts]))

    def is_odd(_: ImageRecord, facts: ImageFacts) -> bool:
        is_small = facts.height < smallest[0] or facts.width < smallest[1]
        ratio = facts.width / facts.height / usual_aspect
        return is_small or not 1 / _ODD_ASPECT < ratio < _ODD_ASPECT

    checks: Mapping[str, Callable[[ImageRecord, ImageFacts], bool]] = {
        "blank": lambda _, facts: facts.deviation < _BLANK_DEVIATION,
        "narrow_range": lambda _, facts: (
            facts.deviation >= _BLANK_DEVIATION
            and facts.quantiles[-1] - facts.quantiles[0] < _NARROW_RANGE
        ),
        "colour": lambda _, facts: facts.colour > _COLOUR_LEVELS,
        "odd_size": is_odd,
        "wrong_suffix": _has_wrong_suffix,
    }
    for kind, check in checks.items():
        pairs = zip(survey.records, survey.facts, strict=True)
        found = [
            ListedImage(record, facts=facts) for record, facts in pairs if check(record, facts)
        ]
        findings += _listed(kind, found, image_size=smallest if kind == "odd_size" else None)
    return findings


def check_patients(survey: Survey) -> list[Finding]:
    """Check that the patients of the images are known."""
    # For an unknown patient, sources use the name of the image.
    nameless = [
        ListedImage(record)
        for record in survey.records
        if record.patient in (record.name, posixpath.splitext(record.name)[0])
    ]
    return _listed("unknown_patient", nameless)


def check_copies(survey: Survey) -> list[Finding]:
    """Find patients and images that are in several places."""
    records = survey.records
    by_content: dict[str, list[int]] = defaultdict(list)
    by_split: dict[tuple[str, str], list[int]] = defaultdict(list)
    for row, record in enumerate(records):
        by_content[record.sha256].append(row)
        by_split[record.split, record.sha256].append(row)
    distinct = [rows[0] for rows in by_content.values()]
    is_searched = len(distinct) <= MAX_COMPARED
    near = _near_pairs(survey, distinct) if is_searched else []
    across: list[ListedPair] = []
    within: list[ListedPair] = []
    for pair in near:
        alike = ListedPair(
            records[pair.first], records[pair.second], pair.likeness, pair.correlation
        )
        (within if alike.first.split == alike.second.split else across).append(alike)
    leaks: dict[str, list[ListedPair]] = defaultdict(list)
    for leak in leaked_pairs(records):
        leaks[f"{leak.reason}_leakage"].append(ListedPair(leak.first, leak.second))
    findings = [finding for kind, pairs in leaks.items() for finding in _listed(kind, pairs)]
    findings += _listed("near_leakage", across)
    same = [*by_content.values(), *([pair.first, pair.second] for pair in near)]
    conflicts = [rows for rows in same if conflicting([records[row] for row in rows])]
    findings += _listed("label_conflict", _grouped(conflicts, records), len(conflicts))
    copies = [rows for rows in by_split.values() if len(rows) > 1]
    findings += _listed("duplicate", _grouped(copies, records), len(copies))
    findings += _listed("near_duplicate", within)
    if not is_searched:
        findings.append(Finding("not_compared", len(distinct)))
    return findings


def _listed(
    kind: str,
    rows: Sequence[ListedImage] | Sequence[ListedPair],
    count: int | None = None,
    image_size: Size | None = None,
) -> list[Finding]:
    """Return a finding with its list; none if the list is empty."""
    if not rows:
        return []
    number = len(rows) if count is None else count
    return [Finding(kind, number, image_size=image_size, list_file=f"{kind}.csv", rows=tuple(rows))]


def _grouped(groups: Iterable[Sequence[int]], records: Sequence[ImageRecord]) -> list[ListedImage]:
    return [
        ListedImage(records[row], group=number)
        for number, rows in enumerate(groups, start=1)
        for row in rows
    ]


def _near_pairs(survey: Survey, rows: Sequence[int]) -> list[NearPair]:
    """Find pairs of similar images, among one image of each content."""
    found = near_duplicates(survey.thumbnails[list(rows)])
    pairs = [pair._replace(first=rows[pair.first], second=rows[pair.second]) for pair in found]

    @lru_cache(_MAX_KEPT)
    def read(row: int) -> NDArray[np.uint8]:
        return read_image(survey.records[row].file, _DETAIL_SIZE, survey.grey_scaling)

    def shares_detail(pair: NearPair) -> bool:
        try:
            first, second = read(pair.first), read(pair.second)
        except UnreadableImageError:  # it has changed since the survey
            return False
        return detail_correlation(first, second, pair.likeness) >= MIN_DETAIL_CORRELATION

    with ThreadPoolExecutor(os.cpu_count(), thread_name_prefix="compare") as pool:
        is_copy = pool.map(shares_detail, pairs)
        return [pair for pair, holds in zip(pairs, is_copy, strict=True) if holds]


def _has_wrong_suffix(record: ImageRecord, facts: ImageFacts) -> bool:
    suffix = Path(record.name).suffix.lower()
    # An unknown suffix, such as a number from an export, is not wrong.
    known = next((name for name, suffixes in SUFFIXES.items() if suffix in suffixes), facts.format)
    return known != facts.format
