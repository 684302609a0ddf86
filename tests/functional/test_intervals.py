import math
import time
import tracemalloc

import numpy as np
import pytest
from messages import refused
from scipy import stats
from scipy.special import expit, logit
from sklearn.metrics import roc_auc_score

from cxrignite.functional import patient_bootstrap
from cxrignite.functional.intervals import (
    bootstrap_differences,
    bootstrap_intervals,
    bootstrap_samples,
    clopper_pearson,
    clopper_pearson_lower,
    clopper_pearson_lower_ends,
    delong_covariance,
    delong_difference,
    delong_interval,
    patient_resamples,
)
from cxrignite.functional.weighted_metrics import decision_statistics, ranking_statistics


@pytest.mark.parametrize("confidence", [0.8, 0.95, 0.999])
@pytest.mark.parametrize(("successes", "trials"), [(0, 5), (5, 5), (1, 2), (189, 234), (7, 4000)])
def test_clopper_pearson_is_that_of_scipy(successes, trials, confidence):
    interval = clopper_pearson(successes, trials, confidence)
    exact = stats.binomtest(successes, trials).proportion_ci(confidence, method="exact")
    assert interval == pytest.approx((exact.low, exact.high), abs=1e-12)
    one_sided = stats.binomtest(successes, trials, alternative="greater")
    bound = one_sided.proportion_ci(confidence, method="exact").low
    assert clopper_pearson_lower(successes, trials, confidence) == pytest.approx(bound, abs=1e-12)


@pytest.mark.parametrize("trials", [1, 8, 42])
def test_clopper_pearson_covers_every_share_at_least_as_often_as_it_says(trials):
    intervals = np.array([clopper_pearson(count, trials, 0.9) for count in range(trials + 1)])
    for share in np.linspace(0, 1, 201):
        covered = (intervals[:, 0] <= share) & (share <= intervals[:, 1])
        probability = stats.binom.pmf(np.arange(trials + 1), trials, share)[covered].sum()
        assert probability >= 0.9 - 1e-12, f"share {share}: {probability}"


def test_without_trials_nothing_is_known_of_a_share():
    assert clopper_pearson(0, 0) == (0.0, 1.0)
    assert clopper_pearson_lower(0, 0) == 0.0


