"""Time to choose a threshold for many scores."""

import numpy as np
import pytest

from cxrignite.functional import select_operating_point


@pytest.mark.parametrize("num_images", [10_000, 1_000_000])
@pytest.mark.parametrize("confidence", [None, 0.95])
def test_select_operating_point(benchmark, num_images, confidence):
    random = np.random.default_rng(0)
    y_true = random.integers(0, 2, num_images)
    y_score = 1 / (1 + np.exp(-random.normal(3 * y_true - 1.5)))
    benchmark(
        lambda: select_operating_point(
            y_score, y_true, min_tnr=0.93, min_threshold=0.5, confidence=confidence
        )
    )
