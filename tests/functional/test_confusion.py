import math

import numpy as np
import pytest
import torch
from messages import refused
from sklearn.metrics import (
    accuracy_score,
    balanced_accuracy_score,
    confusion_matrix,
    precision_score,
    recall_score,
)

from cxrignite.functional import Confusion, confusion_at, highest_class
from cxrignite.functional.confusion import counts_by_threshold


@pytest.mark.parametrize("seed", range(20))
def test_cells_and_rates_are_those_of_scikit_learn(seed):
    rng = np.random.default_rng(seed)
    y_score = rng.random(60).round(1)
    y_true = rng.permutation([0] * 20 + [1] * 40)
    threshold = 0.4
    called = y_score >= threshold
    cells = confusion_at(y_score, y_true, threshold)
    assert [cells.tn, cells.fp, cells.fn, cells.tp] == confusion_matrix(
        y_true, called, labels=[0, 1]
    ).ravel().tolist()
    assert cells.tpr == pytest.approx(recall_score(y_true, called))
    assert cells.tnr == pytest.approx(recall_score(y_true, called, pos_label=0))
    assert cells.ppv == pytest.approx(precision_score(y_true, called))
    assert cells.npv == pytest.approx(precision_score(y_true, called, pos_label=0))
    assert cells.accuracy == pytest.approx(accuracy_score(y_true, called))
    assert cells.balanced_accuracy == pytest.approx(balanced_accuracy_score(y_true, called))


def test_a_rate_over_no_images_is_nan():
    cells = confusion_at([0.2, 0.3], [0, 0], 0.5)
    assert cells == Confusion(tn=2, fp=0, fn=0, tp=0)
    assert math.isnan(cells.tpr)
    assert math.isnan(cells.ppv)
    assert cells.npv == 1.0
    assert math.isnan(confusion_at([], [], 0.5).accuracy)


def test_a_float32_score_just_below_the_threshold_is_negative():
    score = torch.tensor([0.9], dtype=torch.float32)
    assert confusion_at(score, [1], 0.9).fn == 1
    assert confusion_at(np.float32([0.9]), [1], np.float32(0.9)).tp == 1


def test_a_nan_threshold_is_refused():
    with refused(ValueError, "threshold"):
        confusion_at([0.5], [1], math.nan)


def test_counts_by_threshold_are_those_of_each_threshold_alone():
    rng = np.random.default_rng(0)
    scores, positive = rng.random(60).round(1), rng.random(60) < 0.5
    thresholds, fp, tp = counts_by_threshold(scores, positive, 0.25)
    assert thresholds.tolist() == [*sorted(set(scores[scores > 0.25].tolist()), reverse=True), 0.25]
    for threshold, *counts in zip(thresholds, fp, tp, strict=True):
        cells = confusion_at(scores, positive, threshold)
        assert counts == [cells.fp, cells.tp]


def test_the_highest_class_counts_the_rest_as_the_first():
    y_score = np.array([[0.2, 0.1], [0.5, 0.1], [0.2, 0.7], [0.25, 0.25], [0.25, 0.5]])
    assert highest_class(y_score).tolist() == [0, 1, 2, 0, 2]
    assert highest_class(torch.tensor([[0.4, 0.4]])).tolist() == [1]
