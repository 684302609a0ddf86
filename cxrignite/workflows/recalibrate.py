"""`recalibrate`: a threshold for one site, from its labelled images, without new weights."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from cxrignite.data import ImageRecord
from cxrignite.data.split_assignment import split_off
from cxrignite.errors import ConstraintError, DataError, RecipeError, RunFolderError
from cxrignite.functional import (
    OperatingPoint,
    expected_referral,
    expected_sensitivity,
    num_negatives_needed,
    num_positives_needed,
    planned_sizes,
    select_operating_point,
)
from cxrignite.functional.certificate import independent_scores, joint_level
from cxrignite.recipe import Recipe
from cxrignite.reporting.plots.score_figures import referral_plan, sensitivity_plan
from cxrignite.reporting.tables import alarm, indented, plan_lines, referral_lines
from cxrignite.reporting.wording import (
    alarm_of_rule,
    describe_plan,
    describe_point,
    thresholds_text,
)
from cxrignite.runs.informativeness import measure_informativeness
from cxrignite.runs.reference import Reference
from cxrignite.runs.run_folder import RunFolder
from cxrignite.runs.scores import SplitScores
from cxrignite.workflows.finished_run import load_run, open_folder
from cxrignite.workflows.parts import build_data, check_image_size
from cxrignite.workflows.plots import write_figure
from cxrignite.workflows.records import other_records
from cxrignite.workflows.score import score_split


@dataclass(frozen=True)
class Recalibration:
    """Constraints of a site's operating point; null takes the value of the run's own.

    Attributes:
        site: Name of the site.
        share: Share of the site's images that choose the threshold, whole patients, in (0, 0.5] or
            1; the other images remain for its evaluation.
        min_tnr: Lowest true negative rate.
        min_threshold: Lowest threshold; a site may need a lower or a higher one.
        confidence: Confidence of the certificate; 0.95 if the run's own has none.
        min_tpr: Lowest true positive rate.
        refer: Choose two thresholds if one does not suffice.
    """

    site: str
    share: float = 1.0
    min_tnr: float | None = None
    min_threshold: float | None = None
    confidence: float | None = None
    min_tpr: float | None = None
    refer: bool | None = None


def recalibrate(recipe: Recipe, run_dir: Path, request: Recalibration) -> None:
    """Choose an operating point from a site's images and store it beside the run's own.

    The sensitivity, or the share referred, to expect from other numbers of patients is printed and
    drawn, but not stored.

    Args:
        recipe: The run's own recipe with the site's source.
        run_dir: The run folder.
        request: The site and its constraints.

    Raises:
        RunFolderError: The run did not finish, chose no threshold, or has this site already.
        DataError: The site has no usable images, lacks a class, or has images used in this run.
        ConstraintError: The site has too few negatives, or no threshold can be certified on them;
            nothing is written.
        RecipeError: A constraint is out of range.
    """
    folder = RunFolder(run_dir)
    with open_folder(folder, recipe.trainer) as (session, stack):
        run = load_run(folder, session, recipe.trainer, recipe.model)
        first = run.rule.point
        if first is None:
            raise RunFolderError(
                f"{folder.root} has no operating point to recalibrate: "
                "its recipe has no ThresholdSearch; train a run with one"
            )
        if folder.site_path(request.site).exists():
            raise RunFolderError(
                f"{folder.site_path(request.site)} already exists and is not overwritten; "
                "choose another --name"
            )
        constraints = {
            "min_tnr": _first(request.min_tnr, first.min_tnr),
            "min_threshold": _first(request.min_threshold, first.min_threshold),
            "confidence": _first(request.confidence, first.confidence, 0.95),
        }
        min_tpr = first.min_tpr if request.min_tpr is None else request.min_tpr
        level = joint_level(constraints["confidence"]) if first.joint else constraints["confidence"]
        limits = constraints["min_tnr"], min_tpr
        refer = first.refer if request.refer is None else request.refer
        if refer and min_tpr is None:
            raise RecipeError("--refer true needs a limit for the TPR: set --min_tpr")
        pool = other_records(recipe.data, folder, "test")
        _check_enough(pool, limits, level)
        records = _chosen_share(pool, request.share, recipe.seed)
        _check_enough(records, limits, level)
        data = build_data(recipe.data, records, recipe.seed, device=session.device)
        stack.callback(data.close)
        check_image_size(run.model, data.image_size, is_restored=True)
        scores = score_split(
            run.model, data, "calibration", run.computing, shows=session.is_main_process
        )
        try:
            point = select_operating_point(
                scores.y_score,
                scores.y_true,
                fp_cost=first.fp_cost,
                fn_cost=first.fn_cost,
                patients=scores.patients,
                min_tpr=min_tpr,
                patient_found=first.patient_found,
                joint=first.joint,
                refer=refer,
                **constraints,
            )
        except ValueError as error:
            raise RecipeError(str(error)) from error
        if point.status == "infeasible":
            raise ConstraintError(f"nothing was written: {describe_point(point)}")
        if not session.is_main_process:
            return
        moved = run.rule.moved_to(
            *(request.site, point),
            measure_informativeness(scores, point.threshold, lower=point.lower_threshold),
        )
        folder.write_site(moved, data.records("calibration"), Reference.of(scores))
        name = f"plan_{request.site}"
        plan = _draw_plan(folder, name, scores, point, request.site)
        before = scores.confusion(first.threshold, first.lower_threshold)
        sys.stdout.write(
            "".join(f"{line}\n" for line in alarm(alarm_of_rule(moved)))
            + f"{request.site}: {describe_point(point)}\n"
            f"  on these images, the run's own {thresholds_text(first)} gives "
            f"TNR {before.tnr:.3f}, TPR {before.tpr:.3f}\n"
            f"  written to {folder.site_path(request.site)}; use it with "
            f"`cxrignite test --run {folder.root} --operating_point {request.site} ...`\n\n"
            + "".join(f"{line}\n" for line in plan)
            + f"{indented(describe_plan(point))}\n"
            f"  drawn in {folder.figures_dir / name}.png\n"
        )


def _first(*values: float | None) -> float:
    return next(value for value in values if value is not None)


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
    kept: Literal["lowest", "highest"] = (
        "lowest" if point.patient_found == "every_image" else "highest"
    )
    referral = [
        each
        for each in expected_referral(
            negatives,
            independent_scores(scores.y_score, positive, scores.patients, kept),
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


def _chosen_share(records: list[ImageRecord], share: float, seed: int) -> list[ImageRecord]:
    """Select the patients whose images choose the threshold, and mark these as calibration."""
    if share == 1:
        return [record.moved("calibration") for record in records]
    divided = split_off([record.moved("train") for record in records], "calibration", share, seed)
    return [record for record in divided if record.split == "calibration"]


def _check_enough(
    records: list[ImageRecord], limits: tuple[float, float | None], level: float
) -> None:
    """Check the number of patients of each class before the images are scored."""
    labels = {record.label for record in records}
    if labels != {0, 1}:
        have = "no negatives" if 0 not in labels else "no positives"
        raise DataError(f"an operating point needs images of both classes, got {have}")
    min_tnr, min_tpr = limits
    try:
        needed = (
            num_negatives_needed(min_tnr, level),
            0 if min_tpr is None else num_positives_needed(min_tpr, level),
        )
    except ValueError as error:
        raise RecipeError(str(error)) from error
    for label, number in enumerate(needed):
        patients = len({record.patient for record in records if record.label == label})
        if patients < number:
            rate, name = (
                (f"TPR of {min_tpr:g}", "positive")
                if label
                else (f"TNR of {min_tnr:g}", "negative")
            )
            raise ConstraintError(
                f"a {rate} at {100 * level:g} % confidence needs at least {number} "
                f"{name} patients, got {patients}; add {number - patients} more"
            )
