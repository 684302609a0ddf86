"""Statements about limits of the sensitivity and about referral; the rest is tested by commands."""

import re
from dataclasses import replace

import numpy as np
import pytest
from messages import line_with, missing
from results import POINT, RULE, evaluation_of, rule_of

from cxrignite.functional import Interval, select_operating_point
from cxrignite.reporting.wording import (
    check_freshness,
    check_rule,
    describe_family,
    describe_findings,
    describe_negatives,
    describe_point,
    read_evaluation,
    state_rule,
)
from cxrignite.runs.evaluation import CertificateCheck, Estimate

CLASSES = ("NORMAL", "PNEUMONIA")
BOTH = {
    "min_tpr": 0.9,
    "num_positive_patients": 50,
    "tpr_lower_bound": 0.91,
    "num_positives_needed": 29,
    "refer": True,
}
REFERS = {
    "lower_threshold": 0.3,
    "num_referred_negative": 10,
    "num_referred_positive": 5,
    **BOTH,
}


def statement(**changes):
    return state_rule(rule_of(**changes), CLASSES, {})


def test_a_certified_pair_says_what_each_limit_promises_and_how_they_hold_together():
    each, together = statement(**BOTH), statement(**BOTH, joint=True)
    for shown in (each, together):
        assert missing(shown.text, ["93 %", "90 %", "NORMAL", "PNEUMONIA", "95 % confidence"]) == []
        assert "90 %" in shown.tpr_terms
        line_with("\n".join(shown.remarks), "91.0 %")
    assert each.text.count("95 % confidence") == 2  # one by itself, and the other
    assert together.text.count("95 % confidence") == 1


def test_the_reading_of_a_patient_with_several_images_is_named():
    every, some = (statement(**BOTH, patient_found=each) for each in ("every_image", "any_image"))
    assert "all their images" in every.text
    assert "at least one image" in some.text


def test_a_rule_that_refers_names_both_thresholds_and_the_share_between_them():
    for shown in (statement(**REFERS), statement(**REFERS, status="empirical", confidence=None)):
        assert missing(shown.text, ["0.3000", "0.9000", "referred", "10.7 %"]) == []
    line = describe_point(rule_of(**REFERS).point)
    line_with(line, "0.3000 and 0.9000", "10 negatives", "5 positives", "0.910")


def test_without_a_limit_nothing_is_said_to_be_guaranteed_for_the_sensitivity():
    assert "no guarantee" in statement().tpr_terms
    assert missing(statement().text, ["PNEUMONIA"]) == ["PNEUMONIA"]


@pytest.mark.parametrize(("refer", "way_out"), [(False, True), (True, False)])
def test_a_pair_that_no_threshold_keeps_names_the_way_out(refer, way_out):
    rng = np.random.default_rng(0)
    y_true = np.repeat([0, 1], [100, 100])
    y_score = np.clip(rng.normal(0.4 + 0.1 * y_true, 0.2), 0, 1)
    point = select_operating_point(
        y_score, y_true, min_tnr=0.9, min_tpr=0.9, min_threshold=0.0, confidence=0.95
    )
    line = describe_point(replace(point, refer=refer))
    assert ("refer: true" in line) == way_out


def test_too_few_positives_are_counted():
    changes = {**BOTH, "status": "infeasible", "num_positive_patients": 12}
    line_with("\n".join(statement(**changes).remarks), "TPR", "29", "12")
    line_with(describe_point(rule_of(**changes).point), "TPR", "29", "12")


def test_a_sensitivity_below_its_limit_contradicts_the_certificate():
    low = Estimate(0.6, Interval(0.5, 0.7))
    fine = Estimate(0.95, Interval(0.9, 0.99))
    check = CertificateCheck(fine, fine, False, False, low, low, True, True, False, True)
    rule = replace(RULE, point=replace(POINT, **BOTH))
    shown = check_rule("test", evaluation_of(rule, certificate=check))
    assert check.is_invalid
    line_with("\n".join(shown.reasons), "TPR by patient", "0.600", "0.910")
    line_with("\n".join(shown.reasons), "TPR by image", "0.9")
    assert missing(shown.text, ["0.93", "TPR of at least 0.9"]) == []


