"""The verb `report`: a run folder to one HTML page that a clinician can read.

The page holds everything it shows: it asks for nothing, runs no script and prints well. It reads
what other verbs left behind and chooses, scores and measures nothing of its own.
"""

from __future__ import annotations

import itertools
import statistics
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, get_args

from cxrignite import __version__
from cxrignite.data.grey_scaling import GreyScaling
from cxrignite.durable_write import write_durably
from cxrignite.errors import RunFolderError
from cxrignite.reporting.html import (
    card,
    map_checks,
    maps,
    misses,
    observations,
    tables,
    verdict,
)
from cxrignite.reporting.html.html_page import render_page, to_data_uri
from cxrignite.reporting.html.numbers import percent, rate, score_text
from cxrignite.reporting.html.origin import of_starts
from cxrignite.reporting.html.reading import Record, RunRecords
from cxrignite.runs.run_folder import RunFolder
from cxrignite.terminal import counted

MAX_PAGE_BYTES = 5_000_000
"""No page is larger: pictures of misses shrink until it fits."""

_TEMPLATE = "report_template.html"
_MAX_FIGURE_BYTES = 2_000_000
# A gallery takes other markup than the list that the first rendering holds.
_GALLERY_MARKUP_BYTES = 150_000


def write_report(
    run_dir: Path, output: Path | None = None, *, source_root: Path | None = None
) -> Path:
    """Write a run's report.

    Args:
        run_dir: The run folder; nothing in it is changed but the report.
        output: The HTML file; null takes `report.html` in the run folder.
        source_root: The data set's folder, for the pictures of misses; null takes the recipe's.

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
        raise RunFolderError(f"{run_dir} holds no run: {folder.why_no_run()}")
    folder.files.warn_if_unchecked()
    # Whether it is shown or not; maps may have been removed, since they are large.
    maps_dir = folder.root / "explain"
    folder.files.check(*(path for path in folder.files.listed() if maps_dir not in path.parents))
    records = RunRecords(folder)
    context = _context(records)
    # First without pictures: what is left of the page's size is theirs.
    page = render_page(_TEMPLATE, context)
    root = source_root or _source_root(records)
    overlays = context["maps"].overlays if context["maps"] else {}
    num_bytes = MAX_PAGE_BYTES - len(page) - _GALLERY_MARKUP_BYTES
    scaling = records.recipe.text("data.grey_scaling")
    choices: tuple[GreyScaling, ...] = get_args(GreyScaling)
    known: GreyScaling = next((each for each in choices if each == scaling), "file")
    gallery = misses.picture_misses(context["misses"], root, known, overlays, num_bytes)
    pictured = render_page(_TEMPLATE, {**context, "misses": gallery})
    page = pictured if len(pictured) <= MAX_PAGE_BYTES else page
    path = output or run_dir / "report.html"
    write_durably(path, page)
    return path


def _context(records: RunRecords) -> dict[str, Any]:
    """Everything the template shows; a test split that was not scored leaves validation."""
    classes, metrics, point = records.classes, records.metrics, records.point
    shown = next((name for name in ("test", "val", "calibration") if name in metrics), "val")
    figures = metrics.get(shown, Record())
    at_own = {n: each for n, each in metrics.items() if not observations.is_of_site(each, point)}
    warnings = verdict.usability_warnings(point, at_own)
    void = [each for each in metrics.values() if observations.is_void(each)]
    # What a site's certificate turned out to be says nothing of the run's own.
    is_void = not all(observations.is_of_site(each, point) for each in void)
    ranked, areas = tables.ranking_rows(metrics)
    subgroups, num_more_subgroups = tables.subgroup_rows(figures, classes)
    decisions = figures.child("at_threshold")
    known = (decisions.number("threshold"), point.number("threshold"), 0.5)
    threshold = next(number for number in known if number is not None)
    scored = records.scored_films(shown)
    kinds = misses.find_misses(scored, threshold, records.films, classes)
    wrong = [miss.name for kind in kinds for miss in kind.misses]
    mapped = maps.read_maps(records, shown, wrong)
    faithfulness = mapped.faithfulness if mapped else Record()
    checks = map_checks.map_checks(faithfulness) if faithfulness else []
    return {
        "run": records.folder.root.resolve().name,
        "classes": classes,
        "written": datetime.now(UTC).strftime("%Y-%m-%d"),
        "version": __version__,
        "is_finished": records.folder.is_finished,
        "cautions": [
            *observations.leakage_caution(records.films),
            *observations.weights_caution(point, records.best),
            *itertools.chain.from_iterable(
                observations.cautions_of(name, each, point) for name, each in metrics.items()
            ),
        ],
        "is_void": is_void,
        "verdict": verdict.describe_verdict(point, classes, is_void=is_void, warnings=warnings),
        "tnr": rate(decisions, "tnr"),
        "tpr": rate(decisions, "tpr"),
        "observations": observations.observations(records),
        "sites": {
            name: verdict.describe_verdict(
                site, classes, warnings=verdict.usability_warnings(site, {})
            )
            for name, site in records.sites.items()
        },
        "shown": verdict.split_word(shown),
        "size": _size(figures),
        "is_tested": records.has_metrics("test"),
        "has_test": "test" in records.split_names or not records.films,
        "confusions": tables.confusion_tables(figures, classes),
        "rates": tables.rate_rows(figures, classes),
        "prevalence": _prevalence(figures),
        "ranked": ranked,
        "areas": areas,
        "calibration": tables.calibration_rows(figures),
        "scales": list(tables.CALIBRATION_SCALES.values()),
        "figures": _pictures(records.folder, shown),
        "training": _training(records),
        "misses": kinds,
        "maps": mapped,
        "map_checks": checks,
        "map_summary": map_checks.checks_summary(checks),
        "map_films": map_checks.checks_size(faithfulness),
        "has_predictions": bool(scored),
        "threshold": score_text(threshold),
        "predictions": f"predictions/{shown}.csv",
        "subgroups": subgroups,
        "num_more_subgroups": num_more_subgroups,
        "passport": card.split_passport(records),
        "ledger": card.ledger_sentences(point, classes),
        "limits": card.limits_of_use(records, is_void=bool(void), is_usable=not warnings),
        "card": card.model_card(records, warnings),
        "blanks": card.BLANKS,
        "complaints": records.complaints,
    }


def _size(figures: Record) -> str:
    images, patients = figures.count("num_images"), figures.count("num_patients")
    if images is None:
        return ""
    of = "" if patients is None else f" of {counted(patients, 'patient')}"
    return counted(images, "film") + of


def _prevalence(figures: Record) -> str:
    images, positives = figures.count("num_images"), figures.count("num_positive")
    return percent(None if not images or positives is None else positives / images)


def _training(records: RunRecords) -> str:
    """How long training took, in a sentence; empty where nobody measured."""
    seconds = [row["epoch_seconds"] for row in records.history if "epoch_seconds" in row]
    if not seconds:
        return ""
    device = of_starts(records.starts, "device")
    place = f" on {device}" if device else ""
    return (
        f"{counted(len(records.history), 'epoch')}{place}, {statistics.median(seconds):.3g} "
        f"seconds each (median), {sum(seconds) / 60:.3g} minutes in all, validation not counted."
    )


def _pictures(folder: RunFolder, shown: str) -> dict[str, str]:
    """The run's figures by their name, as data URIs; those of the films shown without that."""
    by_films = {kind: f"{kind}_{shown}" for kind in ("roc", "precision_recall", "reliability")}
    of_run = ("learning_curves", "epoch_times", "class_distribution", "samples_train")
    uris: dict[str, str] = {}
    left = _MAX_FIGURE_BYTES
    for key, name in [*by_films.items(), *zip(of_run, of_run, strict=True)]:
        try:
            png = (folder.figures_dir / f"{name}.png").read_bytes()
        except OSError:
            continue
        if png.startswith(b"\x89PNG") and len(png) <= left:
            left -= len(png)
            uris[key] = to_data_uri(png)
    return uris


def _source_root(records: RunRecords) -> Path | None:
    root = records.recipe.text("data.source.init_args.root")
    if root:
        return Path(root)
    manifest = records.recipe.text("data.source.init_args.path")  # paths begin where it lies
    return Path(manifest).parent if manifest else None
