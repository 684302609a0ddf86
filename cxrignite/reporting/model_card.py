"""Model card in Markdown, with the front matter that Hugging Face reads."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, Literal

import yaml

from cxrignite import __version__
from cxrignite.reporting import metric_rows, run_facts, wording
from cxrignite.reporting.metric_rows import Measure, RateRow
from cxrignite.reporting.numbers import Figure, decimal_estimate, zone_text
from cxrignite.reporting.rule_statements import RuleStatements, state_threshold
from cxrignite.reporting.text_table import table_lines
from cxrignite.reporting.wording import Statement, notes
from cxrignite.runs.evaluation import Estimate, Evaluation
from cxrignite.runs.exported_model import ExportedModel
from cxrignite.runs.run_results import RunResults
from cxrignite.terminal import counted, printable

__all__ = ["CARD", "LICENCE", "model_card"]

CARD = "MODEL_CARD.md"
"""Name of the file."""

LICENCE = "LICENSE"
"""Name of the file with the licence of the weights, as Hugging Face and MONAI expect it."""

_KNOWN_LICENCES = {
    "apache-2.0": ("Apache License", "Version 2.0"),
    "mit": ("MIT License", "Permission is hereby granted"),
    "cc-by-4.0": ("Creative Commons Attribution 4.0 International",),
}
_TAGS = ("medical-imaging", "radiology", "chest-x-ray", "research-only")
_LIBRARIES = {None: "cxrignite", "onnx": "onnx", "torch": "pytorch", "bundle": "monai"}
# Markdown would read these as markup; an underscore inside of a word it does not.
_SPECIAL = re.compile(r"[\\*\[\]<|$]|(?<!\w)_|_(?!\w)|&(?=#?\w+;)|^[>#+-]|(?<=^\d)[.)](?=\s)")


def model_card(
    findings: Sequence[RunResults],
    *,
    exported: ExportedModel | None = None,
    form: Literal["onnx", "torch", "bundle"] | None = None,
    licence: str | None = None,
) -> str:
    """Write the model card of a run, or of an exported model.

    Args:
        findings: Results of each finding of the run, as `RunResults.read` returns them.
        exported: The exported model that the card comes with; None describes the run only.
        form: Format of the folder of the exported model; None without one.
        licence: Text of the licence of the weights; None if unknown.

    Returns:
        Markdown that begins with YAML. Names of folders are left out, and so are names of images
        and patients.
    """
    first = findings[0]
    stated = [state_threshold(each) for each in findings]
    lines = [
        *_front_matter(findings, _LIBRARIES[form], licence),
        "",
        f"# {_escaped(run_facts.heading(first))} on chest X-rays",
        "",
        f"**{notes.RESEARCH_ONLY}**",
        "",
        f"Run {_code(first.folder.root.resolve().name)}, described by cxrignite {__version__}.",
    ]
    if first.folds:
        lines += _paragraph(wording.describe_ensemble(first.folds.num_folds))
    for statement in run_facts.run_statements(findings):
        lines += _statement(statement)
    if len(findings) > 1:
        described = wording.describe_findings(first.all_classes, is_exclusive=first.is_exclusive)
        family = wording.describe_family([each.rule for each in findings])
        lines += [*_paragraph(described), *_paragraph(family)]
    lines += _section("Decision rule" if len(findings) == 1 else "Decision rules")
    for each, statements in zip(findings, stated, strict=True):
        lines += _rule(each, statements)
    lines += _uses(findings, stated)
    lines += _section("Results")
    lines += _untested(findings)
    for each in findings:
        lines += _results(each)
    lines += _averages(first)
    lines += _data(findings)
    groups = {group.title: group.lines for group in run_facts.card_groups(findings)}
    groups.pop("Data", None)
    for title, rows in groups.items():
        lines += _facts(title, rows)
    if exported is not None:
        lines += _exported(exported, form)
    lines += _section("Information that the run does not contain")
    lines += ["", *(f"- To be filled in: {blank}" for blank in _blanks(licence))]
    return "\n".join(lines) + "\n"


def _front_matter(
    findings: Sequence[RunResults], library: str, licence: str | None
) -> Iterator[str]:
    """Return the YAML that Hugging Face reads: an unknown licence is left out."""
    results = [entry for each in findings for entry in _index_entries(each)]
    kinds = dict.fromkeys(metric["type"] for entry in results for metric in entry["metrics"])
    content: dict[str, Any] = {
        **_licence_entries(licence),
        "library_name": library,
        "pipeline_tag": "image-classification",
        "tags": [*_TAGS, *(["monai"] if library == "monai" else []), "cxrignite"],
    }
    if results:
        content["metrics"] = list(kinds)
        name = findings[0].folder.root.resolve().name
        content["model-index"] = [{"name": name, "results": results}]
    text = yaml.safe_dump(content, sort_keys=False, allow_unicode=True, width=100)
    yield from ("---", *text.splitlines(), "---")


def _licence_entries(licence: str | None) -> dict[str, str]:
    """Return the licence as Hugging Face names it: an unknown text is "other", with its file."""
    if licence is None:
        return {}
    for name, words in _KNOWN_LICENCES.items():
        if all(word in licence for word in words):
            return {"license": name}
    return {"license": "other", "license_name": "see-file", "license_link": LICENCE}


def _index_entries(results: RunResults) -> Iterator[dict[str, Any]]:
    """Return the entries of `model-index` of one finding: one for each set of images."""
    source = run_facts.class_name(results.recipe.text("data.source.class_path")) or "images"
    for name, evaluation in _in_order(results.evaluations):
        metrics = [
            {"type": kind, "value": round(estimate.value, 6), "name": f"{title}{interval}"}
            for kind, title, estimate in _index_metrics(evaluation)
            if estimate.value is not None
            for interval in [_interval_words(estimate)]
        ]
        if metrics:
            yield {
                "task": {
                    "type": "image-classification",
                    "name": f"{results.classes[1]} on chest X-rays",
                },
                "dataset": {
                    "type": source.lower(),
                    "name": f"{wording.split_name(name)} images ({source})",
                    "split": name,
                },
                "metrics": metrics,
            }


def _index_metrics(evaluation: Evaluation) -> list[tuple[str, str, Estimate]]:
    metrics = [
        ("roc_auc", "AUC", evaluation.roc_auc),
        ("average_precision", "Average precision", evaluation.average_precision),
    ]
    if evaluation.at_threshold is not None:
        metrics += [
            ("specificity", "Specificity at the threshold", evaluation.at_threshold.tnr),
            ("recall", "Sensitivity at the threshold", evaluation.at_threshold.tpr),
        ]
    return metrics


def _interval_words(estimate: Estimate) -> str:
    by_patient = estimate.by_patient is not None
    figure = decimal_estimate(estimate.value, estimate.by_patient or estimate.interval)
    unit = "patient" if by_patient else "image"
    return f" (95 % interval by {unit} {figure.interval})" if figure.interval else ""


def _uses(findings: Sequence[RunResults], stated: Sequence[RuleStatements]) -> list[str]:
    names = [each.classes[1] for each in findings]
    limits = run_facts.limits_of_use(
        findings,
        invalid=[
            name for name, each in zip(names, stated, strict=True) if each.is_invalid_anywhere
        ],
        unusable=[name for name, each in zip(names, stated, strict=True) if each.rule.alarms],
    )
    return [
        *_section("Intended use and limits of use"),
        *_paragraph(run_facts.intended_use(findings[0])),
        "",
        *(f"- {_escaped(limit)}" for limit in limits),
    ]


def _rule(results: RunResults, stated: RuleStatements) -> list[str]:
    """Describe the decision rule of a finding, and the images that contradict it."""
    rule, statement = results.rule, stated.rule
    lines = [] if results.has_one_finding else ["", f"### {_escaped(results.classes[1])}"]
    lines += ["", f"**{_escaped(statement.title)}**"]
    for alarm in statement.alarms:
        lines += ["", f"> {_escaped(alarm)}"]
    lines += _paragraph(statement.text)
    if statement.remarks:
        lines += ["", *(f"- {_escaped(remark)}" for remark in statement.remarks)]
    for warning in stated.warnings:
        lines += _statement(warning)
    if rule is None or rule.point is None:
        return lines
    refers = rule.lower_threshold is not None
    facts = [
        ("Thresholds" if refers else "Threshold", zone_text(rule.threshold, rule.lower_threshold)),
        ("Specificity guaranteed", _joined(statement.guarantee, statement.terms)),
        ("Sensitivity", statement.tpr_terms),
    ]
    lines += _table([["", ""], *facts])
    lines += _terms(notes.define_rates(results.classes, refers=refers))
    observed = metric_rows.observation_rows(results)
    if observed:
        lines += _paragraph(f"{notes.OBSERVED}. {notes.OBSERVED_INTERVALS}")
        head = ["Images", "Number", "Threshold", "Specificity", "Sensitivity"]
        rows = [
            [row.images, row.size, row.threshold, _figure(row.tnr), _figure(row.tpr)]
            for row in observed
        ]
        lines += _table([head, *rows])
        shifts = {
            wording.split_name(name): wording.describe_shift(each.shift)
            for name, each in results.evaluations.items()
            if each.shift is not None
        }
        readings = [
            (row.images, _joined(row.reading, shifts.get(row.images, ""))) for row in observed
        ]
        lines += ["", *(f"- {_escaped(f'{name}: {text}')}" for name, text in readings if text)]
    for site, moved in results.sites.items():
        own = (
            wording.state_rule(moved, results.classes, {})
            if moved.is_of_site
            else wording.state_kept_rule(moved)
        )
        at = zone_text(moved.threshold, moved.lower_threshold)
        lines += _paragraph(f"Operating point of {site}: {own.title}. {own.text} Threshold {at}.")
    return lines


def _untested(findings: Sequence[RunResults]) -> list[str]:
    first = findings[0]
    if "test" in first.evaluations:
        return []
    shown = wording.split_name(run_facts.shown_images(first))
    has_test = "test" in first.split_names
    term = notes.describe_untested(shown, has_test=has_test, num_findings=len(findings))
    return ["", f"**{_escaped(term.name)}**{_escaped(term.text)}"]


def _results(results: RunResults) -> list[str]:
    """Lay out all metrics of a finding, a column for each set of images."""
    evaluations = dict(_in_order(results.evaluations))
    if not evaluations:
        return _paragraph(notes.NO_RESULTS)
    lines: list[str] = []
    if not results.has_one_finding:
        lines += ["", f"### {_escaped(results.classes[1])}: results"]
        lines += _paragraph(run_facts.describe_negatives_of(results))
    names, ranking = metric_rows.ranking_rows(evaluations)
    lines += _paragraph(f"Ranking. {notes.RANKING_INTERVALS}")
    lines += _rate_table(names, ranking)
    decided = {name: each for name, each in evaluations.items() if each.at_threshold is not None}
    if decided:
        rates = _side_by_side(
            [metric_rows.rate_rows(each, results.classes) for each in decided.values()]
        )
        lines += _paragraph(f"Decisions at the chosen threshold. {notes.RATE_INTERVALS}")
        lines += _rate_table([wording.split_name(name) for name in decided], rates)
    shown = run_facts.shown_images(results)
    evaluation = evaluations.get(shown)
    if evaluation is not None:
        lines += _details(results, evaluation, wording.split_name(shown))
    return lines


def _details(results: RunResults, evaluation: Evaluation, shown: str) -> list[str]:
    """Describe calibration and subgroups of one set of images."""
    scales, measures = metric_rows.calibration_rows(evaluation)
    lines: list[str] = []
    if scales:
        lines += _paragraph(
            f"Calibration on the {shown} images. {notes.describe_scales(results.classes[1])}"
        )
        lines += _measure_table(scales, measures)
    has_unknown = run_facts.num_unknown(results) > 0
    shift = run_facts.prior_shift_sentences(results.rule, has_unknown=has_unknown)
    lines += _paragraph(" ".join(shift))
    groups, num_left_out = metric_rows.subgroup_rows(evaluation, results.classes)
    if not groups:
        return lines + _paragraph(notes.NO_SUBGROUPS)
    lines += _paragraph(f"Subgroups of the {shown} images. {notes.SUBGROUPS}")
    rows = [
        [each.name, each.size, _figure(each.tnr), _figure(each.tpr), _figure(each.roc_auc)]
        for each in groups
    ]
    lines += _table([["Subgroup", "Number", "Specificity", "Sensitivity", "AUC"], *rows])
    if num_left_out:
        lines += _paragraph(f"{counted(num_left_out, 'more subgroup')} are not shown.")
    return lines


def _averages(first: RunResults) -> list[str]:
    """Lay out the averages over the findings, and the decisions among exclusive classes."""
    shown = run_facts.shown_images(first)
    averages = first.averages.get(shown)
    if averages is None:
        return []
    lines = ["", f"### Averages on the {wording.split_name(shown)} images"]
    lines += _paragraph(notes.AVERAGED_BY_PATIENT)
    lines += _measure_table(["Macro average", "Micro average"], metric_rows.average_rows(averages))
    if averages.decisions is not None:
        table = metric_rows.class_table(averages.decisions, first.all_classes)
        lines += _paragraph(wording.describe_class_decisions(first.all_classes[0]))
        head = ["", *(f"called {name}" for name in table.classes)]
        rows = [
            [f"labelled {name}", *(f"{each.num_images} ({each.share.value})" for each in cells)]
            for name, cells in table.rows
        ]
        lines += _table([head, *rows])
        lines += _measure_table([wording.split_name(shown)], table.measures)
    return lines


def _data(findings: Sequence[RunResults]) -> list[str]:
    groups = {group.title: group.lines for group in run_facts.card_groups(findings)}
    lines = _facts("Data and splits", groups.get("Data", []))
    split = run_facts.summarize_split(findings)
    if split is None:
        return lines + _paragraph(notes.NO_SPLIT)
    rows = [
        [name, *(_figure(Figure(each.number, each.remark)) for each in cells)]
        for name, cells in split.rows
    ]
    lines += _table([[*split.columns], *rows])
    shared = notes.describe_shared(split.num_shared_patients, split.num_shared_files)
    sentences = " ".join(f"{each.name}{each.text}." for each in shared)
    lines += _paragraph(f"{sentences} {split.patients_from}")
    return [*lines, "", f"Digest (SHA-256) of the split: `{split.digest}`"]


def _facts(title: str, rows: Iterable[tuple[str, str]]) -> list[str]:
    return [*_section(title), "", *(f"- {_escaped(name)}: {_escaped(text)}" for name, text in rows)]


def _exported(exported: ExportedModel, form: str | None) -> list[str]:
    """Describe how the exported model is used, and how far it agrees with the run's model."""
    lines = _section("Exported model")
    if form == "bundle":
        lines += _paragraph(notes.RUN_BUNDLE)
        lines += ["", "```", *notes.BUNDLE_COMMANDS, "```"]
    lines += _paragraph(notes.DESCRIPTION)
    files = [[_code(name), _code(digest)] for name, digest in exported.files.items()]
    lines += _table([["File", "SHA-256"], *files], is_escaped=True)
    given = exported.input
    lines += _paragraph(f"Input {given.name}: {given.dtype}, shape {_shape(given.shape)}.")
    rules = enumerate(exported.reading.rules, start=1)
    lines += ["", *(f"{number}. {_escaped(rule)}" for number, rule in rules)]
    outputs = [
        [each.name, each.dtype, _shape(each.shape), notes.OUTPUTS[each.name]]
        for each in exported.outputs
    ]
    lines += _table([["Output", "Type", "Shape", "Meaning"], *outputs])
    decisions = [
        [each.name, ", ".join(f"{value}: {word}" for value, word in enumerate(each.decisions))]
        for each in exported.findings
    ]
    lines += _table([["Finding, in the order of the columns", "Decisions"], *decisions])
    stored = [
        ("Stored weights", exported.weights_dtype),
        *((name, version) for name, version in exported.versions.items()),
    ]
    lines += ["", *(f"- {_escaped(name)}: {_escaped(text)}" for name, text in stored)]
    return [*lines, "", "```", *wording.describe_parity(exported), "```"]


