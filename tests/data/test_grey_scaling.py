"""Grey scaling against numpy's own percentiles, and the images that it leaves nearly blank."""

import numpy as np
import pytest

from cxrignite.data.grey_scaling import grey_levels, is_nearly_blank, rescaled, used_range

SHARES = {"minmax": (0, 100), "percentiles": (1, 99)}


@pytest.fixture
def pixels():
    """Twelve bits in sixteen, with a few pixels far from the others."""
    values = np.random.default_rng(3).normal(2000, 300, (90, 70)).clip(0, 4095).astype(np.uint16)
    values[0, :5] = 65_535
    return values


@pytest.mark.parametrize("scaling", SHARES)
@pytest.mark.parametrize("slope", [1.0, -0.5])
def test_the_ends_are_numpys_percentiles(pixels, scaling, slope):
    values = np.arange(2.0**16) * slope + 7
    expected = np.percentile(values[pixels], SHARES[scaling], method="inverted_cdf")
    assert used_range(pixels, values, scaling) == tuple(expected)


@pytest.mark.parametrize("scaling", ["file", *SHARES])
def test_sixteen_bits_are_spread_over_all_grey_levels(pixels, scaling):
    low, high = np.percentile(pixels, SHARES.get(scaling, (0, 100)), method="inverted_cdf")
    expected = np.round(((pixels - float(low)) / (high - low)).clip(0, 1) * 255)
    np.testing.assert_array_equal(rescaled(pixels, scaling), expected)


def test_what_is_stored_is_scaled_by_what_could_be(pixels):
    np.testing.assert_array_equal(rescaled(pixels, "stored"), np.round(pixels / 257))


def test_eight_bits_change_only_where_that_is_asked_for():
    grey = np.arange(50, 90, dtype=np.uint8).reshape(4, 10)
    for scaling in ("file", "stored"):
        np.testing.assert_array_equal(rescaled(grey, scaling), grey)
    assert (rescaled(grey, "minmax").min(), rescaled(grey, "minmax").max()) == (0, 255)


def test_values_that_are_all_one_are_black_and_percentiles_of_one_value_take_all():
    assert set(rescaled(np.full((3, 3), 900, np.uint16), "file").ravel()) == {0}
    grey = np.zeros((20, 20), np.uint16)
    grey[0, 0] = 7
    assert rescaled(grey, "percentiles").max() == 255
    assert grey_levels(np.array([1.0, 2.0]), 2, 1).tolist() == [0, 0]


@pytest.mark.parametrize(
    ("low", "high", "marker", "expected"),
    [(0, 255, 0, False), (90, 104, 0, False), (90, 101, 0, True), (3, 3, 255, True)],
)
def test_an_image_is_nearly_blank_by_all_but_its_extreme_pixels(low, high, marker, expected):
    grey = np.linspace(low, high, 4000).round().astype(np.uint8).reshape(50, 80)
    grey[0, :20] = marker
    assert is_nearly_blank(grey) is expected
