"""`recalibrate`: a threshold for one site, from its own labelled films; the weights stay."""

from __future__ import annotations

import contextlib
import sys
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from cxrignite.data import Film
from cxrignite.data.carving import carve_split
from cxrignite.engines.session import Session, open_session
from cxrignite.errors import ConstraintError, DataError, RecipeError, RunFolderError
from cxrignite.functional import num_negatives_needed, select_operating_point
from cxrignite.recipe import Recipe
from cxrignite.reporting.tables import alarm
from cxrignite.reporting.wording import alarm_of_rule, describe_point
from cxrignite.runs.checkpoints import load_best
from cxrignite.runs.informativeness import measure_informativeness
from cxrignite.runs.reference import Reference
from cxrignite.runs.run_folder import RunFolder
from cxrignite.workflows.films import other_films
from cxrignite.workflows.parts import build_data, build_model, check_image_size, choose_computing
from cxrignite.workflows.score import score_split


@dataclass(frozen=True)
class Recalibration:
    """What a site's operating point has to keep; null takes over what the run's own was asked for.

    Attributes:
        site: Its name.
        share: Share of the site's films that choose it, whole patients, in (0, 0.5] or 1; the
            others are left to judge it by.
        min_tnr: Lowest true negative rate.
        min_threshold: Lowest threshold; a site may need a lower or a higher one.
        confidence: Of the certificate; 0.95 where the run's own asked for none.
    """

    site: str
    share: float = 1.0
    min_tnr: float | None = None
    min_threshold: float | None = None
    confidence: float | None = None


def recalibrate(recipe: Recipe, run_dir: Path, wanted: Recalibration) -> None:
    """Choose an operating point from a site's films and keep it beside the run's own.

    Args:
        recipe: The run's own recipe with the site's source.
        run_dir: The run folder.
        wanted: The site and its constraints.

    Raises:
        RunFolderError: The run did not finish, chose no threshold, or has this site already.
        DataError: The site has no usable films, lacks a class, or they took part in this run.
        ConstraintError: The site has too few negatives, or no threshold can be certified on them;
            nothing is written.
        RecipeError: A constraint is out of range.
    """
    settings = recipe.trainer
    with open_session(settings.device, settings.profile) as session:
        _recalibrate(recipe, RunFolder(run_dir), wanted, session)


def _recalibrate(
    recipe: Recipe, folder: RunFolder, wanted: Recalibration, session: Session
) -> None:
    with contextlib.ExitStack() as stack:
        if session.leads:
            stack.enter_context(folder.lock())
            stack.enter_context(folder.logging())
        rule = folder.read_rule()
        if rule.point is None:
            raise RunFolderError(
                f"{folder.root} has no operating point to recalibrate: "
                "its recipe has no ThresholdSearch"
            )
        if folder.site_path(wanted.site).exists():
            raise RunFolderError(
                f"{folder.site_path(wanted.site)} exists and is not written over; "
                "choose another --name"
            )
        first = rule.point
        constraints = {
            "min_tnr": _first(wanted.min_tnr, first.min_tnr),
            "min_threshold": _first(wanted.min_threshold, first.min_threshold),
            "confidence": _first(wanted.confidence, first.confidence, 0.95),
        }
        pool = other_films(recipe.data, folder, "test")
        _check_enough(pool, constraints["min_tnr"], constraints["confidence"])
        films = _chosen_share(pool, wanted.share, recipe.seed)
        _check_enough(films, constraints["min_tnr"], constraints["confidence"])
        data = build_data(recipe.data, films, recipe.seed, device=session.device)
        stack.callback(data.close)
        best = load_best(folder.best_path)
        computing = choose_computing(recipe.trainer, session)
        model = build_model(recipe.model, computing, best.weights)
        check_image_size(model, data.image_size, is_restored=True)
        scores = score_split(model, data, "calibration", computing, shows=session.leads)
        try:
            point = select_operating_point(
                scores.y_score,
                scores.y_true,
                fp_cost=first.fp_cost,
                fn_cost=first.fn_cost,
                patients=scores.patients,
                **constraints,
            )
        except ValueError as error:
            raise RecipeError(str(error)) from error
        if point.verdict == "infeasible":
            raise ConstraintError(f"nothing written: {describe_point(point)}")
        if not session.leads:
            return
        moved = rule.moved_to(wanted.site, point, measure_informativeness(scores, point.threshold))
        folder.write_site(moved, data.films("calibration"), Reference.of(scores))
        before = scores.confusion(first.threshold)
        sys.stdout.write(
            "".join(f"{line}\n" for line in alarm(alarm_of_rule(moved)))
            + f"{wanted.site}: {describe_point(point)}\n"
            f"  the run's own threshold {first.threshold:.4f} gives these films "
            f"TNR {before.tnr:.3f}, TPR {before.tpr:.3f}\n"
            f"  written to {folder.site_path(wanted.site)}; use it with "
            f"`cxrignite test --run {folder.root} --operating_point {wanted.site} ...`\n"
        )


def _first(*values: float | None) -> float:
    return next(value for value in values if value is not None)


def _chosen_share(films: list[Film], share: float, seed: int) -> list[Film]:
    """Those of the films `test` would score that choose the threshold, whole patients."""
    if share == 1:
        return [film.moved("calibration") for film in films]
    dealt = carve_split([film.moved("train") for film in films], "calibration", share, seed)
    return [film for film in dealt if film.split == "calibration"]


def _check_enough(films: list[Film], min_tnr: float, confidence: float) -> None:
    """Say what is missing before the films are scored."""
    labels = {film.label for film in films}
    if labels != {0, 1}:
        have = "no negatives" if 0 not in labels else "no positives"
        raise DataError(f"an operating point needs films of both classes, got {have}")
    try:
        needed = num_negatives_needed(min_tnr, confidence)
    except ValueError as error:
        raise RecipeError(str(error)) from error
    patients = len(np.unique([film.patient for film in films if film.label == 0]))
    if patients < needed:
        raise ConstraintError(
            f"a TNR of {min_tnr:g} at {100 * confidence:g} % confidence needs at least {needed} "
            f"negative patients, got {patients}: {needed - patients} more are missing"
        )
