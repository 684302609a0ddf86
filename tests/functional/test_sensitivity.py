"""Proofs of the certificate for the TPR, of joint certificates and of two thresholds."""

from __future__ import annotations

import functools
import itertools
import math

import numpy as np
import pytest
from messages import refused
from scipy.special import ndtr, ndtri
from scipy.stats import binom

from cxrignite.functional import (
    OperatingPoint,
    certificate,
    confusion_at,
    num_positives_needed,
    operating_point,
    select_operating_point,
)

NUM_RESAMPLES = 2000
MIN_TPR, CONFIDENCE = 0.95, 0.95
SIZES = np.arange(1, 6)


@pytest.fixture(scope="module", autouse=True)
def _cached_tails():
    """Compute each binomial tail once; most of the time would go into them."""
    with pytest.MonkeyPatch.context() as patch:
        for module, name in (
            (certificate, "umbrella_rank"),
            (operating_point, "num_negatives_needed"),
            (operating_point, "num_positives_needed"),
            (operating_point, "clopper_pearson_lower"),
        ):
            patch.setattr(module, name, functools.cache(getattr(module, name)))
        yield


def certified_for_the_tpr(positives, owners=None, **options):
    """The highest certified threshold, the hardest case: false positives are costly."""
    negatives = np.linspace(0, 1, 1001)
    names = None if owners is None else np.append(-1 - np.arange(negatives.size), owners)
    return select_operating_point(
        np.append(negatives, positives),
        np.repeat([0, 1], [negatives.size, len(positives)]),
        min_tnr=0.0,
        min_threshold=0.0,
        fp_cost=1e6,
        confidence=CONFIDENCE,
        min_tpr=MIN_TPR,
        patients=names,
        **options,
    )


@pytest.mark.parametrize("num_positives", [59, 135, 400])
def test_at_most_one_certificate_of_the_sensitivity_in_twenty_is_broken(num_positives):
    rng = np.random.default_rng(0)
    points = [certified_for_the_tpr(rng.random(num_positives)) for _ in range(NUM_RESAMPLES)]
    assert {point.status for point in points} == {"certified"}
    # Uniform scores: the true TPR of a threshold is 1 - threshold.
    broken = np.mean([1 - point.threshold < MIN_TPR for point in points])
    rank = certificate.umbrella_rank(num_positives, MIN_TPR, CONFIDENCE)
    exact = binom.sf(rank - 1, num_positives, MIN_TPR)
    assert exact <= 1 - CONFIDENCE
    assert broken <= 1 - CONFIDENCE
    assert broken == pytest.approx(exact, abs=4 * math.sqrt(exact * (1 - exact) / NUM_RESAMPLES))
    assert min(point.tpr_lower_bound for point in points) >= MIN_TPR


def correlated(rng, num_patients):
    """Patients with 1 to 5 images each, whose scores correlate with 0.8."""
    owners = np.repeat(np.arange(num_patients), rng.choice(SIZES, num_patients))
    latent = math.sqrt(0.8) * rng.normal(size=num_patients)[owners]
    return ndtr(latent + math.sqrt(0.2) * rng.normal(size=owners.size)), owners


@pytest.mark.parametrize(
    ("reading", "extreme"), [("every_image", np.minimum), ("any_image", np.maximum)]
)
def test_both_readings_are_certified_with_images_that_correlate(reading, extreme):
    rng = np.random.default_rng(0)
    scores, owners = correlated(rng, 400_000)
    of_patient = np.full(400_000, np.inf if reading == "every_image" else -np.inf)
    extreme.at(of_patient, owners, scores)
    of_patient.sort()
    broken = []
    for _ in range(NUM_RESAMPLES):
        point = certified_for_the_tpr(*correlated(rng, 135), patient_found=reading)
        assert (point.status, point.num_positive_patients) == ("certified", 135)
        true = 1 - np.searchsorted(of_patient, point.threshold) / of_patient.size
        broken.append(true < MIN_TPR)
    assert np.mean(broken) <= 1 - CONFIDENCE


def two_normals(rng, num_negatives, num_positives, distance):
    scores = np.append(rng.normal(size=num_negatives), rng.normal(distance, 1, num_positives))
    return ndtr(scores - distance / 2), np.repeat([0, 1], [num_negatives, num_positives])


def test_two_joint_certificates_are_broken_together_at_most_one_time_in_twenty():
    rng, distance = np.random.default_rng(0), 4.5

    broken, statuses = [], []
    for _ in range(NUM_RESAMPLES):
        point = select_operating_point(
            *two_normals(rng, 300, 300, distance),
            min_tnr=0.93,
            min_threshold=0.0,
            confidence=CONFIDENCE,
            min_tpr=MIN_TPR,
            joint=True,
            fp_cost=rng.choice([0.001, 1000]),  # either end of what is certified
        )
        statuses.append(point.status)
        if point.status == "certified":
            at = ndtri(point.threshold) + distance / 2
            broken.append(ndtr(at) < 0.93 or ndtr(distance - at) < MIN_TPR)
            assert point.level == pytest.approx(0.975)
    assert statuses.count("certified") > 0.9 * NUM_RESAMPLES
    assert np.mean(broken) <= 1 - CONFIDENCE


