import math
import time

import numpy as np
import pytest
from messages import refused
from scipy.special import expit, logit
from sklearn.calibration import calibration_curve
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import brier_score_loss, log_loss

from cxrignite.functional.calibration import (
    calibration_statistics,
    ece_interval,
    reliability_bins,
)

NAMES = {"brier", "log_loss", "ece", "calibration_slope", "calibration_intercept"}


@pytest.fixture
def scored():
    rng = np.random.default_rng(0)
    y_true = (rng.random(624) < 0.625).astype(np.int64)
    logits = rng.normal(3 * y_true - 1.5, 2)
    return expit(logits).astype(np.float32).astype(np.float64), y_true


def resamples(num_images, num_resamples, seed=1):
    rng = np.random.default_rng(seed)
    drawn = rng.multinomial(num_images, np.full(num_images, 1 / num_images), size=num_resamples)
    return drawn.astype(np.float64)


def once(y_score, y_true, num_bins=10):
    found = calibration_statistics(y_score, y_true, num_bins)(np.ones((1, len(y_true))))
    return {name: float(values[0]) for name, values in found.items()}


def brute_force_ece(y_score, y_true, num_bins):
    total = 0.0
    for number in range(num_bins):
        low, high = number / num_bins, (number + 1) / num_bins
        inside = (y_score >= low) & ((y_score < high) | (number == num_bins - 1))
        if inside.any():
            gap = abs(y_true[inside].mean() - y_score[inside].mean())
            total += inside.mean() * gap
    return total


def test_brier_and_log_loss_are_scikit_learns_of_each_resample(scored):
    y_score, y_true = scored
    weights = resamples(len(y_true), 25)
    found = calibration_statistics(y_score, y_true)(weights)
    assert set(found) == NAMES
    for number, weight in enumerate(weights):
        expected = brier_score_loss(y_true, y_score, sample_weight=weight)
        assert found["brier"][number] == pytest.approx(expected, rel=1e-10)
        expected = log_loss(y_true, y_score, sample_weight=weight)
        assert found["log_loss"][number] == pytest.approx(expected, rel=1e-10)


def test_the_slope_is_that_of_scikit_learns_regression_on_each_resample(scored):
    y_score, y_true = scored
    weights = resamples(len(y_true), 25)
    found = calibration_statistics(y_score, y_true)(weights)["calibration_slope"]
    model = LogisticRegression(C=np.inf, tol=1e-10, max_iter=1000)
    for number, weight in enumerate(weights):
        model.fit(logit(y_score)[:, None], y_true, sample_weight=weight)
        assert found[number] == pytest.approx(model.coef_[0, 0], abs=1e-5)


def test_the_intercept_makes_the_mean_probability_the_share_of_positives(scored):
    y_score, y_true = scored
    weights = resamples(len(y_true), 25)
    found = calibration_statistics(y_score, y_true)(weights)["calibration_intercept"]
    # The likelihood equation of the intercept with the slope held at 1.
    moved = expit(logit(y_score) + found[:, None])
    expected = (weights @ y_true) / weights.sum(axis=1)
    np.testing.assert_allclose((weights * moved).sum(axis=1) / weights.sum(axis=1), expected)


@pytest.mark.parametrize("num_bins", [1, 7, 10, 15])
def test_the_ece_of_a_resample_is_that_of_the_images_it_repeats(scored, num_bins):
    y_score, y_true = scored
    weights = resamples(len(y_true), 10)
    found = calibration_statistics(y_score, y_true, num_bins)(weights)["ece"]
    for number, weight in enumerate(weights.astype(int)):
        repeated = np.repeat(y_score, weight), np.repeat(y_true, weight)
        assert found[number] == pytest.approx(brute_force_ece(*repeated, num_bins), rel=1e-10)


def test_calibrated_scores_have_slope_1_intercept_0_and_hardly_an_error():
    rng = np.random.default_rng(8)
    y_score = expit(rng.normal(0, 2, 200_000))
    found = once(y_score, rng.random(200_000) < y_score)
    assert found["calibration_slope"] == pytest.approx(1, abs=0.02)
    assert found["calibration_intercept"] == pytest.approx(0, abs=0.02)
    assert found["ece"] < 0.005


