"""Sentences about thresholds, certificates, shifts and warnings, for console, log and HTML.

A sentence that is shown in two places is written here once, from typed results.
"""

from cxrignite.reporting.wording.exported import describe_parity, describe_reading
from cxrignite.reporting.wording.observations import (
    NOT_USABLE,
    Statement,
    alarm_of_evaluation,
    alarm_of_rule,
    check_freshness,
    check_rule,
    chosen_images,
    describe_missing_labels,
    describe_repetition,
    describe_shift,
    read_evaluation,
    reasons_not_usable,
    split_name,
)
from cxrignite.reporting.wording.rules import (
    RuleStatement,
    check_weights,
    describe_other_threshold,
    describe_plan,
    describe_point,
    describe_rule,
    state_kept_rule,
    state_rule,
    status,
    thresholds_text,
)
from cxrignite.reporting.wording.several import (
    describe_class_decisions,
    describe_ensemble,
    describe_family,
    describe_findings,
    describe_negatives,
    listed,
)

__all__ = [
    "NOT_USABLE",
    "RuleStatement",
    "Statement",
    "alarm_of_evaluation",
    "alarm_of_rule",
    "check_freshness",
    "check_rule",
    "check_weights",
    "chosen_images",
    "describe_class_decisions",
    "describe_ensemble",
    "describe_family",
    "describe_findings",
    "describe_missing_labels",
    "describe_negatives",
    "describe_other_threshold",
    "describe_parity",
    "describe_plan",
    "describe_point",
    "describe_reading",
    "describe_repetition",
    "describe_rule",
    "describe_shift",
    "listed",
    "read_evaluation",
    "reasons_not_usable",
    "split_name",
    "state_kept_rule",
    "state_rule",
    "status",
    "thresholds_text",
]
