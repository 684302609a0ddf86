import math
import re
from dataclasses import fields, replace

import numpy as np
import pytest
from messages import line_with, missing
from scipy.stats import binomtest
from sklearn.metrics import (
    average_precision_score,
    brier_score_loss,
    cohen_kappa_score,
    f1_score,
    roc_auc_score,
)

from cxrignite.data import ImageRecord
from cxrignite.functional import Interval, PriorShift, ShiftCheck, select_operating_point
from cxrignite.reporting.tables import findings_table, score_table, statement_lines
from cxrignite.reporting.wording import check_rule
from cxrignite.runs.decision_rule import Calibrators, DecisionRule
from cxrignite.runs.evaluation import Estimate, Evaluation, Evaluations
from cxrignite.runs.informativeness import measure_informativeness
from cxrignite.runs.json_codec import from_json, to_json
from cxrignite.runs.scores import FindingScores, SplitScores
from cxrignite.workflows.assessment import assess, average, check_certificate

CLASSES = ("NORMAL", "PNEUMONIA")
PRIOR_SHIFT = PriorShift(100, 300, sampled_prevalence=0.5, pos_weight=0.6)


def scored(y_score, y_true, patients=None, attributes=None) -> SplitScores:
    patients = patients or [f"p{number}" for number in range(len(y_true))]
    attributes = attributes or [{}] * len(y_true)
    records = [
        ImageRecord(f"{n}.png", f"{n}.png", int(label), patients[n], "test", attributes[n])
        for n, label in enumerate(y_true)
    ]
    features = np.zeros((len(y_true), 2), np.float32)
    return SplitScores(records, CLASSES, np.asarray(y_score, float), np.asarray(y_true), features)


@pytest.fixture(scope="module")
def scores() -> SplitScores:
    rng = np.random.default_rng(0)
    y_true = rng.permutation([0] * 60 + [1] * 90)
    y_score = 1 / (1 + np.exp(-rng.normal(3 * y_true - 1.5, 1.5)))
    kinds = [
        {"subgroup": str(rng.choice(["bacteria", "virus"])) if label else "IM", "file": str(n)}
        for n, label in enumerate(y_true)
    ]
    return scored(y_score, y_true, [f"p{n // 2}" for n in range(150)], kinds)


def assessed(scores: SplitScores, rule: DecisionRule) -> Evaluation:
    return assess(scores, rule, [record.attributes for record in scores.records])


def rule_of(point, chosen_on="val") -> DecisionRule:
    return DecisionRule("PNEUMONIA", point, chosen_on, PRIOR_SHIFT, "ab")


def decided(scores: SplitScores, **settings) -> DecisionRule:
    settings = {"min_threshold": 0.5, "min_tnr": 0.8, **settings}
    point = select_operating_point(scores.y_score, scores.y_true, **settings)
    return rule_of(point, "calibration")


@pytest.fixture(scope="module")
def content(scores) -> Evaluation:
    """What is found at a threshold."""
    return assessed(scores, decided(scores))


def test_the_figures_are_those_of_scikit_learn(scores, content):
    assert content.roc_auc.value == pytest.approx(roc_auc_score(scores.y_true, scores.y_score))
    precision = average_precision_score(scores.y_true, scores.y_score)
    assert content.average_precision.value == pytest.approx(precision)
    brier = brier_score_loss(scores.y_true, scores.y_score)
    assert content.calibration["score"].brier.value == pytest.approx(brier)
    probability = brier_score_loss(scores.y_true, PRIOR_SHIFT.probability(scores.y_score))
    assert content.calibration["probability"].brier.value == pytest.approx(probability)
    cells = content.at_threshold
    exact = binomtest(cells.tn, cells.tn + cells.fp).proportion_ci(method="exact")
    assert cells.tnr.interval == pytest.approx((exact.low, exact.high))
    counts = [
        getattr(content, f"num_{name}") for name in ("images", "negative", "positive", "patients")
    ]
    assert counts == [150, 60, 90, 75]


def estimates_of(block):
    named = {each.name: getattr(block, each.name) for each in fields(block)}
    return {name: each for name, each in named.items() if isinstance(each, Estimate)}


def test_every_figure_has_an_interval_that_holds_it(content):
    evaluations = Evaluations((content,))
    assert from_json(Evaluations, to_json(evaluations)) == evaluations
    blocks = [content, content.at_half, content.at_threshold, *content.calibration.values()]
    blocks += content.at_prevalences
    for block in blocks:
        estimates = estimates_of(block)
        assert len(estimates) >= 2
        for name, each in estimates.items():
            assert each.by_patient is not None, name
            for interval in filter(None, (each.interval, each.by_patient)):
                assert interval.low <= each.value <= interval.high, name
    rates = {"tnr", "tpr", "ppv", "npv", "balanced_accuracy", "accuracy"}
    assert set(estimates_of(content.at_half)) == rates


