import json
import math

import numpy as np
import pytest
from scipy.stats import binomtest
from sklearn.metrics import average_precision_score, brier_score_loss, roc_auc_score

from cxrignite.data import Film
from cxrignite.functional import ImbalanceLedger, Interval, ShiftCheck, select_operating_point
from cxrignite.workflows.assessment import assess, judge
from cxrignite.workflows.decision import Decision, Scaling
from cxrignite.workflows.scores import SplitScores
from cxrignite.workflows.tables import banner, score_table

CLASSES = ("NORMAL", "PNEUMONIA")
LEDGER = ImbalanceLedger(100, 300, sampled_prevalence=0.5, pos_weight=0.6)


def scored(y_score, y_true, patients=None, attributes=None) -> SplitScores:
    patients = patients or [f"p{number}" for number in range(len(y_true))]
    attributes = attributes or [{}] * len(y_true)
    films = [
        Film(f"{n}.png", f"{n}.png", int(label), patients[n], "test", attributes[n])
        for n, label in enumerate(y_true)
    ]
    features = np.zeros((len(y_true), 2), np.float32)
    return SplitScores(films, CLASSES, np.asarray(y_score, float), np.asarray(y_true), features)


@pytest.fixture
def scores() -> SplitScores:
    rng = np.random.default_rng(0)
    y_true = rng.permutation([0] * 60 + [1] * 90)
    y_score = 1 / (1 + np.exp(-rng.normal(3 * y_true - 1.5, 1.5)))
    kinds = [
        {"subgroup": str(rng.choice(["bacteria", "virus"])) if label else "IM", "file": str(n)}
        for n, label in enumerate(y_true)
    ]
    return scored(y_score, y_true, [f"p{n // 2}" for n in range(150)], kinds)


def assessed(scores: SplitScores, decision: Decision) -> dict:
    return assess(scores, decision, [film.attributes for film in scores.films])


def decided(scores: SplitScores, **settings) -> Decision:
    settings = {"min_threshold": 0.5, "min_tnr": 0.8, **settings}
    point = select_operating_point(scores.y_score, scores.y_true, **settings)
    return Decision(point, "calibration", LEDGER, "ab")


def test_the_figures_are_those_of_scikit_learn(scores):
    content = assessed(scores, decided(scores))
    assert content["roc_auc"] == pytest.approx(roc_auc_score(scores.y_true, scores.y_score))
    precision = average_precision_score(scores.y_true, scores.y_score)
    assert content["average_precision"] == pytest.approx(precision)
    brier = brier_score_loss(scores.y_true, scores.y_score)
    assert content["calibration"]["raw"]["brier"] == pytest.approx(brier)
    natural = brier_score_loss(scores.y_true, LEDGER.natural(scores.y_score))
    assert content["calibration"]["natural"]["brier"] == pytest.approx(natural)
    cells = content["at_threshold"]
    exact = binomtest(cells["tn"], cells["tn"] + cells["fp"]).proportion_ci(method="exact")
    assert cells["intervals"]["tnr"] == pytest.approx([exact.low, exact.high])
    counts = [content[f"num_{name}"] for name in ("images", "negative", "positive", "patients")]
    assert counts == [150, 60, 90, 75]


def test_every_figure_has_an_interval_that_holds_it(scores):
    content = assessed(scores, decided(scores))
    assert json.loads(json.dumps(content)) == content
    blocks = [
        content,
        content["at_half"],
        content["at_threshold"],
        *filter(None, content["calibration"].values()),
    ]
    for block in blocks:
        for name, pair in {**block.get("intervals", {}), **block["patient_intervals"]}.items():
            assert pair[0] <= block[name] <= pair[1], name
    rates = {"tnr", "tpr", "ppv", "npv", "balanced_accuracy", "accuracy"}
    assert set(content["at_half"]["patient_intervals"]) == rates
    assert set(content["patient_intervals"]) == {"roc_auc", "average_precision"}


