import pytest

from cxrignite.workflows.report.map_checks import checks_size, checks_summary, map_checks
from cxrignite.workflows.report.reading import Record

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


@pytest.mark.parametrize(
    ("name", "ends", "passed", "told"),
    [
        ("deletion", [-0.25, -0.17], True, "Passed: better than random maps"),
        ("deletion", [-0.25, 0.0], False, "Failed: no better than random maps"),
        ("deletion", [-0.1, 0.1], False, "Failed: no better than random maps"),
        ("deletion", [0.17, 0.25], False, "Failed: worse than random maps"),
        ("insertion", [0.17, 0.25], True, "Passed: better than random maps"),
        ("insertion", [0.0, 0.25], False, "Failed: no better than random maps"),
        ("insertion", [-0.1, 0.1], False, "Failed: no better than random maps"),
        ("insertion", [-0.25, -0.17], False, "Failed: worse than random maps"),
    ],
)
def test_maps_beat_random_ones_where_the_whole_interval_lies_on_the_right_side(
    name, ends, passed, told
):
    figures = {"map": 0.41, "random": 0.62, "difference": sum(ends) / 2, "interval": ends}
    check = checked(**{name: figures})[name.capitalize()]
    assert check.is_passed is passed
    assert check.reading.startswith(f"{told}; the difference is ")


@pytest.mark.parametrize(("blank", "is_told"), [(0.99, True), (0.1, False), (None, False)])
def test_a_deletion_that_no_map_could_pass_is_told(blank, is_told):
    figures = {"map": 0.9, "random": 0.8, "difference": 0.1, "interval": [0.05, 0.2]}
    check = checked(deletion=figures | {"blank": blank})["Deletion"]
    assert check.is_passed is False
    assert ("no map could pass" in check.reading) is is_told


def test_figures_stand_with_their_interval():
    figures = {"map": 0.41, "random": 0.62, "difference": -0.21, "interval": [-0.25, -0.17]}
    check = checked(deletion=figures)["Deletion"]
    assert (check.maps.value, check.comparison) == ("0.410", "0.620 with random maps")
    assert check.reading == (
        "Passed: better than random maps; the difference is "
        f"{MINUS}0.210 (95 % interval {MINUS}0.250 to {MINUS}0.170)."
    )


@pytest.mark.parametrize("interval", [None, [None, None], [-0.3, None]])
def test_a_difference_without_an_interval_rules_out_no_chance(interval):
    figures = {"map": 0.4, "random": 0.6, "difference": -0.2, "interval": interval}
    check = checked(deletion=figures)["Deletion"]
    assert check.is_passed is False
    assert "without an interval" in check.reading


@pytest.mark.parametrize(
    ("correlation", "passed"), [(0.05, True), (-0.2, True), (0.3, False), (0.97, False)]
)
def test_maps_that_hardly_change_with_shuffled_weights_fail(correlation, passed):
    figures = {"rank_correlation": correlation, "num_models": 5}
    check = checked(randomization=figures)["Randomised weights"]
    assert check.is_passed is passed
    assert check.comparison == "mean over 5 shuffled models"


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
    assert masked(**changes)[0].is_passed is passed


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
    assert masked(**changes)[1].is_passed is passed


def test_the_figures_of_the_masks_are_told_in_words():
    pointing, energy = masked()
    assert (
        pointing.comparison.replace("\xa0", " ") == "5.0 % by chance, 6.0 % with shuffled weights"
    )
    assert pointing.maps.interval.replace("\xa0", " ") == "83.0 to 94.0 %"
    assert energy.maps.value == "10.20 times"
    assert energy.reading.replace("\xa0", " ") == (
        "Passed: 50.0 % of the map lies on the finding, which covers 5.0 % of the film."
    )


def test_what_was_not_measured_is_neither_passed_nor_failed():
    checks = checked()
    assert len(checks) == 5
    assert {check.reading for check in checks.values()} == {"Not measured."}
    assert "No check of these maps was made" in checks_summary(list(checks.values()))


def test_one_failed_check_takes_the_maps_back_as_reasons():
    randomization = {"rank_correlation": 0.9}
    told = checks_summary(list(checked(masks=MASKS, randomization=randomization).values()))
    assert told == "Failed: randomised weights. Take none of these maps as a reason for a score."


def test_checks_that_were_not_made_are_not_claimed():
    told = checks_summary(list(checked(masks=MASKS).values()))
    assert told.startswith("The maps passed every check that was made:")


def test_the_number_of_films_is_told_as_far_as_it_is_known():
    assert checks_size(Record({"num_images": 1})) == "Measured on 1 film."
    assert checks_size(Record({})) == ""
