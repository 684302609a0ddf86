"""Part of a report on one finding: threshold, decisions, scores, wrong decisions, subgroups."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from markupsafe import Markup
from PIL import Image

from cxrignite.reporting import metric_rows, run_facts, wording
from cxrignite.reporting.html import explorer, map_checks, maps, wrong_decisions
from cxrignite.reporting.html.html_page import render_part, to_data_uri
from cxrignite.reporting.numbers import (
    UNDEFINED,
    Figure,
    percent,
    score_text,
    share_text,
    zone_text,
)
from cxrignite.reporting.rule_statements import state_threshold
from cxrignite.reporting.wording import RuleStatement, Statement, notes
from cxrignite.runs.evaluation import Evaluation
from cxrignite.runs.run_folder import RunFolder
from cxrignite.runs.run_results import RunResults

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
    shown = run_facts.shown_images(results)
    evaluation = evaluations.get(shown)
    stated = state_threshold(results)
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
        "negatives": "" if is_only else run_facts.describe_negatives_of(results),
        # A page of several findings states once what holds for all of them.
        "is_finished": results.folder.is_finished or not is_only,
        "statements": [*of_run, *stated.warnings] if is_only else stated.warnings,
        "is_invalid": stated.is_invalid,
        "rule": stated.rule,
        "threshold": zone_text(rule.threshold, rule.lower_threshold) if rule else UNDEFINED,
        "refers": lower is not None,
        "notes": notes,
        "terms": notes.define_rates(classes, refers=lower is not None),
        "threshold_probability": score_text(rule.threshold_probability)
        if rule and rule.threshold_probability is not None
        else "",
        "tnr": share_text(decisions.tnr) if decisions else Figure(),
        "tpr": share_text(decisions.tpr) if decisions else Figure(),
        "observations": metric_rows.observation_rows(results),
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
        "size": run_facts.size_of(evaluation, results, shown),
        "is_tested": "test" in evaluations or not is_only,
        "untested": notes.describe_untested(
            wording.split_name(shown), has_test="test" in results.split_names
        ),
        "confusions": metric_rows.confusion_tables(evaluation, classes) if evaluation else [],
        "rates": metric_rows.rate_rows(evaluation, classes) if evaluation else [],
        "at_prevalences": metric_rows.prevalence_rows(evaluation, classes) if evaluation else [],
        "prevalence": _prevalence(evaluation),
        "explorer": explored,
        "other_threshold": wording.describe_other_threshold(rule),
        "ranking": metric_rows.ranking_rows(evaluations),
        "calibration": metric_rows.calibration_rows(evaluation) if evaluation else ([], []),
        "figures": figures,
        "maps": mapped,
        "map_checks": measured,
        "map_summary": map_checks.checks_summary(measured),
        "map_images": map_checks.checks_size(checks) if checks else "",
        "has_predictions": bool(scored),
        "decided_at": zone_text(threshold, lower),
        "predictions": f"predictions/{shown}.csv",
        "subgroups": metric_rows.subgroup_rows(evaluation, classes) if evaluation else ([], 0),
        "prior_shift": run_facts.prior_shift_sentences(
            rule, has_unknown=run_facts.num_unknown(results) > 0
        ),
    }
    return FindingPart(
        name=classes[1],
        prefix=prefix,
        shown=shown,
        rule=stated.rule,
        statements=stated.warnings,
        problems=stated.problems,
        is_invalid=stated.is_invalid,
        is_invalid_anywhere=stated.is_invalid_anywhere,
        explorer=explored,
        errors=kinds,
        overlays=mapped.overlays if mapped else {},
        figures=figures,
        content=content,
    )


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


def _prevalence(evaluation: Evaluation | None) -> str:
    if evaluation is None or not evaluation.num_images:
        return percent(None)
    return percent(evaluation.num_positive / evaluation.num_images)
