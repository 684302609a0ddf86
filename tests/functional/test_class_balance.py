import numpy as np
import pytest
import torch
from messages import refused
from sklearn.utils.class_weight import compute_sample_weight

from cxrignite.functional import (
    PriorShift,
    balanced_weights,
    class_counts,
    drawn_share,
    exclusive_probabilities,
    finding_probabilities,
    soft_pos_weight,
)


@pytest.mark.parametrize(
    "labels",
    [
        [0, 1, 1, 0, 1],
        [False, True, True, False, True],
        np.array([0, 1, 1, 0, 1], dtype=np.uint8),
        torch.tensor([0.0, 1.0, 1.0, 0.0, 1.0], dtype=torch.bfloat16),
    ],
)
def test_classes_are_counted_whatever_the_type_of_the_labels(labels):
    assert class_counts(labels) == (2, 3)


def test_a_class_may_be_counted_as_empty():
    assert class_counts([]) == (0, 0)
    assert class_counts([1, 1]).num_negative == 0


def test_balanced_weights_are_those_of_scikit_learn():
    labels = np.random.default_rng(0).random(500) < 0.74
    weights = balanced_weights(labels)
    assert weights.dtype == torch.float64
    np.testing.assert_allclose(weights.numpy(), compute_sample_weight("balanced", labels))


def test_both_classes_get_the_same_total_mass():
    weights = balanced_weights([0] * 3 + [1] * 11)
    assert weights[:3].sum().item() == pytest.approx(weights[3:].sum().item(), rel=1e-12)


def test_weights_need_both_classes():
    with refused(ValueError, "0 negatives", "2 positives"):
        balanced_weights([1, 1])


@pytest.mark.parametrize(
    ("labels", "facts"),
    [
        ([0, 1, 2], ["labels", "0", "1", "2"]),
        ([0, float("nan")], ["labels", "0", "1", "nan"]),
        ([[0, 1]], ["labels", "(N,)", "(1, 2)"]),
    ],
)
def test_what_is_no_label_is_refused(labels, facts):
    with refused(ValueError, *facts):
        class_counts(labels)


def test_the_square_root_weight_of_chest_xray_2017_is_589():
    assert soft_pos_weight(1349, 3883) == pytest.approx(0.5894, abs=5e-5)


def test_the_power_goes_from_no_weight_to_the_full_ratio():
    assert soft_pos_weight(10, 40, power=0) == 1.0
    assert soft_pos_weight(10, 40, power=1) == 0.25


@pytest.mark.parametrize(
    ("arguments", "facts"),
    [
        ((0, 3), ["1", "0", "3"]),
        ((3, 0), ["1", "3", "0"]),
        ((3, 3, 1.5), ["power", "[0, 1]", "1.5"]),
        ((3, 3, float("nan")), ["power", "[0, 1]", "nan"]),
    ],
)
def test_a_weight_out_of_range_is_refused(arguments, facts):
    with refused(ValueError, *facts):
        soft_pos_weight(*arguments)


def test_the_prior_shift_of_chest_xray_2017():
    prior_shift = PriorShift(
        1349, 3883, sampled_prevalence=0.5, pos_weight=soft_pos_weight(1349, 3883)
    )
    assert prior_shift.prevalence == pytest.approx(0.7422, abs=1e-4)
    assert prior_shift.logit_shift == pytest.approx(-1.586, abs=5e-4)
    assert prior_shift.probability([0.90])[0] == pytest.approx(0.978, abs=5e-4)
    assert prior_shift.seen_prevalence == pytest.approx(0.589 / 1.589, abs=1e-3)


def test_the_prior_shift_agrees_with_the_prior_shift_by_bayes():
    # Counted with weights: 300 and 100 images, drawn 1 : 1, positives weighted 3.
    prior_shift = PriorShift(300, 100, sampled_prevalence=0.5, pos_weight=3.0)
    for raw in (0.1, 0.5, 0.9):
        odds_seen = 3.0 * 0.5 / 0.5
        odds = raw / (1 - raw) / odds_seen * (100 / 300)
        assert prior_shift.probability([raw])[0] == pytest.approx(odds / (1 + odds))
        # One image in twenty: the same odds of the classes given the image, another prior.
        rare = raw / (1 - raw) / odds_seen * (1 / 19)
        assert prior_shift.probability([raw], 0.05)[0] == pytest.approx(rare / (1 + rare))
    at_training = prior_shift.probability([0.1, 0.9], prior_shift.prevalence)
    assert at_training.tolist() == prior_shift.probability([0.1, 0.9]).tolist()
    with refused(ValueError, "prevalence", 1.5):
        prior_shift.probability([0.1], 1.5)


def test_without_sampler_and_weight_the_training_score_is_the_raw_one():
    prior_shift = PriorShift(30, 70, sampled_prevalence=0.7, pos_weight=1.0)
    assert prior_shift.logit_shift == pytest.approx(0)
    np.testing.assert_allclose(prior_shift.probability([0.0, 0.3, 1.0]), [0, 0.3, 1])
    assert not prior_shift.corrects_twice