def test_scores_that_are_too_sure_and_too_high_say_so():
    rng = np.random.default_rng(9)
    logits = rng.normal(0, 2, 200_000)
    y_true = rng.random(200_000) < expit(logits)
    assert once(expit(2 * logits), y_true)["calibration_slope"] == pytest.approx(0.5, abs=0.01)
    raised = once(expit(logits + 1.5), y_true)
    assert raised["calibration_slope"] == pytest.approx(1, abs=0.02)
    assert raised["calibration_intercept"] == pytest.approx(-1.5, abs=0.02)


def test_2000_resamples_of_624_images_take_about_a_second(scored):
    statistics = calibration_statistics(*scored)
    weights = resamples(624, 2000)
    started = time.process_time()
    found = statistics(weights)
    assert time.process_time() - started < 4
    assert all(np.isfinite(values).all() for values in found.values())


def test_one_class_has_no_regression_but_a_loss():
    found = once([0.2, 0.9], [1, 1])
    assert math.isnan(found["calibration_slope"])
    assert math.isnan(found["calibration_intercept"])
    assert found["brier"] == pytest.approx((0.8**2 + 0.1**2) / 2)
    assert found["ece"] == pytest.approx((0.8 + 0.1) / 2)


@pytest.mark.parametrize(
    ("y_score", "y_true"),
    [
        ([0.1, 0.2, 0.8], [0, 0, 1]),
        ([0.1, 0.2, 0.8], [1, 1, 0]),
        ([0.1, 0.5, 0.5, 0.8], [0, 0, 1, 1]),
        ([0.5, 0.5, 0.5], [0, 1, 1]),
    ],
)
def test_scores_that_separate_the_classes_have_an_intercept_but_no_slope(y_score, y_true):
    found = once(y_score, y_true)
    assert math.isnan(found["calibration_slope"])
    assert math.isfinite(found["calibration_intercept"])


def test_one_class_inside_the_others_range_has_a_slope():
    found = once([0.1, 0.5, 0.9], [0, 1, 0])
    assert found["calibration_slope"] == pytest.approx(0, abs=1e-9)


def test_only_the_resamples_that_leave_a_figure_undefined_get_nan():
    y_score, y_true = [0.1, 0.7, 0.4, 0.9], [0, 0, 1, 1]
    weights = np.array(
        [[1, 1, 1, 1], [1, 0, 1, 1], [0, 0, 1, 1], [0, 0, 0, 0], [0, 2, 2, 0]], np.float64
    )
    found = calibration_statistics(y_score, y_true)(weights)
    undefined = {name: np.flatnonzero(np.isnan(found[name])).tolist() for name in found}
    assert undefined == {
        "brier": [3],
        "log_loss": [3],
        "ece": [3],
        "calibration_slope": [1, 2, 3, 4],
        "calibration_intercept": [2, 3],
    }


def test_scores_of_exactly_0_and_1_have_a_finite_loss_even_where_they_are_wrong():
    found = once([0.0, 1.0, 0.0, 1.0], [0, 1, 1, 0])
    assert found["log_loss"] == pytest.approx(math.log(2**24) / 2, rel=1e-6)
    assert found["calibration_slope"] == pytest.approx(0, abs=1e-9)
    assert found["brier"] == 0.5


def test_sure_scores_that_are_all_wrong_still_get_an_intercept():
    found = once([1.0] * 6 + [0.0], [0, 0, 0, 0, 0, 1, 0])
    moved = expit(
        np.array([math.log(2**24)] * 6 + [-math.log(2**24)]) + found["calibration_intercept"]
    )
    assert moved.mean() == pytest.approx(1 / 7, rel=1e-6)


def test_no_images_have_no_figures():
    found = calibration_statistics([], [])(np.ones((3, 0)))
    assert all(np.isnan(found[name]).all() and found[name].shape == (3,) for name in NAMES)


def test_no_resamples_give_empty_figures(scored):
    found = calibration_statistics(*scored)(np.ones((0, 624)))
    assert all(found[name].shape == (0,) for name in NAMES)


@pytest.mark.parametrize("shape", [(624,), (2, 623)])
def test_weights_of_another_shape_are_refused(scored, shape):
    with refused(ValueError, "weights", "(B, 624)"):
        calibration_statistics(*scored)(np.ones(shape))


@pytest.mark.parametrize("measure", [calibration_statistics, reliability_bins])
@pytest.mark.parametrize(
    ("y_score", "y_true", "num_bins", "facts"),
    [
        ([0.2], [1], 0, ["num_bins", "1", "0"]),
        ([math.nan], [1], 10, ["y_score"]),
        ([1.2], [1], 10, ["y_score", "[0, 1]"]),
        ([0.2], [0.5], 10, ["y_true", "0", "1"]),
        ([0.2], [0, 1], 10, ["1 scores", "2 labels"]),
    ],
)
def test_what_is_no_score_or_label_is_refused(measure, y_score, y_true, num_bins, facts):
    with refused(ValueError, *facts):
        measure(y_score, y_true, num_bins)