def test_wrong_calls_of_a_rule_that_refers_stay_below_both_limits():
    rng, distance = np.random.default_rng(0), 2.0

    broken, referred = np.zeros(3), 0
    for _ in range(NUM_RESAMPLES):
        point = select_operating_point(
            *two_normals(rng, 200, 150, distance),
            min_tnr=0.93,
            min_threshold=0.0,
            confidence=CONFIDENCE,
            min_tpr=MIN_TPR,
            refer=True,
            joint=True,
        )
        assert point.status == "certified"
        referred += point.lower_threshold is not None
        upper = ndtri(point.threshold) + distance / 2
        lower = ndtri(point.lower_threshold) + distance / 2 if point.lower_threshold else upper
        wrong = [ndtr(-upper) > 1 - 0.93, ndtr(lower - distance) > 1 - MIN_TPR]
        broken += [*wrong, any(wrong)]
    assert referred > 0.99 * NUM_RESAMPLES
    assert (broken / NUM_RESAMPLES <= [0.025, 0.025, 0.05]).all()


def brute_force(y_score, y_true, patients, settings):
    """Try every threshold, and every pair, one by one, with binomial tails of its own."""
    level = settings["confidence"]
    if settings["joint"]:
        level = (1 + level) / 2
    extreme = max if settings["patient_found"] == "any_image" else min
    owners = patients if patients is not None else np.arange(len(y_score))
    found = [extreme(y_score[(owners == o) & (y_true == 1)]) for o in set(owners[y_true == 1])]
    worst = [max(y_score[(owners == o) & (y_true == 0)]) for o in set(owners[y_true == 0])]

    def is_certified(scores_ok, number, limit):
        # The number of successes at the threshold, were there no ties beyond it.
        return level is None or binom.sf(scores_ok - 1, number, limit) <= 1 - level + 1e-12

    def keeps_tnr(threshold):
        cells = confusion_at(y_score, y_true, threshold)
        if threshold < settings["min_threshold"] or cells.tnr < settings["min_tnr"]:
            return False
        return is_certified(sum(s < threshold for s in worst), len(worst), settings["min_tnr"])

    def keeps_tpr(threshold):
        tpr = confusion_at(y_score, y_true, threshold).tpr
        num_found = sum(s >= threshold for s in found)
        if settings["patient_found"] == "any_image":
            tpr = num_found / len(found)
        return tpr >= settings["min_tpr"] and is_certified(
            num_found, len(found), settings["min_tpr"]
        )

    candidates = sorted({settings["min_threshold"], *y_score, *np.nextafter(y_score, 2)})
    candidates = [each for each in candidates if each <= 1]
    high = [each for each in candidates if keeps_tnr(each)]
    low = [each for each in candidates if keeps_tpr(each)]
    both = set(high) & set(low)
    if both:

        def soft(threshold):
            cells = confusion_at(y_score, y_true, threshold)
            return settings["fn_cost"] * cells.tpr + settings["fp_cost"] * cells.tnr

        return "one", max(soft(each) for each in both)
    if settings["refer"] and high and low:
        return "two", confusion_at(y_score, y_true, min(high), max(low))
    return "infeasible", None


