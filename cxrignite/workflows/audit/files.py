"""Files that cannot be read, and films that look like no X-ray."""

from __future__ import annotations

import posixpath
from collections import Counter
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np

from cxrignite.data import Film
from cxrignite.data.image_formats import SUFFIXES
from cxrignite.data.reading import Size
from cxrignite.data.survey import FilmFacts, Survey
from cxrignite.runs.audit_result import Finding, examples, film_row
from cxrignite.terminal import counted

# Ours, in grey levels of a film at 64 x 64; of ChestXRay2017's films the flattest deviates by 18.
_BLANK_DEVIATION = 3.0
_NARROW_RANGE = 40.0
# JPEG's own rounding leaves less than one level.
_COLOUR_LEVELS = 3.0
_ODD_ASPECT = 2.0
_SMALLEST: Size = (64, 64)

_Check = Callable[[Film, FilmFacts], str | None]
"""What is strange about a film, or nothing."""


def check_files(survey: Survey, image_size: Size | None) -> list[Finding]:
    """Look at each file by itself, and at how it differs from the others.

    Args:
        survey: Of all films.
        image_size: What they will be read at; smaller films would be blown up.
    """
    findings = _unreadable(survey)
    if not survey.films:
        return findings
    aspects = [each.width / each.height for each in survey.facts]
    checks: Mapping[str, _Check] = {
        "blank": _blank,
        "narrow_range": _narrow_range,
        "colour": _colour,
        "odd_size": _odd_size(image_size or _SMALLEST, float(np.median(aspects))),
        "wrong_suffix": _wrong_suffix,
    }
    for kind, check in checks.items():
        told = [check(*pair) for pair in zip(survey.films, survey.facts, strict=True)]
        found = {row: reason for row, reason in enumerate(told) if reason is not None}
        if found:
            named = [f"{survey.films[row].name} ({reason})" for row, reason in found.items()]
            findings.append(
                Finding(
                    kind,
                    len(found),
                    f"{len(found)} film{'s' * (len(found) != 1)}: {examples(named, 1)}",
                    [film_row(survey.films[row], reason=each) for row, each in found.items()],
                    [[row] for row in found],
                )
            )
    return findings


def check_patients(survey: Survey) -> list[Finding]:
    """Whether anything is known of who is on the films."""
    # What sources call a film of nobody known: by its own name.
    nameless = [
        film
        for film in survey.films
        if film.patient in (film.name, posixpath.splitext(film.name)[0])
    ]
    if not nameless:
        return []
    told = examples([film.name for film in nameless], 1)
    text = f"{len(nameless)} of {len(survey.films)} films: {told}"
    return [Finding("unknown_patient", len(nameless), text, [film_row(f) for f in nameless])]


def _unreadable(survey: Survey) -> list[Finding]:
    if not survey.unreadable:
        return []
    reasons = Counter(error.reason for _, error in survey.unreadable)
    told = "; ".join(f"{count} x {reason}" for reason, count in reasons.most_common(3))
    more = f"; {len(reasons) - 3} more reasons" if len(reasons) > 3 else ""
    rows = [film_row(film, reason=error.reason) for film, error in survey.unreadable]
    return [Finding("unreadable", len(rows), f"{counted(len(rows), 'file')}: {told}{more}", rows)]


def _blank(_: Film, facts: FilmFacts) -> str | None:
    is_flat = facts.deviation < _BLANK_DEVIATION
    return f"its grey levels deviate by {facts.deviation:.1f}" if is_flat else None


def _narrow_range(film: Film, facts: FilmFacts) -> str | None:
    low, high = facts.quantiles[0], facts.quantiles[-1]
    if high - low >= _NARROW_RANGE or _blank(film, facts):
        return None
    return f"98 % of it lies between {low:.0f} and {high:.0f}"


def _colour(_: Film, facts: FilmFacts) -> str | None:
    is_coloured = facts.colour > _COLOUR_LEVELS
    return f"its channels differ by {facts.colour:.1f} levels" if is_coloured else None


def _odd_size(smallest: Size, usual_aspect: float) -> _Check:
    def check(_: Film, facts: FilmFacts) -> str | None:
        size = f"{facts.height} x {facts.width}"
        if facts.height < smallest[0] or facts.width < smallest[1]:
            return f"{size} is under {smallest[0]} x {smallest[1]}"
        ratio = facts.width / facts.height / usual_aspect
        return None if 1 / _ODD_ASPECT < ratio < _ODD_ASPECT else f"{size} is unlike the others"

    return check


def _wrong_suffix(film: Film, facts: FilmFacts) -> str | None:
    suffix = Path(film.name).suffix.lower()
    # An export may call files by numbers; that says nothing wrong.
    says = next((name for name, known in SUFFIXES.items() if suffix in known), facts.format)
    return None if says == facts.format else f"holds {facts.format}"