def test_a_subgroup_of_one_class_is_ranked_against_all_of_the_other(scores):
    content = assessed(scores, decided(scores))
    groups = {group["value"]: group for group in content["subgroups"]}
    assert sorted(groups) == ["IM", "bacteria", "virus"]  # a file's name makes no group
    virus = groups["virus"]
    inside = np.array([film.attributes["subgroup"] == "virus" for film in scores.films])
    ranked = inside | (scores.y_true == 0)
    expected = roc_auc_score(scores.y_true[ranked], scores.y_score[ranked])
    assert virus["roc_auc"] == pytest.approx(expected)
    assert virus["tnr"] is None
    assert set(virus["intervals"]) == {"tpr", "roc_auc"}
    assert groups["IM"]["tpr"] is None
    assert groups["IM"]["num_images"] == groups["IM"]["num_negative"] == 60


def test_subgroups_can_be_given(scores):
    attributes = [{"half": "first" if n < 75 else "second"} for n in range(150)]
    groups = assess(scores, decided(scores), attributes)["subgroups"]
    assert [group["value"] for group in groups] == ["first", "second"]
    expected = roc_auc_score(scores.y_true[:75], scores.y_score[:75])
    assert groups[0]["roc_auc"] == pytest.approx(expected)


def test_what_is_another_for_each_film_is_no_subgroup(scores):
    attributes = [{"mask": f"{n}.png"} if n < 5 else {} for n in range(150)]
    assert assess(scores, decided(scores), attributes)["subgroups"] == []


@pytest.mark.parametrize("label", [0, 1])
def test_films_of_one_class_leave_figures_undefined_and_no_nan(label):
    scores = scored([0.2, 0.6, 0.95], [label] * 3)
    both = scored([0.2, 0.95], [0, 1])
    content = assessed(scores, decided(both))
    text = json.dumps(content, allow_nan=False)
    assert json.loads(text)["roc_auc"] is None
    assert content["intervals"]["roc_auc"] is None
    known, unknown = ("tnr", "tpr") if label == 0 else ("tpr", "tnr")
    assert content["at_threshold"][known] is not None
    assert content["at_threshold"][unknown] is None
    assert "undefined" in score_table("site", CLASSES, content)


def test_a_run_without_a_threshold_has_no_figures_at_one(scores):
    content = assessed(scores, Decision(None, "val", LEDGER, "ab"))
    assert "at_threshold" not in content
    assert content["operating_point"]["threshold"] is None
    assert judge(scores, Decision(None, "val", LEDGER, "ab"), None) is None
    assert "at the threshold" not in score_table("test", CLASSES, content)


def test_an_unknown_natural_scale_is_null(scores):
    unknown = ImbalanceLedger(100, 300, sampled_prevalence=0.5, pos_weight=None)
    content = assessed(scores, Decision(None, "val", unknown, "ab"))
    assert content["calibration"]["natural"] is None
    assert "natural" not in score_table("test", CLASSES, content)


def certified() -> Decision:
    y_score, y_true = [0.1] * 60 + [0.95] * 10, [0] * 60 + [1] * 10
    point = select_operating_point(y_score, y_true, confidence=0.95)
    assert point.verdict == "certified"
    return Decision(point, "calibration", LEDGER, "ab")


def at_site(num_false_positive: int, num_negative: int = 117) -> SplitScores:
    low = [0.1] * (num_negative - num_false_positive)
    y_score = low + [0.96] * num_false_positive + [0.97] * 30
    return scored(y_score, [0] * num_negative + [1] * 30)


SHIFTED = ShiftCheck(0.88, Interval(0.83, 0.92), 60, 117, 60, 117, is_detected=True)
ALIKE = ShiftCheck(0.52, Interval(0.45, 0.60), 60, 117, 60, 117, is_detected=False)


@pytest.mark.parametrize(
    ("num_false_positive", "shift", "contradicted", "void"),
    [
        (5, None, False, False),
        (5, ALIKE, False, False),
        (5, SHIFTED, False, True),
        (25, ALIKE, True, True),
        (25, SHIFTED, True, True),
    ],
)
def test_a_certificate_is_void_where_the_tnr_or_the_films_speak_against_it(
    num_false_positive, shift, contradicted, void
):
    scores, decision = at_site(num_false_positive), certified()
    verdict = judge(scores, decision, shift)
    assert (verdict["is_contradicted"], verdict["is_void"]) == (contradicted, void)
    # By film below what was asked for, by patient below what is certified.
    assert len(verdict["reasons"]) == 2 * contradicted + (shift is SHIFTED)
    warning = banner(verdict)
    assert (warning is not None) == void
    if void:
        assert "THE CERTIFICATE IS VOID FOR THESE FILMS" in warning
        assert "cxrignite recalibrate" in warning
        assert max(map(len, warning.splitlines())) <= 100


