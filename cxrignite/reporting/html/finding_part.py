"""Part of a report on one finding: threshold, decisions, scores, wrong decisions, subgroups."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from markupsafe import Markup
from PIL import Image

from cxrignite.data.sources import UNKNOWN
from cxrignite.reporting import wording
from cxrignite.reporting.html import card, explorer, map_checks, maps, tables, wrong_decisions
from cxrignite.reporting.html.html_page import render_part, to_data_uri
from cxrignite.reporting.numbers import (
    UNDEFINED,
    Figure,
    percent,
    score_text,
    share_text,
    zone_text,
)
from cxrignite.reporting.wording import RuleStatement, Statement
from cxrignite.runs.evaluation import Evaluation
from cxrignite.runs.run_folder import RunFolder
from cxrignite.runs.run_results import RunResults
from cxrignite.terminal import counted

_TEMPLATE = "finding_template.html"
_NUM_COLOURS = 64
_FIGURES = ("roc", "precision_recall", "reliability")


@dataclass(frozen=True)
class Limits:
    """Limits of the part of one finding; several findings share those of a page.

    Attributes:
        num_errors: Maximum number of wrong decisions of each kind.
        num_bounds: Maximum number of intervals of a class in the explorer.
        figure_bytes: Maximum size of the figures, as files.
    """

    num_errors: int
    num_bounds: int
    figure_bytes: int

    @classmethod
    def shared(cls, num_findings: int, figure_bytes: int) -> Limits:
        """Return the limits of each of several findings."""
        return cls(
            max(wrong_decisions.MAX_WRONG_DECISIONS // num_findings, 8),
            max(min(explorer.MAX_BOUNDS, 4 * explorer.MAX_BOUNDS // num_findings), 200),
            figure_bytes if num_findings == 1 else figure_bytes // (num_findings + 1),
        )


@dataclass(frozen=True)
class FindingPart:
    """Content of the part of one finding.

    Attributes:
        name: Name of the finding.
        prefix: Beginning of the ids in its section; empty if it is the only finding.
        shown: Name of the images that it describes.
        rule: Statement on its threshold.
        statements: Warnings.
        problems: Their titles, without those that repeat the statement on the threshold.
        is_invalid: True if its certificate does not hold for some evaluated images.
        is_invalid_anywhere: The same of its certificate or that of a site.
        explorer: Threshold explorer; None without scores or a threshold.
        errors: Wrong decisions, without pictures.
        overlays: The map over an image, by the image's name.
        figures: Figures as data URIs.
        content: Variables of the template.
    """

    name: str
    prefix: str
    shown: str
    rule: RuleStatement
    statements: Sequence[Statement]
    problems: Sequence[str]
    is_invalid: bool
    is_invalid_anywhere: bool
    explorer: explorer.Explorer | None
    errors: Sequence[wrong_decisions.ErrorKind]
    overlays: Mapping[str, Image.Image | None]
    figures: Mapping[str, str]
    content: Mapping[str, object]

    @property
    def figure_bytes(self) -> int:
        """Size of the files of its figures."""
        return sum(len(uri) for uri in self.figures.values()) * 3 // 4

    @property
    def anchor(self) -> str:
        """Id of the section of the finding."""
        return self.prefix.removesuffix("-")

    def render(self, errors: Sequence[wrong_decisions.ErrorKind]) -> Markup:
        """Fill in the template."""
        return render_part(_TEMPLATE, **self.content, errors=errors)


def collect_part(
    results: RunResults,
    limits: Limits,
    of_run: Sequence[Statement],
    labels: Mapping[str, str],
) -> FindingPart:
    """Collect the content of the part of one finding.

    It describes the validation images if the test split was not evaluated.

    Args:
        results: Results of the finding.
        limits: Limits of the part.
        of_run: Warnings of the run, which the part of the only finding shows, too.
        labels: All labels of an image, by its name; empty if there is one finding.
    """
    classes, evaluations, rule = results.classes, results.evaluations, results.rule
    is_only = results.has_one_finding
    prefix = "" if is_only else f"finding-{results.index + 1}-"
    shown = shown_images(results)
    evaluation = evaluations.get(shown)
    # Evaluations at a site's threshold do not affect the run's own certificate.
    own = {
        name: each
        for name, each in evaluations.items()
        if rule and each.rule.chosen_on == rule.chosen_on
    }
    statement = wording.state_rule(rule, classes, own)
    checked = {name: wording.check_rule(name, each) for name, each in evaluations.items()}
    stale = [wording.check_freshness(name, each, rule) for name, each in evaluations.items()]
    statements = [each for each in (*checked.values(), *stale) if each]
    # The statement on the threshold names the images for which its certificate is not valid.
    named = [checked[name] for name, each in own.items() if each.is_invalid]
    decisions = evaluation.at_threshold if evaluation else None
    decided = decisions or (rule if rule and rule.point else None)
    threshold = 0.5 if decided is None or decided.threshold is None else decided.threshold
    lower = decided.lower_threshold if decided else None
    scored = results.scored_records(shown)
    kinds = wrong_decisions.find_wrong_decisions(
        *(scored, threshold, results.records, classes, lower),
        max_number=limits.num_errors,
        labels=labels,
    )
    mapped = maps.read_maps(
        results, shown, [wrong.name for kind in kinds for wrong in kind.wrong_decisions]
    )
    checks = mapped.checks if mapped else None
    measured = map_checks.map_checks(checks) if checks else []
    explored = explorer.explore_run(results, limits.num_bounds)
    is_invalid = any(each.is_invalid for each in own.values())
    figures = read_figures(
        results.folder,
        {kind: f"{kind}_{results.results_name(shown)}" for kind in _FIGURES},
        limits.figure_bytes,
        is_reduced=not is_only,
    )
    content = {
        "prefix": prefix,
        "level": 2 if is_only else 3,
        "classes": classes,
        "negatives": "" if is_only else _negatives(results),
        # A page of several findings states once what holds for all of them.
        "is_finished": results.folder.is_finished or not is_only,
        "statements": [*of_run, *statements] if is_only else statements,
        "is_invalid": is_invalid,
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
                wording.state_rule(site, classes, {})
                if site.is_of_site
                else wording.state_kept_rule(site),
                zone_text(site.threshold, site.lower_threshold),
            )
            for name, site in results.sites.items()
        },
        "shown": wording.split_name(shown),
        "size": _size(evaluation, results, shown),
        "is_tested": "test" in evaluations or not is_only,
        "has_test": "test" in results.split_names,
        "confusions": tables.confusion_tables(evaluation, classes) if evaluation else [],
        "rates": tables.rate_rows(evaluation, classes) if evaluation else [],
        "at_prevalences": tables.prevalence_rows(evaluation, classes) if evaluation else [],
        "prevalence": _prevalence(evaluation),
        "explorer": explored,
        "other_threshold": wording.describe_other_threshold(rule),
        "ranking": tables.ranking_rows(evaluations),
        "calibration": tables.calibration_rows(evaluation) if evaluation else ([], []),
        "figures": figures,
        "maps": mapped,
        "map_checks": measured,
        "map_summary": map_checks.checks_summary(measured),
        "map_images": map_checks.checks_size(checks) if checks else "",
        "has_predictions": bool(scored),
        "decided_at": zone_text(threshold, lower),
        "predictions": f"predictions/{shown}.csv",
        "subgroups": tables.subgroup_rows(evaluation, classes) if evaluation else ([], 0),
        "prior_shift": card.prior_shift_sentences(rule, has_unknown=_num_unknown(results) > 0),
    }
    return FindingPart(
        name=classes[1],
        prefix=prefix,
        shown=shown,
        rule=statement,
        statements=statements,
        problems=[each.title for each in statements if each not in named],
        is_invalid=is_invalid,
        is_invalid_anywhere=any(each.is_invalid for each in evaluations.values()),
        explorer=explored,
        errors=kinds,
        overlays=mapped.overlays if mapped else {},
        figures=figures,
        content=content,
    )


def shown_images(results: RunResults) -> str:
    """Name the images that a report describes: the best evaluated ones."""
    names = ("test", "val", "calibration")
    return next((name for name in names if name in results.evaluations), "val")


def read_figures(
    folder: RunFolder, names: Mapping[str, str], num_bytes: int, *, is_reduced: bool = False
) -> dict[str, str]:
    """Read figures of a run, as data URIs.

    Args:
        folder: Folder of the run.
        names: Name of the file of each figure, without suffix, by the key of the figure.
        num_bytes: Maximum size of the files; a figure that does not fit is left out.
        is_reduced: True reduces their colours, which makes a plot about three times smaller.
    """
    uris: dict[str, str] = {}
    for key, name in names.items():
        try:
            png = (folder.figures_dir / f"{name}.png").read_bytes()
        except OSError:
            continue
        if not png.startswith(b"\x89PNG"):
            continue
        png = _with_fewer_colours(png) if is_reduced else png
        if len(png) <= num_bytes:
            num_bytes -= len(png)
            uris[key] = to_data_uri(png)
    return uris


def _with_fewer_colours(png: bytes) -> bytes:
    """Reduce the colours of a plot; a file that is no picture stays as it is."""
    try:
        with Image.open(io.BytesIO(png), formats=("PNG",)) as figure:
            reduced = figure.convert("RGB").quantize(_NUM_COLOURS)
    except Exception:  # a damaged file can raise nearly anything inside Pillow
        return png
    data = io.BytesIO()
    reduced.save(data, "PNG", optimize=True)
    return data.getvalue()


def _negatives(results: RunResults) -> str:
    return wording.describe_negatives(
        *(results.all_classes, results.index),
        is_exclusive=results.is_exclusive,
        num_unknown=_num_unknown(results),
    )


def _num_unknown(results: RunResults) -> int:
    return sum(record.label == UNKNOWN for record in results.records)


def _size(evaluation: Evaluation | None, results: RunResults, shown: str) -> str:
    if evaluation is None:
        return ""
    known, patients = evaluation.num_images, evaluation.num_patients
    num_images = sum(record.split == shown for record in results.records)
    size = f"{counted(known, 'image')} of {counted(patients, 'patient')}"
    if known >= num_images:
        return size
    return f"{size}: the label is known in {known:,} of {counted(num_images, 'image')}"


def _prevalence(evaluation: Evaluation | None) -> str:
    if evaluation is None or not evaluation.num_images:
        return percent(None)
    return percent(evaluation.num_positive / evaluation.num_images)
