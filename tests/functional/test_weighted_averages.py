"""Averages over findings, against scikit-learn, and under weights."""

import numpy as np
import pytest
import sklearn.metrics

from cxrignite.functional.weighted_averages import (
    average_statistics,
    class_counts_of,
    class_statistics,
    ranked_findings,
)


def _findings(seed, num_findings=5):
    """Scores and labels of some images, a fifth of the labels unknown."""
    rng = np.random.default_rng(seed)
    y_true = (rng.random((80, num_findings)) < rng.uniform(0.1, 0.6, num_findings)).astype(int)
    y_score = np.clip(0.3 * y_true + rng.random(y_true.shape), 0, 1).round(2)
    y_true[rng.random(y_true.shape) < 0.2] = -1
    return y_score, y_true


def _once(statistics, num_images):
    return {name: float(v[0]) for name, v in statistics(np.ones((1, num_images))).items()}


@pytest.mark.parametrize("seed", range(100))
def test_averages_equal_those_of_scikit_learn(seed):
    y_score, y_true = _findings(seed)
    known, used = y_true != -1, ranked_findings(y_true)
    found = _once(average_statistics(y_score, y_true), len(y_true))
    for name, metric in (
        ("roc_auc", sklearn.metrics.roc_auc_score),
        ("average_precision", sklearn.metrics.average_precision_score),
    ):
        each = [metric(y_true[known[:, k], k], y_score[known[:, k], k]) for k in used]
        assert found[name] == pytest.approx(np.mean(each), abs=1e-12)
        pairs = known[:, used]
        pooled = metric(y_true[:, used][pairs], y_score[:, used][pairs])
        assert found[f"micro_{name}"] == pytest.approx(pooled, abs=1e-12)


def test_a_weight_counts_an_image_several_times():
    y_score, y_true = _findings(3)
    weights = np.random.default_rng(0).integers(0, 3, (1, len(y_true)))
    repeated = np.repeat(np.arange(len(y_true)), weights[0])
    weighted = average_statistics(y_score, y_true)(weights.astype(float))
    once = _once(average_statistics(y_score[repeated], y_true[repeated]), len(repeated))
    assert {name: float(values[0]) for name, values in weighted.items()} == pytest.approx(once)


def test_a_finding_of_one_class_does_not_count():
    y_score, y_true = _findings(4)
    without = _once(average_statistics(y_score[:, :4], y_true[:, :4]), len(y_true))
    y_true[:, 4] = np.where(y_true[:, 4] == -1, -1, 0)
    assert ranked_findings(y_true) == [0, 1, 2, 3]
    assert _once(average_statistics(y_score, y_true), len(y_true)) == without


def test_no_finding_of_both_classes_is_refused():
    with pytest.raises(ValueError, match="both classes"):
        average_statistics(np.full((4, 2), 0.5), np.zeros((4, 2), dtype=int))


@pytest.mark.parametrize("seed", range(20))
def test_decisions_among_classes_equal_those_of_scikit_learn(seed):
    rng = np.random.default_rng(seed)
    true = rng.integers(0, 4, 60)
    logits = rng.normal(size=(60, 4)) + 2 * np.eye(4)[true]
    scores = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    labels = np.eye(4, dtype=int)[true]
    y_score, y_true = scores[:, 1:], labels[:, 1:]
    decided = scores.argmax(axis=1)
    cells = class_counts_of(y_score, y_true)
    assert cells.tolist() == np.stack([true, decided], axis=1).tolist()
    found = _once(class_statistics(y_score, y_true), 60)
    assert found["accuracy"] == pytest.approx(sklearn.metrics.accuracy_score(true, decided))
    assert found["balanced_accuracy"] == pytest.approx(
        sklearn.metrics.balanced_accuracy_score(true, decided)
    )
    assert found["kappa"] == pytest.approx(sklearn.metrics.cohen_kappa_score(true, decided))


def test_decisions_under_weights_count_images_several_times():
    y_score = np.array([[0.1, 0.2], [0.8, 0.1], [0.3, 0.6], [0.7, 0.2]])
    y_true = np.array([[0, 0], [1, 0], [0, 1], [0, 1]])
    weights = np.array([[2.0, 1, 0, 3]])
    repeated = [0, 0, 1, 3, 3, 3]
    weighted = class_statistics(y_score, y_true)(weights)
    once = _once(class_statistics(y_score[repeated], y_true[repeated]), len(repeated))
    assert {name: float(v[0]) for name, v in weighted.items()} == pytest.approx(once)