def test_a_certificate_is_held_to_what_it_certifies_by_patient():
    # 117 patients with two films each, of the last 15 one above: .936 by film, .872 by patient.
    y_score = ([0.1, 0.1] * 102) + ([0.1, 0.96] * 15) + [0.97] * 30
    patients = [f"well {n // 2}" for n in range(234)] + [f"ill {n}" for n in range(30)]
    scores, decision = scored(y_score, [0] * 234 + [1] * 30, patients), certified()
    verdict = judge(scores, decision, None)
    assert decision.point.tnr_lower_bound == pytest.approx(0.951, abs=5e-4)
    assert verdict["observed_tnr"] == pytest.approx(219 / 234)
    assert verdict["observed_tnr_by_patient"] == pytest.approx(102 / 117)
    exact = binomtest(102, 117).proportion_ci(method="exact")
    assert verdict["interval_by_patient"] == pytest.approx([exact.low, exact.high])
    assert verdict["is_contradicted"]
    assert verdict["is_void"]
    (reason,) = verdict["reasons"]
    assert "TNR by patient is 0.872 here" in reason
    assert "below the certified 0.951" in reason


def test_a_threshold_that_was_never_certified_cannot_be_void_but_is_warned_of():
    scores, decision = at_site(25), certified()
    point = decision.point.without_certificate("chosen on the validation split")
    decision = Decision(point, "val", LEDGER, "ab")
    verdict = judge(scores, decision, None)
    assert verdict["is_contradicted"]
    assert not verdict["is_void"]
    assert verdict["certified_tnr"] is None
    assert "VOID" not in banner(verdict)
    assert "LOWER THAN WAS ASKED FOR" in banner(verdict)


def test_the_threshold_of_a_site_that_fails_is_not_answered_with_the_same_advice():
    decision = certified().moved_to("site-a", certified().point)
    warning = banner(judge(at_site(25), decision, None))
    assert "the threshold of site-a does not serve these films" in warning
    assert "cxrignite recalibrate" not in warning


def test_a_shift_alone_does_not_speak_of_the_tnr():
    point = certified().point.without_certificate("chosen on the validation split")
    warning = banner(judge(at_site(5), Decision(point, "val", LEDGER, "ab"), SHIFTED))
    assert "CHOSEN ON FILMS OF ANOTHER KIND" in warning
    assert "TNR" not in warning


def test_scaling_is_told_beside_the_raw_scores(scores):
    scaling = Scaling.fit(scores.y_score, scores.y_true)
    decision = Decision(None, "val", LEDGER, "ab", scaling)
    content = assessed(scores, decision)
    platt = brier_score_loss(scores.y_true, scaling.platt(scores.y_score))
    assert content["calibration"]["platt"]["brier"] == pytest.approx(platt)
    assert content["calibration"]["temperature"]["ece"] is not None
    assert "Platt scaling" in score_table("test", CLASSES, content)
    assert assessed(scores, decided(scores))["calibration"]["platt"] is None


def test_without_negatives_nothing_is_contradicted():
    scores, decision = scored([0.95, 0.97], [1, 1]), certified()
    verdict = judge(scores, decision, None)
    assert not verdict["is_contradicted"]
    assert verdict["observed_tnr"] is None
    assert banner(verdict) is None


def test_the_table_fits_a_terminal_and_shows_intervals(scores):
    content = assessed(scores, decided(scores))
    table = score_table("test", CLASSES, content)
    assert max(map(len, table.splitlines())) <= 110
    cells = content["at_threshold"]
    low, high = cells["intervals"]["tnr"]
    assert f"{cells['tnr']:.3f} ({low:.3f} to {high:.3f})" in table
    assert f"{cells['fp']} of 60" in table
    assert "subgroup virus" in table
    assert not math.isnan(content["roc_auc"])
