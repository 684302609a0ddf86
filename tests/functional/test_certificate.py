"""Proofs of the certificate: simulation, a brute-force search, and MAPIE."""

from __future__ import annotations

import functools
import itertools
import math
import time
import warnings
from fractions import Fraction

import numpy as np
import pytest
from mapie.risk_control import BinaryClassificationController
from numpy.polynomial.hermite_e import hermegauss
from scipy.special import ndtr, ndtri
from scipy.stats import binom

from cxrignite.functional import (
    certificate,
    confusion_at,
    num_false_positives_allowed,
    num_negatives_needed,
    operating_point,
    select_operating_point,
    umbrella_rank,
)

MIN_TNR, CONFIDENCE = 0.93, 0.95
NUM_RESAMPLES = 2000
# Positives everywhere and a costly miss: the lowest threshold allowed is taken, the hardest case.
POSITIVES = np.linspace(0, 1, 2001)


def choose(negatives, owners=None, confidence=CONFIDENCE):
    names = None if owners is None else np.append(owners, np.full(POSITIVES.size, -1))
    return select_operating_point(
        np.append(negatives, POSITIVES),
        np.repeat([0, 1], [len(negatives), POSITIVES.size]),
        min_tnr=MIN_TNR,
        min_threshold=0.0,
        fn_cost=1e6,
        confidence=confidence,
        patients=names,
    )


def points_of(draw, *, confidence=CONFIDENCE, num_resamples=NUM_RESAMPLES):
    """Operating points of resamples; `draw` gives scores of negatives and whose they are."""
    rng = np.random.default_rng(0)
    with pytest.MonkeyPatch.context() as patch:
        # Nine tenths of the time would go into the same binomial tails over and over.
        for module, function in (
            (certificate, "umbrella_rank"),
            (operating_point, "num_negatives_needed"),
            (operating_point, "clopper_pearson_lower"),
        ):
            patch.setattr(module, function, functools.cache(getattr(module, function)))
        points = [choose(*draw(rng), confidence) for _ in range(num_resamples)]
    status = "empirical" if confidence is None else "certified"
    assert {point.status for point in points} == {status}
    return points


def share_below(points, true_tnr, min_tnr=MIN_TNR):
    return float(np.mean([true_tnr(point.threshold) < min_tnr for point in points]))


def spread_of(share, num_resamples=NUM_RESAMPLES):
    return math.sqrt(share * (1 - share) / num_resamples)


def uniform(num_negatives):
    """Uniform scores: the true TNR of a threshold is the threshold itself."""
    return lambda rng: (rng.random(num_negatives), None)


@pytest.mark.parametrize("num_negatives", [42, 135, 234, 400])
def test_at_most_one_certificate_in_twenty_is_broken(num_negatives):
    share = share_below(points_of(uniform(num_negatives)), true_tnr=float)
    assert share <= 1 - CONFIDENCE
    # The threshold stands above the k-th score: its true TNR is a Beta(k, n - k + 1).
    rank = umbrella_rank(num_negatives, MIN_TNR, CONFIDENCE)
    exact = binom.sf(rank - 1, num_negatives, MIN_TNR)
    assert exact <= 1 - CONFIDENCE
    assert share == pytest.approx(exact, abs=4 * spread_of(exact))


@pytest.mark.parametrize("num_negatives", [135, 400])
def test_the_naive_rule_is_broken_about_half_of_the_time(num_negatives):
    points = points_of(uniform(num_negatives), confidence=None)
    assert 0.4 < share_below(points, true_tnr=float) < 0.6


@pytest.mark.parametrize("confidence", [0.5, 0.8, 0.99])
def test_other_confidences_keep_their_word_too(confidence):
    share = share_below(points_of(uniform(200), confidence=confidence), true_tnr=float)
    rank = umbrella_rank(200, MIN_TNR, confidence)
    exact = binom.sf(rank - 1, 200, MIN_TNR)
    assert exact <= 1 - confidence
    assert share == pytest.approx(exact, abs=4 * spread_of(exact))


OF_PATIENT, OF_IMAGE = math.sqrt(0.8), math.sqrt(0.2)
SIZES = np.arange(1, 6)


def correlated(num_patients):
    """Patients with 1 to 5 images each, whose normal scores correlate with 0.8."""

    def draw(rng):
        owners = np.repeat(np.arange(num_patients), rng.choice(SIZES, num_patients))
        latent = OF_PATIENT * rng.normal(size=num_patients)[owners]
        return ndtr(latent + OF_IMAGE * rng.normal(size=owners.size)), owners

    return draw