def _blanks(licence: str | None) -> list[str]:
    return [*run_facts.BLANKS, *([] if licence else ["the licence of the weights"])]


def _in_order(evaluations: Mapping[str, Evaluation]) -> list[tuple[str, Evaluation]]:
    usual = [name for name in ("val", "calibration", "test") if name in evaluations]
    names = [*usual, *sorted(evaluations.keys() - set(usual))]
    return [(name, evaluations[name]) for name in names]


def _statement(statement: Statement) -> list[str]:
    lines = ["", f"> **{_escaped(statement.title)}.** {_escaped(statement.text)}".rstrip()]
    if statement.reasons:
        lines += [">", *(f"> - {_escaped(reason)}" for reason in statement.reasons)]
    return lines


def _terms(terms: Sequence[notes.Term]) -> list[str]:
    parts = [
        f"**{_escaped(each.name)}**{_escaped(each.text)}" if each.name else _escaped(each.text)
        for each in terms
    ]
    return ["", " ".join(parts)]


def _rate_table(names: Sequence[str], rows: Sequence[RateRow]) -> list[str]:
    cells = [
        [
            f"{row.name} ({row.meaning})" if row.meaning else row.name,
            *(
                _two_intervals(image, patient)
                for image, patient in zip(row.by_image, row.by_patient, strict=True)
            ),
        ]
        for row in rows
    ]
    return _table([["Measure", *names], *cells])