def test_bins_hold_what_scikit_learns_calibration_curve_holds(scored):
    filled = [entry for entry in reliability_bins(*scored) if entry.num_images]
    share, mean = calibration_curve(scored[1], scored[0], n_bins=10)
    np.testing.assert_allclose([entry.positive_share for entry in filled], share)
    np.testing.assert_allclose([entry.mean_score for entry in filled], mean)
    assert sum(entry.num_images for entry in filled) == 624


def test_an_edge_opens_its_bin_and_1_lies_in_the_last():
    edges = [0.0, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0]
    bins = reliability_bins(edges, [0] * 11)
    assert [entry.num_images for entry in bins] == [1] * 9 + [2]
    assert [entry.low for entry in bins] == edges[:-1]
    assert [entry.high for entry in bins] == edges[1:]


def test_an_empty_bin_has_no_mean_and_no_share():
    first, second = reliability_bins([0.7], [1], num_bins=2)
    assert first.num_images == 0
    assert math.isnan(first.mean_score)
    assert math.isnan(first.positive_share)
    assert second == (0.5, 1.0, 1, 0.7, 1.0)


def test_bins_add_up_to_the_ece(scored):
    filled = [entry for entry in reliability_bins(*scored, num_bins=15) if entry.num_images]
    gaps = [entry.num_images * abs(entry.positive_share - entry.mean_score) for entry in filled]
    assert sum(gaps) / 624 == pytest.approx(once(*scored, num_bins=15)["ece"], rel=1e-12)


def drawn(temperature: float, num_images: int, rng) -> tuple[np.ndarray, np.ndarray]:
    """Scores that are too sure by `temperature`, and labels."""
    logits = rng.normal(0, 2, num_images)
    truth = 1 / (1 + np.exp(-logits / temperature))
    return 1 / (1 + np.exp(-logits)), (rng.random(num_images) < truth).astype(int)


def test_the_ece_interval_holds_the_error_and_reaches_0_for_perfect_scores():
    rng = np.random.default_rng(0)
    patients = [str(number) for number in range(300)]
    for temperature in (1.0, 3.0):
        y_score, y_true = drawn(temperature, 300, rng)
        error = calibration_statistics(y_score, y_true)(np.ones((1, 300)))["ece"][0]
        low, high = ece_interval(y_score, y_true, patients, num_resamples=500)
        assert 0 <= low <= error <= high <= 1
        assert (low == 0) == (temperature == 1)


def test_the_ece_of_a_single_patient_has_no_interval():
    assert np.isnan(ece_interval([0.1, 0.9, 0.6], [0, 1, 0], ["a"] * 3)).all()


@pytest.mark.parametrize(
    ("settings", "facts"),
    [
        ({"confidence": 1.5}, ["confidence", "(0, 1)", "1.5"]),
        ({"num_bins": 0}, ["num_bins", "1", "0"]),
    ],
)
def test_an_ece_interval_of_impossible_settings_is_refused(settings, facts):
    with refused(ValueError, *facts):
        ece_interval([0.1, 0.9], [0, 1], ["a", "b"], **settings)


@pytest.mark.slow
@pytest.mark.parametrize(("temperature", "num_images"), [(1.0, 200), (1.3, 600), (2.0, 600)])
def test_the_ece_interval_covers_the_true_error(temperature, num_images):
    rng = np.random.default_rng(1)
    # The binned error of the distribution itself, by brute force.
    y_score, _ = drawn(temperature, 1_000_000, rng)
    truth = 1 / (1 + ((1 - y_score) / y_score) ** (1 / temperature))
    bins = np.minimum((y_score * 10).astype(int), 9)
    error = sum(abs((truth - y_score)[bins == each].sum()) for each in range(10)) / len(bins)
    patients, covered = [str(number) for number in range(num_images)], 0
    for seed in range(400):
        sample = drawn(temperature, num_images, rng)
        low, high = ece_interval(*sample, patients, num_resamples=400, seed=seed)
        covered += low <= error <= high
    assert covered >= 0.91 * 400, f"covered {covered} of 400, true error {error:.4f}"
