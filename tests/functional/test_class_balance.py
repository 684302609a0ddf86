import numpy as np
import pytest
import torch
from sklearn.utils.class_weight import compute_sample_weight

from cxrignite.functional import balanced_weights, class_counts, soft_pos_weight


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
    with pytest.raises(ValueError, match="must hold both classes, got 0 negatives and 2 positives"):
        balanced_weights([1, 1])


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        ([0, 1, 2], r"labels must be 0 or 1, got 2 \(1 such values\)"),
        ([0, float("nan")], "labels must be 0 or 1, got nan"),
        ([[0, 1]], r"labels must have shape \(N,\), got \(1, 2\)"),
    ],
)
def test_what_is_no_label_is_refused(labels, message):
    with pytest.raises(ValueError, match=message):
        class_counts(labels)


def test_the_square_root_weight_of_chest_xray_2017_is_589():
    assert soft_pos_weight(1349, 3883) == pytest.approx(0.5894, abs=5e-5)


def test_the_power_goes_from_no_weight_to_the_full_ratio():
    assert soft_pos_weight(10, 40, power=0) == 1.0
    assert soft_pos_weight(10, 40, power=1) == 0.25


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((0, 3), "must be at least 1, got 0 and 3"),
        ((3, 0), "must be at least 1, got 3 and 0"),
        ((3, 3, 1.5), r"power must be in \[0, 1\], got 1.5"),
        ((3, 3, float("nan")), r"power must be in \[0, 1\], got nan"),
    ],
)
def test_a_weight_out_of_range_is_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        soft_pos_weight(*arguments)
