import re

import pytest
from messages import line_with, missing

from cxrignite.reporting.html.map_checks import checks_size, checks_summary, map_checks
from cxrignite.reporting.html.reading import Record

MINUS = "\N{MINUS SIGN}"
MASKS = {
    "num_images": 120,
    "pointing_game": 0.9,
    "pointing_game_interval": [0.83, 0.94],
    "energy": 0.5,
    "area": 0.05,
    "energy_ratio": 10.2,
    "randomized": {"pointing_game": 0.06, "energy_ratio": 1.1},
}


def checked(**faithfulness):
    return {check.name: check for check in map_checks(Record(faithfulness))}


def masked(**changes):
    checks = checked(masks=MASKS | changes)
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
        figures = {"map": 0.41, "random": 0.62, "difference": sum(ends) / 2, "interval": ends}
        check = checked(**{name: figures})[name.capitalize()]
        assert check.is_passed is passed
        readings.append(without_numbers(reading_of(check, "95 %")))
    better, reaches_none, around_none, worse = readings
    assert reaches_none == around_none
    assert len({better, around_none, worse}) == 3


def test_a_deletion_that_no_map_could_pass_is_told():
    figures = {"map": 0.9, "random": 0.8, "difference": 0.1, "interval": [0.05, 0.2]}
    plain = checked(deletion=figures)["Deletion"]
    unlike = checked(deletion=figures | {"blank": 0.1})["Deletion"]
    alike = checked(deletion=figures | {"blank": 0.99})["Deletion"]
    assert plain == unlike
    assert alike.is_passed is plain.is_passed is False
    line_with(alike.reading.removeprefix(plain.reading), "0.990")


def test_figures_stand_with_their_interval():
    figures = {"map": 0.41, "random": 0.62, "difference": -0.21, "interval": [-0.25, -0.17]}
    check = checked(deletion=figures)["Deletion"]
    assert check.maps.value == "0.410"
    line_with(check.comparison, "0.620")
    reading_of(check, f"{MINUS}0.210", "95 %", f"{MINUS}0.250 to {MINUS}0.170")


@pytest.mark.parametrize("interval", [None, [None, None], [-0.3, None]])
def test_a_difference_without_an_interval_rules_out_no_chance(interval):
    figures = {"map": 0.4, "random": 0.6, "difference": -0.2, "interval": interval}
    check = checked(deletion=figures)["Deletion"]
    assert check.is_passed is False
    assert not re.search(r"\d", reading_of(check))


@pytest.mark.parametrize(
    ("correlation", "passed"), [(0.05, True), (-0.2, True), (0.3, False), (0.97, False)]
)
def test_maps_that_hardly_change_with_shuffled_weights_fail(correlation, passed):
    figures = {"rank_correlation": correlation, "num_models": 5}
    check = checked(randomization=figures)["Randomised weights"]
    assert check.is_passed is passed
    line_with(check.comparison, 5)
    reading_of(check)


@pytest.mark.parametrize(
    ("changes", "passed"),
    [
        ({}, True),
        ({"pointing_game_interval": [0.05, 0.94]}, False),  # reaches the area
        ({"randomized": {"pointing_game": 0.85}}, False),  # shuffled weights do as well
        ({"pointing_game_interval": [None, None]}, False),
        ({"pointing_game": None}, None),
        ({"area": None, "randomized": None}, None),
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
        ({"randomized": None}, True),
        ({"energy": None}, True),
        ({"energy_ratio": 1.0}, False),
        ({"energy_ratio": 1.05}, False),  # shuffled weights have 1.1
        ({"energy_ratio": None}, None),
    ],
)
def test_energy_on_the_finding_has_to_be_more_than_that_of_an_even_map(changes, passed):
    check = masked(**changes)[1]
    assert check.is_passed is passed
    reading_of(check)


def test_the_figures_of_the_masks_are_told_in_words():
    pointing, energy = masked()
    line_with(plain(pointing.comparison), "5.0 %", "6.0 %")
    assert re.findall(r"[\d.]+ %", plain(pointing.comparison)) == ["5.0 %", "6.0 %"]
    assert plain(pointing.maps.interval) == "83.0 to 94.0 %"
    assert missing(energy.maps.value, ["10.20"]) == []
    line_with(energy.comparison, 1, "1.10")
    reading_of(energy, "50.0 %", "5.0 %")


def test_what_was_not_measured_is_neither_passed_nor_failed():
    checks = list(checked().values())
    assert [check.is_passed for check in checks] == [None] * 5
    (reading,) = {check.reading for check in checks}
    line_with(reading)


def test_all_checks_together_pass_fail_or_say_nothing():
    """One that failed takes the maps back as reasons, and one that was not made is not claimed."""
    good = {"map": 0.4, "random": 0.6, "difference": 0.0}
    curves = {
        "deletion": good | {"interval": [-0.3, -0.1]},
        "insertion": good | {"interval": [0.1, 0.3]},
    }
    some = checked(masks=MASKS)
    every = checked(masks=MASKS, randomization={"rank_correlation": 0.05}, **curves)
    failed = checked(masks=MASKS, randomization={"rank_correlation": 0.9}, **curves)
    assert [check.is_passed for check in every.values()] == [True] * 5
    summaries = [checks_summary(list(each.values())) for each in (checked(), some, every, failed)]
    assert len({line_with(summary) for summary in summaries}) == 4
    names = [name.lower() for name in every]
    named = [[name for name in names if not missing(told, [name])] for told in summaries]
    assert named == [[], [], [], ["randomised weights"]]


def test_the_number_of_films_is_told_as_far_as_it_is_known():
    line_with(checks_size(Record({"num_images": 1})), 1)
    line_with(checks_size(Record({"num_images": 32, "masks": MASKS})), 32, 120)
    assert checks_size(Record({})) == ""
