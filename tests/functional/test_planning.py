"""The plan against simulated samples, of ranks and of scores."""

import numpy as np
import pytest
from messages import refused

from cxrignite.functional import (
    expected_referral,
    expected_sensitivity,
    num_false_positives_allowed,
    num_negatives_needed,
    patients_for_one_threshold,
    planned_sizes,
    select_operating_point,
    umbrella_rank,
)

LIMITS = {"min_tnr": 0.93, "confidence": 0.95}
PAIR = {**LIMITS, "min_tpr": 0.9}


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


def passed(rng, num_given, number, rate, times=20_000):
    """The number of given scores before the ranked further one, in random orders of all of them."""
    rank = umbrella_rank(number, rate, LIMITS["confidence"])
    row = np.arange(num_given + number) < num_given
    is_given = rng.permuted(np.tile(row, (times, 1)), axis=1)
    return np.argmax(np.cumsum(~is_given, axis=1) == rank, axis=1) - rank + 1


def simulated_thresholds(negatives, positives, sizes):
    """The worst thresholds that simulated orders of further and given scores allow."""
    rng = np.random.default_rng(0)
    above = passed(rng, negatives.size, sizes[0], PAIR["min_tnr"])
    below = passed(rng, positives.size, sizes[1], PAIR["min_tpr"])
    uppers = np.append(np.sort(negatives), np.inf)[above]
    return uppers, np.append(np.sort(positives)[::-1], -np.inf)[below]


def overlapping(seed, num_negatives=70, num_positives=60, centre=0.62):
    rng = np.random.default_rng(seed)
    negatives = np.clip(rng.normal(0.4, 0.1, num_negatives), 0, 1)
    return negatives, np.clip(rng.normal(centre, 0.1, num_positives), 0, 1)


@pytest.mark.parametrize("sizes", [(42, 29), (70, 60), (343, 60), (70, 300), (343, 300)])
def test_the_share_referred_is_that_of_simulated_ranks(sizes):
    negatives, positives = overlapping(1)
    scores = np.concatenate([negatives, positives])
    [planned] = expected_referral(negatives, positives, scores, [sizes], **PAIR)
    uppers, lowers = simulated_thresholds(negatives, positives, sizes)
    # An image with the score of the upper threshold's bound is below it.
    between = (
        np.searchsorted(np.sort(scores), uppers, "right"),
        np.searchsorted(np.sort(scores), lowers),
    )
    shares = np.maximum(between[0] - between[1], 0) / scores.size
    low, high = planned.interval
    assert low < planned.referred < high
    for quantile, share in ((0.05, low), (0.5, planned.referred), (0.95, high)):
        assert np.mean(shares <= share) > quantile - 0.01
        assert np.mean(shares < share) < quantile + 0.01


def test_more_patients_of_either_class_are_expected_to_refer_fewer_images():
    negatives, positives = overlapping(1)
    scores = np.concatenate([negatives, positives])
    sizes = [(70, 60), (343, 60), (70, 300), (343, 300)]
    planned = expected_referral(negatives, positives, scores, sizes, **PAIR)
    now, more_negatives, more_positives, more = (each.referred for each in planned)
    assert more < min(more_negatives, more_positives)
    assert max(more_negatives, more_positives) < now
    few = expected_referral(negatives, positives, scores, [(41, 60), (70, 28)], **PAIR)
    assert few == [None, None]


def test_thresholds_of_further_patients_refer_the_expected_share():
    inside, rng = [], np.random.default_rng(5)
    many = np.concatenate([rng.normal(0.4, 0.1, 2000), rng.normal(0.62, 0.1, 2000)])
    for seed in range(200):
        [planned] = expected_referral(*overlapping(seed), many, [(129, 120)], **PAIR)
        scores = np.concatenate(overlapping(1000 + seed, 129, 120))
        labels = np.repeat([0, 1], [129, 120])
        point = select_operating_point(scores, labels, min_threshold=0, refer=True, **PAIR)
        lower = point.threshold if point.lower_threshold is None else point.lower_threshold
        share = np.mean((many >= lower) & (many < point.threshold))
        inside.append(planned.interval.low <= share <= planned.interval.high)
    assert 0.85 < np.mean(inside) < 0.98


def test_enough_patients_for_one_threshold_are_those_of_simulated_ranks():
    negatives, positives = overlapping(1, centre=0.7)
    sizes = patients_for_one_threshold(negatives, positives, **PAIR)
    assert sizes[0] / sizes[1] == pytest.approx(70 / 60, rel=0.02)
    for scale, is_enough in ((1.0, True), (0.7, False)):
        numbers = [round(scale * size) for size in sizes]
        uppers, lowers = simulated_thresholds(negatives, positives, numbers)
        assert (np.mean(uppers < lowers) >= 0.49) == is_enough


def test_no_number_is_named_if_it_would_not_help_or_is_there_already():
    negatives, positives = overlapping(1)
    assert patients_for_one_threshold(positives, negatives, **PAIR) is None
    assert patients_for_one_threshold(negatives, positives, **PAIR, min_threshold=0.9) is None
    apart = np.linspace(0, 0.3, 200), np.linspace(0.7, 1, 200)
    assert patients_for_one_threshold(*apart, **PAIR) is None


def test_an_infeasible_pair_names_the_patients_that_are_expected_to_suffice():
    negatives, positives = overlapping(1, centre=0.7)
    scores, labels = np.concatenate([negatives, positives]), np.repeat([0, 1], [70, 60])
    settings = {"min_threshold": 0.0, **PAIR}
    point = select_operating_point(scores, labels, **settings)
    expected = point.num_negatives_expected, point.num_positives_expected
    assert point.status == "infeasible"
    assert expected == patients_for_one_threshold(negatives, positives, **PAIR)
    for changes in ({"refer": True}, {"confidence": None}):
        other = select_operating_point(scores, labels, **{**settings, **changes})
        assert other.num_negatives_expected is None


def test_a_referral_plan_without_positives_or_scores_is_refused():
    with refused(ValueError, "2 negatives", "0 positives"):
        expected_referral([0.5, 0.6], [], [0.5], [(42, 42)], **PAIR)
    with refused(ValueError, "scores"):
        expected_referral([0.5], [0.6], [], [(42, 42)], **PAIR)
