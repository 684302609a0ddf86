"""An audit as a person reads it in a terminal."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping, Sequence
from typing import Any

from cxrignite.workflows.audit.findings import KINDS, Finding
from cxrignite.workflows.audit.probes import Probe
from cxrignite.workflows.audit.results import AuditResults

_WIDTH = 100
_MARKS = {"problem": "!!", "warning": " !"}


def audit_table(results: AuditResults) -> str:
    """Lay out an audit.

    Args:
        results: What it shows.
    """
    title = f"{results.root}: {results.num_films:,} films"
    lines = [title, "", *_columns(results.splits), ""]
    sentences = [*results.describe_files(), *results.plan.sentences]
    lines += [line for sentence in sentences for line in _wrapped(sentence, "  ")]
    for name, some in results.probes.items():
        if some:
            lines += ["", f"  {name:<50}AUC"]
            lines += [f"  {probe.name:<50}{auc_text(probe)}" for probe in some]
    lines.append("")
    for finding in results.findings:
        head = f"{_MARKS[finding.severity]} {KINDS[finding.kind].title} ({finding.kind})"
        lines += [head, *_wrapped(finding.text, "     "), *_wrapped(advice(finding), "     -> ")]
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
    return f"{check.roc_auc:.3f} {interval}{'  !' if check.is_detected else ''}"


def advice(finding: Finding) -> str:
    """What to do about a finding."""
    return KINDS[finding.kind].advice


def _columns(counts: Sequence[Mapping[str, Any]]) -> list[str]:
    if not counts:
        return ["  no film can be read"]
    names = list(counts[0])
    cells = [names, *([_cell(row[name]) for name in names] for row in counts)]
    widths = [max(len(row[column]) for row in cells) for column in range(len(names))]
    return [
        "  " + "  ".join([row[0].ljust(widths[0]), *map(str.rjust, row[1:], widths[1:])])
        for row in cells
    ]


def _cell(value: object) -> str:
    return f"{value:,}" if isinstance(value, int) else str(value)


def _wrapped(text: str, first: str) -> list[str]:
    # Names of files are long, and a broken one cannot be copied.
    return textwrap.wrap(
        text,
        _WIDTH,
        initial_indent=first,
        subsequent_indent=" " * len(first),
        break_long_words=False,
        break_on_hyphens=False,
    )
