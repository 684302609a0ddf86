"""The plan against simulated samples, of ranks and of scores."""

import numpy as np
import pytest
from messages import refused

from cxrignite.functional import (
    expected_sensitivity,
    num_false_positives_allowed,
    num_negatives_needed,
    planned_sizes,
    select_operating_point,
    umbrella_rank,
)

LIMITS = {"min_tnr": 0.93, "confidence": 0.95}


@pytest.mark.parametrize("num_negatives", [42, 54, 66, 129, 343])
def test_the_quantiles_are_those_of_simulated_ranks(num_negatives):
    rng, rank = np.random.default_rng(0), umbrella_rank(num_negatives, **LIMITS)
    given = np.arange(54) / 54
    [planned] = expected_sensitivity(given, given + 0.01, [num_negatives], **LIMITS)
    assert planned.num_false_positives == num_negatives - rank
    # The number of given scores below the ranked further one, in random orders of all of them.
    is_given = rng.permuted(np.tile(np.arange(54 + num_negatives) < 54, (20_000, 1)), axis=1)
    place = np.argmax(np.cumsum(~is_given, axis=1) == rank, axis=1)
    below = place - rank + 1
    low, high = planned.interval
    for quantile, tpr in ((0.95, low), (0.5, planned.tpr), (0.05, high)):
        expected = round(54 * (1 - tpr))
        assert np.mean(below <= expected) > quantile - 0.01
        assert np.mean(below < expected) < quantile + 0.01


def test_certified_thresholds_of_further_patients_have_the_expected_sensitivity():
    rng = np.random.default_rng(0)
    positives = np.clip(rng.normal(0.65, 0.1, 2000), 0, 1)
    inside, above = [], []
    for _ in range(300):
        given, further = np.clip(rng.normal(0.4, 0.1, (2, 129)), 0, 1)
        [planned] = expected_sensitivity(given, positives, [129], **LIMITS)
        scores, labels = np.append(further, positives), np.repeat([0, 1], [129, 2000])
        # A costly false negative: the lowest certified threshold is taken.
        point = select_operating_point(scores, labels, min_threshold=0, fn_cost=1e6, **LIMITS)
        inside.append(planned.interval.low <= point.tpr <= planned.interval.high)
        above.append(point.tpr >= planned.tpr)
    assert 0.85 < np.mean(inside) < 0.97
    assert 0.4 < np.mean(above) < 0.6


def test_too_few_negatives_have_no_sensitivity():
    scores = np.linspace(0, 1, 50)
    few, enough = expected_sensitivity(scores, scores, [41, 42], **LIMITS)
    assert few is None
    assert enough.num_negatives == 42


def test_the_lowest_threshold_and_scores_of_one_limit_the_sensitivity():
    negatives, positives = np.linspace(0, 0.1, 60, dtype=np.float32), np.linspace(0, 1, 11)
    [planned] = expected_sensitivity(negatives, positives, [88], **LIMITS, min_threshold=0.9)
    assert planned.tpr == planned.interval.high == 2 / 11
    [planned] = expected_sensitivity(np.ones(60), np.ones(5), [88], **LIMITS)
    assert planned.tpr == planned.interval.high == 0


def test_a_plan_without_negatives_is_refused():
    with refused(ValueError, "0 negatives", "2 positives"):
        expected_sensitivity([], [0.5, 0.6], [42], **LIMITS)


@pytest.mark.parametrize("present", [10, 42, 54, 400])
def test_planned_sizes_allow_ever_more_false_positives(present):
    sizes = planned_sizes(present, **LIMITS)
    assert sizes[0] == num_negatives_needed(**LIMITS)
    assert sizes[-1] >= 4 * present
    assert (present in sizes) == (present >= 42)
    allowed = [num_false_positives_allowed(size, **LIMITS) for size in sizes if size != present]
    others = [num_false_positives_allowed(size - 1, **LIMITS) for size in sizes if size != present]
    assert all(other is None or other < one for one, other in zip(allowed, others, strict=True))
