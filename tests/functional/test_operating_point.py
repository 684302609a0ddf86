import json
import time

import numpy as np
import pytest
import torch
from sklearn.metrics import confusion_matrix_at_thresholds, roc_curve

from cxrignite.functional import OperatingPoint, confusion_at, select_operating_point


def brute_force(y_score, y_true, min_tnr, min_threshold, fp_cost, fn_cost):
    """Try every candidate, one by one."""
    tries = []
    for threshold in {min_threshold, *(score for score in y_score if score > min_threshold)}:
        cells = confusion_at(y_score, y_true, threshold)
        # In whole numbers, as the costs here are.
        soft = fn_cost * cells.tp * (cells.tn + cells.fp) + fp_cost * cells.tn * (
            cells.tp + cells.fn
        )
        tries.append((cells.tnr >= min_tnr, soft, cells.tnr, cells.tpr, threshold))
    feasible = [each for each in tries if each[0]]
    if feasible:
        return "empirical", max((soft, threshold) for _, soft, _, _, threshold in feasible)[1]
    return "infeasible", max((tnr, tpr, threshold) for _, _, tnr, tpr, threshold in tries)[2]


@pytest.mark.parametrize("seed", range(200))
def test_it_finds_what_trying_every_candidate_finds(seed):
    rng = np.random.default_rng(seed)
    num_images = int(rng.integers(2, 40))
    y_true = np.array([0, 1, *rng.integers(0, 2, num_images - 2)])
    # Few decimals make many ties; a shift separates the classes more or less.
    y_score = np.clip(rng.random(num_images) + 0.4 * rng.random() * y_true, 0, 1)
    y_score = y_score.round(int(rng.integers(1, 4)))
    settings = {
        "min_tnr": float(rng.choice([0.0, 0.5, 0.8, 0.93, 1.0])),
        "min_threshold": float(rng.choice([0.0, 0.3, 0.5, 0.9, 1.0])),
        "fp_cost": float(rng.choice([1, 2, 5])),
        "fn_cost": float(rng.choice([1, 3])),
    }
    point = select_operating_point(y_score, y_true, **settings)
    assert (point.verdict, point.threshold) == brute_force(y_score, y_true, **settings)
    cells = confusion_at(y_score, y_true, point.threshold)
    assert (point.tnr, point.tpr) == (cells.tnr, cells.tpr)
    assert (point.num_false_positive, point.num_false_negative) == (cells.fp, cells.fn)
    assert point.balanced_accuracy == cells.balanced_accuracy


@pytest.mark.parametrize("seed", range(10))
def test_it_agrees_with_the_curves_of_scikit_learn(seed):
    rng = np.random.default_rng(seed)
    y_true = rng.permutation([0] * 300 + [1] * 700)
    y_score = 1 / (1 + np.exp(-rng.normal(4 * y_true - 1, 1.5)))
    point = select_operating_point(y_score, y_true, min_tnr=0.93, min_threshold=0.0)

    fpr, tpr, thresholds = roc_curve(y_true, y_score, drop_intermediate=False)
    # `1 - fpr` is a rounding away from the share of negatives that it stands for.
    tnr = ((1 - fpr) * 300).round() / 300
    best = np.argmax(np.where((tnr >= 0.93) & np.isfinite(thresholds), tpr + tnr, -np.inf))
    assert point.threshold == thresholds[best]
    assert (point.tnr, point.tpr) == pytest.approx((tnr[best], tpr[best]))

    tn, fp, fn, _, thresholds = confusion_matrix_at_thresholds(y_true, y_score)
    row = np.flatnonzero(thresholds == point.threshold)[0]
    assert tn[row] / (tn[row] + fp[row]) == point.tnr
    assert (fp[row], fn[row]) == (point.num_false_positive, point.num_false_negative)


def test_a_tie_goes_to_the_higher_threshold():
    # At .5 and at .7 one of two positives is caught beyond what costs one of two negatives.
    point = select_operating_point(
        [0.1, 0.5, 0.5, 0.7], [0, 0, 1, 1], min_tnr=0.0, min_threshold=0.2
    )
    assert point.threshold == 0.7
    for cost in (1.0, 2.0, 3.0):
        tie = select_operating_point(
            [0.1, 0.4, 0.6, 0.8] * 3, [0, 1, 0, 1] * 3,
            min_tnr=0.0, min_threshold=0.0, fp_cost=cost, fn_cost=cost,
        )  # fmt: skip
        assert tie.threshold == 0.8


def test_a_costlier_false_positive_asks_for_a_higher_tnr():
    y_score, y_true = [0.1, 0.5, 0.5, 0.6, 0.9], [0, 0, 1, 1, 1]
    lenient = select_operating_point(y_score, y_true, min_tnr=0.0, min_threshold=0.0, fn_cost=2.0)
    strict = select_operating_point(y_score, y_true, min_tnr=0.0, min_threshold=0.0, fp_cost=2.0)
    assert (lenient.threshold, strict.threshold) == (0.5, 0.6)


def test_a_float32_score_at_the_edge_is_compared_in_float64():
    y_score = torch.tensor([0.2, 0.9], dtype=torch.float32)
    point = select_operating_point(y_score, [0, 1], min_threshold=0.9)
    # float32's 0.9 is 0.89999998: below the edge, so nothing reaches it.
    assert (point.threshold, point.tpr) == (0.9, 0.0)
    just_below = float(np.float32(0.9))
    assert select_operating_point(y_score, [0, 1], min_threshold=just_below).tpr == 1.0


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16, torch.float16])
def test_every_floating_dtype_is_taken(dtype):
    y_score = torch.tensor([0.25, 0.5, 0.75], dtype=dtype)
    assert select_operating_point(y_score, torch.tensor([0, 0, 1]), min_threshold=0.5).tpr == 1.0