def test_predictive_values_are_those_of_the_prevalences_that_are_named(scores, content):
    assert [each.prevalence for each in content.at_prevalences] == [0.01, 0.05, 0.2]
    observed = 90 / 150
    again = assess(scores, decided(scores), [{}] * 150, [observed, 0.1])
    same, rare = again.at_prevalences
    cells = again.at_threshold
    assert same.ppv.value == pytest.approx(cells.ppv.value)
    assert same.npv.value == pytest.approx(cells.npv.value)
    true, false = cells.tpr.value * 0.1, (1 - cells.tnr.value) * 0.9
    assert rare.ppv.value == pytest.approx(true / (true + false))
    # From the same resamples as the other rates, which do not change.
    assert again.at_threshold == content.at_threshold
    table = score_table("test", CLASSES, again)
    low, high = rare.ppv.interval
    line_with(table, "prevalence", "10 %", f"{rare.ppv.value:.3f} ({low:.3f} to {high:.3f})")
    line_with(table, "PPV", "NPV", "threshold")


def test_a_weak_threshold_is_not_usable_by_the_same_resamples_or_by_new_ones():
    rng = np.random.default_rng(0)
    weak = scored(rng.uniform(size=60), np.repeat([0, 1], 30))
    rule = decided(weak)
    measured = assessed(weak, rule).informativeness
    assert not measured.is_informative
    assert measured == measure_informativeness(weak, rule.threshold)


def test_a_subgroup_of_one_class_is_ranked_against_all_of_the_other(scores, content):
    groups = {group.value: group for group in content.subgroups}
    assert sorted(groups) == ["IM", "bacteria", "virus"]  # a file's name makes no group
    virus = groups["virus"]
    inside = np.array([record.attributes["subgroup"] == "virus" for record in scores.records])
    ranked = inside | (scores.y_true == 0)
    expected = roc_auc_score(scores.y_true[ranked], scores.y_score[ranked])
    assert virus.roc_auc.value == pytest.approx(expected)
    assert virus.tnr == Estimate(None)
    assert None not in (virus.tpr.interval, virus.roc_auc.interval)
    assert groups["IM"].tpr.value is None
    assert groups["IM"].num_images == groups["IM"].num_negative == 60


def test_subgroups_can_be_given(scores):
    attributes = [{"half": "first" if n < 75 else "second"} for n in range(150)]
    groups = assess(scores, decided(scores), attributes).subgroups
    assert [group.value for group in groups] == ["first", "second"]
    expected = roc_auc_score(scores.y_true[:75], scores.y_score[:75])
    assert groups[0].roc_auc.value == pytest.approx(expected)


def test_what_is_another_for_each_image_is_no_subgroup(scores):
    attributes = [{"mask": f"{n}.png"} if n < 5 else {} for n in range(150)]
    assert assess(scores, decided(scores), attributes).subgroups == ()


@pytest.mark.parametrize("label", [0, 1])
def test_images_of_one_class_leave_figures_undefined_and_no_nan(label):
    scores = scored([0.2, 0.6, 0.95], [label] * 3)
    both = scored([0.2, 0.95], [0, 1])
    content = assessed(scores, decided(both))
    evaluations = Evaluations((content,))
    assert from_json(Evaluations, to_json(evaluations)) == evaluations
    assert content.roc_auc == Estimate(None)
    known, unknown = ("tnr", "tpr") if label == 0 else ("tpr", "tnr")
    assert getattr(content.at_threshold, known).value is not None
    assert getattr(content.at_threshold, unknown).value is None
    table = score_table("site", CLASSES, content)
    assert not re.search(r"\bAUC [\d.]", line_with(table, "AUC"))
    assert re.search(r"\d\.\d{3}", line_with(table, known.upper()))
    assert not re.search(r"\d\.\d{3}", line_with(table, unknown.upper()))
    assert "nan" not in table.lower()


def figures_in(table, name):
    """The figures of a row, each with its interval."""
    (row,) = [line for line in table.splitlines() if not missing(line, [name, "to"])]
    return re.findall(r"[\d.]+ \([\d.]+ to [\d.]+\)", row)


