import json
import re

import numpy as np
import pytest
from messages import line_with, missing, refused

from cxrignite.functional import ImbalanceLedger, select_operating_point
from cxrignite.runs.decision import Decision, Scaling

LEDGER = ImbalanceLedger(1349, 3883, sampled_prevalence=0.5, pos_weight=0.589)


@pytest.fixture
def scored():
    rng = np.random.default_rng(0)
    y_true = rng.permutation([0] * 120 + [1] * 80)
    return 1 / (1 + np.exp(-rng.normal(4 * y_true - 2, 1.5))), y_true


@pytest.mark.parametrize("confidence", [None, 0.95])
def test_a_decision_survives_json(confidence, scored):
    point = select_operating_point(*scored, min_threshold=0.5, confidence=confidence)
    decision = Decision(point, "calibration", LEDGER, "ab", Scaling.fit(*scored))
    assert Decision.from_dict(json.loads(json.dumps(decision.to_dict()))) == decision


def test_a_run_without_a_threshold_survives_json():
    decision = Decision(None, "val", LEDGER, "ab")
    assert Decision.from_dict(json.loads(json.dumps(decision.to_dict()))) == decision
    assert decision.threshold is decision.natural_threshold is None
    assert not re.search(r"\d", line_with(decision.describe(), "operating point"))


def test_the_threshold_is_told_on_both_scales():
    point = select_operating_point([0.1, 0.5, 0.95], [0, 0, 1], min_threshold=0.90)
    decision = Decision(point, "val", LEDGER, "ab")
    assert decision.natural_threshold == LEDGER.natural([decision.threshold])[0]
    natural = f"{decision.natural_threshold:.4f}"
    told = line_with(decision.describe(), natural, f"{decision.threshold:.4f}")
    unknown = ImbalanceLedger(30, 70, sampled_prevalence=0.5, pos_weight=None)
    decision = Decision(point, "val", unknown, "ab")
    assert decision.natural_threshold is None
    other = line_with(decision.describe(), f"{decision.threshold:.4f}")
    assert missing(other, [natural]) == [natural]
    assert len(other) < len(told)


def test_scores_that_fall_with_the_label_have_no_platt_scaling(scored):
    y_score, y_true = scored
    scaling = Scaling.fit(1 - y_score, y_true)
    assert scaling.platt is None
    assert Scaling.from_dict(json.loads(json.dumps(scaling.to_dict()))) == scaling


def test_a_missing_entry_is_named():
    content = Decision(None, "val", LEDGER, "ab").to_dict()
    del content["weights_sha256"]
    with refused(KeyError, "weights_sha256"):
        Decision.from_dict(content)
