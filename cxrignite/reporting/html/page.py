"""Report of a run: one HTML page for clinicians and engineers.

The page is self-contained: it loads nothing, needs no script, and prints well. Its one script
moves the threshold of the explorer. It shows results of other commands, and chooses, scores and
measures nothing of its own.
"""

from __future__ import annotations

import statistics
from datetime import UTC, datetime
from pathlib import Path
from typing import get_args

from cxrignite import __version__
from cxrignite.data.grey_scaling import GreyScaling
from cxrignite.durable_write import write_durably
from cxrignite.errors import RunFolderError
from cxrignite.reporting import wording
from cxrignite.reporting.html import card, explorer, map_checks, maps, tables, wrong_decisions
from cxrignite.reporting.html.card import of_starts
from cxrignite.reporting.html.html_page import render_page, to_data_uri
from cxrignite.reporting.numbers import (
    UNDEFINED,
    Figure,
    percent,
    score_text,
    share_text,
    zone_text,
)
from cxrignite.runs.evaluation import Evaluation
from cxrignite.runs.run_folder import RunFolder
from cxrignite.runs.run_results import RunResults
from cxrignite.terminal import counted

MAX_PAGE_BYTES = 5_000_000
"""Maximum size of a page: pictures of wrong decisions are reduced until it fits."""

_TEMPLATE = "report_template.html"
_MAX_FIGURE_BYTES = 2_000_000
# A gallery needs more markup than the list in the first rendering.
_GALLERY_MARKUP_BYTES = 150_000


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
    folder.files.check(folder.history_path)
    if not folder.holds_run:
        raise RunFolderError(f"{run_dir} is not a run folder: {folder.why_no_run()}")
    folder.files.warn_if_unchecked()
    # Check all files but maps, which may have been removed since they are large.
    maps_dir = folder.root / "explain"
    folder.files.check(*(path for path in folder.files.listed() if maps_dir not in path.parents))
    results = RunResults.read(folder)[0]
    content, kinds, mapped = _content(results)
    # First without pictures, which share the rest of the page's size.
    page = render_page(_TEMPLATE, **content, errors=kinds)
    root = source_root or _source_root(results)
    overlays = mapped.overlays if mapped else {}
    num_bytes = MAX_PAGE_BYTES - len(page) - _GALLERY_MARKUP_BYTES
    scaling = results.recipe.text("data.grey_scaling")
    choices: tuple[GreyScaling, ...] = get_args(GreyScaling)
    known: GreyScaling = next((each for each in choices if each == scaling), "file")
    gallery = wrong_decisions.draw_wrong_decisions(kinds, root, known, overlays, num_bytes)
    pictured = render_page(_TEMPLATE, **content, errors=gallery)
    page = pictured if len(pictured) <= MAX_PAGE_BYTES else page
    path = output or run_dir / "report.html"
    write_durably(path, page)
    return path