def test_where_no_score_reaches_the_threshold_everything_is_negative():
    point = select_operating_point([0.1, 0.2], [0, 1], min_threshold=0.9)
    assert (point.threshold, point.tnr, point.tpr, point.verdict) == (0.9, 1.0, 0.0, "empirical")


def test_an_infeasible_constraint_gives_the_highest_tnr_and_then_the_highest_tpr():
    y_score = [0.3, 0.95, 0.99, 0.92, 0.95, 0.97, 0.99, 0.99]
    y_true = [0, 0, 0, 1, 1, 1, 1, 1]
    point = select_operating_point(y_score, y_true, min_tnr=0.93)
    # A TNR of 2/3 is had at .97 and at .99; .97 catches one more.
    assert (point.verdict, point.threshold) == ("infeasible", 0.97)
    assert (point.tnr, point.tpr) == (2 / 3, 3 / 5)
    assert (point.num_false_positive, point.num_false_negative) == (1, 2)


def test_a_tnr_of_exactly_the_minimum_is_enough():
    y_score = [0.1] * 93 + [0.95] * 7 + [0.95]
    assert select_operating_point(y_score, [0] * 100 + [1]).verdict == "empirical"
    y_score = [0.1] * 92 + [0.95] * 8 + [0.95]
    assert select_operating_point(y_score, [0] * 100 + [1]).verdict == "infeasible"


def test_a_million_scores_take_less_than_half_a_second():
    rng = np.random.default_rng(0)
    y_true = rng.random(1_000_000) < 0.7
    y_score = rng.random(1_000_000)
    best = float("inf")
    for _ in range(3):
        start = time.perf_counter()
        select_operating_point(y_score, y_true, min_tnr=0.5, min_threshold=0.0)
        best = min(best, time.perf_counter() - start)
    assert best < 0.5


@pytest.mark.parametrize(
    ("y_score", "y_true", "message"),
    [
        ([0.1, np.nan], [0, 1], "y_score must be finite, got 1 NaN or infinite values"),
        ([np.inf, np.nan], [0, 1], "y_score must be finite, got 2 NaN or infinite values"),
        ([0.1, 1.5], [0, 1], r"y_score must be in \[0, 1\], got 1.5"),
        ([-0.1, 0.5], [0, 1], r"y_score must be in \[0, 1\], got -0.1"),
        ([0.1, 0.5], [0, 2], "y_true must be 0 or 1, got 2"),
        ([0.1, 0.5], [0, np.nan], "y_true must be 0 or 1, got nan"),
        ([0.1, 0.5], [0, 0], "needs both classes, got 2 negatives and 0 positives"),
        ([0.1, 0.5], [1, 1], "needs both classes, got 0 negatives and 2 positives"),
        ([], [], "needs both classes, got 0 negatives and 0 positives"),
        ([0.1, 0.5, 0.6], [0, 1], "same length, got 3 scores and 2 labels"),
        ([[0.1], [0.5]], [0, 1], r"y_score must have shape \(N,\), got \(2, 1\)"),
    ],
)
def test_scores_and_labels_that_cannot_be_used_are_refused(y_score, y_true, message):
    with pytest.raises(ValueError, match=message):
        select_operating_point(y_score, y_true)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"min_tnr": 1.5}, r"min_tnr must be in \[0, 1\], got 1.5"),
        ({"min_tnr": float("nan")}, r"min_tnr must be in \[0, 1\], got nan"),
        ({"min_threshold": -0.1}, r"min_threshold must be in \[0, 1\], got -0.1"),
        ({"fp_cost": 0.0}, "fp_cost must be above 0 and finite, got 0.0"),
        ({"fn_cost": float("inf")}, "fn_cost must be above 0 and finite, got inf"),
    ],
)
def test_settings_out_of_range_are_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        select_operating_point([0.1, 0.9], [0, 1], **settings)


def test_a_point_survives_json():
    point = select_operating_point(np.float32([0.1, 0.95]), np.array([0, 1]))
    assert OperatingPoint.from_dict(json.loads(json.dumps(point.to_dict()))) == point
    assert OperatingPoint.from_dict(point.to_dict() | {"written_by": "fit"}) == point


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"verdict": "splendid"}, "verdict must be one of certified, empirical, infeasible"),
        ({"threshold": 1.2}, r"threshold must be in \[0, 1\], got 1.2"),
    ],
)
def test_a_stored_point_that_makes_no_sense_is_refused(change, message):
    stored = select_operating_point([0.1, 0.95], [0, 1]).to_dict() | change
    with pytest.raises(ValueError, match=message):
        OperatingPoint.from_dict(stored)


def test_a_stored_point_with_missing_fields_is_refused():
    with pytest.raises(ValueError, match="an operating point must have threshold, verdict"):
        OperatingPoint.from_dict({"tnr": 1.0})


def test_the_description_is_one_line_with_counts():
    text = select_operating_point([0.1, 0.95, 0.96, 0.2], [0, 0, 1, 1], min_tnr=0.9).describe()
    assert text == (
        "threshold 0.9600 (empirical): TNR 1.000 >= 0.9 (0 false positives of 2 negatives), "
        "TPR 0.500 (1 false negatives of 2 positives)"
    )
