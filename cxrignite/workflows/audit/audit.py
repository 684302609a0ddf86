"""Check all images of a recipe's source, and the splits that `fit` would make."""

from __future__ import annotations

import logging
import sys
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np
import torch
from torch import nn

from cxrignite.data import XrayData
from cxrignite.data.sources import UNKNOWN, is_of_class
from cxrignite.data.survey import Survey, survey_images
from cxrignite.durable_write import write_durably
from cxrignite.errors import ConstraintError, CxrIgniteError, DataError, RecipeError
from cxrignite.functional import PriorShift, num_negatives_needed
from cxrignite.functional.certificate import num_false_positives_allowed
from cxrignite.functional.operating_point import USUAL_CONFIDENCE
from cxrignite.handlers import ThresholdSearch
from cxrignite.recipe import DataRecipe, Recipe
from cxrignite.reporting.audit_text import audit_text, list_csv
from cxrignite.reporting.html.audit_page import audit_page
from cxrignite.runs.audit_result import (
    SEVERITIES,
    AuditResult,
    CertificateOutlook,
    ClassFiles,
    ClassSize,
    Finding,
    Probe,
    SplitSize,
)
from cxrignite.runs.json_codec import from_json, to_json
from cxrignite.terminal import print_output
from cxrignite.workflows.audit.checks import check_copies, check_files, check_patients
from cxrignite.workflows.audit.probes import probed_findings, shift_probes, shortcut_probes
from cxrignite.workflows.parts import (
    build_data,
    build_loss,
    build_prior_shifts,
    check_certificates,
    threshold_split,
)
from cxrignite.workflows.records import check_no_second_test, collector_paused, split_records

_logger = logging.getLogger(__name__)

PROBLEMS = "problem"
"""Value of `fail_on` for every kind of that severity."""

_CPU = torch.device("cpu")
_USUAL_TNRS = (0.90, 0.93, 0.95)


def audit(
    recipe: Recipe, output_dir: Path, fail_on: Sequence[str] = (PROBLEMS,)
) -> tuple[Finding, ...]:
    """Survey a recipe's images, print the findings, and write lists, figures and a page.

    Args:
        recipe: The source and the settings of `fit`; the model is not used.
        output_dir: The folder for `audit.json`, `audit.html` and a CSV file per list of a finding.
        fail_on: Kinds of findings that are errors, or `problem` for all of that severity.

    Raises:
        RecipeError: `fail_on` has an unknown kind, `output_dir` is a file, or the recipe
            contradicts the source.
        DataError: The source cannot be listed; or, after all is written, `fail_on` applies to a
            finding.
    """
    _check_options(output_dir, fail_on)
    survey, unsplit = _survey(recipe.data, recipe.seed)
    data = build_data(recipe.data, list(survey.records), recipe.seed, device=_CPU)
    plan = _plan_training(data, recipe.loss, recipe.validator.handlers)
    result = _assess(recipe.data, recipe.seed, survey, plan, unsplit)
    print_output(f"{audit_text(result)}\n")
    _write(output_dir, result, audit_page(result, survey))
    failing = [each for each in result.findings if {each.kind, each.severity} & set(fail_on)]
    if failing:
        kinds = ", ".join(f"{each.count} {each.kind}" for each in failing)
        raise DataError(f"the audit found {kinds}; see the lists in {output_dir}")
    return result.findings


def _check_options(output_dir: Path, fail_on: Sequence[str]) -> None:
    unknown = sorted(set(fail_on) - {PROBLEMS, *SEVERITIES})
    if unknown:
        raise RecipeError(
            f"--fail_on must be kinds of findings, got '{unknown[0]}'; "
            f"choose from {', '.join([PROBLEMS, *SEVERITIES])}"
        )
    if output_dir.exists() and not output_dir.is_dir():
        raise RecipeError(f"--output_dir must be a folder, got the file {output_dir}")


def _survey(data: DataRecipe, seed: int) -> tuple[Survey, list[Finding]]:
    """Survey all images, in the splits that `fit` would make if it can."""
    with collector_paused():
        listed = data.source.records()
        check_no_second_test(data, listed)
        survey = survey_images(listed, grey_scaling=data.grey_scaling, progress=sys.stderr.isatty())
        try:
            return replace(survey, records=split_records(data, survey.records, seed)), []
        except DataError as error:
            return survey, [Finding("cannot_split", 1, str(error))]


def _assess(
    recipe: DataRecipe, seed: int, survey: Survey, plan: _Plan, unsplit: Sequence[Finding]
) -> AuditResult:
    source = recipe.source
    probed = probed_findings(survey, source.classes)
    shortcuts = tuple(shortcut_probes(survey, source.classes, probed, seed))
    shifts = tuple(shift_probes(survey, source.classes, probed, seed))
    found = [
        *unsplit,
        *check_files(survey, recipe.image_size),
        *check_patients(survey),
        *check_copies(survey),
        *plan.findings,
        *_probed("shortcut", shortcuts, recipe.image_size),
        *_probed("shift", shifts),
    ]
    order = list(SEVERITIES)
    return AuditResult(
        source=str(source.root),
        classes=source.classes,
        exclusive=source.exclusive,
        num_images=len(survey.records) + len(survey.unreadable),
        num_unreadable=len(survey.unreadable),
        splits=plan.splits,
        files=_class_files(survey, source.classes),
        prior_shifts=plan.prior_shifts,
        certificates=plan.certificates,
        probed=tuple(source.classes[number] for number in probed),
        shortcut_probes=shortcuts,
        shift_probes=shifts,
        findings=tuple(sorted(found, key=lambda each: order.index(each.kind))),
    )


