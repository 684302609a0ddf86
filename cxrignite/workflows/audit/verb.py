"""`audit`: look at all films of a recipe's source, and say what is wrong with them."""

from __future__ import annotations

import json
import logging
import sys
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from cxrignite.csv_text import dict_rows
from cxrignite.data.survey import Survey, survey_films
from cxrignite.durable_write import write_durably
from cxrignite.errors import DataError, RecipeError
from cxrignite.recipe import Recipe
from cxrignite.reporting.audit_table import audit_table
from cxrignite.reporting.html.audit_page import audit_page
from cxrignite.runs.audit_result import KINDS, AuditResults, Finding, Probe, sorted_findings
from cxrignite.workflows.audit.copies import check_copies
from cxrignite.workflows.audit.files import check_files, check_patients
from cxrignite.workflows.audit.plan import counts_by_split, plan_training
from cxrignite.workflows.audit.probes import shift_probes, shortcut_probes
from cxrignite.workflows.films import check_no_second_test, collector_paused, split_films

_logger = logging.getLogger(__name__)

PROBLEMS = "problem"
"""Stands for every kind of that severity, in `fail_on`."""

_LABELS = "classes told apart by"
_SPLITS = "test films told from the others by thumbnails"


def audit(recipe: Recipe, output_dir: Path, fail_on: Sequence[str] = (PROBLEMS,)) -> list[Finding]:
    """Survey a recipe's films, print what is wrong, and leave lists, figures and a page.

    Args:
        recipe: The source, and what `fit` is to make of it; its model is not looked at.
        output_dir: Gets `audit.json`, `audit.html` and a CSV for each finding that has a list.
        fail_on: Kinds of findings, or `problem` for all that are grave.

    Returns:
        The findings, the worst first.

    Raises:
        RecipeError: `fail_on` names no kind, `output_dir` is a file, or the recipe contradicts the
            source.
        DataError: The source cannot be listed; or, once all is written, something on that list
            was found.
    """
    strange = sorted(set(fail_on) - {PROBLEMS, *KINDS})
    if strange:
        known = ", ".join([PROBLEMS, *KINDS])
        raise RecipeError(
            f"--fail_on must name kinds of findings, got '{strange[0]}'; there are {known}"
        )
    source = recipe.data.source
    if output_dir.exists() and not output_dir.is_dir():
        raise RecipeError(f"--output_dir must be a folder, got the file {output_dir}")
    with collector_paused():
        listed = source.films()
        check_no_second_test(recipe.data, listed)
        survey = survey_films(
            listed, grey_scaling=recipe.data.grey_scaling, progress=sys.stderr.isatty()
        )
        survey, findings = _in_splits(recipe, survey)
    findings += [
        *check_files(survey, recipe.data.image_size),
        *check_patients(survey),
        *check_copies(survey),
    ]
    plan = plan_training(recipe, survey.films)
    probes = {
        _LABELS: shortcut_probes(survey, recipe.seed),
        _SPLITS: shift_probes(survey, source.classes, recipe.seed),
    }
    findings = sorted_findings([*findings, *plan.findings, *_given_away(recipe, probes)])
    results = AuditResults(
        str(source.root),
        source.classes,
        survey,
        counts_by_split(plan.data),
        plan.ledger,
        plan.sentences,
        probes,
        findings,
    )
    sys.stdout.write(f"{audit_table(results)}\n")
    _write(output_dir, findings)
    content = json.dumps(results.to_dict(), indent=2)
    write_durably(output_dir / "audit.json", f"{content}\n".encode())
    write_durably(output_dir / "audit.html", audit_page(results))
    _logger.info("written to %s", output_dir)
    failing = [each for each in findings if {each.kind, each.severity} & set(fail_on)]
    if failing:
        kinds = ", ".join(f"{each.count} {each.kind}" for each in failing)
        raise DataError(f"the audit found {kinds}; the lists are in {output_dir}")
    return findings


def _in_splits(recipe: Recipe, survey: Survey) -> tuple[Survey, list[Finding]]:
    """The survey with its films in the splits that `fit` would make."""
    try:
        films = split_films(recipe.data, survey.films, recipe.seed)
    except DataError as error:
        return survey, [Finding("cannot_split", 1, str(error))]
    return replace(survey, films=films), []


def _given_away(recipe: Recipe, probes: Mapping[str, Sequence[Probe]]) -> list[Finding]:
    findings = []
    for kind, name in (("shortcut", _LABELS), ("shift", _SPLITS)):
        told = [
            f"{probe.name} (AUC {probe.check.roc_auc:.3f})"
            for probe in probes[name]
            if probe.is_finding and probe.check is not None
        ]
        if told:
            text = "; ".join(told)
            if kind == "shortcut" and recipe.data.image_size is not None:
                rows, columns = recipe.data.image_size
                text += f"; read at {rows} x {columns} in grey, only what stretching leaves is seen"
            findings.append(Finding(kind, len(told), text))
    return findings


def _write(output_dir: Path, findings: Sequence[Finding]) -> None:
    """Write the list of each finding, and remove those of an earlier audit."""
    for name in _earlier_lists(output_dir):
        (output_dir / name).unlink(missing_ok=True)
    for finding in findings:
        if finding.rows:
            _write_table(output_dir / f"{finding.kind}.csv", finding.rows)


def _earlier_lists(output_dir: Path) -> set[str]:
    """The lists of an earlier audit, as it says itself: other files may have such names."""
    try:
        content = json.loads((output_dir / "audit.json").read_text(encoding="utf-8"))
        named = {finding["list"] for finding in content["findings"]}
    except (OSError, ValueError, KeyError, TypeError):
        return set()
    return named & {f"{kind}.csv" for kind in KINDS}


def _write_table(path: Path, rows: Sequence[Mapping[str, object]]) -> None:
    write_durably(path, dict_rows(rows, list(rows[0])))
