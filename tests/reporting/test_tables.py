"""The table of several findings on the terminal."""

from dataclasses import replace

import pytest
from messages import line_with
from results import USELESS, decisions_of, evaluation_of, rule_of

from cxrignite.functional import Interval
from cxrignite.reporting.tables import findings_table
from cxrignite.runs.evaluation import Averages, Estimate, Evaluations
from cxrignite.terminal import MAX_WIDTH

NAMES = [
    *("Atelectasis", "Cardiomegaly", "Consolidation", "Edema", "Enlarged Cardiomediastinum"),
    *("Fracture", "Lung Lesion", "Lung Opacity", "Pleural Effusion", "Pleural Other", "Pneumonia"),
    *("Pneumothorax", "Support Devices", "No Lung Opacity / Not Normal"),
]


def large(name, **changes):
    return evaluation_of(rule_of(finding=name), num_images=223_414, num_positive=118_345, **changes)


@pytest.fixture
def table():
    findings = [large(name) for name in NAMES]
    findings[1] = large(NAMES[1], roc_auc=Estimate(None))
    findings[2] = evaluation_of(rule_of(finding=NAMES[2], point=None))
    findings[3] = evaluation_of(rule_of(finding=NAMES[3], informativeness=USELESS))
    referring = replace(decisions_of(0.9, 48, 2, 6, 54), lower_threshold=0.4321)
    findings[4] = large(NAMES[4], at_threshold=referring)
    averages = Averages(
        num_findings=len(NAMES),
        roc_auc=Estimate(0.8123, Interval(0.79, 0.83)),
        average_precision=Estimate(0.4),
        roc_auc_micro=Estimate(0.8456),
        average_precision_micro=Estimate(0.5),
    )
    evaluations = Evaluations(tuple(findings), averages)
    return findings_table("test", ["No Finding", *NAMES], 223_414, 64_540, evaluations)


def test_long_names_and_large_numbers_fit_the_width(table):
    assert max(map(len, table.splitlines())) <= MAX_WIDTH


def test_each_finding_has_a_row_of_values_and_one_of_intervals(table):
    lines = table.splitlines()
    for name in (*NAMES[:1], *NAMES[5:]):
        [row] = [number for number, line in enumerate(lines) if line.startswith(f"  {name} ")]
        line_with(lines[row], name, "0.960", "0.9000", "0.900", "certified")
        line_with(lines[row + 1], "118,345 of 223,414", "0.930-0.980", "0.860-0.995", "0.810-0.960")
    line_with(table, "macro average", "0.812")
    line_with(table, "0.790-0.830")
    line_with(table, "micro average", "0.846")


def test_what_a_finding_lacks_is_named_in_its_row(table):
    lines = table.splitlines()
    line_with(table, "Cardiomegaly ", "undefined", "certified")
    line_with(table, "Consolidation ", "none")
    row = lines.index(line_with(table, "  Edema ", "not usable"))
    line_with(lines[row + 1], "(certified)")
    line_with(table, "and 0.4321")