NODES, WEIGHTS = hermegauss(80)


def tnr_by_patient(threshold):
    """The share of patients of whom no image is called positive, by quadrature."""
    one_image = ndtr((ndtri(threshold) - OF_PATIENT * NODES) / OF_IMAGE)
    return np.average(np.mean([one_image**size for size in SIZES], axis=0), weights=WEIGHTS)


def test_the_true_tnr_by_patient_is_what_a_million_patients_show():
    scores, owners = correlated(1_000_000)(np.random.default_rng(0))
    highest = np.zeros(1_000_000)
    np.maximum.at(highest, owners, scores)
    for threshold in (0.9, 0.96, 0.99):
        assert tnr_by_patient(threshold) == pytest.approx(np.mean(highest < threshold), abs=1e-3)


def test_with_images_that_correlate_the_tnr_by_patient_is_certified():
    points = points_of(correlated(135))
    assert {point.num_negative_patients for point in points} == {135}
    share = share_below(points, tnr_by_patient)
    exact = binom.sf(umbrella_rank(135, MIN_TNR, CONFIDENCE) - 1, 135, MIN_TNR)
    assert share <= 1 - CONFIDENCE
    assert share == pytest.approx(exact, abs=4 * spread_of(exact))
    # An image is no more often called positive than its patient, where patients are alike.
    assert share_below(points, float) <= share


def test_counting_correlated_images_as_independent_breaks_the_certificate():
    draw = correlated(135)
    points = points_of(lambda rng: (draw(rng)[0], None))
    # Each image's own score is uniform.
    of_images, of_patients = share_below(points, float), share_below(points, tnr_by_patient)
    assert of_images > 2 * (1 - CONFIDENCE)
    assert of_patients > 0.5


def test_the_certificate_is_by_patient_where_patients_with_many_images_score_higher():
    """Then the TNR by image is another figure, and no better kept than by the naive rule."""

    def draw(rng):
        has_ten_images = rng.random(135) < 0.1
        scores = np.where(has_ten_images, rng.uniform(0.5, 1, 135), rng.uniform(0, 0.95, 135))
        owners = np.repeat(np.arange(135), np.where(has_ten_images, 10, 1))
        return scores[owners], owners

    def tnr_by(threshold, images_of_the_tenth):
        cleared = 0.9 * min(threshold / 0.95, 1), 0.1 * (2 * threshold - 1) * images_of_the_tenth
        return sum(cleared) / (0.9 + 0.1 * images_of_the_tenth)

    points = points_of(draw)
    assert share_below(points, lambda threshold: tnr_by(threshold, 1)) <= 1 - CONFIDENCE
    assert share_below(points, lambda threshold: tnr_by(threshold, 10)) > 4 * (1 - CONFIDENCE)


def rounded(num_negatives):
    """Scores of two decimals, up to 0.98: no threshold would clear a score of 1.0."""
    return lambda rng: ((0.98 * rng.random(num_negatives)).round(2), None)


def tnr_of_rounded(threshold):
    # Each value takes up an interval of 0.01, the first one, 0, and the last one half of that.
    num_values = np.sum(np.arange(99) / 100 < threshold)
    return min(1.0, max(0.0, (num_values - 0.5) / 98))


def test_scores_of_two_decimals_keep_the_certificate():
    many, _ = rounded(10**6)(np.random.default_rng(0))
    for threshold in (0.5, math.nextafter(0.5, 1), 0.91, 0.98):
        assert tnr_of_rounded(threshold) == pytest.approx(np.mean(many < threshold), abs=2e-3)
    certified = share_below(points_of(rounded(135)), tnr_of_rounded)
    naive = share_below(points_of(rounded(135), confidence=None), tnr_of_rounded)
    assert certified <= 1 - CONFIDENCE
    assert naive > 0.25


def test_the_lower_bound_of_a_certified_tnr_keeps_its_word():
    points = points_of(uniform(135))
    broken = np.mean([point.threshold < point.tnr_lower_bound for point in points])
    assert broken <= 1 - CONFIDENCE
    assert min(point.tnr_lower_bound for point in points) >= MIN_TNR


