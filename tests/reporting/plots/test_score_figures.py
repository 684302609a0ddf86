import io
import re
from dataclasses import replace

import matplotlib as mpl
import numpy as np
import pytest
from messages import line_with
from results import POINT
from scipy.stats import binomtest
from sklearn.metrics import average_precision_score, roc_auc_score

from cxrignite.functional import (
    confusion_at,
    expected_referral,
    expected_sensitivity,
    planned_sizes,
    select_operating_point,
)
from cxrignite.functional.calibration import shift_logit
from cxrignite.reporting.plots import score_figures as figures

CLASSES = ("NORMAL", "PNEUMONIA")


@pytest.fixture
def scored():
    rng = np.random.default_rng(0)
    y_true = (rng.uniform(size=300) < 0.6).astype(np.float32)
    logits = rng.normal(0, 1.6, 300) + 4 * y_true - 1.5
    return (1 / (1 + np.exp(-logits))).astype(np.float32), y_true


def legend_of(axes):
    return [text.get_text() for text in axes.get_legend().get_texts()]


def texts_of(figure):
    return [text.get_text() for text in figure.findobj(mpl.text.Text)]


def test_the_confusion_pair_shows_both_matrices_and_their_rates(scored, assert_nothing_is_cut):
    half, chosen = confusion_at(*scored, 0.5), confusion_at(*scored, 0.9)
    figure = figures.confusion_pair(half, chosen, replace(POINT, threshold=0.9), CLASSES)
    left, right = figure.axes
    for axes, threshold, cells in ((left, "0.5", half), (right, "0.9000", chosen)):
        first, *rates = axes.get_title().splitlines()
        line_with(first, threshold)
        for printed, name, right_ones, wrong_ones in zip(
            rates, ("TNR", "TPR"), (cells.tn, cells.tp), (cells.fp, cells.fn), strict=True
        ):
            low, high = binomtest(right_ones, number := right_ones + wrong_ones).proportion_ci()
            interval = f"{low:.3f} to {high:.3f}"
            line_with(printed, name, f"{right_ones / number:.3f}", "95 %", interval)
    assert f"{chosen.fp}\n{1 - chosen.tnr:.1%}\nfalse positives" in texts_of(figure)
    # Rows are the truth: the share of a row's cells is one.
    np.testing.assert_allclose(right.images[0].get_array().sum(axis=1), 1)
    assert_nothing_is_cut(figure)


def test_a_class_without_images_has_an_undefined_rate(scored, assert_nothing_is_cut):
    y_score, _ = scored
    confusion = confusion_at(y_score, np.ones_like(y_score), 0.5)
    figure = figures.confusion_pair(confusion, confusion, POINT, CLASSES)
    tnr, tpr = [line for line in figure.axes[0].get_title().splitlines() if "T" in line][-2:]
    assert not re.search(r"\d", line_with(tnr, "TNR"))
    line_with(tpr, "TPR", "95 %")
    assert_nothing_is_cut(figure)


def test_the_roc_curve_gives_sklearns_area_and_marks_the_operating_point(scored):
    y_score, y_true = scored
    point = select_operating_point(y_score, y_true)
    axes = figures.roc_curve(y_score, y_true, point, split="val").axes[0]
    assert f"AUC {roc_auc_score(y_true, y_score):.4f}" in legend_of(axes)
    marked = axes.lines[-1].get_xydata()[0]
    np.testing.assert_allclose(marked, [1 - point.tnr, point.tpr])
    line_with(axes.get_title(), "ROC", "val")


def test_the_precision_recall_curve_marks_what_these_images_get_at_the_threshold(scored):
    y_score, y_true = scored
    point = select_operating_point(y_score, y_true)
    there = confusion_at(y_score[:150], y_true[:150], point.threshold)
    axes = figures.precision_recall_curve(y_score[:150], y_true[:150], point).axes[0]
    average = average_precision_score(y_true[:150], y_score[:150])
    assert f"average precision {average:.4f}" in legend_of(axes)
    np.testing.assert_allclose(axes.lines[-1].get_xydata()[0], [there.tpr, there.ppv])


def test_where_nothing_is_called_positive_there_is_no_precision_to_mark(scored):
    y_score, y_true = scored
    point = select_operating_point(y_score, y_true)
    axes = figures.precision_recall_curve(y_score / 2, y_true, point).axes[0]
    marked = figures.precision_recall_curve(y_score, y_true, point).axes[0]
    assert len(axes.lines) == len(marked.lines) - 1
    assert len(legend_of(axes)) == len(legend_of(marked)) - 1


@pytest.mark.parametrize("draw", [figures.roc_curve, figures.precision_recall_curve])
def test_the_area_stands_with_its_interval(draw, scored, assert_nothing_is_cut):
    point = select_operating_point(*scored)
    figure = draw(*scored, point, split="test", interval=(0.95123, 0.97856))
    line_with(legend_of(figure.axes[0])[1], "95 %", "0.9512 to 0.9786")
    assert_nothing_is_cut(figure)
    canvas = figure.axes[0].get_legend().get_window_extent()
    assert figure.axes[0].get_window_extent().contains(*canvas.min)
    assert figure.axes[0].get_window_extent().contains(*canvas.max)


@pytest.mark.parametrize("draw", [figures.roc_curve, figures.precision_recall_curve])
def test_an_undefined_interval_is_left_out(draw, scored):
    labels = legend_of(draw(*scored, interval=(float("nan"), float("nan"))).axes[0])
    assert len(labels) > 1
    assert not [label for label in labels if "95 %" in label]


