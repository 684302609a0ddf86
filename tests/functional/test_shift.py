from __future__ import annotations

import re
import time
from dataclasses import replace

import numpy as np
import pytest
import torch
from messages import line_with, refused
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import cross_val_predict

from cxrignite.functional.intervals import Interval
from cxrignite.functional.shift import MIN_PATIENTS, SHIFT_LEVEL, ShiftCheck, check_shift
from cxrignite.reporting.wording import describe_shift


def draw(rng, num_images, num_features, *, name="", images_each=None, shift=0.0):
    """Images of patients with 1 to 3 correlated images each, over ten strong common factors."""
    factors = np.random.default_rng(9).normal(size=(10, num_features)) * 0.7
    sizes = images_each or rng.integers(1, 4, num_images)
    owner = np.repeat(np.arange(num_images), sizes)[:num_images]
    of_patients = rng.normal(size=(num_images, 10)) @ factors
    of_patients += 0.8 * rng.normal(size=of_patients.shape)
    features = of_patients[owner] + 0.6 * rng.normal(size=of_patients.shape)
    # Skewed and not below zero, as pooled activations are.
    return np.maximum(features - 0.5, 0) ** 2 + shift, [f"{name}{number}" for number in owner]


def check_draws(seed, sizes, num_features, *, shift=0.0, images_each=None):
    rng = np.random.default_rng(seed)
    reference, names = draw(rng, sizes[0], num_features, name="a", images_each=images_each)
    images, other_names = draw(
        rng, sizes[1], num_features, name="b", images_each=images_each, shift=shift
    )
    return check_shift(reference, images, names, other_names, seed=seed)


@pytest.mark.parametrize("num_features", [64, 1280])
def test_two_draws_from_one_distribution_are_seldom_distinguished(num_features):
    checks = [check_draws(seed, (191, 117), num_features) for seed in range(10)]
    assert sum(check.is_detected for check in checks) <= 1
    # Five standard errors of the mean of 10 areas.
    assert np.mean([check.roc_auc for check in checks]) == pytest.approx(0.5, abs=0.1)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("sizes", "num_features", "images_each"),
    [
        ((191, 117), 64, None),
        ((191, 117), 256, None),
        ((191, 117), 1280, None),
        ((20, 20), 256, 1),
        ((200, 200), 256, 10),  # twenty patients per side, with ten images each
        ((1000, 100), 256, 5),
    ],
)
def test_fewer_than_five_percent_of_200_draws_without_a_shift_are_flagged(
    sizes, num_features, images_each
):
    flagged = [
        check_draws(seed, sizes, num_features, images_each=images_each).is_detected
        for seed in range(200)
    ]
    assert sum(flagged) < 10


@pytest.mark.parametrize(("one_in", "deviations"), [(10, 0.5), (1, 0.25)])
def test_a_shift_of_few_features_and_a_small_one_of_all_are_found(one_in, deviations):
    spread = draw(np.random.default_rng(0), 500, 256)[0].std(axis=0)
    shift = np.where(np.arange(256) % one_in == 0, deviations * spread, 0)
    checks = [check_draws(seed, (191, 117), 256, shift=shift) for seed in range(5)]
    assert all(check.is_detected for check in checks)
    assert np.mean([check.roc_auc for check in checks]) > 0.8


def test_the_larger_shift_has_the_larger_area():
    areas = [check_draws(0, (191, 117), 64, shift=shift).roc_auc for shift in (0, 0.2, 0.5, 5)]
    assert areas == sorted(areas)
    assert areas[-1] == 1.0