def test_the_lower_bound_keeps_its_word_where_scores_tie():
    # Of the steps between scores this one is the worst of those tried: more negatives are cleared
    # than the rank asks for, and a bound that counts them all is broken in 7 % of resamples.
    values = np.append(np.arange(0.8125, 1, 0.02), 1.0)
    num_resamples = 6000

    def draw(rng):
        # No score is 1.0: no threshold would clear it.
        return 0.99 * values[np.searchsorted(values, rng.random(135))], None

    def true_tnr(threshold):
        return values[0.99 * values < threshold].max()

    points = points_of(draw, num_resamples=num_resamples)
    broken = np.mean([true_tnr(point.threshold) < point.tnr_lower_bound for point in points])
    limit = 1 - CONFIDENCE
    assert broken <= limit + 3 * spread_of(limit, num_resamples)


def has_tail_within(num_negatives, num_false_positive, min_tnr, confidence):
    """Whether so few false positives are as improbable as asked, at a TNR of `min_tnr`, exactly."""
    below, above = Fraction(str(min_tnr)), 1 - Fraction(str(min_tnr))
    whole, kept, flagged = below.denominator, below.numerator, above * below.denominator
    ways = sum(
        math.comb(num_negatives, count) * int(flagged) ** count * kept ** (num_negatives - count)
        for count in range(num_false_positive + 1)
    )
    return Fraction(ways, whole**num_negatives) <= 1 - Fraction(str(confidence))


def brute_force(y_score, y_true, patients, min_tnr, min_threshold, confidence, fp_cost, fn_cost):
    """Try every candidate, one by one; patients and the binomial tail counted by hand."""
    highest = {}
    for score, label, patient in zip(y_score, y_true, patients, strict=True):
        if label == 0:
            highest[patient] = max(score, highest.get(patient, 0.0))

    def is_certified(threshold):
        flagged = sum(score >= threshold for score in highest.values())
        return has_tail_within(len(highest), flagged, min_tnr, confidence)

    above = filter(is_certified, (math.nextafter(score, 2) for score in highest.values()))
    lowest = max(min_threshold, min(above, default=2))
    best = None
    for threshold in sorted({lowest, *y_score}, reverse=True):
        cells = confusion_at(y_score, y_true, threshold)
        if not lowest <= threshold <= 1 or not is_certified(threshold) or cells.tnr < min_tnr:
            continue
        soft = fn_cost * cells.tp * (cells.tn + cells.fp)
        soft += fp_cost * cells.tn * (cells.tp + cells.fn)
        if best is None or soft > best[0]:
            best = soft, threshold, cells
    return best


def random_case(seed):
    rng = np.random.default_rng(seed)
    num_images = int(rng.integers(20, 150))
    y_true = np.array([0, 1, *(rng.random(num_images - 2) < rng.uniform(0.1, 0.5))]).astype(int)
    y_score = np.clip(0.9 * rng.random(num_images) + 0.5 * rng.random() * y_true, 0, 1)
    y_score = y_score.round(int(rng.choice([1, 2, 3, 16])))
    settings = {
        "min_tnr": float(rng.choice([0.5, 0.8, 0.9, 0.93])),
        "min_threshold": float(rng.choice([0.0, 0.5, 0.9])),
        "confidence": float(rng.choice([0.8, 0.9, 0.95])),
        "fp_cost": float(rng.choice([1, 2, 5])),
        "fn_cost": float(rng.choice([1, 3, 10**6])),
    }
    patients = rng.integers(0, max(2, int(num_images * rng.choice([0.3, 1, 10]))), num_images)
    return y_score, y_true, patients.astype(str), settings


@pytest.fixture(params=[150, pytest.param(500, marks=pytest.mark.slow)])
def num_cases(request):
    return request.param


def test_it_finds_what_trying_every_candidate_finds(num_cases):
    statuses = []
    for seed in range(num_cases):
        y_score, y_true, patients, settings = random_case(seed)
        point = select_operating_point(y_score, y_true, patients=patients, **settings)
        best = brute_force(y_score, y_true, patients, **settings)
        statuses.append(point.status)
        if best is None:
            assert point.status == "infeasible", seed
            continue
        _, threshold, cells = best
        assert point.status == "certified", seed
        assert point.threshold == threshold, seed
        assert (point.num_false_positive, point.num_false_negative) == (cells.fp, cells.fn), seed
    # Both outcomes are there often enough to mean something.
    assert min(statuses.count("certified"), statuses.count("infeasible")) >= 0.13 * num_cases


def mapie_controller(y_score, y_true, thresholds, settings, *, risk="fpr", **options):
    controller = BinaryClassificationController(
        lambda scores: np.stack([1 - scores, scores], axis=1),
        risk=risk,
        target_level=1 - settings["min_tnr"] if risk == "fpr" else settings["min_tnr"],
        confidence_level=settings["confidence"],
        best_predict_param_choice="recall",
        list_predict_params=thresholds,
        **options,
    )
    with warnings.catch_warnings():
        # It warns where no threshold is valid, which is an answer here.
        warnings.simplefilter("ignore")
        return controller.calibrate(y_score, y_true)


