import itertools
import json
import math

import numpy as np
import pytest

from cxrignite.functional import clopper_pearson, confusion_at
from cxrignite.reporting.html.explorer import MAX_BOUNDS, NUM_BINS, explore, make_explorer
from cxrignite.reporting.numbers import observed_share, score_text


def scored(seed, sizes):
    """Random scores of both classes, rounded so that many are equal."""
    random = np.random.default_rng(seed)
    labels = np.repeat([0, 1], sizes)
    return random.beta(1 + labels, 2 - labels).round(3), labels


def steps_of(data):
    """Each step of the script: text, images below it by class."""
    below = [list(itertools.accumulate(each)) for each in data["below"]]
    return zip(data["steps"], *below, strict=True)


@pytest.mark.parametrize("sizes", [(70, 40), (1, 300), (0, 9), (9, 0)])
def test_every_step_has_the_counts_of_the_confusion_matrix(sizes):
    scores, labels = scored(1, sizes)
    stored = float(np.median(scores))  # a tie
    explored = explore("test", scores, labels, [stored])
    steps = list(steps_of(explored.data))
    assert len(steps) > 1000
    assert [float(text) for text, *_ in steps] == sorted({float(text) for text, *_ in steps})
    for text, tn, fn in steps:
        threshold = stored if text == score_text(stored) else float(text)
        assert confusion_at(scores, labels, threshold).tn == tn
        assert confusion_at(scores, labels, threshold).fn == fn
    assert explored.data["sizes"] == list(sizes)


@pytest.mark.parametrize("stored", [0.123456789, math.nextafter(0.75, 1), 0.99999994, 1.0, 0.0])
def test_the_stored_threshold_is_not_rounded(stored):
    below = math.nextafter(stored, 0)
    scores, labels = [below, stored, min(math.nextafter(stored, 2), 1.0)], [0, 1, 1]
    explored = explore("test", np.array(scores), np.array(labels), [stored])
    (place,) = explored.data["stored"]
    text, tn, fn = list(steps_of(explored.data))[place]
    assert text == score_text(stored)
    assert (tn, fn) == (int(below < stored), 0)
    (row,) = [row for row in explored.rows if row.is_stored]
    assert (row.threshold, row.tn, row.tp) == (text, str(tn), "2")


def test_a_threshold_above_every_score_calls_none_positive():
    scores, labels = np.array([0.5, 1.0]), np.array([0, 1])
    explored = explore("test", scores, labels, [math.nextafter(1.0, 2)])
    (row,) = [row for row in explored.rows if row.is_stored]
    assert (row.tn, row.fn) == ("1", "1")
    assert explored.histogram.stored == [400]


def test_the_table_has_the_rates_of_the_report():
    scores, labels = scored(2, (150, 90))
    explored = explore("test", scores, labels, [0.412])
    assert len(explored.rows) == 12
    for row in explored.rows:
        each = confusion_at(scores, labels, float(row.threshold))
        assert [row.tn, row.fp, row.fn, row.tp] == [
            str(n) for n in (each.tn, each.fp, each.fn, each.tp)
        ]
        assert row.tnr == observed_share(each.tn, each.fp)
        assert row.tpr == observed_share(each.tp, each.fn)
    assert [row.threshold for row in explored.rows if row.is_stored] == ["0.4120"]


@pytest.mark.parametrize("size", [1, 30, 700])
def test_the_intervals_of_the_script_are_the_exact_ones(size):
    explored = explore("test", np.zeros(size), np.zeros(size, np.int64), [0.5])
    lows = list(itertools.accumulate(explored.data["lows"][0]))
    assert len(lows) == size + 1
    for count in range(size + 1):
        low, high = clopper_pearson(count, size)
        assert lows[count] * 1e-7 == pytest.approx(low, abs=6e-8)
        assert 1 - lows[size - count] * 1e-7 == pytest.approx(high, abs=6e-8)
    assert explored.data["lows"][1] == [0]


def test_a_large_class_has_fewer_intervals_between_which_a_line_is_close_enough():
    size = 100_000
    explored = explore("test", np.zeros(size), np.zeros(size, np.int64), [0.5])
    lows = list(itertools.accumulate(explored.data["lows"][0]))
    assert len(lows) == MAX_BOUNDS + 1
    for count in (1, 7, 33, 1_234, 50_010, 99_991, 99_999):
        low = np.interp(count * MAX_BOUNDS / size, np.arange(len(lows)), lows) * 1e-7
        assert low == pytest.approx(clopper_pearson(count, size).low, abs=5e-5)
    assert len(make_explorer([explored]).data) < 100_000


def test_two_thresholds_are_both_steps_and_rows():
    scores, labels = scored(3, (60, 60))
    explored = explore("test", scores, labels, [0.30001, 0.30002])
    steps, (lower, upper) = explored.data["steps"], explored.data["stored"]
    assert [steps[lower], steps[upper]] == ["0.30001", "0.30002"]
    assert [row.threshold for row in explored.rows if row.is_stored] == ["0.30001", "0.30002"]
    assert len(explored.histogram.stored) == 2


def test_the_histogram_counts_each_class():
    scores, labels = np.array([0.0, 0.01, 0.99, 1.0, 1.0]), np.array([0, 0, 0, 1, 1])
    histogram = explore("test", scores, labels, [0.5]).histogram
    assert histogram.tallest == "100.0 %"
    assert histogram.positives == f"M{(NUM_BINS - 1) * 10 + 0.5} 100v-100.0h9V100z"
    assert histogram.negatives.count("z") == 2


def test_the_data_cannot_end_its_element_and_names_no_image():
    explored = explore("</script><b>", *scored(4, (5, 5)), [0.5])
    data = make_explorer([explored, explored._replace(data={"text": "</script>&"})]).data
    assert "<" not in data
    content = json.loads(data)
    assert content[1] == {"text": "</script>&"}
    assert set(content[0]) == {"steps", "stored", "sizes", "below", "lows"}
