"""`recalibrate`: a threshold for one site, from its labelled images, without new weights."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from cxrignite.data import ImageRecord
from cxrignite.data.sources import UNKNOWN
from cxrignite.data.split_assignment import split_off
from cxrignite.engines import adapt_batch_norm, batch_norms
from cxrignite.errors import ConstraintError, DataError, RecipeError, RunFolderError
from cxrignite.functional import (
    OperatingPoint,
    expected_referral,
    expected_sensitivity,
    num_negatives_needed,
    num_positives_needed,
    planned_sizes,
    ranking_statistics,
    select_operating_point,
)
from cxrignite.functional.certificate import family_level, independent_scores, joint_level
from cxrignite.functional.operating_point import SETTINGS, USUAL_CONFIDENCE
from cxrignite.handlers import GracefulStop, ThresholdSearch
from cxrignite.recipe import DataRecipe, Recipe
from cxrignite.reporting.plots.score_figures import referral_plan, sensitivity_plan
from cxrignite.reporting.tables import plan_lines, referral_lines
from cxrignite.reporting.text_table import alarm, indented
from cxrignite.reporting.wording import (
    alarm_of_rule,
    describe_family,
    describe_missing_labels,
    describe_plan,
    describe_point,
    thresholds_text,
)
from cxrignite.runs.checkpoints import statistics_bytes
from cxrignite.runs.decision_rule import DecisionRule, SiteStatistics
from cxrignite.runs.informativeness import measure_informativeness
from cxrignite.runs.reference import Reference
from cxrignite.runs.run_folder import RunFolder
from cxrignite.runs.scores import SplitScores, results_name
from cxrignite.terminal import counted, print_output
from cxrignite.workflows.finished_run import FinishedRun, load_run, open_folder
from cxrignite.workflows.parts import build_data, check_image_size, confidence_text
from cxrignite.workflows.plots import write_figure
from cxrignite.workflows.records import other_records
from cxrignite.workflows.score import score_split

_MIN_PATIENTS = 64  # the error of a mean is then at most an eighth of the deviation of patients
_MIN_BATCH = 16  # a batch is normalised by its own statistics, which need some images


@dataclass(frozen=True)
class Recalibration:
    """Constraints of a site's operating point; null takes the value of the run's own.

    Attributes:
        site: Name of the site.
        share: Share of the site's images that choose the threshold, whole patients, in (0, 0.5] or
            1; the other images remain for its evaluation.
        min_tnr: Lowest true negative rate.
        min_threshold: Lowest threshold; a site may need a lower or a higher one.
        confidence: Confidence of the certificate, or of all findings' certificates together if the
            run's recipe sets `familywise`; 0.95 if the run's own has none.
        min_tpr: Lowest true positive rate.
        refer: Choose two thresholds if one does not suffice.
        adapt_batch_norm: First estimate the batch statistics again on these images.
    """

    site: str
    share: float = 1.0
    min_tnr: float | None = None
    min_threshold: float | None = None
    confidence: float | None = None
    min_tpr: float | None = None
    refer: bool | None = None
    adapt_batch_norm: bool = False


def recalibrate(recipe: Recipe, run_dir: Path, request: Recalibration) -> None:
    """Choose an operating point from a site's images and store it beside the run's own.

    A finding whose label is unknown in all of the site's images keeps the run's threshold.

    The sensitivity, or the share referred, to expect from other numbers of patients is printed and
    drawn, but not stored.

    Raises:
        RunFolderError: The run did not finish, chose no threshold, or has this site already.
        DataError: The site has no usable images, lacks a class, or has images used in this run.
        ConstraintError: The site has too few negatives, or no threshold can be certified on them;
            nothing is written.
        RecipeError: A constraint is out of range; or batch statistics are to be adapted, and the
            model has none, or there are several processes.
    """
    folder, site = RunFolder(run_dir), request.site
    with open_folder(folder, recipe.trainer) as (session, stack):
        run = load_run(folder, session, recipe)
        if any(rule.point is None for rule in run.rules):
            raise RunFolderError(
                f"{folder.root} has no operating point to recalibrate: "
                "its recipe has no ThresholdSearch; train a run with one"
            )
        if folder.site_path(site).exists():
            raise RunFolderError(
                f"{folder.site_path(site)} already exists and is not overwritten; "
                "choose another --name"
            )
        if request.adapt_batch_norm:
            _check_adaptable(run)
        settings, of_family = _settings(recipe, run.rules, request)
        pool = other_records(recipe.data, folder, "test")
        findings = recipe.data.source.findings
        _check_enough(pool, settings, of_family, findings)
        records = _chosen_share(pool, request.share, recipe.seed, findings)
        _check_enough(records, settings, of_family, findings)
        if request.adapt_batch_norm:
            _check_enough_to_adapt(records, findings)
        data = build_data(recipe.data, records, recipe.seed, device=session.device)
        stack.callback(data.close)
        check_image_size(run.model, data.image_size, is_restored=True)
        scores = score_split(
            run.model, data, "calibration", run.computing, shows=session.is_main_process
        )
        before, statistics, adapted = scores, None, None
        if request.adapt_batch_norm:
            statistics = _adapt(run, recipe.data, records, recipe.seed)
            adapted = SiteStatistics(len(records), hashlib.sha256(statistics).hexdigest())
            scores = score_split(run.model, data, "calibration", run.computing, shows=True)
        names = findings if len(findings) > 1 else [""]  # in messages only
        rules = [
            _choose(*each, site, adapted) if each[1].num_images else each[0]
            for each in zip(run.rules, scores, settings, names, strict=True)
        ]
        if not session.is_main_process:
            return
        reference = Reference.of(scores)
        folder.write_site(site, rules, data.records("calibration"), reference, statistics)
        for index, pair in enumerate(zip(before, scores, strict=True)):
            plan = results_name(f"plan_{site}", scores.classes, index)
            lines = _describe(folder, run.rules[index], rules[index], *pair, plan, names[index])
            print_output("".join(f"{line}\n" for line in lines))
        # A kept threshold has no certificate for images of this site.
        family = describe_family([rule if rule.is_of_site else None for rule in rules])
        if len(rules) > 1 and family:
            print_output(f"\n{indented(family)}\n")


def _check_adaptable(run: FinishedRun) -> None:
    """Refuse to adapt a model without batch statistics, or on several processes."""
    option, num_processes = "--adapt_batch_norm", run.session.world_size
    if num_processes > 1:
        raise RecipeError(
            f"{option} needs one process, got {num_processes}; start it without torchrun"
        )
    if not batch_norms(run.model):
        raise RecipeError(
            f"{option} needs a model with batch statistics, and {type(run.model).__name__} has no "
            "batch norm; leave the option out"
        )


def _check_enough_to_adapt(records: Sequence[ImageRecord], findings: Sequence[str]) -> None:
    for index, finding in enumerate(findings):
        if all(record.labels[index] == UNKNOWN for record in records):
            raise DataError(
                f"--adapt_batch_norm needs labels of every finding, got none for {finding}: its "
                "threshold is that of other batch statistics; add labels, or leave the option out"
            )
    num_patients = len({record.patient for record in records})
    if num_patients < _MIN_PATIENTS:
        raise ConstraintError(
            f"--adapt_batch_norm needs images of at least {_MIN_PATIENTS} patients, got "
            f"{num_patients}; add {_MIN_PATIENTS - num_patients} more, or leave the option out"
        )


def _adapt(run: FinishedRun, data: DataRecipe, records: list[ImageRecord], seed: int) -> bytes:
    """Estimate the batch statistics of the run's model on a site's images; return their file.

    The order of the images is random: a source lists them by class, and a batch of one class would
    be normalised as if the classes did not differ. The batches are as even as possible.
    """
    order = np.random.default_rng(seed).permutation(len(records))
    largest = max(data.eval_batch_size or 2 * data.batch_size, _MIN_BATCH)
    shuffled = build_data(
        replace(data, eval_batch_size=_even_batch(len(records), largest)),
        [records[each] for each in order],
        seed,
        device=run.computing.device,
    )
    try:
        loader = shuffled.eval_loader("calibration")
        statistics = adapt_batch_norm(
            run.model, loader, **run.computing._asdict(), handlers=[GracefulStop()]
        )
    finally:
        shuffled.close()
    return statistics_bytes(statistics)


def _even_batch(num_images: int, largest: int) -> int:
    """Return the batch size, at least a half of the largest, that fills the last batch best.

    Batch norm refuses one image without other positions, and its statistics alone are no sample.
    """
    sizes = range(-(-largest // 2), largest + 1)
    return min(sizes, key=lambda size: (-num_images % size, -size))


def _settings(
    recipe: Recipe, rules: Sequence[DecisionRule], request: Recalibration
) -> tuple[list[dict[str, Any]], list[float | None]]:
    """Return the settings of each finding's choice, and the confidence of its family.

    The confidence of a family is that with which the certificates of all findings hold together;
    None if that is not requested. Its points keep only the confidence of each certificate, so it
    comes from the recipe.
    """
    searches = [each for each in recipe.validator.handlers if isinstance(each, ThresholdSearch)]
    search = searches[-1] if searches else None
    settings: list[dict[str, Any]] = []
    for rule in rules:
        own = search.family_confidence_of(rule.finding) if search else None
        if rule.point is not None:
            settings.append(_settings_of(rule.point, own, request))
    if search is None or not search.familywise or len(settings) == 1:
        return settings, [None] * len(settings)
    number = sum(1 if each["min_tpr"] is None or each["joint"] else 2 for each in settings)
    of_family = [each["confidence"] for each in settings]
    for each in settings:
        each["confidence"] = family_level(each["confidence"], number)
    return settings, of_family


def _settings_of(
    first: OperatingPoint, own: float | None, request: Recalibration
) -> dict[str, Any]:
    """Return the requested settings of a choice; those not requested are the run's own.

    Args:
        first: The run's operating point.
        own: Confidence of the family that the run's recipe requests.
        request: The constraints of the site.

    Raises:
        RecipeError: A referral is requested without a limit for the TPR.
    """
    settings = dict(first.settings)
    settings["confidence"] = own or settings["confidence"] or USUAL_CONFIDENCE
    requested = {name: getattr(request, name, None) for name in SETTINGS}
    settings |= {name: value for name, value in requested.items() if value is not None}
    if settings["refer"] and settings["min_tpr"] is None:
        raise RecipeError("--refer true needs a limit for the TPR: set --min_tpr")
    return settings


def _choose(
    rule: DecisionRule,
    scores: SplitScores,
    settings: dict[str, Any],
    finding: str,
    site: str,
    adapted: SiteStatistics | None,
) -> DecisionRule:
    """Choose the threshold of one finding; its name is empty if there is no other.

    A certificate needs scores that do not depend on the images that choose: a new image is scored
    by statistics in which it has no part, and these images are not.
    """
    try:
        point = select_operating_point(
            scores.y_score, scores.y_true, patients=scores.patients, **settings
        )
    except ValueError as error:
        raise RecipeError(str(error)) from error
    if point.status == "infeasible":
        of_one = f"{finding}: " if finding else ""
        raise ConstraintError(f"nothing was written: {of_one}{describe_point(point)}")
    if adapted is not None:
        point = point.without_certificate(
            "not certified, because the batch statistics were estimated on these images too: "
            "measure the rates with `test` on other images of this site"
        )
    informativeness = measure_informativeness(scores, point.threshold, lower=point.lower_threshold)
    return rule.moved_to(site, point, informativeness, adapted)


def _describe(
    folder: RunFolder,
    own: DecisionRule,
    rule: DecisionRule,
    scored_before: SplitScores,
    scores: SplitScores,
    plan: str,
    finding: str,
) -> list[str]:
    """Return the lines about the new threshold of one finding, with a plan that is drawn too.

    The lines name the finding if there are several; else `finding` is empty.
    """
    site, first, point = rule.chosen_on, own.point, rule.point
    if first is None or point is None:
        raise AssertionError("unreachable: both were checked")
    if not rule.is_of_site:
        return [describe_missing_labels(finding), f"  the run's own {thresholds_text(first)} stays"]
    before = scored_before.confusion(first.threshold, first.lower_threshold)
    if rule.batch_norm is None:
        remarks = [
            "",
            *_draw_plan(folder, plan, scores, point, site),
            indented(describe_plan(point)),
            f"  drawn in {folder.figures_dir / plan}.png",
        ]
    else:  # no certificate can be planned
        images = counted(rule.batch_norm.num_images, "image")
        areas = f"AUC {_roc_auc(scores):.3f}, before {_roc_auc(scored_before):.3f}"
        remarks = [f"  with the batch statistics of these {images}: {areas}"]
    return [
        *alarm(alarm_of_rule(rule), finding),
        f"{site}{f', {finding}' if finding else ''}: {describe_point(point)}",
        f"  on these images, the run's own {thresholds_text(first)} gives "
        f"TNR {before.tnr:.3f}, TPR {before.tpr:.3f}",
        f"  written to {folder.site_path(site)}; use it with "
        f"`cxrignite test --run {folder.root} --operating_point {site} ...`",
        *remarks,
    ]


def _roc_auc(scores: SplitScores) -> float:
    area = ranking_statistics(scores.y_score, scores.y_true)(np.ones((1, scores.num_images)))
    return float(area["roc_auc"][0])


def _draw_plan(
    folder: RunFolder, name: str, scores: SplitScores, point: OperatingPoint, site: str
) -> list[str]:
    """Predict and draw the sensitivity, or the share referred, for several numbers of patients."""
    positive, confidence = scores.y_true == 1, point.level or 0
    negatives = independent_scores(scores.y_score, ~positive, scores.patients)
    present = point.num_negative_patients
    sizes = planned_sizes(present, point.min_tnr, confidence)
    if point.min_tpr is None or point.num_positive_patients is None:
        plan = [
            each
            for each in expected_sensitivity(
                *(negatives, scores.y_score[positive], sizes),
                min_tnr=point.min_tnr,
                confidence=confidence,
                min_threshold=point.min_threshold,
            )
            if each is not None
        ]
        write_figure(folder, name, sensitivity_plan(plan, point, site=site))
        return plan_lines(plan, present)
    others = planned_sizes(point.num_positive_patients, point.min_tpr, confidence)
    pairs = [(size, point.num_positive_patients) for size in sizes]
    pairs += [(present, size) for size in others if size != point.num_positive_patients]
    referral = [
        each
        for each in expected_referral(
            negatives,
            independent_scores(
                *(scores.y_score, positive, scores.patients),
                "lowest" if point.patient_found == "every_image" else "highest",
            ),
            *(scores.y_score, pairs),
            min_tnr=point.min_tnr,
            min_tpr=point.min_tpr,
            confidence=confidence,
            min_threshold=point.min_threshold,
        )
        if each is not None
    ]
    write_figure(folder, name, referral_plan(referral, point, site=site))
    return referral_lines(referral, point)


def _chosen_share(
    records: list[ImageRecord], share: float, seed: int, findings: Sequence[str]
) -> list[ImageRecord]:
    """Select the patients whose images choose the threshold, and mark these as calibration."""
    if share == 1:
        return [record.moved("calibration") for record in records]
    divided = split_off(
        [record.moved("train") for record in records], "calibration", share, seed, findings
    )
    return [record for record in divided if record.split == "calibration"]


def _check_enough(
    records: list[ImageRecord],
    settings: Sequence[dict[str, Any]],
    of_family: Sequence[float | None],
    findings: Sequence[str],
) -> None:
    """Check the number of patients of each label before the images are scored."""
    zipped = zip(settings, of_family, findings, strict=True)
    for index, (each, family, finding) in enumerate(zipped):
        if all(record.labels[index] == UNKNOWN for record in records):
            continue  # the run's own threshold stays
        of_one = f" for {finding}" if len(findings) > 1 else ""
        patients: dict[int, set[str]] = {0: set(), 1: set()}
        for record in records:
            patients.setdefault(record.labels[index], set()).add(record.patient)
        if not patients[0] or not patients[1]:
            have = "no positives" if patients[0] else "no negatives"
            way = f"; without its labels, {finding} keeps the run's threshold" if of_one else ""
            raise DataError(
                f"an operating point{of_one} needs images of both classes, got {have}{way}"
            )
        min_tnr, min_tpr, level = each["min_tnr"], each["min_tpr"], each["confidence"]
        try:
            if each["joint"]:
                level = joint_level(level)
            needed = (
                num_negatives_needed(min_tnr, level),
                0 if min_tpr is None else num_positives_needed(min_tpr, level),
            )
        except ValueError as error:
            raise RecipeError(str(error)) from error
        for label, number in enumerate(needed):
            have_patients = len(patients[label])
            if have_patients < number:
                rate, name = (
                    (f"TPR of {min_tpr:g}", "positive")
                    if label
                    else (f"TNR of {min_tnr:g}", "negative")
                )
                confidence = confidence_text(level, family, len(findings))
                way = f", or remove its labels: then {finding} keeps the run's threshold"
                raise ConstraintError(
                    f"a {rate} at {confidence}{of_one} needs at least "
                    f"{number} {name} patients, got {have_patients}; "
                    f"add {number - have_patients} more{way if of_one else ''}"
                )
