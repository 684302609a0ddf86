"""Checks of class activation maps, as `explain` measured them, for a reader of the report."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from cxrignite.reporting.numbers import (
    UNDEFINED,
    Figure,
    decimal,
    decimal_estimate,
    percent,
    share_estimate,
)
from cxrignite.runs.map_evaluation import MapChecks, MaskCheck, PerturbationCheck
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
        comparison: What maps got that know nothing of the image.
        reading: What that says.
        is_passed: None where it was not measured.
    """

    name: str
    meaning: str
    maps: Figure
    comparison: str
    reading: str
    is_passed: bool | None


def map_checks(checks: MapChecks) -> list[MapCheck]:
    """List every check of the maps, those that could not be made included.

    Args:
        checks: What was measured.
    """
    return [
        _against_random(
            "Deletion",
            "the model's score while the places that the map calls important are removed from the "
            "image, the most important first; lower is better",
            checks.positive.deletion,
            better=-1,
        ),
        _against_random(
            "Insertion",
            "the model's score while they are put back into an empty image; higher is better",
            checks.positive.insertion,
            better=1,
        ),
        _randomization(checks),
        _pointing_game(checks.masks),
        _energy(checks.masks),
    ]


def checks_summary(checks: Sequence[MapCheck]) -> str:
    """Summarise all checks in a sentence or two."""
    failed = [check.name.lower() for check in checks if check.is_passed is False]
    passed = [check for check in checks if check.is_passed]
    if failed:
        return f"Failed: {', '.join(failed)}. Take none of these maps as a reason for a score."
    made = "every check" if len(passed) == len(checks) else "every check that was made"
    return (
        f"The maps passed {made}: on the whole they show what moved the score. "
        "That does not make a score, or a finding, right."
    )


def checks_size(checks: MapChecks) -> str:
    """Return on how many images the checks were made."""
    size = f"Measured on {counted(checks.positive.num_images, 'image')}"
    if checks.masks is None:
        return f"{size}."
    return (
        f"{size} and, for the last two, on {counted(checks.masks.num_images, 'image')} whose "
        "finding is marked."
    )


def _against_random(name: str, meaning: str, check: PerturbationCheck, *, better: int) -> MapCheck:
    """Args: better: The sign of a difference, maps less random maps, that speaks for the maps."""
    reading, is_passed = _difference_reading(check, better)
    if better < 0 and not is_passed and check.blank >= check.by_map:
        reading = (
            f"{reading} An image without a pixel scores {decimal(check.blank)}: no map could pass."
        )
    comparison = f"{decimal(check.by_chance)} with random maps"
    return MapCheck(name, meaning, Figure(decimal(check.by_map)), comparison, reading, is_passed)


def _difference_reading(check: PerturbationCheck, better: int) -> tuple[str, bool]:
    ends = check.difference.by_patient
    if ends is None:
        return _NO_INTERVAL, False
    text = decimal_estimate(check.difference.value, ends)
    figures = f"the difference is {text.value} (95 % interval {text.interval})"
    # The end that is nearest to no difference, and the one that is farthest.
    worst, best = sorted(better * end for end in ends)
    if worst > 0:
        return f"Passed: better than random maps; {figures}.", True
    if best < 0:
        return f"Failed: worse than random maps; {figures}.", False
    return f"Failed: no better than random maps; {figures}, which holds 0.", False


def _randomization(checks: MapChecks) -> MapCheck:
    correlation = checks.rank_correlation
    reading, is_passed = _NOT_MEASURED, None
    if correlation is not None:
        is_passed = correlation < _ALIKE
        reading = (
            "Passed: the maps depend on what the model has learned."
            if is_passed
            else "Failed: a model that has learned nothing gives much the same maps."
        )
    return MapCheck(
        "Randomised weights",
        "how alike the maps are to those of the same model with its weights shuffled, as a rank "
        f"correlation: 1 is the same, 0 unlike; below {_ALIKE} is good",
        Figure(decimal(correlation, 2)),
        f"mean over {counted(checks.num_random_models, 'shuffled model')}",
        reading,
        is_passed,
    )


def _pointing_game(masks: MaskCheck | None) -> MapCheck:
    maps, comparison, reading, is_passed = Figure(), UNDEFINED, _NOT_MEASURED, None
    if masks is not None:
        maps = share_estimate(masks.pointing_game, masks.pointing_game_interval)
        comparison = (
            f"{percent(masks.area)} by chance, {percent(masks.random_pointing_game)} with "
            "shuffled weights"
        )
        is_passed = masks.pointing_game_interval.low > max(masks.area, masks.random_pointing_game)
        reading = (
            "Passed: the maps point at the finding, beyond chance."
            if is_passed
            else "Failed: no better than chance or than shuffled weights."
        )
    return MapCheck(
        "Pointing game",
        "in how many images the warmest place lies on the finding, if that is marked; higher is "
        "better",
        maps,
        comparison,
        reading,
        is_passed,
    )


def _energy(masks: MaskCheck | None) -> MapCheck:
    maps, comparison, reading, is_passed = Figure(), UNDEFINED, _NOT_MEASURED, None
    if masks is not None:
        maps = Figure(f"{decimal(masks.energy_ratio, 2)} times")
        shuffled = decimal(masks.random_energy_ratio, 2)
        comparison = f"1 for an even map, {shuffled} with shuffled weights"
        is_passed = False
        if masks.energy_ratio <= 1:
            reading = "Failed: no more on the finding than an even map has."
        elif masks.energy_ratio <= masks.random_energy_ratio:
            reading = "Failed: no more on the finding than with shuffled weights."
        else:
            is_passed = True
            reading = (
                f"Passed: {percent(masks.energy)} of the map lies on the finding, which covers "
                f"{percent(masks.area)} of the image."
            )
    return MapCheck(
        "Energy on the finding",
        "how many times more of the map lies on the finding than its area accounts for; higher is "
        "better",
        maps,
        comparison,
        reading,
        is_passed,
    )