def test_a_run_without_a_threshold_has_no_figures_at_one(scores, content):
    rule = rule_of(None)
    undecided = assessed(scores, rule)
    assert undecided.at_threshold is None
    assert undecided.at_prevalences == ()
    assert "prevalence" not in score_table("test", CLASSES, undecided)
    assert check_certificate(scores, rule, None) is None
    assert len(figures_in(score_table("test", CLASSES, undecided), "TNR")) == 1
    assert len(figures_in(score_table("test", CLASSES, content), "TNR")) == 2


def test_an_unknown_training_scale_is_null(scores, content):
    unknown = PriorShift(100, 300, sampled_prevalence=0.5, pos_weight=None)
    alone = assessed(scores, replace(rule_of(None), prior_shift=unknown))
    assert "probability" not in alone.calibration
    assert len(figures_in(score_table("test", CLASSES, alone), "Brier")) == 1
    assert len(figures_in(score_table("test", CLASSES, content), "Brier")) == 2


def certified() -> DecisionRule:
    y_score, y_true = [0.1] * 60 + [0.95] * 10, [0] * 60 + [1] * 10
    point = select_operating_point(y_score, y_true, confidence=0.95)
    assert point.status == "certified"
    return rule_of(point, "calibration")


def at_site(num_false_positive: int, num_negative: int = 117) -> SplitScores:
    low = [0.1] * (num_negative - num_false_positive)
    y_score = low + [0.96] * num_false_positive + [0.97] * 30
    return scored(y_score, [0] * num_negative + [1] * 30)


def checked(scores, rule, shift=None):
    """A check of a rule, its statement, and that as the terminal shows it."""
    check = check_certificate(scores, rule, shift)
    evaluation = replace(assessed(scores, rule), certificate=check, shift=shift)
    statement = check_rule("test", evaluation)
    return check, statement, "\n".join(statement_lines(statement))


SHIFTED = ShiftCheck(0.88, Interval(0.83, 0.92), 60, 117, 60, 117, is_detected=True)
ALIKE = ShiftCheck(0.52, Interval(0.45, 0.60), 60, 117, 60, 117, is_detected=False)


def headline_of(warning):
    """Its first line, which is in capitals."""
    headline = warning.splitlines()[0]
    assert re.search(r"[A-Z]{2,} [A-Z]{2,}", headline)
    return headline


@pytest.mark.parametrize(
    ("num_false_positive", "shift", "contradicted", "invalid"),
    [
        (5, None, False, False),
        (5, ALIKE, False, False),
        (5, SHIFTED, False, True),
        (25, ALIKE, True, True),
        (25, SHIFTED, True, True),
    ],
)
def test_a_certificate_is_invalid_if_the_tnr_or_the_images_contradict_it(
    num_false_positive, shift, contradicted, invalid
):
    rule = certified()
    check, statement, warning = checked(at_site(num_false_positive), rule, shift)
    assert (check.is_contradicted, check.is_invalid) == (contradicted, invalid)
    # By image below the requested TNR, by patient below the certified one.
    assert len(statement.reasons if statement else ()) == 2 * contradicted + (shift is SHIFTED)
    assert bool(warning) == invalid
    if invalid:
        line_with(headline_of(warning), "CERTIFICATE")
        line_with(statement.text, f"{rule.point.min_tnr:g}", "95 %", "cxrignite recalibrate")
        assert max(map(len, warning.splitlines())) <= 100


def test_a_certificate_is_held_to_what_it_certifies_by_patient():
    # 117 patients with two images each, of the last 15 one above: .936 by image, .872 by patient.
    y_score = ([0.1, 0.1] * 102) + ([0.1, 0.96] * 15) + [0.97] * 30
    patients = [f"well {n // 2}" for n in range(234)] + [f"ill {n}" for n in range(30)]
    scores, rule = scored(y_score, [0] * 234 + [1] * 30, patients), certified()
    check, statement, _ = checked(scores, rule)
    assert rule.point.tnr_lower_bound == pytest.approx(0.951, abs=5e-4)
    assert check.tnr.value == pytest.approx(219 / 234)
    assert check.tnr_by_patient.value == pytest.approx(102 / 117)
    exact = binomtest(102, 117).proportion_ci(method="exact")
    assert check.tnr_by_patient.interval == pytest.approx((exact.low, exact.high))
    assert check.is_contradicted
    assert check.is_invalid
    (reason,) = statement.reasons
    line_with(reason, "patient", "0.872", f"{exact.low:.3f} to {exact.high:.3f}", "0.951")


def test_a_patient_exactly_at_the_threshold_is_called_positive():
    rule = certified()
    y_score = [0.1, 0.2, rule.point.threshold, 1.0]
    check = check_certificate(scored(y_score, [0, 0, 0, 1]), rule, None)
    assert check.tnr.value == check.tnr_by_patient.value == pytest.approx(2 / 3)