def test_a_loss_of_unknown_effect_leaves_the_training_score_unknown():
    prior_shift = PriorShift(30, 70, sampled_prevalence=0.5, pos_weight=None)
    assert prior_shift.probability([0.3]) is None
    assert prior_shift.probability([0.3], 0.05) is None
    assert prior_shift.logit_shift is None
    assert prior_shift.seen_prevalence is None
    assert not prior_shift.corrects_twice


@pytest.mark.parametrize(
    ("sampled_prevalence", "pos_weight", "twice"),
    [(0.5, 0.6, True), (0.5, 1.0, False), (0.74, 0.6, False), (0.5, 1.5, False)],
)
def test_two_corrections_the_same_way_are_noticed(sampled_prevalence, pos_weight, twice):
    prior_shift = PriorShift(26, 74, sampled_prevalence, pos_weight)
    assert prior_shift.corrects_twice is twice


@pytest.mark.parametrize(
    ("values", "facts"),
    [
        ((0, 1, 0.5, 1.0), ["1", "0"]),
        ((1, 1, 1.0, 1.0), ["sampled_prevalence", "(0, 1)", "1.0"]),
        ((1, 1, 0.5, 0.0), ["pos_weight", "0", "0.0"]),
        ((1, 1, 0.5, float("nan")), ["pos_weight", "0", "nan"]),
    ],
)
def test_impossible_prior_shifts_are_refused(values, facts):
    with refused(ValueError, *facts):
        PriorShift(*values)


def test_the_drawn_share_is_that_of_the_weights():
    labels = [0] * 30 + [1] * 70
    assert drawn_share(labels, None) == pytest.approx(0.7)
    assert drawn_share(labels, balanced_weights(labels)) == pytest.approx(0.5)
    with refused(ValueError, "100"):
        drawn_share(labels, [1.0])
    with refused(ValueError, "0", "2"):
        drawn_share([0, 1], [0.0, 0.0])


def exclusive_shifts(counts, drawn, weights):
    """The shift of each class but the first, from the numbers of all classes."""
    total = np.dot(drawn, weights)
    return [
        PriorShift(
            sum(counts) - counts[k],
            counts[k],
            drawn[k],
            weights[k] * (1 - drawn[k]) / (total - weights[k] * drawn[k]),
        )
        for k in range(1, len(counts))
    ]


def test_probabilities_of_exclusive_classes_follow_from_bayes():
    counts, drawn, weights = [50, 30, 20], np.array([0.4, 0.35, 0.25]), np.array([0.5, 1.0, 3.0])
    shifts = exclusive_shifts(counts, drawn, weights)
    seen = weights * drawn / (weights * drawn).sum()
    assert [shift.seen_prevalence for shift in shifts] == pytest.approx(seen[1:])
    truth = np.random.default_rng(0).dirichlet([1, 1, 1], 200)
    shown = truth * weights * drawn / (np.array(counts) / 100)
    score = (shown / shown.sum(axis=1, keepdims=True))[:, 1:]
    found = exclusive_probabilities(score, shifts)
    np.testing.assert_allclose(found, truth[:, 1:], atol=1e-12)
    assert not np.allclose(found, score, atol=0.1)
    # One score may have several probabilities, by the other class's score.
    one, two = exclusive_probabilities([[0.5, 0.0], [0.5, 0.5]], shifts)[:, 0]
    assert abs(one - two) > 0.1


def test_without_a_shift_exclusive_scores_stay():
    shifts = exclusive_shifts([50, 30, 20], [0.5, 0.3, 0.2], [1, 1, 1])
    score = [[0.2, 0.3], [0.0, 0.0], [1.0, 0.0]]
    np.testing.assert_allclose(exclusive_probabilities(score, shifts), score, atol=1e-15)


def test_impossible_exclusive_probabilities_are_refused():
    shifts = exclusive_shifts([50, 30, 20], [0.5, 0.3, 0.2], [1, 1, 1])
    unknown = [shifts[0], PriorShift(80, 20, 0.2, None)]
    assert exclusive_probabilities([[0.2, 0.3]], unknown) is None
    with refused(ValueError, "(N, 2)", "(2,)"):
        exclusive_probabilities([0.2, 0.3], shifts)
    with refused(ValueError, "(N, 2)", "(1, 3)"):
        exclusive_probabilities([[0.2, 0.3, 0.1]], shifts)
    with refused(ValueError, "1.2"):
        exclusive_probabilities([[1.2, 0.3]], shifts)
    with refused(ValueError, "first class"):
        exclusive_probabilities([[0.2, 0.3]], [PriorShift(70, 30, 0.5, 1.0)] * 2)


def test_the_probabilities_of_findings_are_those_of_each_or_of_all():
    score = np.array([[0.2, 0.3], [0.6, 0.1]])
    shifts = [PriorShift(70, 30, 0.3, 2.0), PriorShift(90, 10, 0.1, None)]
    known, unknown = finding_probabilities(score, shifts, exclusive=False, prevalence=0.4)
    assert unknown is None
    np.testing.assert_array_equal(known, shifts[0].probability(score[:, 0], 0.4))
    assert finding_probabilities(score, shifts, exclusive=True) == [None, None]
    shifts = [PriorShift(70, 30, 1 / 3, 1.0), PriorShift(90, 10, 1 / 3, 1.0)]
    found = finding_probabilities(score, shifts, exclusive=True)
    np.testing.assert_array_equal(np.stack(found, 1), exclusive_probabilities(score, shifts))
