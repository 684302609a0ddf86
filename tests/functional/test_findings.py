"""Metrics of several findings, against scikit-learn."""

import numpy as np
import pytest
import torch
from messages import refused
from sklearn import metrics

from cxrignite.functional import (
    average_statistics,
    exclusive_confusion,
    exclusive_statistics,
    finding_logit,
    rank_findings,
    scores_from_logits,
)
from cxrignite.functional.findings import checked_findings, exclusive_class


def case(seed, ties=False):
    """Scores, labels with missing ones, and weights of a random case."""
    rng = np.random.default_rng(seed)
    size, num_findings = int(rng.integers(5, 120)), int(rng.integers(2, 8))
    y_true = (rng.random((size, num_findings)) < rng.uniform(0.05, 0.6, num_findings)).astype(int)
    y_score = 1 / (1 + np.exp(-rng.normal(2 * y_true - 1, 1.5)))
    if ties:
        y_score = y_score.round(1)
    y_true[rng.random(y_true.shape) < rng.uniform(0, 0.5, num_findings)] = -1
    return y_score, y_true, rng.integers(0, 4, (1, size)).astype(float)


def by_sklearn(metric, y_score, y_true, weights):
    """The metric of each finding that has both classes, then their mean, and the micro average."""
    each, micro = [], []
    for row in weights:
        values = []
        for scores, labels in zip(y_score.T, y_true.T, strict=True):
            known = labels >= 0
            if len(set(labels[known])) < 2:
                continue
            counted = row[known]
            # Without negatives scikit-learn has an average precision, without positives none.
            drawn = set(labels[known][counted > 0])
            if len(drawn) < 2 and (metric is metrics.roc_auc_score or 1 not in drawn):
                values.append(np.nan)
                continue
            values.append(metric(labels[known], scores[known], sample_weight=counted))
        known = y_true >= 0
        pooled = np.broadcast_to(row[:, None], y_true.shape)[known]
        both = len(set(y_true[known][pooled > 0])) == 2
        micro.append(
            metric(y_true[known], y_score[known], sample_weight=pooled) if both else np.nan
        )
        each.append(np.mean(values) if values else np.nan)
    return np.array(each), np.array(micro)


@pytest.mark.parametrize("seed", range(100))
def test_averages_with_missing_labels_are_those_of_sklearn(seed):
    y_score, y_true, weights = case(seed, ties=seed % 2 == 1)
    thresholds = np.random.default_rng(seed).uniform(0.3, 0.7, y_score.shape[1])
    weights = np.vstack([np.ones(len(y_score)), weights])
    found = average_statistics(y_score, y_true, thresholds)(weights)
    for name, metric in (
        ("roc_auc", metrics.roc_auc_score),
        ("average_precision", metrics.average_precision_score),
    ):
        macro, micro = by_sklearn(metric, y_score, y_true, weights)
        np.testing.assert_allclose(found[name], macro, atol=1e-12)
        np.testing.assert_allclose(found[f"{name}_micro"], micro, atol=1e-12)
    called = (y_score >= thresholds).astype(int)

    def f1(labels, decisions, sample_weight):
        return metrics.f1_score(
            labels, decisions, sample_weight=sample_weight, zero_division=np.nan
        )

    macro, micro = by_sklearn(f1, called, y_true, weights)
    both = ~np.isnan(macro)
    np.testing.assert_allclose(found["f1"][both], macro[both], atol=1e-12)
    both = ~np.isnan(micro)
    np.testing.assert_allclose(found["f1_micro"][both], micro[both], atol=1e-12)


@pytest.mark.parametrize("seed", range(100))
def test_ranks_of_each_finding_are_those_of_sklearn(seed):
    y_score, y_true, _ = case(seed, ties=seed % 2 == 1)
    ranks = rank_findings(torch.tensor(y_score), np.where(y_true < 0, np.nan, y_true))
    areas, precisions = [], []
    for scores, labels in zip(y_score.T, y_true.T, strict=True):
        known = labels >= 0
        both = len(set(labels[known])) == 2
        areas.append(metrics.roc_auc_score(labels[known], scores[known]) if both else np.nan)
        precisions.append(
            metrics.average_precision_score(labels[known], scores[known]) if both else np.nan
        )
    np.testing.assert_allclose(ranks.roc_auc, areas, atol=1e-12)
    np.testing.assert_allclose(ranks.average_precision, precisions, atol=1e-12)
    ones = np.ones((1, len(y_score)))
    averages = average_statistics(y_score, y_true)(ones)
    assert sorted(averages) == [
        *("average_precision", "average_precision_micro", "roc_auc", "roc_auc_micro")
    ]
    for name in ("roc_auc", "average_precision"):
        np.testing.assert_allclose(getattr(ranks, f"{name}_macro"), averages[name][0], atol=1e-12)
        micro = averages[f"{name}_micro"][0]
        np.testing.assert_allclose(getattr(ranks, f"{name}_micro"), micro, atol=1e-12)