def test_a_plan_shows_each_number_of_patients_and_marks_the_present_one(
    scored, assert_nothing_is_cut
):
    y_score, y_true = scored
    point = select_operating_point(*scored, min_tnr=0.8, min_threshold=0, confidence=0.9)
    number = point.num_negative_patients
    plan = expected_sensitivity(
        y_score[y_true == 0],
        y_score[y_true == 1],
        planned_sizes(number, 0.8, 0.9),
        min_tnr=0.8,
        confidence=0.9,
    )
    figure = figures.sensitivity_plan(plan, point, site="site-a")
    axes = figure.axes[0]
    line_with(axes.get_title(), "site-a", "0.8", "90 %")
    assert [tick.get_text() for tick in axes.get_xticklabels()] == [
        f"{each.num_negatives}" for each in plan if each.num_negatives != number
    ]
    line_with(legend_of(axes)[0], number)
    [now] = [each.tpr for each in plan if each.num_negatives == number]
    assert axes.lines[-1].get_xydata().tolist() == [[number, now]]
    segments = axes.containers[0].lines[2][0].get_segments()
    ends = [segment[:, 1] for segment in segments]
    np.testing.assert_allclose(ends, [each.interval for each in plan])
    assert_nothing_is_cut(figure)


def test_a_plan_of_referral_has_a_line_for_each_class(scored, assert_nothing_is_cut):
    y_score, y_true = scored
    limits = {"min_tnr": 0.9, "min_tpr": 0.9, "confidence": 0.9}
    point = select_operating_point(*scored, min_threshold=0, refer=True, **limits)
    negatives, positives = y_score[y_true == 0], y_score[y_true == 1]
    present = (negatives.size, positives.size)
    pairs = [(each, present[1]) for each in planned_sizes(present[0], 0.9, 0.9)]
    pairs += [(present[0], each) for each in planned_sizes(present[1], 0.9, 0.9)]
    plan = expected_referral(negatives, positives, y_score, sorted(set(pairs)), **limits)
    figure = figures.referral_plan(plan, point, site="site-a")
    axes = figure.axes[0]
    line_with(axes.get_title(), "site-a", "TNR of 0.9", "TPR of 0.9", "90 %")
    drawn = [each.lines[0].get_xydata().tolist() for each in axes.containers]
    for varied, fixed in ((0, 1), (1, 0)):
        assert drawn[varied] == [
            [each[varied], each.referred] for each in plan if each[fixed] == present[fixed]
        ]
    for text, number in zip(legend_of(axes), reversed(present), strict=True):
        line_with(text, number)
    assert_nothing_is_cut(figure)


def test_reliability_bins_hold_every_image_once(scored):
    y_score, y_true = scored
    top, bottom = figures.reliability(y_score, y_true, num_bins=10).axes
    assert sum(bar.get_height() for bar in bottom.patches) == len(y_score)
    inside = (y_score >= 0.9) & (y_score <= 1.0)
    last = top.containers[0].lines[0].get_xydata()[-1]
    np.testing.assert_allclose(last, [y_score[inside].mean(), y_true[inside].mean()], rtol=1e-5)


def test_each_bin_has_its_exact_interval(scored, assert_nothing_is_cut):
    y_score, y_true = scored
    figure = figures.reliability(y_score, y_true, split="test")
    segments = figure.axes[0].containers[0].lines[2][0].get_segments()
    for number, segment in enumerate(segments):
        inside = np.digitize(y_score, np.arange(1, 10) / 10) == number
        interval = binomtest(int(y_true[inside].sum()), int(inside.sum())).proportion_ci()
        np.testing.assert_allclose(segment[:, 1], interval, atol=1e-9)
    assert len(segments) == 10
    assert_nothing_is_cut(figure)


def test_reliability_shows_both_scales(scored, assert_nothing_is_cut):
    y_score, y_true = scored
    probability = shift_logit(y_score, -1.586)
    figure = figures.reliability(y_score, y_true, split="test", probability=probability)
    top, bottom = figure.axes
    assert len(top.containers) == 2
    alone, _ = figures.reliability(y_score, y_true, split="test").axes
    assert len(legend_of(top)) == len(legend_of(alone)) + 1
    last = top.containers[1].lines[0].get_xydata()[-1]
    inside = probability >= 0.9
    np.testing.assert_allclose(last, [probability[inside].mean(), y_true[inside].mean()], rtol=1e-6)
    heights = [bar.get_height() for bar in bottom.patches]
    assert heights == [
        *np.histogram(y_score, np.arange(11) / 10)[0],
        *np.histogram(probability, np.arange(11) / 10)[0],
    ]
    assert_nothing_is_cut(figure)


def test_a_score_of_one_lies_in_the_last_bin():
    _, bottom = figures.reliability(np.array([0.0, 1.0]), np.array([0, 1]), num_bins=4).axes
    assert [bar.get_height() for bar in bottom.patches] == [1, 0, 0, 1]


def test_no_images_leave_an_empty_reliability_diagram(assert_nothing_is_cut):
    figure = figures.reliability(np.array([]), np.array([]), probability=np.array([]))
    assert sum(bar.get_height() for bar in figure.axes[1].patches) == 0
    assert_nothing_is_cut(figure)


@pytest.mark.parametrize("draw", [figures.roc_curve, figures.precision_recall_curve])
def test_images_of_one_class_get_axes_that_say_so(draw, scored, assert_nothing_is_cut):
    y_score, y_true = scored
    point = select_operating_point(y_score, y_true)
    figure = draw(y_score, np.ones_like(y_true), point, split="test")
    (printed,) = figure.axes[0].texts
    line_with(printed.get_text(), "class")
    assert all(len(line.get_xdata()) == 2 for line in figure.axes[0].lines)  # that of chance
    assert_nothing_is_cut(figure)


def test_drawing_leaves_no_global_state(scored):
    before = dict(mpl.rcParams)
    figures.reliability(*scored).savefig(io.BytesIO())
    assert dict(mpl.rcParams) == before
