"""Report of a run: one HTML page for clinicians and engineers.

The page is self-contained: it loads nothing, needs no script, and prints well. Its one script
moves the threshold of the explorer. It shows results of other commands, and chooses, scores and
measures nothing of its own.
"""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import get_args

from cxrignite import __version__
from cxrignite.data.grey_scaling import GreyScaling
from cxrignite.data.sources import UNKNOWN
from cxrignite.durable_write import write_durably
from cxrignite.reporting import metric_rows, run_facts, wording
from cxrignite.reporting.fold_table import FOLD_HEADER, fold_rows
from cxrignite.reporting.html import summary, wrong_decisions
from cxrignite.reporting.html.finding_part import FindingPart, Limits, collect_part, read_figures
from cxrignite.reporting.html.html_page import render_page
from cxrignite.reporting.run_facts import of_starts
from cxrignite.reporting.wording import Statement, notes
from cxrignite.runs.run_folder import RunFolder
from cxrignite.runs.run_results import RunResults
from cxrignite.terminal import counted

MAX_PAGE_BYTES = 5_000_000
"""Maximum size of a page: pictures of wrong decisions are reduced until it fits."""

_TEMPLATE = "report_template.html"
_FIGURES = ("learning_curves", "epoch_times", "class_distribution", "samples_train")
_MAX_FIGURE_BYTES = 2_000_000
# A picture of a wrong decision needs more markup than its row of the list in the first rendering.
_GALLERY_MARKUP_BYTES = 750


def write_report(
    run_dir: Path, output: Path | None = None, *, source_root: Path | None = None
) -> Path:
    """Write a run's report.

    Args:
        run_dir: The run folder; nothing in it is changed but the report.
        output: The HTML file; null takes `report.html` in the run folder.
        source_root: The data set's folder, for pictures of wrong decisions; null takes the
            recipe's.

    Returns:
        The file, of at most `MAX_PAGE_BYTES`.

    Raises:
        RunFolderError: The folder holds no run.
        DamagedRunError: A file is not as it was written.
        CxrIgniteError: The file cannot be written.
    """
    folder = RunFolder(run_dir)
    folder.check_holds_run()
    # Check all files but maps, which may have been removed since they are large.
    maps_dir = folder.root / "explain"
    folder.files.check(*(path for path in folder.files.listed() if maps_dir not in path.parents))
    findings = RunResults.read(folder)
    limits = Limits.shared(len(findings), _MAX_FIGURE_BYTES)
    of_run, labels = run_facts.run_statements(findings), _labels(findings)
    parts = [collect_part(each, limits, of_run, labels) for each in findings]
    num_bytes = _MAX_FIGURE_BYTES - sum(part.figure_bytes for part in parts)
    figures = read_figures(folder, {name: name for name in _FIGURES}, num_bytes)
    content = _content(findings, parts, of_run) | {"figures": figures}
    # First without pictures, which share the rest of the page's size.
    page = _render(content, parts, [part.errors for part in parts])
    root = source_root or _source_root(findings[0])
    gallery = _draw_errors(findings[0], parts, root, MAX_PAGE_BYTES - len(page))
    pictured = _render(content, parts, gallery)
    page = pictured if len(pictured) <= MAX_PAGE_BYTES else page
    path = output or run_dir / "report.html"
    write_durably(path, page)
    return path


def _render(
    content: Mapping[str, object],
    parts: Sequence[FindingPart],
    errors: Sequence[Sequence[wrong_decisions.ErrorKind]],
) -> bytes:
    rendered = [part.render(kinds) for part, kinds in zip(parts, errors, strict=True)]
    return render_page(_TEMPLATE, **content, rendered=rendered)


def _draw_errors(
    results: RunResults, parts: Sequence[FindingPart], root: Path | None, num_bytes: int
) -> list[list[wrong_decisions.ErrorKind]]:
    """Draw the wrong decisions of each finding; a finding leaves what it does not need."""
    scaling = results.recipe.text("data.grey_scaling")
    choices: tuple[GreyScaling, ...] = get_args(GreyScaling)
    known: GreyScaling = next((each for each in choices if each == scaling), "file")
    listed = (len(kind.wrong_decisions) for part in parts for kind in part.errors)
    num_bytes -= _GALLERY_MARKUP_BYTES * sum(listed)
    gallery = []
    for number_left, part in zip(range(len(parts), 0, -1), parts, strict=True):
        kinds = wrong_decisions.draw_wrong_decisions(
            part.errors, root, known, part.overlays, num_bytes // number_left
        )
        num_bytes -= sum(kind.num_bytes for kind in kinds)
        gallery.append(kinds)
    return gallery