def test_it_agrees_with_a_plain_cross_validated_classifier():
    # Few features, one image a patient: neither the components nor the weights change much.
    rng = np.random.default_rng(0)
    reference, images = rng.normal(size=(600, 4)), rng.normal([0.8, 0, 0, 0], 1, size=(600, 4))
    names = [str(number) for number in range(1200)]
    check = check_shift(reference, images, names[:600], names[600:])
    score = cross_val_predict(
        LogisticRegression(),
        np.concatenate([reference, images]),
        side := np.repeat([0, 1], 600),
        cv=5,
        method="decision_function",
    )
    plain = (score[side == 1][:, None] > score[side == 0]).mean()
    assert check.roc_auc == pytest.approx(plain, abs=0.005)
    # The best any classifier can do, by the distribution: a distance of 0.8 standard deviations.
    assert check.interval.low < 0.7142 < check.interval.high
    assert check.interval.low < check.roc_auc < check.interval.high


def test_many_images_of_one_patient_count_once():
    rng = np.random.default_rng(1)
    reference, images = rng.normal(size=(2, 60, 8))
    names = [str(number) for number in range(60)]
    once = check_shift(reference, images, names, [f"b{name}" for name in names])
    # One new patient is odd, and has 200 images; all others are as the reference.
    odd = rng.normal(3, 0.1, size=(200, 8))
    many = check_shift(
        reference,
        np.concatenate([images, odd]),
        names,
        [*(f"b{name}" for name in names), *["odd"] * 200],
    )
    assert (many.num_images, many.num_image_patients) == (260, 61)
    assert not many.is_detected
    assert many.roc_auc < 0.65
    assert many.interval.high - many.interval.low == pytest.approx(
        once.interval.high - once.interval.low, rel=0.2
    )


def test_the_same_images_on_both_sides_are_not_distinguished():
    features, names = draw(np.random.default_rng(0), 100, 32)
    check = check_shift(features, features, names, names)
    assert check.roc_auc == pytest.approx(0.5, abs=0.05)
    assert check.is_detected is False


def test_the_check_is_repeatable_and_the_seed_changes_the_folds():
    checks = [check_draws(3, (80, 60), 64, shift=0.1) for _ in range(2)]
    assert checks[0] == checks[1]
    rng = np.random.default_rng(0)
    reference, images = rng.normal(size=(2, 40, 4))
    names = [str(number) for number in range(80)]
    areas = {
        check_shift(reference, images, names[:40], names[40:], seed=seed).roc_auc
        for seed in range(3)
    }
    assert len(areas) > 1


def test_tensors_and_arrays_give_the_same():
    reference, names = draw(np.random.default_rng(0), 60, 8, name="a")
    images, other_names = draw(np.random.default_rng(1), 60, 8, name="b")
    reference, images = reference.astype(np.float32), images.astype(np.float32)
    check = check_shift(reference, images, names, other_names)
    tensors = torch.from_numpy(reference).requires_grad_(), torch.from_numpy(images)
    assert check_shift(*tensors, names, other_names) == check


def test_the_scale_of_a_feature_does_not_matter():
    reference, names = draw(np.random.default_rng(0), 60, 8, name="a")
    images, other_names = draw(np.random.default_rng(1), 60, 8, name="b", shift=0.3)
    scale = 10.0 ** np.arange(-4, 4)
    check = check_shift(reference, images, names, other_names)
    scaled = check_shift(reference * scale, images * scale, names, other_names)
    assert scaled.roc_auc == pytest.approx(check.roc_auc, abs=1e-3)


def test_features_that_never_change_or_repeat_each_other_do_no_harm():
    reference, names = draw(np.random.default_rng(0), 60, 8, name="a")
    images, other_names = draw(np.random.default_rng(1), 60, 8, name="b", shift=0.3)

    def padded(features):
        constant = np.full((len(features), 5), 0.1)
        return np.concatenate([features, features, constant], axis=1)

    check = check_shift(reference, images, names, other_names)
    area = check_shift(padded(reference), padded(images), names, other_names).roc_auc
    assert area == pytest.approx(check.roc_auc, abs=1e-6)


def test_features_that_are_all_constant_tell_nothing():
    names = [str(number) for number in range(60)]
    check = check_shift(np.full((30, 3), 0.1), np.full((30, 3), 0.1), names[:30], names[30:])
    assert (check.roc_auc, check.is_detected) == (0.5, False)