@pytest.mark.parametrize(("trials", "steps"), [(0, 0), (1, 1), (60, 60), (60, 5), (4000, 40)])
def test_the_lower_ends_at_many_counts_are_those_at_each(trials, steps):
    counts = [trials // steps * step if steps else 0 for step in range(steps + 1)]
    ends = [clopper_pearson(count, trials, 0.9).low for count in counts]
    assert clopper_pearson_lower_ends(trials, steps, 0.9) == pytest.approx(ends, abs=1e-12)


@pytest.mark.parametrize(("trials", "steps"), [(3, 4), (3, -1), (-1, 0)])
def test_more_steps_than_trials_are_refused(trials, steps):
    with refused(ValueError, "num_steps", trials, steps):
        clopper_pearson_lower_ends(trials, steps)


@pytest.mark.parametrize("function", [clopper_pearson, clopper_pearson_lower])
@pytest.mark.parametrize(("successes", "trials"), [(-1, 3), (4, 3), (0, -1)])
def test_impossible_counts_are_refused(function, successes, trials):
    with refused(ValueError, "num_successes", successes, trials):
        function(successes, trials)


@pytest.mark.parametrize("confidence", [0, 1, 2, math.nan])
def test_a_confidence_out_of_range_is_refused(confidence):
    y_score, y_true = [0.1, 0.2, 0.3, 0.4], [0, 1, 0, 1]
    figures = ranking_statistics(y_score, y_true)
    for call in (
        lambda: clopper_pearson(1, 2, confidence),
        lambda: clopper_pearson_lower(1, 2, confidence),
        lambda: clopper_pearson_lower_ends(2, 1, confidence),
        lambda: delong_interval(y_score, y_true, confidence),
        lambda: delong_difference(y_score, y_score, y_true, confidence),
        lambda: bootstrap_intervals(figures, list("abcd"), confidence=confidence),
        lambda: bootstrap_differences(figures, figures, list("abcd"), confidence=confidence),
    ):
        with refused(ValueError, "confidence", "(0, 1)", confidence):
            call()


def brute_force_delong(y_scores, y_true):
    """The areas and their covariance by comparing every positive with every negative."""
    positives, negatives = (
        np.asarray(y_scores)[:, y_true == 1],
        np.asarray(y_scores)[:, y_true == 0],
    )
    wins = positives[:, :, None] > negatives[:, None, :]
    ties = positives[:, :, None] == negatives[:, None, :]
    kernel = wins + 0.5 * ties
    areas = kernel.mean(axis=(1, 2))
    covariance = np.zeros((len(areas), len(areas)))
    for placements in (kernel.mean(axis=2), kernel.mean(axis=1)):
        centred = placements - areas[:, None]
        size = placements.shape[1]
        covariance += centred @ centred.T / (size - 1) / size
    return areas, covariance


def three_models(seed):
    rng = np.random.default_rng(seed)
    y_true = rng.permutation([0] * 40 + [1] * 70)
    common = rng.normal(size=110)
    logits = [y_true + common + rng.normal(size=110) for _ in range(3)]
    return expit(logits).round(rng.integers(1, 4)), y_true


@pytest.mark.parametrize("seed", range(20))
def test_delong_is_that_of_every_pair_compared(seed):
    y_scores, y_true = three_models(seed)
    areas, covariance = delong_covariance(y_scores, y_true)
    slow_areas, slow_covariance = brute_force_delong(y_scores, y_true)
    np.testing.assert_allclose(areas, slow_areas, atol=1e-12)
    np.testing.assert_allclose(covariance, slow_covariance, atol=1e-12)
    assert areas[1] == pytest.approx(roc_auc_score(y_true, y_scores[1]), abs=1e-12)


def test_delong_gives_the_published_error_of_the_ct_ratings():
    # 109 CT images rated 1 to 5 (Hanley and McNeil 1982, table 1, doi
    # 10.1148/radiology.143.1.7063747); Stata's manual [R] roctab prints the area .8932, the DeLong
    # error .0307 and the untransformed interval .83295 to .95339.
    of_normal, of_abnormal = [33, 6, 6, 11, 2], [3, 2, 2, 11, 33]
    y_score = np.repeat(np.tile([0.2, 0.4, 0.6, 0.8, 1.0], 2), of_normal + of_abnormal)
    y_true = np.repeat([0, 1], [sum(of_normal), sum(of_abnormal)])
    areas, covariance = delong_covariance([y_score], y_true)
    error = math.sqrt(covariance.item())
    assert (round(areas.item(), 4), round(error, 4)) == (0.8932, 0.0307)
    half = stats.norm.ppf(0.975) * error
    assert round(areas.item() - half, 5) == 0.83295
    assert round(areas.item() + half, 5) == 0.95339


def test_the_delong_interval_is_symmetric_in_the_logit():
    y_scores, y_true = three_models(0)
    low, high = delong_interval(y_scores[0], y_true, 0.9)
    areas, covariance = brute_force_delong(y_scores, y_true)
    error = math.sqrt(covariance[0, 0]) / (areas[0] * (1 - areas[0]))
    assert (logit(low) + logit(high)) / 2 == pytest.approx(logit(areas[0]))
    assert logit(high) - logit(low) == pytest.approx(2 * stats.norm.ppf(0.95) * error)
    turned = delong_interval(1 - y_scores[0], y_true, 0.9)
    assert turned == pytest.approx((1 - high, 1 - low))


def test_the_delong_difference_is_normal_with_the_paired_variance():
    y_scores, y_true = three_models(1)
    low, high = delong_difference(y_scores[0], y_scores[2], y_true)
    areas, covariance = brute_force_delong(y_scores, y_true)
    error = math.sqrt(covariance[0, 0] + covariance[2, 2] - 2 * covariance[0, 2])
    half = stats.norm.ppf(0.975) * error
    difference = areas[0] - areas[2]
    assert (low, high) == pytest.approx((difference - half, difference + half))
    assert delong_difference(y_scores[2], y_scores[0], y_true) == pytest.approx((-high, -low))


def test_a_perfect_separation_is_bounded_by_the_smaller_class():
    y_true = np.repeat([0, 1], [20, 300])
    # 0 of 20 negatives among the positives: at most this share of them, with 95 % confidence.
    unseen = 1 - 0.025 ** (1 / 20)
    assert delong_interval(0.8 * y_true, y_true) == pytest.approx((1 - unseen, 1))
    assert delong_interval(1 - 0.8 * y_true, y_true) == pytest.approx((0, unseen))
    assert delong_interval(np.full(320, 0.5), y_true) == pytest.approx((0.5 - unseen, 0.5 + unseen))


def test_models_that_rank_alike_are_no_proof_of_equality():
    y_scores, y_true = three_models(2)
    unseen = 1 - 0.025 ** (1 / 40)
    alike = delong_difference(y_scores[0], y_scores[0] ** 2, y_true)
    assert alike == pytest.approx((-unseen, unseen))
    assert delong_difference(0.9 * y_true, 0.5 * y_true, y_true) == pytest.approx((-unseen, unseen))


def test_a_class_of_one_image_says_next_to_nothing():
    y_score, y_true = [0.1, 0.4, 0.6, 0.5], [0, 0, 0, 1]
    areas, covariance = delong_covariance([y_score], y_true)
    assert areas.tolist() == [pytest.approx(2 / 3)]
    assert np.isnan(covariance).all()
    assert delong_interval(y_score, y_true) == (0.0, 1.0)
    low, high = delong_difference(y_score, [0.1, 0.4, 0.3, 0.5], y_true)
    assert (low, high) == (-1.0, pytest.approx(-1 / 3 + 0.975))


@pytest.mark.parametrize("y_true", [[0, 0, 0], [1, 1, 1], []])
def test_without_a_class_there_is_no_area(y_true):
    y_score = [0.1, 0.5, 0.6][: len(y_true)]
    areas, covariance = delong_covariance([y_score, y_score], y_true)
    assert np.isnan(areas).all()
    assert areas.shape == (2,)
    assert np.isnan(covariance).all()
    assert covariance.shape == (2, 2)
    assert np.isnan(delong_interval(y_score, y_true)).all()
    assert np.isnan(delong_difference(y_score, y_score, y_true)).all()


@pytest.mark.parametrize(
    ("y_scores", "y_true", "facts"),
    [
        ([], [0, 1], ["y_scores", "0"]),
        ([[0.1, 0.2], [0.1, math.nan]], [0, 1], ["y_score"]),
        ([[0.1, 0.2], [0.1, 3.0]], [0, 1], ["y_score", "[0, 1]", "3"]),
        ([[0.1, 0.2], [0.1]], [0, 1], ["1 scores", "2 labels"]),
        ([[0.1, 0.2]], [0, 3], ["y_true", "0", "1", "3"]),
    ],
)
def test_models_that_cannot_be_compared_are_refused(y_scores, y_true, facts):
    with refused(ValueError, *facts):
        delong_covariance(y_scores, y_true)


@pytest.mark.parametrize("num_draws", [500, pytest.param(1500, marks=pytest.mark.slow)])
def test_delong_covers_independent_images(num_draws):
    rng = np.random.default_rng(0)
    y_true, truth = np.repeat([0, 1], [60, 60]), stats.norm.cdf(2 / math.sqrt(2))
    covered = []
    for _ in range(num_draws):
        low, high = delong_interval(expit(2 * y_true + rng.normal(size=120)), y_true)
        covered.append(low <= truth <= high)
    assert 0.93 <= np.mean(covered) <= 0.97, f"coverage {np.mean(covered):.3f}"


PATIENTS = ["b", "a", "b", "c", "a", "b", "d"]


def test_a_resample_draws_as_many_patients_and_keeps_their_images_together():
    [weights] = patient_resamples(PATIENTS, num_resamples=500, seed=1)
    assert weights.shape == (500, 7)
    np.testing.assert_array_equal(weights[:, 0], weights[:, 2])
    np.testing.assert_array_equal(weights[:, 0], weights[:, 5])
    np.testing.assert_array_equal(weights[:, 1], weights[:, 4])
    of_patients = weights[:, [0, 1, 3, 6]]
    np.testing.assert_array_equal(of_patients.sum(axis=1), 4)
    # Each is drawn once on average, with the binomial variance 4 * 1/4 * 3/4.
    np.testing.assert_allclose(of_patients.mean(axis=0), 1, atol=0.12)
    np.testing.assert_allclose(of_patients.var(axis=0), 0.75, atol=0.15)


def test_resamples_depend_on_the_seed_alone(monkeypatch):
    [weights] = patient_resamples(PATIENTS, num_resamples=30, seed=3)
    [again] = patient_resamples(PATIENTS, num_resamples=30, seed=3)
    [other] = patient_resamples(PATIENTS, num_resamples=30, seed=4)
    np.testing.assert_array_equal(weights, again)
    assert (weights != other).any()
    monkeypatch.setattr(patient_bootstrap, "_CHUNK_SIZE", 20)
    chunks = list(patient_resamples(PATIENTS, num_resamples=30, seed=3))
    assert [len(chunk) for chunk in chunks] == [2] * 15
    np.testing.assert_array_equal(np.concatenate(chunks), weights)


def test_resamples_vary_as_patients_do():
    rng = np.random.default_rng(0)
    patients = np.repeat(np.arange(200), 3)
    values = np.repeat(rng.random(200), 3)
    samples = bootstrap_samples(lambda weights: {"mean": weights @ values / 600}, patients)
    # The images of a patient are one observation, not three.
    error = values.std() / math.sqrt(200)
    assert samples["mean"].shape == (2000,)
    assert samples["mean"].std() == pytest.approx(error, rel=0.06)
    assert samples["mean"].mean() == pytest.approx(values.mean(), abs=5 * error / math.sqrt(2000))


@pytest.mark.parametrize("seed", range(5))
def test_bootstrap_intervals_are_those_of_scipy(seed):
    y_scores, y_true = three_models(seed)
    statistics = ranking_statistics(y_scores[0], y_true)
    names = [str(number // 2) for number in range(110)]
    ours = bootstrap_intervals(statistics, names, confidence=0.9, num_resamples=999, seed=seed)
    samples = bootstrap_samples(statistics, names, num_resamples=999, seed=seed)
    numbers = np.array(names).astype(int)

    for metric, interval in ours.items():

        def figure(drawn, axis, metric=metric):
            counts = np.stack([np.sum(drawn == number, axis=axis) for number in range(55)], axis=-1)
            weights = counts.reshape(-1, 55)[:, numbers].astype(float)
            return statistics(weights)[metric].reshape(counts.shape[:-1])

        # No resamples of its own: scipy takes ours, and finds the two quantiles.
        taken = stats.bootstrap((np.arange(55),), figure, n_resamples=2, method="percentile")
        taken.bootstrap_distribution = samples[metric]
        theirs = stats.bootstrap(
            (np.arange(55),),
            figure,
            n_resamples=0,
            bootstrap_result=taken,
            confidence_level=0.9,
            method="BCa",
        ).confidence_interval
        assert interval == pytest.approx((theirs.low, theirs.high), abs=1e-12)


def test_two_models_are_compared_on_the_same_resamples():
    y_scores, y_true = three_models(3)
    one, two = (ranking_statistics(y_score, y_true) for y_score in y_scores[:2])
    names = [f"p{number % 60}" for number in range(110)]
    intervals = bootstrap_differences(one, two, names, confidence=0.9, seed=5)
    assert list(intervals) == ["roc_auc", "average_precision"]
    for metric, interval in intervals.items():
        apart = [bootstrap_samples(each, names, seed=5)[metric] for each in (one, two)]
        assert interval == pytest.approx(np.percentile(apart[0] - apart[1], [5, 95]))
    low, high = bootstrap_differences(two, one, names, confidence=0.9, seed=5)["roc_auc"]
    assert (-high, -low) == pytest.approx(intervals["roc_auc"])


def test_the_bootstrap_of_a_difference_is_near_delong_where_images_are_independent():
    y_scores, y_true = three_models(4)
    one, two = (ranking_statistics(y_score, y_true) for y_score in y_scores[:2])
    names = [str(number) for number in range(110)]
    interval = bootstrap_differences(one, two, names)["roc_auc"]
    expected = delong_difference(y_scores[0], y_scores[1], y_true)
    assert interval == pytest.approx(expected, abs=0.1 * (expected.high - expected.low))


def test_models_without_any_difference_have_no_bootstrap_interval_of_it():
    y_scores, y_true = three_models(4)
    one = ranking_statistics(y_scores[0], y_true)
    intervals = bootstrap_differences(one, one, [str(number) for number in range(110)])
    assert np.isnan(list(intervals.values())).all()


def test_resamples_that_leave_a_figure_undefined_are_left_out():
    # Three of twelve patients are positive: about 3 % of the resamples have none.
    y_score, y_true = np.linspace(0.1, 0.9, 12), np.array([0, 0, 1, 0, 0, 0, 1, 0, 0, 0, 0, 1])
    names = list("abcdefghijkl")
    statistics = ranking_statistics(y_score, y_true)
    samples = bootstrap_samples(statistics, names)["roc_auc"]
    assert 0.01 < np.isnan(samples).mean() < 0.06
    low, high = bootstrap_intervals(statistics, names)["roc_auc"]
    assert 0 <= low < 18 / 27 < high <= 1


def test_a_figure_that_most_resamples_leave_undefined_has_no_interval():
    def known_where(defined):
        return lambda weights: {"share": np.where(defined(weights), weights[:, -1], np.nan)}

    def interval(statistics):
        samples = bootstrap_samples(statistics, list("abcde"))["share"]
        return np.isnan(samples).mean(), bootstrap_intervals(statistics, list("abcde"))["share"]

    # A patient is in 1 - (4/5)^5 = 67 % of the resamples, and there twice or more in 26 %.
    undefined, (low, high) = interval(known_where(lambda weights: weights[:, 0] > 0))
    assert undefined == pytest.approx(0.33, abs=0.03)
    assert low < high
    undefined, ends = interval(
        known_where(lambda weights: (weights == 1).all(axis=1) | (weights[:, 0] > 1))
    )
    assert undefined == pytest.approx(0.71, abs=0.05)
    assert np.isnan(ends).all()


def test_a_figure_undefined_for_all_images_has_no_interval():
    def often(weights):
        return {"often": np.where((weights == 1).all(axis=1), np.nan, weights[:, -1])}

    assert np.isnan(bootstrap_intervals(often, list("abcde"))["often"]).all()


def test_resamples_that_all_agree_give_no_interval():
    rates = decision_statistics([0.1, 0.2, 0.8, 0.4], [0, 0, 1, 1], 0.5)
    intervals = bootstrap_intervals(rates, list("abcd"), num_resamples=200)
    assert np.isnan(intervals["tnr"]).all()
    assert np.isfinite(intervals["accuracy"]).all()
    of_one_patient = bootstrap_intervals(rates, ["a"] * 4, num_resamples=200)
    assert np.isnan(list(of_one_patient.values())).all()


def test_a_figure_beyond_all_its_resamples_still_has_an_interval():
    def biased(weights):
        # The number of different patients: no resample has as many as there are.
        return {"distinct": (weights > 0).sum(axis=1).astype(float)}

    low, high = bootstrap_intervals(biased, [str(number) for number in range(60)])["distinct"]
    assert math.isfinite(low)
    assert low <= high < 60


def test_more_patients_than_groups_still_give_the_interval_of_a_mean():
    rng = np.random.default_rng(1)
    values = rng.exponential(size=3000)
    names = rng.permutation(3000).astype(str)

    def mean(weights):
        return {"mean": weights @ values / 3000}

    low, high = bootstrap_intervals(mean, names)["mean"]
    half = 1.96 * values.std() / math.sqrt(3000)
    assert (low, high) == pytest.approx((values.mean() - half, values.mean() + half), abs=half / 8)


@pytest.mark.parametrize("call", [bootstrap_samples, bootstrap_intervals])
def test_resamples_that_cannot_be_drawn_are_refused(call):
    statistics = ranking_statistics([0.1, 0.9], [0, 1])
    with refused(ValueError, "num_resamples", "1", "0"):
        call(statistics, ["a", "b"], num_resamples=0)
    with refused(ValueError, "patients", "(N,)", "0"):
        call(statistics, [])
    with refused(ValueError, "patients", "(N,)", "(1, 2)"):
        call(statistics, [["a", "b"]])
    with refused(ValueError, "weights", "(B, 2)", "(2000, 3)"):
        call(statistics, ["a", "b", "c"])


def both_figures(y_score, y_true, threshold):
    ranking = ranking_statistics(y_score, y_true)
    decisions = decision_statistics(y_score, y_true, threshold)
    return lambda weights: ranking(weights) | decisions(weights)


def test_two_thousand_resamples_of_a_test_split_take_a_moment():
    rng = np.random.default_rng(0)
    y_true = np.repeat([0, 1], [234, 390])
    statistics = both_figures(expit(3 * y_true + rng.normal(size=624)), y_true, 0.9)
    names = rng.integers(300, size=624).astype(str)
    start = time.process_time()
    intervals = bootstrap_intervals(statistics, names)
    assert time.process_time() - start < 3  # 0.06 s on an idle core
    assert len(intervals) == 11


# The weights without each of 400 groups, all at once, would take 96 MB and 320 MB.
@pytest.mark.parametrize("num_images", [30_000, pytest.param(100_000, marks=pytest.mark.slow)])
def test_many_images_stay_within_the_memory(num_images):
    rng = np.random.default_rng(0)
    y_true = rng.integers(2, size=num_images)
    statistics = both_figures(rng.random(num_images), y_true, 0.5)
    names = rng.integers(num_images // 2, size=num_images)
    tracemalloc.start()
    try:
        bootstrap_intervals(statistics, names, num_resamples=20)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 50e6, f"{peak / 1e6:.0f} MB"


@pytest.mark.slow
@pytest.mark.parametrize("tnr", [0.80, 0.93, 0.98])
def test_bootstrap_intervals_cover_the_truth(tnr):
    # Half of a score's variance is between patients, 1 to 4 images each. Figures of 2000 cases: AUC
    # .951, TNR .948, .944 and .954, TPR .944, .939 and .944.
    rng = np.random.default_rng(1)
    threshold = stats.norm.ppf(tnr)
    truth = {
        "roc_auc": stats.norm.cdf(2 / math.sqrt(2)),
        "tnr": tnr,
        "tpr": stats.norm.sf(threshold - 2),
    }
    covered = {name: [] for name in truth}
    for case in range(1000):
        patient = np.repeat(np.arange(200), rng.integers(1, 5, size=200))
        y_true = (patient >= 100).astype(int)
        between, within = rng.normal(size=200)[patient], rng.normal(size=patient.size)
        y_score = expit(2 * y_true + math.sqrt(0.5) * (between + within))
        intervals = bootstrap_intervals(
            both_figures(y_score, y_true, expit(threshold)), patient, num_resamples=1000, seed=case
        )
        for name, value in truth.items():
            low, high = intervals[name]
            covered[name].append(low <= value <= high)
    coverage = {name: float(np.mean(hits)) for name, hits in covered.items()}
    assert all(0.93 <= share <= 0.97 for share in coverage.values()), f"coverage {coverage}"


@pytest.mark.slow
def test_intervals_of_a_difference_cover_the_truth():
    # Two models of the same strength; half of what patients add is common to both.
    rng = np.random.default_rng(7)
    covered = {}
    for case in range(800):
        patient = np.repeat(np.arange(200), rng.integers(1, 5, size=200))
        y_true = (patient >= 100).astype(int)
        common = rng.normal(size=200)
        models = []
        for _ in range(2):
            between = math.sqrt(0.5) * (common + rng.normal(size=200))[patient]
            within = rng.normal(size=patient.size)
            y_score = expit(2 * y_true + math.sqrt(0.5) * (between + within))
            models.append(both_figures(y_score, y_true, expit(1.3)))
        intervals = bootstrap_differences(*models, patient, num_resamples=1000, seed=case)
        for name in ("roc_auc", "average_precision", "tnr", "tpr", "balanced_accuracy"):
            low, high = intervals[name]
            covered.setdefault(name, []).append(low <= 0 <= high)
    coverage = {name: float(np.mean(hits)) for name, hits in covered.items()}
    assert all(0.93 <= share <= 0.97 for share in coverage.values()), f"coverage {coverage}"


@pytest.mark.parametrize(
    "patients", [[1.0, float("nan")] * 2, [None] * 4, ["a", "b", "c", float("nan")]]
)
def test_patients_that_cannot_be_distinguished_are_refused(patients):
    with refused(ValueError, "patients"):
        bootstrap_intervals(lambda weights: {"share": weights[:, 0]}, patients)


@pytest.mark.parametrize("kind", [list, np.array, lambda each: np.array(each, dtype=object)])
def test_patients_may_be_whole_numbers_or_a_column_of_them(kind):
    statistics = lambda weights: {"share": weights[:, 0] / weights.sum(axis=1)}  # noqa: E731
    found = bootstrap_intervals(statistics, kind([3, 1, 2, 2]), num_resamples=50)
    assert found == bootstrap_intervals(statistics, list("cabb"), num_resamples=50)


@pytest.mark.parametrize("dtype", [str, object])
def test_no_patients_are_refused(dtype):
    with refused(ValueError, "patients", "(N,)", "0"):
        bootstrap_intervals(lambda weights: {"share": weights[:, 0]}, np.array([], dtype=dtype))
