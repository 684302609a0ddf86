import math

import numpy as np
import pytest
import torch
from messages import refused
from scipy.special import expit, logit
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score

from cxrignite.functional.calibration import (
    Platt,
    Temperature,
    calibration_statistics,
    fit_platt,
    fit_temperature,
    prior_logit_shift,
    shift_logit,
)

CHEST_XRAY_2017 = prior_logit_shift(math.sqrt(1349 / 3883), 0.5, 3883 / (3883 + 1349))
MAPS = {
    "prior": lambda scores: shift_logit(scores, CHEST_XRAY_2017),
    "prior, the other way": lambda scores: shift_logit(scores, 3.0),
    "platt": Platt(0.6, -1.2),
    "steep platt": Platt(1.9, 0.8),
    "temperature": Temperature(1.7),
    "cold temperature": Temperature(0.6),
}


@pytest.fixture
def scored():
    rng = np.random.default_rng(0)
    y_true = (rng.random(624) < 0.625).astype(np.int64)
    logits = rng.normal(3 * y_true - 1.5, 2)
    return expit(logits).astype(np.float32), y_true


def ece(y_score, y_true):
    return float(calibration_statistics(y_score, y_true)(np.ones((1, len(y_true))))["ece"][0])


def test_the_shift_of_chest_xray_2017_takes_090_to_0978():
    assert pytest.approx(-1.586, abs=5e-4) == CHEST_XRAY_2017
    assert shift_logit([0.9], CHEST_XRAY_2017)[0] == pytest.approx(0.978, abs=5e-4)


def test_without_sampler_and_weight_there_is_no_shift():
    assert prior_logit_shift(1.0, 0.3, 0.3) == 0


def test_the_shift_is_what_bayes_rule_says_of_the_odds():
    # A positive was weighed (odds seen) / (odds there are) times too high.
    odds_seen, odds = 0.7 * 0.4 / 0.6, 0.1 / 0.9
    score = 0.35
    training_odds = score / (1 - score) * odds / odds_seen
    found = shift_logit([score], prior_logit_shift(0.7, 0.4, 0.1))[0]
    assert found == pytest.approx(training_odds / (1 + training_odds), rel=1e-12)


@pytest.mark.parametrize("prevalence", [0.02, 0.1, 0.37, 0.742, 0.95])
def test_a_model_trained_on_a_moved_prior_is_calibrated_again(prevalence):
    rng = np.random.default_rng(17)

    def draw(number):
        labels = rng.random(number) < prevalence
        return rng.normal(1.8 * labels, 1)[:, None], labels.astype(int)

    predictor, labels = draw(30_000)
    share = labels.mean()
    pos_weight = math.sqrt((1 - share) / share)
    drawn = np.where(labels == 1, 0.5 / share, 0.5 / (1 - share))
    weights = drawn * np.where(labels == 1, pos_weight, 1)
    model = LogisticRegression(C=np.inf).fit(predictor, labels, sample_weight=weights)

    predictor, labels = draw(100_000)
    raw = model.predict_proba(predictor)[:, 1]
    probability = shift_logit(raw, prior_logit_shift(pos_weight, 0.5, prevalence))
    before, after = ece(raw, labels), ece(probability, labels)
    assert before > 0.03, f"ECE {before:.3f} before"
    assert after < 0.01, f"ECE {before:.3f} before, {after:.4f} after"


@pytest.mark.parametrize("name", MAPS)
def test_no_map_changes_a_decision_or_the_auc(name):
    rng = np.random.default_rng(2)
    scores = expit(rng.normal(0, 4, 3000)).astype(np.float32)
    mapped = MAPS[name](scores)
    for threshold in [*scores[:300].astype(float), 0.5, 0.9, 0.93]:
        there = MAPS[name]([threshold])[0]
        np.testing.assert_array_equal(mapped >= there, scores.astype(np.float64) >= threshold)
    y_true = rng.random(3000) < scores
    assert roc_auc_score(y_true, mapped) == roc_auc_score(y_true, scores)