def _measure_table(names: Sequence[str], rows: Sequence[Measure]) -> list[str]:
    cells = [[f"{row.name} ({row.meaning})", *map(_figure, row.figures)] for row in rows]
    return _table([["Measure", *names], *cells])


def _figure(figure: Figure) -> str:
    return f"{figure.value} ({figure.interval})" if figure.interval else figure.value


def _two_intervals(by_image: Figure, by_patient: Figure) -> str:
    if by_patient.interval and not by_image.interval:
        return f"{by_image.value} (by patient {by_patient.interval})"
    return _figure(Figure(by_image.value, _joined(by_image.interval, by_patient.interval)))


def _table(rows: Sequence[Sequence[str]], *, is_escaped: bool = False) -> list[str]:
    cells = [[each if is_escaped else _escaped(each) for each in row] for row in rows]
    return ["", *table_lines(cells, markdown=True)]


def _section(title: str) -> list[str]:
    return ["", f"## {title}"]


def _paragraph(text: str) -> list[str]:
    return ["", _escaped(text)] if text else []


def _joined(*parts: str) -> str:
    return "; ".join(filter(None, parts))


def _shape(shape: Sequence[int | str]) -> str:
    return f"({', '.join(map(str, shape))})"


def _code(text: str) -> str:
    return f"`{printable(text, keep='').replace('`', ' ')}`"


def _escaped(text: str) -> str:
    """Return text that Markdown shows as it is."""
    return _SPECIAL.sub(r"\\\g<0>", printable(text, keep=""))


def _side_by_side(columns: Sequence[Sequence[RateRow]]) -> list[RateRow]:
    """Return a row for each figure; one threshold has fewer figures than two."""
    by_name = [{row.name: row for row in column} for column in columns]
    all_rows = {name: row for rows in by_name for name, row in rows.items()}
    return [
        RateRow(
            name,
            row.meaning,
            [rows[name].by_image[-1] if name in rows else Figure() for rows in by_name],
            [rows[name].by_patient[-1] if name in rows else Figure() for rows in by_name],
        )
        for name, row in all_rows.items()
    ]