class _Plan(NamedTuple):
    """Expected splits, prior shift, certificates and findings of a `fit` on the images."""

    splits: tuple[SplitSize, ...]
    prior_shifts: tuple[PriorShift, ...] = ()
    certificates: tuple[CertificateOutlook, ...] = ()
    findings: Sequence[Finding] = ()


def _plan_training(data: XrayData, loss: nn.Module, handlers: Sequence[object]) -> _Plan:
    splits = _split_sizes(data)
    if not {"train", threshold_split(data)} <= set(data.splits):
        return _Plan(splits)
    prior_shifts: tuple[PriorShift, ...] = ()
    findings = []
    try:
        prior_shifts = build_prior_shifts(data, build_loss(loss, data, _CPU))
    except (CxrIgniteError, ValueError) as error:
        findings.append(Finding("cannot_split", 1, str(error)))
    if any(shift.corrects_twice for shift in prior_shifts):
        findings.append(Finding("corrected_twice", 1))
    try:
        check_certificates(handlers, data)
    except CxrIgniteError as error:
        is_certificate = isinstance(error, ConstraintError)
        kind = "too_few_negatives" if is_certificate else "cannot_split"
        findings.append(Finding(kind, 1, str(error)))
    certificates = [
        each for index in range(len(data.findings)) for each in _certificates(handlers, data, index)
    ]
    return _Plan(splits, prior_shifts, tuple(certificates), findings)


def _certificates(
    handlers: Sequence[object], data: XrayData, index: int
) -> Iterator[CertificateOutlook]:
    """Compute the possible certificates of a finding: those of the searches, and the usual ones."""
    split, finding = threshold_split(data), data.findings[index]
    searches = [each for each in handlers if isinstance(each, ThresholdSearch)]
    limits: dict[Literal["tnr", "tpr"], set[tuple[float, float]]] = {"tnr": set(), "tpr": set()}
    # A table of three usual rates for each of many findings would hide the requested ones.
    if len(data.findings) == 1 or not searches:
        limits["tnr"] |= {(each, USUAL_CONFIDENCE) for each in _USUAL_TNRS}
    for search in searches:
        settings = search.settings_of(finding)
        level = search.level_of(finding) or USUAL_CONFIDENCE
        limits["tnr"].add((settings["min_tnr"], level))
        if settings["min_tpr"] is not None:
            limits["tpr"].add((settings["min_tpr"], level))
    records = data.records(split)
    for label, (rate, requested) in enumerate(limits.items()):
        have = len({each.patient for each in records if each.labels[index] == label})
        for minimum, confidence in sorted(requested):
            if minimum < 1:  # no number of patients certifies a rate of 1
                yield CertificateOutlook(
                    *(finding, split, rate, have, minimum, confidence),
                    num_allowed=num_false_positives_allowed(have, minimum, confidence),
                    num_needed=num_negatives_needed(minimum, confidence),
                )


def _probed(
    kind: str, probes: Sequence[Probe], image_size: tuple[int, int] | None = None
) -> list[Finding]:
    found = tuple(probe for probe in probes if probe.is_finding)
    return [Finding(kind, len(found), image_size=image_size, probes=found)] if found else []


def _split_sizes(data: XrayData) -> tuple[SplitSize, ...]:
    sizes = []
    for split in data.splits:
        records = data.records(split)
        classes = []
        for number, name in enumerate(data.classes):
            patients = [record.patient for record in records if is_of_class(record, number)]
            num_unknown = number and sum(record.labels[number - 1] == UNKNOWN for record in records)
            classes.append(ClassSize(name, len(patients), len(set(patients)), num_unknown))
        num_patients = len({record.patient for record in records})
        sizes.append(SplitSize(split, len(records), num_patients, tuple(classes)))
    return tuple(sizes)


def _class_files(survey: Survey, classes: Sequence[str]) -> tuple[ClassFiles, ...]:
    rows = []
    for number, name in enumerate(classes):
        pairs = zip(survey.records, survey.facts, strict=True)
        facts = [each for record, each in pairs if is_of_class(record, number)]
        if facts:
            modes = Counter(f"{each.format} {each.mode}" for each in facts)
            width = float(np.median([each.width for each in facts]))
            height = float(np.median([each.height for each in facts]))
            rows.append(ClassFiles(name, width, height, dict(modes.most_common())))
    return tuple(rows)


def _write(output_dir: Path, result: AuditResult, page: bytes) -> None:
    """Write lists, JSON and page, and remove the lists of an earlier audit."""
    try:
        stored = (output_dir / "audit.json").read_bytes()
        earlier = from_json(AuditResult, stored).findings
    except (OSError, ValueError):  # missing or damaged, and about to be replaced
        earlier = ()
    for finding in earlier:
        # Other files may have such names: only files listed by the earlier audit are removed.
        if finding.list_file == f"{finding.kind}.csv" and finding.kind in SEVERITIES:
            (output_dir / finding.list_file).unlink(missing_ok=True)
    for finding in result.findings:
        if finding.list_file is not None:
            write_durably(output_dir / finding.list_file, list_csv(finding, result.classes))
    write_durably(output_dir / "audit.json", to_json(result))
    write_durably(output_dir / "audit.html", page)
    _logger.info("written to %s", output_dir)
