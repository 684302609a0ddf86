import math

import numpy as np
import pytest
import torch
from messages import refused
from sklearn.metrics import average_precision_score, roc_auc_score

from cxrignite.functional.confusion import confusion_at
from cxrignite.functional.weighted_metrics import decision_statistics, ranking_statistics

RATES = ["tnr", "tpr", "ppv", "npv", "balanced_accuracy", "accuracy", "referred"]
RATES += ["negatives_referred", "positives_referred"]


def random_case(seed, size=50):
    """Scores with many ties, labels of both classes, and whole-number weights with many zeros."""
    rng = np.random.default_rng(seed)
    y_true = rng.permutation([0] * (size // 3) + [1] * (size - size // 3))
    y_score = np.clip(0.3 * y_true + 0.7 * rng.random(size), 0, 1).round(rng.integers(1, 3))
    return y_score, y_true, rng.poisson(0.8, size=(7, size)).astype(np.float64)


@pytest.mark.parametrize("seed", range(20))
def test_ranking_figures_are_those_of_scikit_learn_on_the_images_repeated(seed):
    y_score, y_true, weights = random_case(seed)
    figures = ranking_statistics(y_score, y_true)(weights)
    for row, times in enumerate(weights.astype(int)):
        labels, scores = np.repeat(y_true, times), np.repeat(y_score, times)
        assert figures["roc_auc"][row] == pytest.approx(roc_auc_score(labels, scores), abs=1e-12)
        assert figures["average_precision"][row] == pytest.approx(
            average_precision_score(labels, scores), abs=1e-12
        )


@pytest.mark.parametrize("seed", range(10))
def test_fractional_weights_are_the_sample_weights_of_scikit_learn(seed):
    y_score, y_true, _ = random_case(seed)
    weights = np.random.default_rng(seed).random((3, y_true.size))
    figures = ranking_statistics(y_score, y_true)(weights)
    for row, weight in enumerate(weights):
        area = roc_auc_score(y_true, y_score, sample_weight=weight)
        precision = average_precision_score(y_true, y_score, sample_weight=weight)
        assert figures["roc_auc"][row] == pytest.approx(area, abs=1e-12)
        assert figures["average_precision"][row] == pytest.approx(precision, abs=1e-12)


@pytest.mark.parametrize("seed", range(20))
def test_rates_are_those_of_the_images_repeated(seed):
    y_score, y_true, weights = random_case(seed)
    thresholds = (0.5, None) if seed % 2 else (0.7, 0.4)
    figures = decision_statistics(y_score, y_true, *thresholds)(weights)
    assert list(figures) == RATES
    for row, times in enumerate(weights.astype(int)):
        cells = confusion_at(np.repeat(y_score, times), np.repeat(y_true, times), *thresholds)
        for name in RATES:
            assert figures[name][row] == pytest.approx(getattr(cells, name), nan_ok=True)


def test_a_tie_counts_half_of_the_area():
    figures = ranking_statistics([0.5, 0.5, 0.5], [0, 1, 1])(np.ones((1, 3)))
    assert figures["roc_auc"].tolist() == [0.5]
    assert figures["average_precision"].tolist() == [pytest.approx(2 / 3)]


def test_a_weighting_without_a_class_leaves_undefined_what_needs_it():
    weights = np.array([[1.0, 1, 0, 0], [0, 0, 1, 1], [0, 0, 0, 0], [1, 0, 0, 1]])
    y_score, y_true = [0.1, 0.7, 0.6, 0.9], [0, 0, 1, 1]
    ranking = ranking_statistics(y_score, y_true)(weights)
    np.testing.assert_array_equal(ranking["roc_auc"], [math.nan, math.nan, math.nan, 1])
    np.testing.assert_array_equal(ranking["average_precision"], [math.nan, 1, math.nan, 1])
    rates = decision_statistics(y_score, y_true, 0.65)(weights)
    np.testing.assert_array_equal(rates["tnr"], [0.5, math.nan, math.nan, 1])
    np.testing.assert_array_equal(rates["tpr"], [math.nan, 0.5, math.nan, 1])
    np.testing.assert_array_equal(rates["balanced_accuracy"], [math.nan, math.nan, math.nan, 1])
    np.testing.assert_array_equal(rates["ppv"], [0, 1, math.nan, 1])
    np.testing.assert_array_equal(rates["npv"], [1, 0, math.nan, 1])
    np.testing.assert_array_equal(rates["accuracy"], [0.5, 0.5, math.nan, 1])


def test_no_images_leave_everything_undefined():
    nothing = np.ones((2, 0))
    figures = ranking_statistics([], [])(nothing) | decision_statistics([], [], 0.5)(nothing)
    assert len(figures) == 11
    for figure in figures.values():
        np.testing.assert_array_equal(figure, [math.nan, math.nan])


def test_scores_are_compared_with_the_threshold_in_float64():
    y_score = torch.tensor([0.9, 0.9], dtype=torch.float32)
    rates = decision_statistics(y_score, [0, 1], 0.9)(np.ones((1, 2)))
    # float32's 0.9 is 0.89999998.
    assert (rates["tnr"].item(), rates["tpr"].item()) == (1.0, 0.0)
    rates = decision_statistics(y_score, [0, 1], float(np.float32(0.9)))(np.ones((1, 2)))
    assert (rates["tnr"].item(), rates["tpr"].item()) == (0.0, 1.0)


@pytest.mark.parametrize("shape", [(3,), (1, 2), (1, 4), (1, 1, 3)])
def test_weights_of_another_shape_are_refused(shape):
    y_score, y_true = [0.1, 0.2, 0.3], [0, 1, 1]
    with refused(ValueError, "weights", "(B, 3)", shape):
        ranking_statistics(y_score, y_true)(np.ones(shape))
    with refused(ValueError, "weights", "(B, 3)", shape):
        decision_statistics(y_score, y_true, 0.5)(np.ones(shape))


@pytest.mark.parametrize(
    ("y_score", "y_true", "facts"),
    [
        ([0.1, math.nan], [0, 1], ["y_score"]),
        ([0.1, 1.5], [0, 1], ["y_score", "[0, 1]", "1.5"]),
        ([0.1, 0.5], [0, 2], ["y_true", "0", "1", "2"]),
        ([0.1], [0, 1], ["1 scores", "2 labels"]),
    ],
)
def test_scores_and_labels_that_cannot_be_used_are_refused(y_score, y_true, facts):
    with refused(ValueError, *facts):
        ranking_statistics(y_score, y_true)
    with refused(ValueError, *facts):
        decision_statistics(y_score, y_true, 0.5)


def test_a_nan_threshold_is_refused():
    with refused(ValueError, "threshold", "nan"):
        decision_statistics([0.5], [1], math.nan)