def found_by_any(**changes):
    """100 negatives, and 40 positive patients with a high and a low score each."""
    y_true = np.repeat([0, 1, 1], [100, 40, 40])
    y_score = np.concatenate([np.linspace(0, 0.5, 100), np.full(40, 0.95), np.full(40, 0.1)])
    patients = np.concatenate([np.arange(100), np.arange(100, 140), np.arange(100, 140)])
    settings = {"min_tpr": 0.9, "min_threshold": 0.0, "patient_found": "any_image", **changes}
    return select_operating_point(y_score, y_true, patients=patients, **settings)


def test_a_limit_by_patient_is_compared_with_the_rate_by_patient():
    certified = found_by_any(confidence=0.9)
    assert (certified.status, certified.tpr_by_patient, certified.tpr) == ("certified", 1.0, 0.5)
    line_with(describe_point(certified), "TPR 0.500, by patient 1.000 >= 0.9")
    text = state_rule(replace(RULE, point=certified), CLASSES, {}).text
    line_with(text, "PNEUMONIA patients", "at least one")
    empirical = state_rule(replace(RULE, point=found_by_any()), CLASSES, {}).text
    assert "100.0 % of the 40 PNEUMONIA patients" in empirical


@pytest.mark.parametrize(
    ("changes", "facts", "absent"),
    [
        ({"min_threshold": 0.0}, ["refer: true"], ["certificate", "min_threshold"]),
        ({"min_threshold": 0.99}, ["lower min_threshold", "0.99"], ["certificate"]),
        ({"min_tpr": 1.0}, ["keeps both limits"], ["certifies"]),
    ],
)
def test_without_a_confidence_no_certificate_is_blamed(changes, facts, absent):
    settings = {"min_tnr": 1.0, "min_tpr": 0.9, "min_threshold": 0.0, **changes}
    point = select_operating_point([0.1, 0.95, 0.92, 0.99], [0, 0, 1, 1], **settings)
    line = describe_point(point)
    line_with(line, "infeasible", *facts)
    assert not any(word in line for word in absent)


def test_what_was_observed_is_compared_with_both_limits():
    rule = rule_of(**BOTH, status="empirical", confidence=None)
    low = Estimate(0.5, Interval(0.4, 0.6))
    decisions = replace(evaluation_of().at_threshold, tpr=low)
    reading = read_evaluation("test", evaluation_of(rule, at_threshold=decisions))
    line_with(reading, "specificity agrees", "sensitivity below the requested 90 %")


def test_results_at_another_lower_threshold_are_out_of_date():
    rule = rule_of(**REFERS)
    older = replace(rule, point=replace(rule.point, lower_threshold=0.2))
    assert check_freshness("test", evaluation_of(rule), rule) is None
    line_with(check_freshness("test", evaluation_of(older), rule).text, "0.2000", "0.3000")


@pytest.mark.parametrize(
    ("changes", "facts"),
    [
        ([{}, {}, {"status": "empirical"}], ["2 of 3", "90 %"]),
        ([{"confidence": 1 - 0.05 / 14}] * 14, ["14 of 14", "95 %"]),  # familywise
        ([{"min_tpr": 0.8}, {}], ["2 of 2", "85 %"]),  # both limits of the first hold alone
        ([{"min_tpr": 0.8, "joint": True}, {}], ["2 of 2", "90 %"]),
    ],
)
def test_certificates_of_several_findings_hold_together_with_less_confidence(changes, facts):
    line_with(describe_family([rule_of(**each) for each in changes]), *facts)


def test_many_certificates_have_no_known_confidence_together():
    text = line_with(describe_family([RULE] * 20), "20 of 20")
    assert "%" not in text
    assert describe_family([RULE, None, rule_of(point=None)]) == ""


def test_the_negatives_of_a_finding_are_named():
    classes = ("NORMAL", "BACTERIAL", "VIRAL")
    line_with(describe_negatives(classes, 1, is_exclusive=True), "no VIRAL", "NORMAL or BACTERIAL")
    side_by_side = describe_negatives(classes, 1, is_exclusive=False, num_unknown=1200)
    assert "NORMAL" not in line_with(side_by_side, "no VIRAL", "1,200 images")


def test_only_exclusive_findings_are_called_classes():
    names = ("No Finding", "Mass", "Nodule")
    line_with(describe_findings(names, is_exclusive=True), "3 classes", "Mass or Nodule")
    assert not re.search(r"class|No Finding", describe_findings(names, is_exclusive=False))
