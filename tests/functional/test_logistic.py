import numpy as np
import pytest
from scipy.optimize import minimize
from scipy.special import expit
from sklearn.linear_model import LogisticRegression

from cxrignite.functional.logistic import fit_logistic


@pytest.fixture
def overlapping():
    rng = np.random.default_rng(5)
    predictor = rng.normal(0, 2, 150)
    label = (rng.random(150) < expit(1.3 * predictor - 0.4)).astype(np.float64)
    return np.column_stack([np.ones(150), predictor]), label


def fit(design, target, weights, offset=None):
    offset = np.zeros(len(design)) if offset is None else offset
    return fit_logistic(design, target, weights, offset=offset)


def test_every_weighting_is_fitted_as_scikit_learn_fits_it(overlapping):
    design, label = overlapping
    weights = np.random.default_rng(0).multinomial(150, np.full(150, 1 / 150), size=20)
    found = fit(design, label, weights.astype(float))
    for row, weight in zip(found, weights, strict=True):
        model = LogisticRegression(C=np.inf, tol=1e-10, max_iter=1000, fit_intercept=False)
        expected = model.fit(design, label, sample_weight=weight).coef_[0]
        np.testing.assert_allclose(row, expected, atol=1e-5)


def test_the_size_of_the_weights_does_not_matter(overlapping):
    design, label = overlapping
    weights = np.stack([np.full(150, 1e-3), np.full(150, 1e3)])
    small, large = fit(design, label, weights)
    np.testing.assert_allclose(small, large, rtol=1e-8)


def test_an_offset_and_targets_between_0_and_1_are_fitted_as_scipy_fits_them(overlapping):
    design, label = overlapping
    offset, target = 0.5 * design[:, 1], 0.05 + 0.9 * label

    def loss(coefficients):
        logits = offset + design @ coefficients
        return np.sum(np.logaddexp(0, logits) - target * logits)

    expected = minimize(loss, np.zeros(2), method="BFGS", options={"gtol": 1e-9}).x
    found = fit(design, target, np.ones((1, 150)), offset)[0]
    np.testing.assert_allclose(found, expected, atol=1e-6)


@pytest.mark.parametrize("certainty", [1.0, 16.7, 40.0])
def test_offsets_that_are_sure_and_wrong_are_undone(certainty):
    label = np.repeat([0.0, 1.0], [30, 10])
    offset = np.full(40, certainty)
    found = fit(np.ones((40, 1)), label, np.ones((1, 40)), offset)[0, 0]
    assert found == pytest.approx(np.log(1 / 3) - certainty, abs=1e-6)


@pytest.mark.parametrize("overlap", [1e-3, 1e-7, 1e-12])
def test_classes_that_hardly_overlap_get_a_finite_fit_where_the_gradient_is_zero(overlap):
    predictor = np.concatenate([np.linspace(-5, -4, 50), [1, 1 - overlap], np.linspace(4, 5, 50)])
    design = np.column_stack([np.ones(102), predictor])
    label = np.repeat([0.0, 1.0], 51)
    found = fit(design, label, np.ones((1, 102)))[0]
    gradient = (expit(design @ found) - label) @ design
    np.testing.assert_allclose(gradient, 0, atol=1e-6)


def test_no_weighting_gives_no_fit(overlapping):
    assert fit(*overlapping, np.ones((0, 150))).shape == (0, 2)


def test_a_fit_that_does_not_end_is_nan():
    # Separable: every longer slope is better.
    design = np.column_stack([np.ones(2), [-1e-9, 1e-9]])
    assert np.isnan(fit(design, np.array([0.0, 1.0]), np.ones((1, 2)))).all()
