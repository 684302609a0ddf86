import json
from dataclasses import replace

import numpy as np
import pytest
from messages import line_with, missing, refused

from cxrignite.functional import Interval, PriorShift, select_operating_point
from cxrignite.reporting.wording import describe_rule, status
from cxrignite.runs.decision_rule import Calibrators, DecisionRule, DecisionRules
from cxrignite.runs.informativeness import Informativeness
from cxrignite.runs.json_codec import from_json, to_json

PRIOR_SHIFT = PriorShift(1349, 3883, sampled_prevalence=0.5, pos_weight=0.589)
BARE = DecisionRule("SICK", None, "val", PRIOR_SHIFT, "ab")


@pytest.fixture
def scored():
    rng = np.random.default_rng(0)
    y_true = rng.permutation([0] * 120 + [1] * 80)
    return 1 / (1 + np.exp(-rng.normal(4 * y_true - 2, 1.5))), y_true


@pytest.mark.parametrize("confidence", [None, 0.95])
def test_a_rule_survives_json(confidence, scored):
    point = select_operating_point(*scored, min_threshold=0.5, confidence=confidence)
    measured = Informativeness(80, 70, 0.5, Interval(0.4, 0.6), 0.9, Interval(0.8, 0.95))
    fitted = Calibrators.fit(*scored)
    rule = DecisionRule("SICK", point, "calibration", PRIOR_SHIFT, "ab", fitted, measured)
    rules = DecisionRules((rule,))
    assert from_json(DecisionRules, to_json(rules)) == rules


def test_a_run_without_a_threshold_survives_json():
    rules = DecisionRules((BARE,))
    assert from_json(DecisionRules, to_json(rules)) == rules
    assert BARE.threshold is BARE.threshold_probability is None
    assert status(BARE) == ""
    line_with(describe_rule(BARE), "operating point")


def test_the_threshold_is_described_on_both_scales():
    point = select_operating_point([0.1, 0.5, 0.95], [0, 0, 1], min_threshold=0.90)
    rule = replace(BARE, point=point)
    assert rule.threshold_probability == PRIOR_SHIFT.probability([rule.threshold])[0]
    probability = f"{rule.threshold_probability:.4f}"
    line_with(describe_rule(rule), probability, f"{rule.threshold:.4f}")
    unknown = replace(rule, prior_shift=replace(PRIOR_SHIFT, pos_weight=None))
    assert unknown.threshold_probability is None
    described = line_with(describe_rule(unknown), f"{rule.threshold:.4f}")
    assert missing(described, [probability]) == [probability]


def test_scores_that_fall_with_the_label_have_no_platt_scaling(scored):
    y_score, y_true = scored
    assert Calibrators.fit(1 - y_score, y_true).platt is None


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("weights_sha256", ...),
        ("weights_sha256", 3),
        ("chosen_on", None),
        ("prior_shift", {"num_negative": 0}),
        ("unknown", 1),
    ],
)
def test_another_form_is_refused_by_its_key(key, value):
    content = json.loads(to_json(DecisionRules((BARE,))))
    (rule,) = content["findings"]
    if value is ...:
        del rule[key]
    else:
        rule[key] = value
    with refused(ValueError, f"findings.0.{key}"):
        from_json(DecisionRules, json.dumps(content).encode())


def test_another_format_is_refused():
    content = json.loads(to_json(DecisionRules((BARE,)))) | {"format": 2}
    with refused(ValueError, "format"):
        from_json(DecisionRules, json.dumps(content).encode())
