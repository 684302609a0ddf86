"""An audit as a person reads it in a terminal."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from cxrignite.runs.audit_result import KINDS, AuditResults, Finding, Probe
from cxrignite.terminal import counted, wrapped

_PROBE_WIDTH = 46
_MARKS = {"problem": "!!", "warning": " !"}


def audit_table(results: AuditResults) -> str:
    """Lay out an audit.

    Args:
        results: What it shows.
    """
    title = f"{results.root}: {counted(results.num_films, 'film')}"
    lines = [title, "", *_columns(results.splits, results.classes), ""]
    sentences = [*results.describe_files(), *results.sentences]
    lines += [wrapped(sentence, "  ") for sentence in sentences]
    for name, some in results.probes.items():
        if some:
            lines += ["", f"  {name:<{_PROBE_WIDTH}}AUC"]
            lines += [f"  {probe.name:<{_PROBE_WIDTH}}{auc_text(probe)}" for probe in some]
    lines.append("")
    for finding in results.findings:
        head = f"{_MARKS[finding.severity]} {KINDS[finding.kind].title} ({finding.kind})"
        lines += [head, wrapped(finding.text, "     "), wrapped(advice(finding), "     -> ")]
    if not results.findings:
        lines.append("nothing was found to be wrong")
    return "\n".join(lines)


def auc_text(probe: Probe) -> str:
    """A probe's area with its interval, and whether that is more than chance."""
    check = probe.check
    if check is None:
        return "0.5, they do not differ in it"
    if check.roc_auc is None or check.interval is None:
        return "too few patients to tell"
    interval = f"({check.interval.low:.3f} to {check.interval.high:.3f})"
    # What is marked is a finding below; a difference in greys may be the disease itself.
    return f"{check.roc_auc:.3f} {interval}{'  !' if probe.is_finding else ''}"


def advice(finding: Finding) -> str:
    """What to do about a finding."""
    return KINDS[finding.kind].advice


def _columns(counts: Sequence[Mapping[str, Any]], classes: Sequence[str]) -> list[str]:
    if not counts:
        return ["  no film can be read"]
    # A class's patients stand beside its films, so that the table fits 80 columns.
    cells = [["split", "films", "patients", *(f"{name} (patients)" for name in classes)]]
    for row in counts:
        both = (f"{row[name]:,} ({row[f'{name} patients']:,})" for name in classes)
        cells.append([row["split"], f"{row['films']:,}", f"{row['patients']:,}", *both])
    widths = [max(len(row[column]) for row in cells) for column in range(len(cells[0]))]
    return [
        "  " + "  ".join([row[0].ljust(widths[0]), *map(str.rjust, row[1:], widths[1:])])
        for row in cells
    ]
