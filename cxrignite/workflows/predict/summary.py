"""Texts that `predict` prints at its end: the counts, the decision rules and the files."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from cxrignite.reporting.text_table import alarm, indented
from cxrignite.terminal import counted
from cxrignite.workflows.predict.output import OutputPaths, PredictionFile
from cxrignite.workflows.predict.request import Request


@dataclass(frozen=True)
class DescribedFinding:
    """A finding's decision rule in words.

    Attributes:
        name: The finding.
        has_threshold: True if its images have decisions.
        refers: True if some are referred to a reader.
        alarm: Why the threshold is not usable; empty if it is.
        description: The rule in one line.
    """

    name: str
    has_threshold: bool
    refers: bool
    alarm: str
    description: str


def summary(
    output: PredictionFile,
    findings: Sequence[DescribedFinding],
    request: Request,
    paths: OutputPaths,
    num_before: int,
) -> str:
    """Describe the results: the counts, the decision rules, and the files.

    Args:
        output: The complete table.
        findings: The findings.
        request: The request.
        paths: The files.
        num_before: Number of images that an earlier command scored.
    """
    before = f" ({num_before} of them by an earlier command)" if num_before else ""
    scored = f"{counted(output.num_rows, 'image')} scored{before}"
    alarms, described = [], []
    for each in findings:
        finding = each.name if len(findings) > 1 else ""
        num_positive = output.decisions[finding, "positive"]
        called = f"{num_positive} called positive" if each.has_threshold else ""
        if each.refers:
            called += f", {output.decisions[finding, 'refer']} referred to a reader"
        alarms += alarm(each.alarm, finding)
        if finding:
            described.append(f"{finding}: {called}" if called else finding)
        elif called:
            scored += f", {called}"
        described.append(indented(each.description))
    lines = [*alarms, f"{paths.table}: {scored}", *described]
    if any(each.has_threshold for each in findings):
        lines.append(
            indented(
                "this is valid for images like those that chose the threshold; check it with "
                "`test` on labelled images of this site, or choose a new threshold with "
                "`recalibrate`"
            )
        )
    if request.prevalence is not None:
        lines.append(f"  the column probability is at a prevalence of {request.prevalence:g}")
    if request.draws_maps:
        lines.append(f"  maps in {paths.maps_dir}")
    if output.num_unreadable:
        missing = counted(output.num_unreadable, "image")
        lines.append(f"  {missing} without a score in {paths.unreadable}")
    return "\n".join([*lines, f"  settings in {paths.settings}", ""])


def describe_unreadable(output: PredictionFile, num_images: int, paths: OutputPaths) -> str:
    """Name the first unreadable images, and the file that lists all.

    Args:
        output: The table.
        num_images: Number of all images.
        paths: The files.
    """
    few = "; ".join(f"{name}: {reason}" for name, reason in output.first_unreadable.items())
    more = output.num_unreadable - len(output.first_unreadable)
    others = f"; and {more} more" if more else ""
    return (
        f"{output.num_unreadable} of {counted(num_images, 'image')} cannot be read, all listed in "
        f"{paths.unreadable}: {few}{others}; fix these files, then run the same command again"
    )