def test_a_threshold_that_was_never_certified_cannot_be_invalid_but_is_warned_of():
    point = certified().point.without_certificate("chosen on the validation split")
    check, statement, warning = checked(at_site(25), rule_of(point))
    assert check.is_contradicted
    assert not check.is_invalid
    headline = line_with(headline_of(warning), "TNR")
    assert missing(headline, ["CERTIFICATE", "95 %"]) == ["CERTIFICATE", "95 %"]
    (reason,) = statement.reasons
    line_with(reason, f"{92 / 117:.3f}", f"{point.min_tnr:g}")


def test_the_threshold_of_a_site_that_fails_is_not_answered_with_the_same_advice():
    rule = certified().moved_to("site-a", certified().point, None)
    _, _, warning = checked(at_site(25), rule)
    assert missing(warning, ["site-a", "recalibrate"]) == ["recalibrate"]
    line_with(warning, "site-a")


def test_a_shift_alone_does_not_mention_the_tnr():
    point = certified().point.without_certificate("chosen on the validation split")
    _, _, warning = checked(at_site(5), rule_of(point), SHIFTED)
    line_with(headline_of(warning))
    line_with(" ".join(warning.splitlines()[1:-1]), "AUC", "0.880", "0.830 to 0.920")
    assert "TNR" not in warning


def test_scaling_is_reported_beside_the_raw_scores(scores):
    fitted = Calibrators.fit(scores.y_score, scores.y_true)
    content = assessed(scores, replace(rule_of(None), calibrators=fitted))
    platt = brier_score_loss(scores.y_true, fitted.platt(scores.y_score))
    assert content.calibration["platt"].brier.value == pytest.approx(platt)
    assert content.calibration["temperature"].ece.value is not None
    table = score_table("test", CLASSES, content)
    line_with(table, "Platt")
    assert missing(table, [f"{content.calibration['platt'].ece.value:.3f}"]) == []


def test_scores_that_were_not_scaled_stand_alone(content):
    assert "platt" not in content.calibration
    assert missing(score_table("test", CLASSES, content), ["Platt"]) == ["Platt"]


def test_without_negatives_nothing_is_contradicted():
    check, _, warning = checked(scored([0.95, 0.97], [1, 1]), certified())
    assert not check.is_contradicted
    assert check.tnr.value is None
    assert warning == ""


def test_the_table_fits_a_terminal_and_shows_intervals(content):
    table = score_table("test", CLASSES, content)
    assert max(map(len, table.splitlines())) <= 110
    cells, half = content.at_threshold, content.at_half
    low, high = cells.tnr.interval
    line_with(table, "TNR", f"{cells.tnr.value:.3f} ({low:.3f} to {high:.3f})")
    line_with(table, f"{half.fp} of 60", f"{cells.fp} of 60")
    line_with(table, f"{half.fn} of 90", f"{cells.fn} of 90")
    line_with(table, "subgroup virus")
    line_with(table, 150, 75, "60 NORMAL", "90 PNEUMONIA")
    assert not math.isnan(content.roc_auc.value)


THREE = ("No Finding", "Opacity", "Effusion", "Nodule")


def of_findings(y_score, y_true, classes=THREE, exclusive=False) -> FindingScores:
    records = [
        ImageRecord(f"{n}.png", f"{n}.png", tuple(labels), f"p{n // 2}", "test")
        for n, labels in enumerate(y_true.tolist())
    ]
    features = np.zeros((len(y_true), 2), np.float32)
    return FindingScores(records, classes, exclusive, y_score, y_true, features)


@pytest.fixture
def several() -> FindingScores:
    """Three findings with unknown labels; the last one is present in no image."""
    rng = np.random.default_rng(1)
    y_true = (rng.random((120, 3)) < [0.4, 0.2, 0]).astype(int)
    y_score = 1 / (1 + np.exp(-rng.normal(2 * y_true - 1, 1.5)))
    y_true[rng.random(y_true.shape) < 0.2] = -1
    return of_findings(y_score, y_true)


def rules_of(scores: FindingScores, thresholds) -> list[DecisionRule]:
    rules = []
    for each, threshold in zip(scores, thresholds, strict=True):
        point = None
        if threshold is not None:
            point = replace(certified().point, threshold=threshold)
        rules.append(replace(rule_of(point), finding=each.classes[1]))
    return rules


