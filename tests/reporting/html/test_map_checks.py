import re
from dataclasses import replace

import pytest
from messages import line_with, missing

from cxrignite.functional import Interval
from cxrignite.reporting.html.map_checks import checks_size, checks_summary, map_checks
from cxrignite.runs.evaluation import Estimate
from cxrignite.runs.map_evaluation import (
    MapChecks,
    MaskCheck,
    PerturbationCheck,
    PerturbationChecks,
)

MINUS = "\N{MINUS SIGN}"
MASKS = MaskCheck(
    num_images=120,
    pointing_game=0.9,
    pointing_game_interval=Interval(0.83, 0.94),
    energy=0.5,
    area=0.05,
    energy_ratio=10.2,
    random_pointing_game=0.06,
    random_energy_ratio=1.1,
)


def curve(by_map, by_chance, low=None, high=None, blank=0.1):
    ends = None if low is None else Interval(low, high)
    return PerturbationCheck(by_map, by_chance, Estimate(by_map - by_chance, None, ends), blank)


CHECKS = MapChecks(
    PerturbationChecks(32, curve(0.41, 0.62, -0.25, -0.17), curve(0.8, 0.7, 0.05, 0.15)),
    negative=None,
    rank_correlation=0.05,
    num_random_models=5,
    masks=MASKS,
)


def checked(checks=CHECKS, **curves):
    if curves:
        checks = replace(checks, positive=replace(checks.positive, **curves))
    return {check.name: check for check in map_checks(checks)}


def masked(**changes):
    checks = checked(replace(CHECKS, masks=replace(MASKS, **changes)))
    return checks["Pointing game"], checks["Energy on the finding"]


def reading_of(check, *facts):
    status = {True: ["Passed"], False: ["Failed"], None: []}[check.is_passed]
    return line_with(plain(check.reading), *status, *facts)


def plain(text):
    return text.replace("\xa0", " ")


def without_numbers(reading):
    return re.sub(rf"{MINUS}?\d\.\d+", "#", reading)


@pytest.mark.parametrize("name", ["deletion", "insertion"])
def test_maps_beat_random_ones_where_the_whole_interval_lies_on_the_right_side(name):
    readings = []
    for passed, low, high in (
        (True, 0.17, 0.25),
        (False, 0.0, 0.25),
        (False, -0.1, 0.1),
        (False, -0.25, -0.17),
    ):
        ends = [-high, -low] if name == "deletion" else [low, high]
        check = checked(**{name: curve(0.41, 0.62, *ends)})[name.capitalize()]
        assert check.is_passed is passed
        readings.append(without_numbers(reading_of(check, "95 %")))
    better, reaches_none, around_none, worse = readings
    assert reaches_none == around_none
    assert len({better, around_none, worse}) == 3


def test_a_deletion_that_no_map_could_pass_is_reported():
    figures = curve(0.9, 0.8, 0.05, 0.2)
    plain = checked(deletion=figures)["Deletion"]
    alike = checked(deletion=replace(figures, blank=0.99))["Deletion"]
    assert alike.is_passed is plain.is_passed is False
    line_with(alike.reading.removeprefix(plain.reading), "0.990")


def test_figures_stand_with_their_interval():
    check = checked()["Deletion"]
    assert check.maps.value == "0.410"
    line_with(check.comparison, "0.620")
    reading_of(check, f"{MINUS}0.210", "95 %", f"{MINUS}0.250 to {MINUS}0.170")


def test_a_difference_without_an_interval_rules_out_no_chance():
    check = checked(deletion=curve(0.4, 0.6))["Deletion"]
    assert check.is_passed is False
    assert not re.search(r"\d", reading_of(check))


@pytest.mark.parametrize(
    ("correlation", "passed"), [(0.05, True), (-0.2, True), (0.3, False), (0.97, False)]
)
def test_maps_that_hardly_change_with_shuffled_weights_fail(correlation, passed):
    check = checked(replace(CHECKS, rank_correlation=correlation))["Randomised weights"]
    assert check.is_passed is passed
    line_with(check.comparison, 5)
    reading_of(check)


@pytest.mark.parametrize(
    ("changes", "passed"),
    [
        ({}, True),
        ({"pointing_game_interval": Interval(0.05, 0.94)}, False),  # reaches the area
        ({"random_pointing_game": 0.85}, False),  # shuffled weights do as well
    ],
)
def test_the_pointing_game_is_held_against_chance_and_shuffled_weights(changes, passed):
    check = masked(**changes)[0]
    assert check.is_passed is passed
    reading_of(check)


@pytest.mark.parametrize(
    ("changes", "passed"),
    [
        ({}, True),
        ({"energy_ratio": 1.0}, False),
        ({"energy_ratio": 1.05}, False),  # shuffled weights have 1.1
    ],
)
def test_energy_on_the_finding_has_to_be_more_than_that_of_an_even_map(changes, passed):
    check = masked(**changes)[1]
    assert check.is_passed is passed
    reading_of(check)


def test_the_figures_of_the_masks_are_reported_in_words():
    pointing, energy = masked()
    line_with(plain(pointing.comparison), "5.0 %", "6.0 %")
    assert re.findall(r"[\d.]+ %", plain(pointing.comparison)) == ["5.0 %", "6.0 %"]
    assert plain(pointing.maps.interval) == "83.0 to 94.0 %"
    assert missing(energy.maps.value, ["10.20"]) == []
    line_with(energy.comparison, 1, "1.10")
    reading_of(energy, "50.0 %", "5.0 %")


def test_what_was_not_measured_is_neither_passed_nor_failed():
    _, _, *checks = checked(replace(CHECKS, rank_correlation=None, masks=None)).values()
    assert [check.is_passed for check in checks] == [None] * 3
    (reading,) = {check.reading for check in checks}
    line_with(reading)


def test_all_checks_together_pass_fail_or_say_nothing():
    """One that failed takes the maps back as reasons, and one that was not made is not claimed."""
    some = checked(replace(CHECKS, masks=None))
    every = checked()
    failed = checked(replace(CHECKS, rank_correlation=0.9))
    assert [check.is_passed for check in every.values()] == [True] * 5
    summaries = [checks_summary(list(each.values())) for each in (some, every, failed)]
    assert len({line_with(summary) for summary in summaries}) == 3
    names = [name.lower() for name in every]
    named = [[name for name in names if not missing(printed, [name])] for printed in summaries]
    assert named == [[], [], ["randomised weights"]]


def test_the_number_of_images_is_reported():
    line_with(checks_size(replace(CHECKS, masks=None)), 32)
    line_with(checks_size(CHECKS), 32, 120)