def test_it_agrees_with_mapie(num_cases):
    """The same thresholds are valid for MAPIE's `BinaryClassificationController` (1.6).

    The same: the p-value of a threshold is the binomial tail of its false positives (MAPIE takes
    the smaller of that and Hoeffding's bound, which never is); with `fixed_sequence` it goes down
    from the highest threshold until one fails, and that is the umbrella's rank. Not the same:

    - MAPIE's guarantee asks for a list of thresholds fixed before the data; the umbrella's does
      not. Here MAPIE gets the scores themselves, so that the two have the same candidates.
    - Its defaults, 100 thresholds from 0 to 0.99 and Bonferroni-Holm, are more conservative (the
      next test).
    - It counts images. Here each negative patient is one image, with the patient's highest score.
    - Of its valid thresholds it takes that of the best recall, and of those with equal recall that
      of the highest false positive rate; we take the highest soft score, and of equals the highest
      threshold. With a costly miss both have the same recall.
    - It rounds `n * (fp / n)` up: 22.000000000000004 false positives count as 23.
    """
    statuses = []
    for seed in itertools.count():
        if len(statuses) == num_cases:
            break
        y_score, y_true, patients, settings = random_case(seed)
        settings |= {"fp_cost": 1.0, "fn_cost": 1e6}
        names = patients[y_true == 0]
        highest = [y_score[(patients == name) & (y_true == 0)].max() for name in np.unique(names)]
        y_score = np.append(highest, y_score[y_true == 1])
        y_true = np.repeat([0, 1], [len(highest), len(y_score) - len(highest)])

        lowest = settings["min_threshold"]
        thresholds = np.unique([lowest, *y_score, *np.nextafter(y_score, 2)])
        thresholds = thresholds[(thresholds >= lowest) & (thresholds <= 1)]
        fp = np.array([np.sum(np.array(highest) >= threshold) for threshold in thresholds])
        counted = np.ceil(len(highest) * (fp / len(highest)))
        # One threshold alone gives MAPIE no direction to go.
        if (counted != fp).any() or thresholds.size < 2:
            continue
        point = select_operating_point(y_score, y_true, **settings)
        mapie = mapie_controller(
            y_score, y_true, thresholds, settings, fwer_method="fixed_sequence"
        )
        statuses.append(point.status)
        allowed = num_false_positives_allowed(
            len(highest), settings["min_tnr"], settings["confidence"]
        )
        ours = thresholds[fp <= (-1 if allowed is None else allowed)]
        assert np.sort(mapie.valid_predict_params).tolist() == ours.tolist(), seed
        assert (point.status == "certified") == bool(ours.size), seed
        if ours.size:
            recall = confusion_at(y_score, y_true, mapie.best_predict_param).tpr
            assert point.threshold in ours, seed
            assert point.tpr == recall, seed
    assert min(statuses.count("certified"), statuses.count("infeasible")) >= 0.13 * num_cases


def test_it_agrees_with_mapie_on_the_tpr(num_cases):
    """The same for its performance `recall`, on the same cases with the positives in few images.

    Of its valid thresholds MAPIE would take the highest recall, the lowest threshold. With costly
    false positives we take one with the highest TNR, so only the valid thresholds are compared.
    """
    statuses = []
    for seed in itertools.count():
        if len(statuses) == num_cases:
            break
        y_score, y_true, patients, settings = random_case(seed)
        y_true = 1 - y_true  # the larger class is the positive one, so that certificates exist
        names = patients[y_true == 1]
        lowest = [y_score[(patients == name) & (y_true == 1)].min() for name in np.unique(names)]
        y_score = np.append(y_score[y_true == 0], lowest)
        y_true = np.repeat([0, 1], [len(y_score) - len(lowest), len(lowest)])
        thresholds = np.unique([0.0, *y_score])
        fn = np.array([np.sum(np.array(lowest) < threshold) for threshold in thresholds])
        missed = len(lowest) * (1 - (len(lowest) - fn) / len(lowest))
        if (np.ceil(missed) != fn).any() or thresholds.size < 2:
            continue
        minimum, confidence = settings["min_tnr"], settings["confidence"]
        point = select_operating_point(
            *(y_score, y_true),
            **{"min_tnr": 0.0, "min_threshold": 0.0, "fp_cost": 1e6},
            min_tpr=minimum,
            confidence=confidence,
        )
        mapie = mapie_controller(
            *(y_score, y_true, thresholds, settings),
            risk="recall",
            fwer_method="fixed_sequence",
        )
        statuses.append(point.status)
        allowed = num_false_positives_allowed(len(lowest), minimum, confidence)
        ours = thresholds[fn <= (-1 if allowed is None else allowed)]
        assert np.sort(mapie.valid_predict_params).tolist() == ours.tolist(), seed
        # Even a TNR of 0 is only certified above the lowest negative score.
        highest = ours[ours > y_score[y_true == 0].min()][-1:]
        assert (point.status == "certified") == bool(highest.size), seed
        if highest.size:
            assert point.threshold in ours, seed
            assert point.tnr == confusion_at(y_score, y_true, highest[0]).tnr, seed
    assert min(statuses.count("certified"), statuses.count("infeasible")) >= 0.08 * num_cases


