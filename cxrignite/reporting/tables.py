"""Tables of a split's metrics for the terminal."""

from __future__ import annotations

from collections.abc import Sequence

from cxrignite.functional import ExpectedReferral, ExpectedSensitivity, OperatingPoint
from cxrignite.reporting.numbers import plain_percent
from cxrignite.reporting.text_table import indented, table_lines
from cxrignite.reporting.wording import Statement, status
from cxrignite.runs.evaluation import Decisions, Estimate, Evaluation, Evaluations
from cxrignite.terminal import counted

_RATES = (
    ("TNR (specificity)", "tnr"),
    ("TPR (sensitivity)", "tpr"),
    ("PPV", "ppv"),
    ("NPV", "npv"),
    ("balanced accuracy", "balanced_accuracy"),
)
_CALIBRATION = (
    ("Brier score", "brier"),
    ("calibration error (ECE)", "ece"),
    ("calibration slope", "calibration_slope"),
)
_FITTED = {"platt": "Platt scaling", "temperature": "temperature scaling"}


def score_table(name: str, classes: Sequence[str], evaluation: Evaluation) -> str:
    """Lay out an evaluation, every metric with its 95 % interval."""
    negatives, positives = evaluation.num_negative, evaluation.num_positive
    lines = [
        f"{name}: {counted(evaluation.num_images, 'image')} of "
        f"{counted(evaluation.num_patients, 'patient')}, "
        f"{negatives} {classes[0]} and {positives} {classes[1]}",
        f"  AUC {_cell(evaluation.roc_auc, 4)}   "
        f"average precision {_cell(evaluation.average_precision, 4)}",
        "",
    ]
    columns, titles = [evaluation.at_half], ["at 0.5"]
    if evaluation.at_threshold is not None:
        columns.append(evaluation.at_threshold)
        lower, upper = evaluation.at_threshold.lower_threshold, evaluation.at_threshold.threshold
        titles.append(f"at the threshold {upper:.4f}")
        if lower is not None:
            titles[-1] = f"referred from {lower:.4f} to {upper:.4f}"
    rows = [["", *titles]]
    rows += [[label, *(_cell(getattr(each, key)) for each in columns)] for label, key in _RATES]
    rows.append(["false negatives", *(f"{each.fn} of {positives}" for each in columns)])
    rows.append(["false positives", *(f"{each.fp} of {negatives}" for each in columns)])
    if columns[-1].lower_threshold is not None:
        last = columns[-1]
        shares = (last.referred, last.negatives_referred, last.positives_referred)
        labels = ("all images", *classes)
        rows += [
            [f"referred, {label}", "none", _cell(share)]
            for label, share in zip(labels, shares, strict=True)
            if share is not None
        ]
    if evaluation.at_prevalences:
        rows += [[], ["", "PPV at the threshold", "NPV at the threshold"]]
    for share in evaluation.at_prevalences:
        label = f"at a prevalence of {plain_percent(share.prevalence)}"
        rows.append([label, _cell(share.ppv), _cell(share.npv)])
        if share.referred is not None:
            rows.append(["  referred", _cell(share.referred)])
    scales = evaluation.calibration
    shown = [scales[scale] for scale in ("score", "probability") if scale in scales]
    titles = ["score", "probability"][: len(shown)]
    rows += [[], ["", *titles]]
    for label, key in _CALIBRATION:
        rows.append([label, *(_cell(getattr(each, key)) for each in shown)])
    fitted = [name for name in _FITTED if name in scales]
    if fitted:
        rows.append(["", *(_FITTED[name] for name in fitted)])
        rows.append(["calibration error (ECE)", *(_cell(scales[name].ece) for name in fitted)])
    lines += table_lines(rows, indent="  ")
    # Three figures with their intervals fill 80 columns, so the label has a line of its own.
    groups = [["  ", "TNR", "TPR", "AUC"]] if evaluation.subgroups else []
    for group in evaluation.subgroups:
        groups.append([f"  {group.attribute} {group.value} ({group.num_images})"])
        groups.append(["", *(_cell(each) for each in (group.tnr, group.tpr, group.roc_auc))])
    return "\n".join([*lines, *([""] if groups else []), *table_lines(groups, indent="  ")])


