"""The comparison of an exported model with its run, and the images that it uses."""

import numpy as np
import pytest
import torch
from messages import refused
from results import rule_of
from torch import nn

from cxrignite.data import ImageRecord
from cxrignite.engines import BatchScorer
from cxrignite.errors import CxrIgniteError
from cxrignite.workflows.export.chosen_images import choose_records, graph_limits
from cxrignite.workflows.export.description import describe_findings
from cxrignite.workflows.export.graphs import Graph
from cxrignite.workflows.export.parity import compare, scored
from cxrignite.workflows.export.scoring_model import Limits


def stored(*scores, split="calibration"):
    return {split: {str(number): np.array([each]) for number, each in enumerate(scores)}}


def test_a_threshold_at_an_image_is_lowered_less_than_halfway_to_the_next():
    rule = rule_of(threshold=0.9)
    assert graph_limits([rule], stored(0.5, 0.9, 0.95)) == [Limits(0.9 - 1e-5)]
    assert graph_limits([rule], stored(0.9 - 1e-6, 0.9)) == [
        Limits(pytest.approx(0.9 - 5e-7, abs=1e-12))
    ]
    assert graph_limits([rule], stored(0.9)) == [Limits(0.9 - 1e-5)]


def test_a_threshold_between_images_stays():
    rule = rule_of(threshold=0.9)
    assert graph_limits([rule], stored(0.899, 0.901)) == [Limits(0.9)]
    assert graph_limits([rule], stored(0.9, split="test")) == [Limits(0.9)]
    assert graph_limits([rule], {}) == [Limits(0.9)]


def test_both_thresholds_are_lowered():
    rule = rule_of(threshold=0.9, lower_threshold=0.4)
    (limits,) = graph_limits([rule], stored(0.4, 0.9))
    assert (limits.threshold, limits.lower) == (0.9 - 1e-5, 0.4 - 1e-5)


def test_a_finding_without_a_threshold_has_no_limits():
    assert graph_limits([rule_of(point=None)], stored(0.4)) == [None]


def records(split, num):
    return [ImageRecord(f"/x/{each}", str(each), 0, "", split) for each in range(num)]


def test_images_near_the_threshold_and_some_of_all_are_chosen():
    scores = stored(*np.linspace(0, 1, 500))
    chosen = choose_records(records("calibration", 500), [rule_of(threshold=0.9)], scores)
    assert len(chosen) == len({each.name for each in chosen}) == 64
    values = np.array([scores["calibration"][each.name][0] for each in chosen])
    assert (np.abs(values - 0.9) < 0.04).sum() >= 32
    assert values.min() < 0.05


def test_all_of_few_images_are_chosen_but_none_that_trains():
    few = records("test", 5)
    assert choose_records([*few, *records("train", 9)], [rule_of()], {"test": {}}) == few


class Mean(nn.Module):
    def forward(self, images):
        return images.float().mean((1, 2, 3)) / 32 - 4


@pytest.fixture
def samples():
    rng = np.random.default_rng(0)
    # Two sizes, as in a run that keeps those of the files.
    images = [rng.integers(0, 256, (1, 8, 8 + number // 5), np.uint8) for number in range(10)]
    scorer = BatchScorer(Mean(), device="cpu", batch_size=4)
    return scored(scorer, images, [rule_of(threshold=0.5)], 2)


def graph(change):
    def run(images):
        score = torch.sigmoid(Mean()(torch.from_numpy(images)))[:, None]
        probability = rule_of().prior_shift.probability(score[:, 0])[:, None].astype(np.float32)
        return change(score.numpy(), probability, (score >= 0.5).long().numpy())

    return Graph(b"", 8, 8, run, "test 1.0")


def described(**point):
    rule = rule_of(threshold=0.5, **point)
    return describe_findings([rule], [Limits(0.5)], ("NORMAL", "PNEUMONIA"))


def test_equal_results_have_no_difference(samples):
    parity = compare(graph(lambda *found: found), samples, described())
    assert (parity.num_images, parity.num_checked) == (8, 2)
    assert parity.reference == "fp32 on cpu"
    assert parity.score_difference[0] < 1e-7
    assert parity.probability_difference[0] < 1e-7
    assert parity.num_decisions_different == (0,)


def test_the_largest_difference_of_any_batch_size_counts(samples):
    def change(score, probability, decision):
        return score + np.float32(0.25 if len(score) == 1 else 0.125), probability, decision

    parity = compare(graph(change), samples, described())
    assert parity.score_difference[0] == pytest.approx(0.25, abs=1e-6)


def test_each_image_with_another_decision_is_counted_once(samples):
    def change(score, probability, decision):
        return score, probability, 1 - decision

    assert compare(graph(change), samples, described()).num_decisions_different == (10,)


def test_a_probability_that_is_nan_differs(samples):
    def change(score, probability, decision):
        return score, np.full_like(probability, np.nan), decision

    assert compare(graph(change), samples, described()).probability_difference == (np.inf,)


def test_a_size_that_the_exported_model_cannot_take_is_named(samples):
    def run(images):
        raise AssertionError(f"Guard failed for {images.shape}\nmore")

    with refused(CxrIgniteError, "8 x 8", "test 1.0", "data.image_size"):
        compare(Graph(b"", 8, 8, run, "test 1.0"), samples, described())
