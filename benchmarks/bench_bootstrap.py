"""Time of confidence intervals for 624 images, with 2,000 resamples of their patients."""

import numpy as np
import pytest

from cxrignite.functional import (
    bootstrap_intervals,
    delong_interval,
    ranking_statistics,
)


@pytest.fixture
def scores():
    random = np.random.default_rng(0)
    y_true = np.repeat([0, 1], [234, 390])
    y_score = 1 / (1 + np.exp(-random.normal(3 * y_true - 1.5)))
    return y_score, y_true, [str(each) for each in random.integers(0, 400, 624)]


def test_patient_bootstrap(benchmark, scores):
    y_score, y_true, patients = scores
    statistics = ranking_statistics(y_score, y_true)
    benchmark(lambda: bootstrap_intervals(statistics, patients, num_resamples=2000))


def test_delong(benchmark, scores):
    y_score, y_true, _ = scores
    benchmark(lambda: delong_interval(y_score, y_true))