def test_findings_without_both_classes_leave_the_averages_undefined():
    y_score, y_true = np.full((4, 2), 0.5), np.array([[1, -1]] * 4)
    ranks = rank_findings(y_score, y_true)
    assert np.isnan([*ranks.roc_auc, ranks.roc_auc_macro, ranks.roc_auc_micro]).all()
    found = average_statistics(y_score, y_true, [0.4, 0.4])(np.ones((2, 4)))
    assert np.isnan(found["roc_auc"]).all()
    assert np.isnan(found["f1"]).all()
    assert found["f1_micro"].tolist() == [1.0, 1.0]


@pytest.mark.parametrize("seed", range(100))
def test_metrics_of_exclusive_classes_are_those_of_sklearn(seed):
    rng = np.random.default_rng(seed)
    size, num_findings = int(rng.integers(5, 80)), int(rng.integers(2, 5))
    true = rng.integers(0, num_findings + 1, size)
    logits = torch.from_numpy(
        rng.normal(size=(size, num_findings)) + np.eye(num_findings + 1)[true][:, 1:]
    )
    y_true = np.eye(num_findings + 1, dtype=int)[true][:, 1:]
    unknown = rng.random(size) < 0.2
    y_true[unknown] = -1
    y_score = scores_from_logits(logits, exclusive=True)
    predicted = torch.cat([torch.zeros(size, 1), logits], dim=1).argmax(1).numpy()
    known = ~unknown
    labels = range(num_findings + 1)
    expected = metrics.confusion_matrix(true[known], predicted[known], labels=labels)
    assert (exclusive_confusion(y_score, y_true) == expected).all()
    weights = np.vstack([np.ones(size), rng.integers(0, 3, size) + 0.5])
    found = exclusive_statistics(y_score, y_true)(weights)
    for row in range(2):
        of = {"sample_weight": weights[row][known]}
        pair = true[known], predicted[known]
        assert found["accuracy"][row] == pytest.approx(metrics.accuracy_score(*pair, **of))
        assert found["kappa"][row] == pytest.approx(metrics.cohen_kappa_score(*pair, **of))
        recall = metrics.recall_score(*pair, labels=sorted(set(true[known])), average="macro", **of)
        assert found["balanced_accuracy"][row] == pytest.approx(recall)


def test_exclusive_scores_are_the_softmax_with_a_first_logit_of_zero():
    logits = torch.randn(7, 3, dtype=torch.float64)
    expected = torch.cat([torch.zeros(7, 1), logits], dim=1).softmax(1)[:, 1:]
    assert torch.allclose(scores_from_logits(logits, exclusive=True), expected)
    for column in (logits[:, 0], logits[:, :1]):
        assert torch.equal(scores_from_logits(column, exclusive=True), torch.sigmoid(column))
    assert torch.equal(scores_from_logits(logits), torch.sigmoid(logits))


def test_a_class_is_unknown_only_if_no_finding_is_certain():
    nan = float("nan")
    labels = torch.tensor([[0, 0], [1, 0], [0, 1], [nan, nan], [nan, 1], [0, nan]])
    assert exclusive_class(labels).tolist() == [0, 1, 2, -1, 2, -1]


@pytest.mark.parametrize(
    ("y_score", "y_true", "facts"),
    [
        ([[0.5, 0.5]], [[0, 2]], ["0 or 1", "2"]),
        ([[0.5, 1.5]], [[0, -1]], ["[0, 1]", "1.5"]),
        ([[0.5, 0.5]], [[0]], ["(1, 2)", "(1, 1)"]),
        ([0.5], [0], ["(N, K)", "(1,)"]),
    ],
)
def test_scores_and_labels_of_another_form_are_refused(y_score, y_true, facts):
    with refused(ValueError, *facts):
        checked_findings(np.array(y_score), np.array(y_true))


def test_two_exclusive_classes_of_an_image_are_refused():
    with refused(ValueError, "1"):
        exclusive_confusion(np.full((2, 2), 0.3), np.array([[1, 1], [0, 1]]))


def test_a_threshold_for_each_finding_is_needed():
    with refused(ValueError, "thresholds", "2", "(1,)"):
        average_statistics(np.full((2, 2), 0.3), np.eye(2), [0.5])


def test_the_logit_of_a_finding_gives_its_score():
    logits = torch.randn(7, 3, generator=torch.Generator().manual_seed(0)).double()
    for exclusive in (False, True):
        score = scores_from_logits(logits, exclusive)
        for index in range(3):
            found = finding_logit(logits, index, exclusive)
            torch.testing.assert_close(torch.sigmoid(found), score[:, index])
    assert torch.equal(finding_logit(logits, 1), logits[:, 1])
    for column in (logits[:, :1], logits[:, 0]):
        assert torch.equal(finding_logit(column, 0, exclusive=True), logits[:, 0])
