"""Checks of class activation maps, measured by `explain`, for the report."""

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

# A rank correlation below it is usually called weak; no interval is computed for it.
_ALIKE = 0.3

_NOT_MEASURED = "Not measured."
_NO_INTERVAL = "Failed: there is no interval, so chance is not ruled out."


class MapCheck(NamedTuple):
    """One check of the maps.

    Attributes:
        name: Name of the check.
        meaning: The measurement, and which direction is good.
        maps: Result of the maps.
        comparison: Result of random or shuffled maps.
        reading: Interpretation.
        is_passed: None if it was not measured.
    """

    name: str
    meaning: str
    maps: Figure
    comparison: str
    reading: str
    is_passed: bool | None


def map_checks(checks: MapChecks) -> list[MapCheck]:
    """List every check of the maps, including those that were not measured."""
    return [
        _against_random(
            "Deletion",
            "mean score of the model while the places that the map marks as important are removed "
            "from the image, the most important first; lower is better",
            checks.positive.deletion,
            better=-1,
        ),
        _against_random(
            "Insertion",
            "mean score while the same places are inserted into a blank image; higher is better",
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
        return f"Failed: {', '.join(failed)}. Do not use these maps to explain a score."
    measured = "every check" if len(passed) == len(checks) else "every check that was measured"
    return (
        f"The maps passed {measured}: overall, they show which places affect the score. "
        "They do not show that a score or a decision is right."
    )


def checks_size(checks: MapChecks) -> str:
    """Describe the number of images in the checks."""
    size = f"Measured on {counted(checks.positive.num_images, 'image')}"
    if checks.masks is None:
        return f"{size}."
    return (
        f"{size} and, for the last two checks, on {counted(checks.masks.num_images, 'image')} with "
        "a marked finding."
    )


def _against_random(name: str, meaning: str, check: PerturbationCheck, *, better: int) -> MapCheck:
    """Compare a score with that of random maps; `better` is the sign of a good difference."""
    reading, is_passed = _difference_reading(check, better)
    if better < 0 and not is_passed and check.blank >= check.by_map:
        reading = f"{reading} A blank image scores {decimal(check.blank)}, so no map could pass."
    comparison = f"{decimal(check.by_chance)} with random maps"
    return MapCheck(name, meaning, Figure(decimal(check.by_map)), comparison, reading, is_passed)


def _difference_reading(check: PerturbationCheck, better: int) -> tuple[str, bool]:
    ends = check.difference.by_patient
    if ends is None:
        return _NO_INTERVAL, False
    text = decimal_estimate(check.difference.value, ends)
    figures = f"difference {text.value} (95 % interval {text.interval})"
    # The least and the most favourable end.
    worst, best = sorted(better * end for end in ends)
    if worst > 0:
        return f"Passed: better than random maps; {figures}.", True
    if best < 0:
        return f"Failed: worse than random maps; {figures}.", False
    return f"Failed: no better than random maps; {figures}, which includes 0.", False


def _randomization(checks: MapChecks) -> MapCheck:
    correlation = checks.rank_correlation
    reading, is_passed = _NOT_MEASURED, None
    if correlation is not None:
        is_passed = correlation < _ALIKE
        reading = (
            "Passed: the maps depend on the trained weights."
            if is_passed
            else "Failed: an untrained model gives similar maps."
        )
    return MapCheck(
        "Randomised weights",
        "rank correlation of the maps with those of the same model with shuffled weights: "
        f"1 is identical, 0 unrelated; below {_ALIKE} is good",
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
            "Passed: the maps point at the finding more often than by chance."
            if is_passed
            else "Failed: not better than chance and shuffled weights."
        )
    return MapCheck(
        "Pointing game",
        "share of images with a marked finding in which the maximum of the map is on the finding; "
        "higher is better",
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
            reading = "Failed: no more of the map is on the finding than of an even map."
        elif masks.energy_ratio <= masks.random_energy_ratio:
            reading = "Failed: no more of the map is on the finding than with shuffled weights."
        else:
            is_passed = True
            reading = (
                f"Passed: {percent(masks.energy)} of the map is on the finding, which covers "
                f"{percent(masks.area)} of the image."
            )
    return MapCheck(
        "Energy on the finding",
        "share of the map on the finding, divided by the finding's share of the image; higher is "
        "better",
        maps,
        comparison,
        reading,
        is_passed,
    )
