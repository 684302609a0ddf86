"""Results of a run: as JSON, for tests that read what a user reads, and typed, made up."""

import json
from dataclasses import fields, replace

from cxrignite.functional import Interval, OperatingPoint, PriorShift
from cxrignite.runs.decision_rule import DecisionRule, DecisionRules
from cxrignite.runs.evaluation import Calibration, Decisions, Estimate, Evaluation, Subgroup
from cxrignite.runs.informativeness import Informativeness
from cxrignite.runs.json_codec import to_json
from cxrignite.runs.run_folder import RunFolder


def rewrite_rule(run_dir, *, site=None, **changes):
    """Give a run another decision rule, or one of a site, with other fields than its own."""
    folder = RunFolder(run_dir)
    rule = replace(folder.find_rules()[0], **changes)
    path = folder.operating_point_path if site is None else folder.site_path(site)
    path.parent.mkdir(exist_ok=True)
    folder.files.write(path, to_json(DecisionRules((rule,))))
    return rule


def finding(path):
    """The one finding of `operating_point.json` or of `metrics/*.json`."""
    (content,) = json.loads(path.read_text())["findings"]
    return content


def point(path):
    """The operating point of `operating_point.json`, with what chose it."""
    content = finding(path)
    return {**content["point"], "chosen_on": content["chosen_on"]}


POINT = OperatingPoint(
    threshold=0.9,
    status="certified",
    tnr=0.975,
    tpr=0.9,
    num_negative=80,
    num_positive=60,
    num_false_positive=2,
    num_false_negative=6,
    min_tnr=0.93,
    min_threshold=0.9,
    fp_cost=2.0,
    fn_cost=1.0,
    confidence=0.95,
    num_negative_patients=70,
    tnr_lower_bound=0.94,
    num_negatives_needed=90,
)
PRIOR_SHIFT = PriorShift(1349, 3883, sampled_prevalence=0.5, pos_weight=0.589)
RULE = DecisionRule("PNEUMONIA", POINT, "calibration", PRIOR_SHIFT, "ab" * 32)
USELESS = Informativeness(60, 6, -0.01, Interval(-0.1, 0.08), 0.43, Interval(0.4, 0.52))


def rule_of(**changes):
    """The rule with other fields, of its own or of its operating point."""
    own = {field.name for field in fields(DecisionRule)}
    point = replace(POINT, **{key: value for key, value in changes.items() if key not in own})
    return replace(
        RULE, **{"point": point, **{key: value for key, value in changes.items() if key in own}}
    )


def decisions_of(threshold, tn, fp, fn, tp, tnr=None):
    return Decisions(
        threshold,
        *(tn, fp, fn, tp),
        tnr=tnr or Estimate(tn / (tn + fp), Interval(0.71, 0.91), Interval(0.7, 0.92)),
        tpr=Estimate(tp / (tp + fn), Interval(0.81, 0.96)),
        ppv=Estimate(tp / (tp + fp)),
        npv=Estimate(0.8),
        balanced_accuracy=Estimate(0.85, None, Interval(0.8, 0.9)),
        accuracy=Estimate(0.84),
    )


def evaluation_of(rule=RULE, tnr=None, **changes):
    """An evaluation with other fields, and with another TNR at the threshold."""
    brier = Estimate(0.1, by_patient=Interval(0.08, 0.12))
    scale = Calibration(brier, *map(Estimate, (0.3, 0.05, 0.8, -0.2)), bins=())
    tnr = tnr or Estimate(0.96, Interval(0.86, 0.995))
    virus = Subgroup(
        *("subgroup", "virus", 30, 0, 30, 25),
        *(Estimate(None), Estimate(0.9, Interval(0.73, 0.98)), Estimate(None)),
    )
    evaluation = Evaluation(
        rule=rule,
        num_images=110,
        num_negative=50,
        num_positive=60,
        num_patients=90,
        roc_auc=Estimate(0.96, Interval(0.93, 0.98), Interval(0.92, 0.985)),
        average_precision=Estimate(0.97),
        at_half=decisions_of(0.5, 35, 15, 2, 58),
        at_threshold=decisions_of(rule.threshold, 48, 2, 6, 54, tnr) if rule.point else None,
        calibration={"score": scale},
        subgroups=(virus,),
        informativeness=None,
        num_evaluations=1,
    )
    return replace(evaluation, **changes)