@pytest.mark.parametrize("name", MAPS)
def test_neighbours_in_float32_stay_different_at_both_ends(name):
    bits = np.array([1e-6, 0.01, 0.5, 0.99, 0.99999], np.float32)
    above = np.nextafter(bits, np.float32(1))
    assert (MAPS[name](above) > MAPS[name](bits)).all()


def test_the_shift_turns_no_order_round_even_between_neighbours_in_float64():
    scores = np.random.default_rng(3).random(100_000)
    above = np.nextafter(scores, 1)
    for shift in (-600, -20, -1.586, 0.3, 20, 600):
        assert (shift_logit(above, shift) >= shift_logit(scores, shift)).all()


def test_the_shift_is_that_of_the_logit():
    scores = np.random.default_rng(4).random(1000)
    np.testing.assert_allclose(shift_logit(scores, 0.7), expit(logit(scores) - 0.7), rtol=1e-12)


@pytest.mark.parametrize("name", MAPS)
def test_0_and_1_stay_and_nothing_gives_nothing(name):
    np.testing.assert_array_equal(MAPS[name]([0.0, 1.0]), [0, 1])
    assert MAPS[name]([]).shape == (0,)


@pytest.mark.parametrize("shift", [-700, 700])
def test_the_largest_shifts_leave_probabilities(shift):
    scores = [0.0, np.nextafter(0, 1), 0.5, np.nextafter(1, 0), 1.0]
    mapped = shift_logit(scores, shift)
    assert ((mapped >= 0) & (mapped <= 1)).all()
    assert (np.diff(mapped) >= 0).all()


def test_maps_take_tensors(scored):
    y_score, y_true = scored
    tensors = torch.from_numpy(y_score), torch.from_numpy(y_true)
    assert fit_platt(*tensors) == fit_platt(y_score, y_true)
    assert fit_temperature(*tensors) == fit_temperature(y_score, y_true)


def test_platt_is_the_logistic_regression_on_smoothed_targets(scored):
    y_score, y_true = scored
    num_positive = y_true.sum()
    high, low = (num_positive + 1) / (num_positive + 2), 1 / (len(y_true) - num_positive + 2)
    target = np.where(y_true == 1, high, low)
    # Each image twice, as a positive and as a negative, by the weight of its target.
    model = LogisticRegression(C=np.inf, tol=1e-10, max_iter=1000).fit(
        np.tile(logit(y_score.astype(np.float64)), 2)[:, None],
        np.repeat([1, 0], len(y_true)),
        sample_weight=np.concatenate([target, 1 - target]),
    )
    found = fit_platt(y_score, y_true)
    assert found.slope == pytest.approx(model.coef_[0, 0], abs=1e-5)
    assert found.intercept == pytest.approx(model.intercept_[0], abs=1e-5)


def test_the_temperature_is_one_over_the_slope_without_an_intercept(scored):
    y_score, y_true = scored
    model = LogisticRegression(C=np.inf, fit_intercept=False, tol=1e-10)
    model.fit(logit(y_score.astype(np.float64))[:, None], y_true)
    temperature = fit_temperature(y_score, y_true).temperature
    assert temperature == pytest.approx(1 / model.coef_[0, 0], rel=1e-5)


@pytest.mark.parametrize("fit", [fit_platt, fit_temperature])
def test_a_fit_undoes_scores_that_are_too_sure(fit):
    rng = np.random.default_rng(6)
    probability = expit(rng.normal(0, 2, 50_000))
    y_true = rng.random(50_000) < probability
    too_sure = expit(2 * logit(probability))
    fitted = fit(too_sure, y_true)(too_sure)
    assert ece(too_sure, y_true) > 0.05
    np.testing.assert_allclose(fitted, probability, atol=0.01)


