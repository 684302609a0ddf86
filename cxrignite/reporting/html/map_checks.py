"""Whether the maps mean anything, as `explain` measured it, in words for a clinician."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from cxrignite.reporting.html.numbers import (
    UNDEFINED,
    Estimate,
    decimal,
    decimal_estimate,
    percent,
    share_estimate,
)
from cxrignite.reporting.html.reading import Record
from cxrignite.terminal import counted

# A rank correlation below it is called weak by most; nobody has an interval for it here.
_ALIKE = 0.3

_NOT_MEASURED = "Not measured."
_NO_INTERVAL = "Failed: without an interval, chance is not ruled out."


class MapCheck(NamedTuple):
    """One check of the maps.

    Attributes:
        name: Of the check.
        meaning: What is done, and what would be good.
        maps: What the maps got.
        comparison: What maps got that know nothing of the film.
        reading: What that says.
        is_passed: None where it was not measured.
    """

    name: str
    meaning: str
    maps: Estimate
    comparison: str
    reading: str
    is_passed: bool | None


def map_checks(faithfulness: Record) -> list[MapCheck]:
    """Every check of the maps, those that were not made included.

    Args:
        faithfulness: That of `explain.json`, with whatever is missing.
    """
    masks = faithfulness.child("masks")
    return [
        _against_random(
            "Deletion",
            "the model's score while the places that the map calls important are taken out of "
            "the film, the most important first; lower is better",
            faithfulness.child("deletion"),
            better=-1,
        ),
        _against_random(
            "Insertion",
            "the model's score while they are put back into an empty film; higher is better",
            faithfulness.child("insertion"),
            better=1,
        ),
        _randomization(faithfulness.child("randomization")),
        _pointing_game(masks),
        _energy(masks),
    ]


def checks_summary(checks: Sequence[MapCheck]) -> str:
    """What all checks together say, in a sentence or two."""
    failed = [check.name.lower() for check in checks if check.is_passed is False]
    passed = [check for check in checks if check.is_passed]
    if failed:
        return f"Failed: {', '.join(failed)}. Take none of these maps as a reason for a score."
    if not passed:
        return "No check of these maps was made: nobody knows whether they mean anything."
    made = "every check" if len(passed) == len(checks) else "every check that was made"
    return (
        f"The maps passed {made}: on the whole they show what moved the score. "
        "That does not make a score, or a finding, right."
    )


def checks_size(faithfulness: Record) -> str:
    """On how many films the checks were made; empty where nobody kept that."""
    films, masked = faithfulness.count("num_images"), faithfulness.count("masks.num_images")
    parts = [] if films is None else [counted(films, "film")]
    if masked is not None:
        parts.append(f"{counted(masked, 'film')} whose finding is marked")
    return f"Measured on {' and, for the last two, on '.join(parts)}." if parts else ""


def _against_random(name: str, meaning: str, figures: Record, *, better: int) -> MapCheck:
    """Args: better: The sign of a difference, maps less random maps, that speaks for the maps."""
    maps, random = figures.number("map"), figures.number("random")
    difference, ends = figures.number("difference"), figures.interval("interval")
    reading, is_passed = _difference_reading(difference, ends, better)
    blank = figures.number("blank")
    failed_deletion = better < 0 and is_passed is False
    if failed_deletion and blank is not None and maps is not None and blank >= maps:
        reading = f"{reading} A film without a pixel scores {decimal(blank)}: no map could pass."
    comparison = UNDEFINED if random is None else f"{decimal(random)} with random maps"
    return MapCheck(name, meaning, Estimate(decimal(maps)), comparison, reading, is_passed)


def _difference_reading(
    difference: float | None, ends: tuple[float, float] | None, better: int
) -> tuple[str, bool | None]:
    if difference is None:
        return _NOT_MEASURED, None
    if ends is None:
        return _NO_INTERVAL, False
    told = decimal_estimate(difference, ends)
    figures = f"the difference is {told.value} (95 % interval {told.interval})"
    # The end that is nearest to no difference, and the one that is farthest.
    worst, best = sorted(better * end for end in ends)
    if worst > 0:
        return f"Passed: better than random maps; {figures}.", True
    if best < 0:
        return f"Failed: worse than random maps; {figures}.", False
    return f"Failed: no better than random maps; {figures}, which holds 0.", False


def _randomization(figures: Record) -> MapCheck:
    correlation, models = figures.number("rank_correlation"), figures.count("num_models")
    if correlation is None:
        reading, is_passed = _NOT_MEASURED, None
    elif correlation < _ALIKE:
        reading, is_passed = "Passed: the maps depend on what the model has learned.", True
    else:
        reading = "Failed: a model that has learned nothing gives much the same maps."
        is_passed = False
    return MapCheck(
        "Randomised weights",
        "how alike the maps are to those of the same model with its weights shuffled, as a rank "
        f"correlation: 1 is the same, 0 unlike; below {_ALIKE} is good",
        Estimate(decimal(correlation, 2)),
        UNDEFINED if models is None else f"mean over {counted(models, 'shuffled model')}",
        reading,
        is_passed,
    )


def _pointing_game(masks: Record) -> MapCheck:
    share, ends = masks.number("pointing_game"), masks.interval("pointing_game_interval")
    area, shuffled = masks.number("area"), masks.number("randomized.pointing_game")
    chance = max((each for each in (area, shuffled) if each is not None), default=None)
    if share is None or chance is None:
        reading, is_passed = _NOT_MEASURED, None
    elif ends is None:
        reading, is_passed = _NO_INTERVAL, False
    elif ends[0] > chance:
        reading, is_passed = "Passed: the maps point at the finding, beyond chance.", True
    else:
        reading, is_passed = "Failed: no better than chance or than shuffled weights.", False
    comparison = [
        f"{percent(number)} {of}"
        for number, of in ((area, "by chance"), (shuffled, "with shuffled weights"))
        if number is not None
    ]
    return MapCheck(
        "Pointing game",
        "in how many films the warmest place lies on the finding, where that is marked; higher is "
        "better",
        share_estimate(share, ends),
        ", ".join(comparison) or UNDEFINED,
        reading,
        is_passed,
    )


def _energy(masks: Record) -> MapCheck:
    ratio, shuffled = masks.number("energy_ratio"), masks.number("randomized.energy_ratio")
    energy, area = masks.number("energy"), masks.number("area")
    if ratio is None:
        reading, is_passed = _NOT_MEASURED, None
    elif ratio <= 1:
        reading, is_passed = "Failed: no more on the finding than an even map has.", False
    elif shuffled is not None and ratio <= shuffled:
        reading, is_passed = "Failed: no more on the finding than with shuffled weights.", False
    else:
        on = "" if energy is None else f"{percent(energy)} of the map lies on the finding"
        of = "" if area is None else f", which covers {percent(area)} of the film"
        reading = f"Passed: {on}{of}." if on else "Passed: more on the finding than an even map."
        is_passed = True
    comparison = "1 for an even map"
    if shuffled is not None:
        comparison = f"{comparison}, {decimal(shuffled, 2)} with shuffled weights"
    return MapCheck(
        "Energy on the finding",
        "how many times more of the map lies on the finding than its area accounts for; higher is "
        "better",
        Estimate(UNDEFINED if ratio is None else f"{decimal(ratio, 2)} times"),
        UNDEFINED if ratio is None else comparison,
        reading,
        is_passed,
    )