def _content(
    findings: Sequence[RunResults], parts: Sequence[FindingPart], of_run: Sequence[Statement]
) -> dict[str, object]:
    """Collect the variables of the page's template."""
    first, shown = findings[0], parts[0].shown
    averages = first.averages.get(shown)
    explored = [part.explorer for part in parts if part.explorer]
    summary_of_split = run_facts.summarize_split(findings)
    return {
        "run": first.folder.root.resolve().name,
        "title": run_facts.heading(first, with_negative=False),
        "heading": run_facts.heading(first),
        "written": datetime.now(UTC).strftime("%Y-%m-%d"),
        "version": __version__,
        "notes": notes,
        "parts": parts,
        "is_one": first.has_one_finding,
        "explorer": explored[0] if explored else None,
        "statements": of_run,
        "is_finished": first.folder.is_finished,
        "shown": wording.split_name(shown),
        "is_tested": "test" in first.evaluations,
        "untested": notes.describe_untested(
            wording.split_name(shown),
            has_test="test" in first.split_names,
            num_findings=len(findings),
        ),
        "described": wording.describe_findings(first.all_classes, is_exclusive=first.is_exclusive),
        "rows": [
            summary.finding_row(
                *(each, shown, part.anchor, part.rule, part.problems), is_invalid=part.is_invalid
            )
            for each, part in zip(findings, parts, strict=True)
        ],
        "family": wording.describe_family([each.rule for each in findings]),
        "averages": metric_rows.average_rows(averages) if averages else [],
        "num_averaged": averages.num_findings if averages else 0,
        "class_table": metric_rows.class_table(averages.decisions, first.all_classes)
        if averages and averages.decisions
        else None,
        "class_decisions": wording.describe_class_decisions(first.all_classes[0]),
        "refers": any(each.rule and each.rule.lower_threshold is not None for each in findings),
        "ensemble": wording.describe_ensemble(first.folds.num_folds) if first.folds else "",
        "fold_header": FOLD_HEADER,
        "fold_rows": {
            each.classes[1]: fold_rows(first.folds, each.classes[1])
            for each in findings
            if first.folds
        },
        "training": _training(first),
        "split_summary": summary_of_split,
        "shared": notes.describe_shared(
            summary_of_split.num_shared_patients, summary_of_split.num_shared_files
        )
        if summary_of_split
        else [],
        "intended": run_facts.intended_use(first),
        "limits": run_facts.limits_of_use(
            findings,
            invalid=[part.name for part in parts if part.is_invalid_anywhere],
            unusable=[part.name for part in parts if part.rule.alarms],
        ),
        "card": run_facts.card_groups(findings),
        "blanks": run_facts.BLANKS,
    }


def _labels(findings: Sequence[RunResults]) -> dict[str, str]:
    """Return all labels of each image; empty if there is one finding."""
    first = findings[0]
    if first.has_one_finding:
        return {}
    nothing, *names = first.all_classes
    texts = {}
    for records in zip(*(each.records for each in findings), strict=True):
        labels = [record.label for record in records]
        present = [name for name, label in zip(names, labels, strict=True) if label == 1]
        if first.is_exclusive:
            absent = nothing
        else:
            absent = "no known finding" if UNKNOWN in labels else "no finding"
        texts[records[0].name] = ", ".join(present) or absent
    return texts


def _training(results: RunResults) -> str:
    """Describe how long training took; empty if nothing was measured."""
    seconds = [row["epoch_seconds"] for row in results.history if "epoch_seconds" in row]
    if not seconds:
        return ""
    device = of_starts(start.device for start in results.starts)
    return (
        f"{counted(len(results.history), 'epoch')} on {device}, {statistics.median(seconds):.3g} "
        f"seconds per epoch (median), {sum(seconds) / 60:.3g} minutes in total, without validation."
    )


def _source_root(results: RunResults) -> Path | None:
    root = results.recipe.text("data.source.init_args.root")
    if root:
        return Path(root)
    # Paths of a manifest are relative to its folder.
    manifest = results.recipe.text("data.source.init_args.path")
    return Path(manifest).parent if manifest else None