def test_averages_are_over_the_findings_with_both_classes(several):
    thresholds = [0.5, 0.6, 0.7]
    found = average(several, rules_of(several, thresholds))
    both = [several.of(0), several.of(1)]
    assert found.num_findings == 2
    expected = np.mean([roc_auc_score(each.y_true, each.y_score) for each in both])
    assert found.roc_auc.value == pytest.approx(expected)
    expected = np.mean([average_precision_score(each.y_true, each.y_score) for each in both])
    assert found.average_precision.value == pytest.approx(expected)
    known = several.y_true >= 0
    pooled = several.y_true[known], several.y_score[known]
    assert found.roc_auc_micro.value == pytest.approx(roc_auc_score(*pooled))
    called = several.y_score >= thresholds
    assert found.f1_micro.value == pytest.approx(f1_score(pooled[0], called[known]))
    expected = np.mean(
        [
            f1_score(each.y_true, each.y_score >= threshold)
            for each, threshold in zip(both, thresholds[:2], strict=True)
        ]
    )
    assert found.f1.value == pytest.approx(expected)
    assert found.decisions is None
    for name, each in estimates_of(found).items():
        assert each.by_patient.low < each.value < each.by_patient.high, name


def test_averages_need_several_findings_and_f1_all_thresholds(several):
    one = of_findings(several.y_score[:, :1], several.y_true[:, :1], CLASSES)
    assert average(one, rules_of(one, [0.5])) is None
    found = average(several, rules_of(several, [0.5, None, 0.7]))
    assert (found.f1, found.f1_micro) == (None, None)


def test_exclusive_classes_are_decided_by_the_highest_probability():
    rng = np.random.default_rng(2)
    true = rng.integers(0, 3, 90)
    logits = rng.normal(size=(90, 3)) + 1.5 * np.eye(3)[true]
    probability = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    y_true = np.eye(3, dtype=int)[true][:, 1:]
    classes = ("NORMAL", "BACTERIAL", "VIRAL")
    scores = of_findings(probability[:, 1:], y_true, classes, exclusive=True)
    found = average(scores, rules_of(scores, [0.5, 0.5])).decisions
    decided = probability.argmax(axis=1)
    assert found.accuracy.value == pytest.approx((decided == true).mean())
    assert found.kappa.value == pytest.approx(cohen_kappa_score(true, decided))
    assert sum(map(sum, found.counts)) == 90
    assert found.counts[2][0] == ((true == 2) & (decided == 0)).sum()
    rules = rules_of(scores, [0.5, 0.5])
    evaluations = Evaluations(tuple(map(assessed, scores, rules)), average(scores, rules))
    assert from_json(Evaluations, to_json(evaluations)) == evaluations
    table = findings_table("test", classes, 90, 45, evaluations)
    line_with(table, "test", 90, 45)
    line_with(table, *(f"called {name}" for name in classes))
    line_with(table, "VIRAL", *found.counts[2])
    line_with(table, "kappa", f"{found.kappa.value:.3f}")


def test_the_table_of_findings_has_a_row_for_each_and_the_averages(several):
    rules = rules_of(several, [0.5, 0.6, None])
    evaluations = Evaluations(tuple(map(assessed, several, rules)), average(several, rules))
    table = findings_table("test", THREE, 120, 60, evaluations)
    assert "nan" not in table.lower()
    line_with(table, "AUC", "threshold", "TNR", "TPR", "status")
    for each in evaluations.findings[:2]:
        decisions = each.at_threshold
        line_with(table, f"{each.num_positive} of {each.num_images}")
        rates = (
            f"{each.roc_auc.value:.3f}",
            f"{decisions.threshold:.4f}",
            f"{decisions.tpr.value:.3f}",
        )
        line_with(table, each.rule.finding, *rates)
    line_with(table, "Nodule", "undefined", "none")  # one class, no threshold
    averages = evaluations.averages
    line_with(table, "macro", f"{averages.roc_auc.value:.3f}")
    line_with(table, "micro", f"{averages.roc_auc_micro.value:.3f}")


def test_a_finding_without_a_known_label_is_undefined(several):
    y_true = several.y_true.copy()
    y_true[:, 2] = -1
    scores = of_findings(several.y_score, y_true)
    evaluations = Evaluations(
        tuple(map(assessed, scores, rules_of(scores, [0.5] * 3))),
        average(scores, rules_of(scores, [0.5] * 3)),
    )
    last = evaluations.findings[2]
    assert (last.num_images, last.num_patients) == (0, 0)
    assert last.roc_auc == last.at_threshold.tnr == Estimate(None)
    assert from_json(Evaluations, to_json(evaluations)) == evaluations
    assert evaluations.averages.num_findings == 2