@pytest.mark.parametrize("block", range(10))
def test_it_finds_what_trying_every_threshold_and_pair_finds(block):
    """500 cases; a threshold between two neighbouring scores decides like the upper one."""
    kinds = []
    for seed in range(50 * block, 50 * block + 50):
        rng = np.random.default_rng(seed)
        num_images = int(rng.integers(20, 70))
        y_true = np.array([0, 1, *rng.integers(0, 2, num_images - 2)])
        y_score = np.clip(rng.random(num_images) * 0.7 + 0.5 * rng.random() * y_true, 0, 1)
        y_score = y_score.round(int(rng.integers(1, 4)))
        confidence = rng.choice([None, 0.7, 0.9])
        settings = {
            "min_tnr": float(rng.choice([0.5, 0.8, 0.9])),
            "min_tpr": float(rng.choice([0.5, 0.8, 0.9])),
            "min_threshold": float(rng.choice([0.0, 0.3, 0.6])),
            "fp_cost": float(rng.choice([1, 2])),
            "fn_cost": float(rng.choice([1, 3])),
            "confidence": confidence,
            "patient_found": str(rng.choice(["every_image", "any_image"])),
            "joint": confidence is not None and bool(rng.integers(2)),
            "refer": bool(rng.integers(2)),
        }
        patients = rng.integers(0, num_images // 2, num_images) if rng.integers(2) else None
        point = select_operating_point(y_score, y_true, patients=patients, **settings)
        kind, best = brute_force(y_score, y_true, patients, settings)
        kinds.append(kind)
        granted = "empirical" if confidence is None else "certified"
        assert point.status == ("infeasible" if kind == "infeasible" else granted), seed
        cells = confusion_at(y_score, y_true, point.threshold, point.lower_threshold)
        if kind == "one":
            soft = settings["fn_cost"] * point.tpr + settings["fp_cost"] * point.tnr
            assert point.lower_threshold is None, seed
            assert soft == pytest.approx(best, abs=1e-12), seed
        elif kind == "two":
            assert cells == best, seed
        assert (point.tnr, point.tpr) == (cells.tnr, cells.tpr)
        counts = point.num_referred_negative, point.num_referred_positive
        assert counts == (cells.referred_negative, cells.referred_positive)
        assert point.balanced_accuracy == pytest.approx(cells.balanced_accuracy)
    assert len(set(kinds)) == 3


def test_numbers_of_positives_are_those_of_negatives():
    assert [num_positives_needed(rate, 0.95) for rate in (0.90, 0.95)] == [29, 59]
    assert num_positives_needed(0.95, 0.95, 3) > num_positives_needed(0.95, 0.95)


@pytest.mark.parametrize(
    ("settings", "facts"),
    [
        ({"min_tpr": 1.5}, ["min_tpr", "[0, 1]", "1.5"]),
        ({"min_tpr": 1.0, "confidence": 0.95}, ["min_tpr", "[0, 1)", "1.0"]),
        ({"refer": True}, ["refer", "min_tpr"]),
        ({"joint": True, "confidence": 0.95}, ["joint", "min_tpr"]),
        ({"joint": True, "min_tpr": 0.9}, ["joint", "confidence"]),
        ({"patient_found": "most", "min_tpr": 0.9}, ["patient_found", "every_image", "most"]),
    ],
)
def test_settings_that_do_not_fit_are_refused(settings, facts):
    with refused(ValueError, *facts):
        select_operating_point([0.1, 0.9], [0, 1], **settings)


def test_too_few_positives_make_the_pair_infeasible_and_say_how_many_are_needed():
    y_score = np.linspace(0, 1, 100)
    y_true = (y_score > 0.9).astype(int)
    point = select_operating_point(
        y_score, y_true, min_tnr=0.9, confidence=0.95, min_tpr=0.9, min_threshold=0.0, refer=True
    )
    assert (point.status, point.lower_threshold) == ("infeasible", None)
    assert point.num_positives_needed == 29
    assert point.num_positive_patients == 10


def test_referring_everything_is_no_better_than_chance():
    scores, labels = [0.2, 0.4, 0.6, 0.8], [0, 1, 0, 1]
    cells = confusion_at(scores, labels, 1.0, 0.0)
    assert (cells.referred, cells.balanced_accuracy) == (1.0, 0.5)
    assert math.isnan(cells.ppv)
    assert cells.tnr == cells.tpr == 1.0


def test_a_lower_threshold_above_the_upper_one_is_refused():
    with refused(ValueError, "lower", "0.5", "0.6"):
        confusion_at([0.1, 0.9], [0, 1], 0.5, 0.6)


def test_no_pair_of_other_thresholds_refers_fewer_images():
    rng = np.random.default_rng(3)
    y_score, y_true = two_normals(rng, 40, 40, 1.0)
    settings = {"min_tnr": 0.9, "min_tpr": 0.9, "min_threshold": 0.0}
    point = select_operating_point(y_score, y_true, refer=True, **settings)
    chosen = confusion_at(y_score, y_true, point.threshold, point.lower_threshold)
    for lower, upper in itertools.combinations(np.unique(y_score), 2):
        cells = confusion_at(y_score, y_true, upper, lower)
        if cells.tnr >= 0.9 and cells.tpr >= 0.9:
            assert cells.referred >= chosen.referred


def test_a_limit_that_is_met_exactly_is_met_in_both_readings():
    y_true = np.repeat([0, 1], [10, 100])
    y_score = np.concatenate([np.zeros(10), np.full(7, 0.4), np.full(93, 0.8)])
    for reading in ("every_image", "any_image"):
        point = select_operating_point(
            y_score, y_true, min_threshold=0.5, min_tpr=0.93, patient_found=reading
        )
        assert (point.status, point.tpr_by_patient) == ("empirical", 0.93)


def test_a_stored_point_with_crossed_thresholds_is_refused():
    point = select_operating_point([0.1, 0.95, 0.92, 0.99], [0, 0, 1, 1], min_tpr=0.9, refer=True)
    with refused(ValueError, "lower_threshold", "0.999"):
        OperatingPoint.from_dict({**point.to_dict(), "lower_threshold": 0.999})
