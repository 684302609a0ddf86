import math
from fractions import Fraction

import numpy as np
import pytest
from messages import refused
from scipy.stats import binom
from scipy.stats.contingency import relative_risk

from cxrignite.cli.parsing import OPTIONS
from cxrignite.functional import (
    DEFAULT_PREVALENCES,
    Confusion,
    Interval,
    predictive_intervals,
    predictive_values,
)

CELLS = Confusion(tn=189, fp=45, fn=6, tp=384)


@pytest.mark.parametrize("prevalence", [*DEFAULT_PREVALENCES, 0.5, 1e-9, 1 - 1e-9])
def test_they_are_those_of_bayes_rule_in_fractions(prevalence):
    share = Fraction(prevalence)
    tnr, tpr = Fraction(189, 234), Fraction(384, 390)
    expected = (
        tpr * share / (tpr * share + (1 - tnr) * (1 - share)),
        tnr * (1 - share) / (tnr * (1 - share) + (1 - tpr) * share),
    )
    values = predictive_values(CELLS.tnr, CELLS.tpr, prevalence)
    assert values == pytest.approx([float(each) for each in expected], rel=1e-12)


def test_at_the_prevalence_of_the_images_they_are_the_observed_ones():
    values = predictive_values(CELLS.tnr, CELLS.tpr, 390 / 624)
    assert values == pytest.approx((CELLS.ppv, CELLS.npv), rel=1e-12)


def test_many_rates_are_converted_at_once():
    tnr, tpr = np.array([0.9, 1.0, 1.0, math.nan]), np.array([0.8, 0.5, 0.0, 1.0])
    ppv, npv = predictive_values(tnr, tpr, 0.2)
    np.testing.assert_allclose(ppv, [0.16 / 0.24, 1, math.nan, math.nan])
    np.testing.assert_allclose(npv, [0.72 / 0.76, 0.8 / 0.9, 0.8, math.nan])


@pytest.mark.parametrize("prevalence", DEFAULT_PREVALENCES)
def test_intervals_are_those_of_scipy_for_a_ratio_of_rates(prevalence):
    odds = prevalence / (1 - prevalence)
    ratios = (
        relative_risk(CELLS.tp, 390, CELLS.fp, 234).confidence_interval(0.9),
        relative_risk(CELLS.tn, 234, CELLS.fn, 390).confidence_interval(0.9),
    )
    intervals = predictive_intervals(CELLS, prevalence, 0.9)
    for interval, ratio, prior in zip(intervals, ratios, (odds, 1 / odds), strict=True):
        expected = [ratio.low * prior / (1 + ratio.low * prior)]
        expected += [ratio.high * prior / (1 + ratio.high * prior)]
        assert interval == pytest.approx(expected, rel=1e-9)


@pytest.mark.parametrize(("tnr", "tpr"), [(0.8, 0.7), (0.95, 0.9), (0.98, 0.98)])
def test_intervals_cover_the_true_values(tnr, tpr):
    """Exactly, by the probability of every possible sample of 60 negatives and 40 positives."""
    true, covered = predictive_values(tnr, tpr, 0.05), np.zeros(2)
    of_tn, of_tp = binom.pmf(range(61), 60, tnr), binom.pmf(range(41), 40, tpr)
    for tn in range(61):
        for tp in range(41):
            chance = of_tn[tn] * of_tp[tp]
            if chance > 1e-5:
                intervals = predictive_intervals(Confusion(tn, 60 - tn, 40 - tp, tp), 0.05)
                inside = [low <= t <= high for (low, high), t in zip(intervals, true, strict=True)]
                covered += chance * np.array(inside)
    assert covered.min() > 0.945


@pytest.mark.parametrize("cells", [(50, 0, 3, 27), (45, 5, 0, 30), (50, 0, 0, 30), (40, 10, 30, 0)])
def test_a_count_of_zero_leaves_an_interval_that_holds_the_value(cells):
    cells = Confusion(*cells)
    values = predictive_values(cells.tnr, cells.tpr, 0.05)
    for value, (low, high) in zip(values, predictive_intervals(cells, 0.05), strict=True):
        assert 0 <= low <= value <= high <= 1
        assert high > low


def test_what_has_no_value_has_no_interval():
    nothing_called = predictive_intervals(Confusion(tn=5, fp=0, fn=5, tp=0), 0.05)
    assert math.isnan(nothing_called[0].low)
    assert nothing_called[1].low < 0.95 <= nothing_called[1].high
    for interval in predictive_intervals(Confusion(tn=5, fp=1, fn=0, tp=0), 0.05):
        assert interval == pytest.approx(Interval(math.nan, math.nan), nan_ok=True)


@pytest.mark.parametrize("prevalence", [0.0, 1.0, 5.0, math.nan])
def test_a_prevalence_leaves_images_of_both_classes(prevalence):
    with refused(ValueError, "prevalence", prevalence):
        predictive_values(0.9, 0.8, prevalence)


def test_a_confidence_is_a_share():
    with refused(ValueError, "confidence", 95):
        predictive_intervals(CELLS, 0.05, 95)


def test_the_command_line_names_the_same_prevalences():
    (option,) = [each for each in OPTIONS["test"] if each.name == "prevalences"]
    assert option.default == list(DEFAULT_PREVALENCES)