def test_separable_scores_get_finite_maps():
    y_score, y_true = [0.1, 0.2, 0.8, 0.9], [0, 0, 1, 1]
    platt = fit_platt(y_score, y_true)
    # The smoothed targets are 3/4 and 1/4, which the mean of each class comes near to.
    assert platt(y_score)[2:].mean() == pytest.approx(0.75, abs=0.02)
    assert fit_temperature(y_score, y_true).temperature == pytest.approx(0.05, rel=1e-3)


def test_scores_of_exactly_0_and_1_can_be_fitted_on():
    y_score, y_true = [0.0, 0.0, 0.0, 1.0, 1.0, 1.0], [0, 0, 1, 1, 1, 0]
    platt = fit_platt(y_score, y_true)
    temperature = fit_temperature(y_score, y_true).temperature
    # A logit of log(2**24) maps to 3/5 with smoothed targets, and 2/3 without.
    far = math.log(2**24)
    assert platt.slope == pytest.approx(logit(2 / 3 * 4 / 5 + 1 / 3 * 1 / 5) / far, rel=1e-6)
    assert temperature == pytest.approx(far / logit(2 / 3), rel=1e-5)


def test_scores_that_fall_with_the_label_have_no_platt_map(scored):
    y_score, y_true = scored
    with refused(ValueError, "Platt", "slope"):
        fit_platt(1 - y_score, y_true)
    assert fit_temperature(1 - y_score, y_true).temperature == pytest.approx(100, rel=1e-3)


@pytest.mark.parametrize("fit", [fit_platt, fit_temperature])
@pytest.mark.parametrize(
    ("y_score", "y_true", "facts"),
    [
        ([], [], ["0 negatives", "0 positives"]),
        ([0.2, 0.3], [1, 1], ["0 negatives", "2 positives"]),
        ([0.2, 0.3], [1], ["2 scores", "1 labels"]),
        ([0.2, math.nan], [1, 0], ["y_score"]),
        ([0.2, 1.5], [1, 0], ["y_score", "[0, 1]"]),
        ([0.2, 0.5], [1, 2], ["y_true", "0", "1"]),
    ],
)
def test_what_cannot_be_fitted_is_refused(fit, y_score, y_true, facts):
    with refused(ValueError, *facts):
        fit(y_score, y_true)


def test_a_single_score_has_no_platt_slope():
    with refused(ValueError, "y_score", "0.3"):
        fit_platt([0.3, 0.3], [0, 1])


@pytest.mark.parametrize(
    ("make", "facts"),
    [
        (lambda: Platt(0.0, 0.0), ["slope", "0", "0.0"]),
        (lambda: Platt(math.inf, 0.0), ["slope", "0", "inf"]),
        (lambda: Platt(1.0, math.nan), ["intercept", "nan"]),
        (lambda: Temperature(-1.0), ["temperature", "0", "-1.0"]),
        (lambda: prior_logit_shift(0.0, 0.5, 0.5), ["pos_weight", "0"]),
        (lambda: prior_logit_shift(1.0, 1.0, 0.5), ["sampled_prevalence", "(0, 1)", "1"]),
        (lambda: prior_logit_shift(1.0, 0.5, 0.0), ["prevalence", "(0, 1)", "0"]),
        (lambda: shift_logit([0.5], math.nan), ["shift", "[-700, 700]", "nan"]),
        (lambda: shift_logit([0.5], 701), ["shift", "[-700, 700]", "701"]),
    ],
)
def test_settings_out_of_range_are_refused(make, facts):
    with refused(ValueError, *facts):
        make()


@pytest.mark.parametrize("name", MAPS)
@pytest.mark.parametrize("scores", [[1.5], [math.nan], [-0.1], [[0.5]]])
def test_what_is_no_probability_is_not_mapped(name, scores):
    with refused(ValueError, "y_score"):
        MAPS[name](scores)