@pytest.mark.parametrize("few", ["reference", "images"])
def test_too_few_patients_are_not_decided_however_many_images(few):
    rng = np.random.default_rng(0)
    features = {"reference": rng.normal(size=(100, 4)), "images": rng.normal(9, 1, size=(100, 4))}
    names = {side: [f"{side}{number}" for number in range(100)] for side in features}
    names[few] = [f"{few}{number % (MIN_PATIENTS - 1)}" for number in range(100)]
    check = check_shift(
        features["reference"], features["images"], names["reference"], names["images"]
    )
    assert (check.roc_auc, check.interval, check.is_detected) == (None, None, None)
    patients = {"reference": 100, "images": 100} | {few: MIN_PATIENTS - 1}
    line_with(describe_shift(check), "shift", MIN_PATIENTS, 100, *patients.values())
    assert "AUC" not in describe_shift(check)
    names[few] = [f"{few}{number % MIN_PATIENTS}" for number in range(100)]
    check = check_shift(
        features["reference"], features["images"], names["reference"], names["images"]
    )
    assert check.is_detected is True


def test_no_images_are_not_decided():
    check = check_shift(np.zeros((0, 3)), np.zeros((0, 3)), [], [])
    assert (check.num_reference, check.num_images, check.is_detected) == (0, 0, None)


def test_it_is_detected_only_where_the_whole_interval_lies_above_the_level():
    checks = [check_draws(seed, (60, 60), 16, shift=0.15) for seed in range(6)]
    for check in checks:
        assert check.is_detected == (check.interval.low > SHIFT_LEVEL)
        assert type(check.is_detected) is bool
    assert len({check.is_detected for check in checks}) == 2


def test_the_description_is_one_line():
    check = ShiftCheck(0.887, Interval(0.85, 0.92), 191, 117, 172, 108, True)
    for is_detected in (True, False):
        text = describe_shift(replace(check, is_detected=is_detected))
        assert line_with(text, "shift", "AUC 0.887") == text
        assert re.search(r"\b0\.850\b.+\b0\.920\b.+\b117\b.+\b108\b.+\b191\b.+\b172\b", text)
        assert bool(re.search(r"\bnot?\b", text)) == (not is_detected)


@pytest.mark.parametrize(
    ("reference", "images", "patients", "facts"),
    [
        (np.zeros(3), np.zeros((3, 2)), 3, ["reference", "(N, D)", "(3,)"]),
        (np.zeros((3, 2)), np.zeros((3, 0)), 3, ["images", "(3, 0)"]),
        (np.zeros((3, 2)), np.zeros((3, 4)), 3, ["2", "4"]),
        (np.full((3, 2), np.nan), np.zeros((3, 2)), 3, ["reference", "6"]),
        (np.zeros((3, 2)), np.full((3, 2), np.inf), 3, ["images", "6"]),
        (np.zeros((3, 2)), np.zeros((4, 2)), 3, ["image_patients", "3", "4"]),
        (np.zeros((4, 2)), np.zeros((3, 2)), 3, ["reference_patients", "3", "4"]),
    ],
)
def test_what_cannot_be_compared_is_refused(reference, images, patients, facts):
    names = [str(number) for number in range(patients)]
    with refused(ValueError, *facts):
        check_shift(reference, images, names, names)


@pytest.mark.parametrize("num_images", [500, pytest.param(1000, marks=pytest.mark.slow)])
def test_many_images_of_1280_features_cost_a_few_decompositions(num_images):
    reference, images = np.random.default_rng(0).normal(size=(2, num_images, 1280))
    names = [str(number) for number in range(2 * num_images)]
    start = time.process_time()
    np.linalg.svd(np.concatenate([reference, images]), full_matrices=False)
    middle = time.process_time()
    check_shift(reference, images, names[:num_images], names[num_images:])
    assert time.process_time() - middle < 5 * (middle - start)  # 1.8 on two idle cores