def _content(
    results: RunResults,
) -> tuple[dict[str, object], list[wrong_decisions.ErrorKind], maps.ScoreMaps | None]:
    """Collect the variables of the template, the wrong decisions, and their maps.

    They describe the validation images if the test split was not evaluated.
    """
    classes, evaluations, rule = results.classes, results.evaluations, results.rule
    shown = next((name for name in ("test", "val", "calibration") if name in evaluations), "val")
    evaluation = evaluations.get(shown)
    # Evaluations at a site's threshold do not affect the run's own certificate.
    own = {
        name: each
        for name, each in evaluations.items()
        if rule and each.rule.chosen_on == rule.chosen_on
    }
    statement = wording.state_rule(rule, classes, own)
    statements = [
        card.leakage_statement(results.records),
        wording.check_weights(rule, results.best.sha256) if results.best else None,
        *(wording.check_rule(name, each) for name, each in evaluations.items()),
        *(wording.check_freshness(name, each, rule) for name, each in evaluations.items()),
    ]
    decisions = evaluation.at_threshold if evaluation else None
    decided = decisions or (rule if rule and rule.point else None)
    threshold = 0.5 if decided is None or decided.threshold is None else decided.threshold
    lower = decided.lower_threshold if decided else None
    scored = results.scored_records(shown)
    kinds = wrong_decisions.find_wrong_decisions(scored, threshold, results.records, classes, lower)
    mapped = maps.read_maps(
        results, shown, [wrong.name for kind in kinds for wrong in kind.wrong_decisions]
    )
    checks = mapped.checks if mapped else None
    measured = map_checks.map_checks(checks) if checks else []
    is_invalid = any(each.is_invalid for each in evaluations.values())
    content = {
        "run": results.folder.root.resolve().name,
        "classes": classes,
        "written": datetime.now(UTC).strftime("%Y-%m-%d"),
        "version": __version__,
        "is_finished": results.folder.is_finished,
        "statements": [each for each in statements if each],
        "is_invalid": any(each.is_invalid for each in own.values()),
        "rule": statement,
        "threshold": zone_text(rule.threshold, rule.lower_threshold) if rule else UNDEFINED,
        "refers": lower is not None,
        "threshold_probability": score_text(rule.threshold_probability)
        if rule and rule.threshold_probability is not None
        else "",
        "tnr": share_text(decisions.tnr) if decisions else Figure(),
        "tpr": share_text(decisions.tpr) if decisions else Figure(),
        "observations": tables.observation_rows(results),
        "sites": {
            name: (
                wording.state_rule(site, classes, {}),
                zone_text(site.threshold, site.lower_threshold),
            )
            for name, site in results.sites.items()
        },
        "shown": wording.split_name(shown),
        "size": _size(evaluation),
        "is_tested": "test" in evaluations,
        "has_test": "test" in results.split_names,
        "confusions": tables.confusion_tables(evaluation, classes) if evaluation else [],
        "rates": tables.rate_rows(evaluation, classes) if evaluation else [],
        "at_prevalences": tables.prevalence_rows(evaluation, classes) if evaluation else [],
        "prevalence": _prevalence(evaluation),
        "explorer": explorer.explore_run(results),
        "other_threshold": wording.describe_other_threshold(rule),
        "ranking": tables.ranking_rows(evaluations),
        "calibration": tables.calibration_rows(evaluation) if evaluation else ([], []),
        "figures": _pictures(results.folder, shown),
        "training": _training(results),
        "maps": mapped,
        "map_checks": measured,
        "map_summary": map_checks.checks_summary(measured),
        "map_images": map_checks.checks_size(checks) if checks else "",
        "has_predictions": bool(scored),
        "decided_at": zone_text(threshold, lower),
        "predictions": f"predictions/{shown}.csv",
        "subgroups": tables.subgroup_rows(evaluation, classes) if evaluation else ([], 0),
        "split_summary": card.summarize_split(results),
        "prior_shift": card.prior_shift_sentences(rule),
        "limits": card.limits_of_use(
            results, is_invalid=is_invalid, is_usable=not statement.alarms
        ),
        "card": card.model_card(results),
        "blanks": card.BLANKS,
    }
    return content, kinds, mapped


def _size(evaluation: Evaluation | None) -> str:
    if evaluation is None:
        return ""
    images, patients = evaluation.num_images, evaluation.num_patients
    return f"{counted(images, 'image')} of {counted(patients, 'patient')}"


def _prevalence(evaluation: Evaluation | None) -> str:
    return percent(evaluation.num_positive / evaluation.num_images if evaluation else None)


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


def _pictures(folder: RunFolder, shown: str) -> dict[str, str]:
    """Return the run's figures by name, as data URIs; names omit the set of images."""
    by_images = {kind: f"{kind}_{shown}" for kind in ("roc", "precision_recall", "reliability")}
    of_run = ("learning_curves", "epoch_times", "class_distribution", "samples_train")
    uris: dict[str, str] = {}
    left = _MAX_FIGURE_BYTES
    for key, name in [*by_images.items(), *zip(of_run, of_run, strict=True)]:
        try:
            png = (folder.figures_dir / f"{name}.png").read_bytes()
        except OSError:
            continue
        if png.startswith(b"\x89PNG") and len(png) <= left:
            left -= len(png)
            uris[key] = to_data_uri(png)
    return uris


def _source_root(results: RunResults) -> Path | None:
    root = results.recipe.text("data.source.init_args.root")
    if root:
        return Path(root)
    # Paths of a manifest are relative to its folder.
    manifest = results.recipe.text("data.source.init_args.path")
    return Path(manifest).parent if manifest else None