def test_mapie_with_its_defaults_is_never_less_conservative():
    lower = 0
    for seed in range(50):
        rng = np.random.default_rng(seed)
        # On MAPIE's own grid, so that only its correction for many tests differs.
        y_score = np.append(rng.random(200), POSITIVES).clip(0, 0.99).round(2)
        y_true = np.repeat([0, 1], [200, POSITIVES.size])
        settings = {"min_tnr": MIN_TNR, "confidence": CONFIDENCE}
        point = select_operating_point(y_score, y_true, min_threshold=0.0, fn_cost=1e6, **settings)
        mapie = mapie_controller(y_score, y_true, np.linspace(0, 0.99, 100).round(2), settings)
        if mapie.best_predict_param is not None:
            assert point.threshold <= mapie.best_predict_param
            lower += point.threshold < mapie.best_predict_param
    assert lower > 0


@pytest.mark.parametrize(
    ("min_tnr", "confidence", "number"), [(0.93, 0.95, 42), (0.90, 0.95, 29), (0.95, 0.95, 59)]
)
def test_the_planner_knows_the_published_sample_sizes(min_tnr, confidence, number):
    assert num_negatives_needed(min_tnr, confidence) == number
    assert umbrella_rank(number, min_tnr, confidence) == number
    assert umbrella_rank(number - 1, min_tnr, confidence) is None


@pytest.mark.parametrize(
    ("num_negatives", "allowed"), [(41, None), (42, 0), (135, 4), (234, 9), (400, 19)]
)
def test_so_many_false_positives_are_allowed_at_93_and_95_percent(num_negatives, allowed):
    assert num_false_positives_allowed(num_negatives, 0.93, 0.95) == allowed
    point = choose(np.arange(num_negatives) / num_negatives)
    assert point.status == ("infeasible" if allowed is None else "certified")
    if allowed is not None:
        assert point.num_false_positive == allowed


@pytest.mark.parametrize("min_tnr", [0.0, 0.3, 0.8, 0.9, 0.93, 0.99])
@pytest.mark.parametrize("confidence", [0.1, 0.8, 0.95, 0.999])
def test_the_planner_and_the_rank_agree_and_are_exact(min_tnr, confidence):
    for num_false_positive in (0, 1, 7, 40):
        number = num_negatives_needed(min_tnr, confidence, num_false_positive)
        assert num_false_positives_allowed(number, min_tnr, confidence) >= num_false_positive
        fewer = num_false_positives_allowed(number - 1, min_tnr, confidence)
        assert fewer is None or fewer < num_false_positive
        assert has_tail_within(number, num_false_positive, min_tnr, confidence)
        if number - 1 > num_false_positive:
            assert not has_tail_within(number - 1, num_false_positive, min_tnr, confidence)


@pytest.mark.parametrize("form", ["no patients", "numbers", "names"])
def test_a_million_certified_scores_take_less_than_half_a_second(form):
    rng = np.random.default_rng(0)
    y_true, y_score = rng.random(1_000_000) < 0.7, rng.random(1_000_000)
    owners = rng.integers(0, 400_000, 1_000_000)
    patients = {"no patients": None, "numbers": owners, "names": owners.astype(str)}[form]
    best = math.inf
    for _ in range(3):
        start = time.process_time()
        point = select_operating_point(
            y_score, y_true, min_threshold=0.0, confidence=CONFIDENCE, patients=patients
        )
        best = min(best, time.process_time() - start)
        if best < 0.5:
            break
    assert point.status == "certified"
    assert best < 0.5