def findings_table(
    name: str, classes: Sequence[str], num_images: int, num_patients: int, evaluations: Evaluations
) -> str:
    """Lay out the evaluations of several findings, two rows for each: values, then intervals."""
    averages = evaluations.averages
    lines = [f"{name}: {counted(num_images, 'image')} of {counted(num_patients, 'patient')}"]
    # With its interval beside each value, a row of a long name takes 130 columns.
    rows = [["", "AUC", "threshold", "TNR", "TPR", "status"], ["  positive", "95 % interval"]]
    for each in evaluations.findings:
        decisions, states = each.at_threshold, status(each.rule).split(" (")
        upper, lower = ("none", "") if decisions is None else _thresholds(decisions)
        rates = [decisions.tnr, decisions.tpr] if decisions else []
        values, intervals = zip(*map(_two_cells, [each.roc_auc, *rates]), strict=True)
        filling = [""] * (3 - len(values))
        rows.append([each.rule.finding, values[0], upper, *values[1:], *filling, states[0]])
        share = (
            f"  {each.num_positive:,} of {each.num_images:,}" if each.num_images else "  no labels"
        )
        rows.append([share, intervals[0], lower, *intervals[1:], *filling])
        rows[-1] += [f"({state}" for state in states[1:]]
    if averages is not None:
        for label, estimate in (
            ("macro average", averages.roc_auc),
            ("micro average", averages.roc_auc_micro),
        ):
            value, interval = _two_cells(estimate)
            rows += [[label, value], *([["", interval]] if interval else [])]
    lines += ["", *table_lines(rows, indent="  ")]
    if averages is not None and averages.decisions is not None:
        found = averages.decisions
        lines += ["", "  the class of the highest probability"]
        rows = [["", *(f"called {each}" for each in classes)]]
        rows += [
            [label, *(f"{number:,}" for number in row)]
            for label, row in zip(classes, found.counts, strict=True)
        ]
        lines += table_lines(rows, "<>", indent="  ")
        measures = (
            ("accuracy", found.accuracy),
            ("balanced accuracy", found.balanced_accuracy),
            ("kappa", found.kappa),
        )
        lines += table_lines([[label, _cell(each)] for label, each in measures], indent="  ")
    return "\n".join(lines)


def plan_lines(plan: Sequence[ExpectedSensitivity], num_negatives: int) -> list[str]:
    """Lay out the sensitivity to expect from numbers of negatives; mark the present number."""
    rows = [["negative patients", "false positives allowed", "expected sensitivity (TPR)"]]
    for each in plan:
        mark = " (now)" if each.num_negatives == num_negatives else ""
        low, high = each.interval
        rates = f"{each.tpr:.3f} ({low:.3f} to {high:.3f})"
        rows.append([f"{each.num_negatives}{mark}", f"{each.num_false_positives}", rates])
    return table_lines(rows, indent="  ")


def referral_lines(plan: Sequence[ExpectedReferral], point: OperatingPoint) -> list[str]:
    """Lay out the share referred to expect from numbers of patients; mark those of the point."""
    rows = [["negative patients", "positive patients", "expected share referred"]]
    for each in plan:
        present = point.num_negative_patients, point.num_positive_patients
        sizes = each.num_negatives, each.num_positives
        mark = " (now)" if sizes == present else ""
        low, high = each.interval
        share = f"{each.referred:.3f} ({low:.3f} to {high:.3f})"
        rows.append([f"{sizes[0]}{mark}", f"{sizes[1]}{mark}", share])
    return table_lines(rows, indent="  ")


def statement_lines(statement: Statement | None) -> list[str]:
    """Lay out a statement for the terminal; no line without one."""
    if statement is None:
        return []
    reasons = [indented(reason, "  - ") for reason in statement.reasons]
    return [indented(statement.title.upper(), "!! "), *reasons, indented(statement.text)]


def _thresholds(decisions: Decisions) -> tuple[str, str]:
    lower = decisions.lower_threshold
    return f"{decisions.threshold:.4f}", "" if lower is None else f"and {lower:.4f}"


def _two_cells(estimate: Estimate) -> tuple[str, str]:
    """Return the value and its interval, for a cell below it."""
    if estimate.value is None:
        return "undefined", ""
    pair = estimate.interval or estimate.by_patient
    return f"{estimate.value:.3f}", f"{pair.low:.3f}-{pair.high:.3f}" if pair else ""


def _cell(estimate: Estimate, digits: int = 3) -> str:
    if estimate.value is None:
        return "undefined"
    pair = estimate.interval or estimate.by_patient
    value = f"{estimate.value:.{digits}f}"
    return f"{value} ({pair.low:.3f} to {pair.high:.3f})" if pair else value
