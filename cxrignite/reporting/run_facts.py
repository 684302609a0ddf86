"""Facts about model and data, for a report and a model card: split, prior shift, limits of use."""

from __future__ import annotations

import hashlib
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import PurePosixPath, PureWindowsPath
from typing import Any, NamedTuple

from cxrignite.data import ImageRecord
from cxrignite.data.leakage import describe_leaks, leaked_pairs
from cxrignite.data.sources import UNKNOWN
from cxrignite.reporting.numbers import decimal, percent, score_text
from cxrignite.reporting.wording import (
    NOT_USABLE,
    Statement,
    check_weights,
    describe_negatives,
    listed,
    split_name,
    status,
)
from cxrignite.runs.decision_rule import DecisionRule
from cxrignite.runs.evaluation import Evaluation
from cxrignite.runs.run_results import BestWeights, RunResults, Tree
from cxrignite.terminal import counted

_LONGEST = 300
_MAX_NAMES = 3  # of findings in a title
_BY_NAME = ("ClassFolders", "Phantom")

BLANKS = (
    "who is responsible for clinical review, and who may switch the model off",
    "the clinical question, the patients and the setting it may be tried in",
    "ethics approval or waiver, and the data's consent and licence for this use",
    "how the reference labels were made, by whom, and how often readers disagree",
    "what happens to an image on which model and reader disagree",
    "how performance is monitored after a change of scanner, site or season, and how often",
)
"""Information that no run folder contains; each follows the words "To be filled in:"."""


class SplitCell(NamedTuple):
    """Number of images or patients, and a remark."""

    number: str
    remark: str = ""


class SplitSummary(NamedTuple):
    """Summary of the splits.

    Attributes:
        columns: Titles of the columns.
        rows: Name and cells of each row: a split, or one of several findings.
        num_shared_patients: Patients with images in more than one split.
        num_shared_files: Files whose content is in more than one split.
        digest: SHA-256 of `split.csv`.
        patients_from: How patients were identified.
    """

    columns: Sequence[str]
    rows: Sequence[tuple[str, Sequence[SplitCell]]]
    num_shared_patients: int
    num_shared_files: int
    digest: str
    patients_from: str


class CardGroup(NamedTuple):
    """Heading of the model card with its filled lines."""

    title: str
    lines: Sequence[tuple[str, str]]


def summarize_split(findings: Sequence[RunResults]) -> SplitSummary | None:
    """Count images and patients of each split, and those in more than one split.

    Returns:
        The summary; None if there is no split to read.
    """
    first = findings[0]
    records = first.records
    if not records:
        return None
    patients: dict[str, set[str]] = {}
    files: dict[str, set[str]] = {}
    for record in records:
        patients.setdefault(record.patient, set()).add(record.split)
        if record.sha256:
            files.setdefault(record.sha256, set()).add(record.split)
    columns, rows = (_one_finding if first.has_one_finding else _several_findings)(findings)
    return SplitSummary(
        columns,
        rows,
        sum(len(splits) > 1 for splits in patients.values()),
        sum(len(splits) > 1 for splits in files.values()),
        hashlib.sha256(first.folder.split_path.read_bytes()).hexdigest(),
        patient_origin(first.recipe.child("data.source"), records),
    )


_SplitTable = tuple[list[str], list[tuple[str, list[SplitCell]]]]


def _one_finding(findings: Sequence[RunResults]) -> _SplitTable:
    """Return columns and rows: a row for each split."""
    results = findings[0]
    rows = []
    for name in results.split_names:
        labels = [record.label for record in results.records if record.split == name]
        patients = {record.patient for record in results.records if record.split == name}
        counts = (labels.count(0), labels.count(1), len(patients))
        rows.append((split_name(name), [SplitCell(f"{count:,}") for count in counts]))
    return ["Split", *results.classes, "Patients"], rows


def _several_findings(findings: Sequence[RunResults]) -> _SplitTable:
    """Return columns and rows: a column for each split, which are fewer than the findings."""
    first = findings[0]
    images = Counter(record.split for record in first.records)
    patients = Counter(split for _, split in {(each.patient, each.split) for each in first.records})
    # Images on which every finding is known to be absent.
    of_image = zip(*([each.label for each in one.records] for one in findings), strict=True)
    nothing = Counter(
        record.split
        for record, labels in zip(first.records, of_image, strict=True)
        if not any(labels)
    )
    splits = first.split_names

    def row(name: str, counts: Counter[str]) -> tuple[str, list[SplitCell]]:
        return name, [SplitCell(f"{counts[split]:,}") for split in splits]

    rows = [
        row("Images", images),
        row("Patients", patients),
        row(first.all_classes[0] if first.is_exclusive else "Images without any finding", nothing),
    ]
    for one in findings:
        counts = Counter((record.split, record.label) for record in one.records)
        cells = []
        for split in splits:
            unknown = counts[split, UNKNOWN]
            remark = f"{counts[split, 0]:,} negative" + (
                f", {unknown:,} unknown" if unknown else ""
            )
            cells.append(SplitCell(f"{counts[split, 1]:,}", remark))
        rows.append((one.classes[1], cells))
    return ["Number of", *(split_name(name) for name in splits)], rows


def leakage_statement(records: Sequence[ImageRecord]) -> Statement | None:
    """State that splits share patients or images, which makes the results optimistic."""
    pairs = leaked_pairs(records)
    if not pairs:
        return None
    splits = Counter((pair.first.split, pair.second.split) for pair in pairs)
    reasons = tuple(
        f"{split_name(second)} and {split_name(first)}: {counted(number, 'pair')}"
        for (first, second), number in splits.items()
    )
    text = (
        f"The splits share {describe_leaks(pairs)}; leakage.csv lists them. The results of the "
        "later split are optimistic, and a threshold chosen on it is not certified."
    )
    return Statement("Patients or images are in more than one split", text, reasons)


def heading(results: RunResults, *, with_negative: bool = True) -> str:
    """Name the findings of a run, for a title.

    Args:
        results: Results of the first finding.
        with_negative: True also names the negative class of the only finding.
    """
    negative, *names = results.all_classes
    if results.has_one_finding:
        return f"{names[0]} against {negative}" if with_negative else names[0]
    return listed(names) if len(names) <= _MAX_NAMES else f"{len(names)} findings"


def shown_images(results: RunResults) -> str:
    """Name the images that a report describes: the best evaluated ones."""
    names = ("test", "val", "calibration")
    return next((name for name in names if name in results.evaluations), "val")


def describe_negatives_of(results: RunResults) -> str:
    """Describe the negative images of one of several findings."""
    return describe_negatives(
        *(results.all_classes, results.index),
        is_exclusive=results.is_exclusive,
        num_unknown=num_unknown(results),
    )


def num_unknown(results: RunResults) -> int:
    """Count the images whose label of the finding is unknown."""
    return sum(record.label == UNKNOWN for record in results.records)


def size_of(evaluation: Evaluation | None, results: RunResults, shown: str) -> str:
    """Describe how many images were evaluated, and of how many the label is known."""
    if evaluation is None:
        return ""
    known, patients = evaluation.num_images, evaluation.num_patients
    num_images = sum(record.split == shown for record in results.records)
    size = f"{counted(known, 'image')} of {counted(patients, 'patient')}"
    if known >= num_images:
        return size
    return f"{size}: the label is known in {known:,} of {counted(num_images, 'image')}"


def run_statements(findings: Sequence[RunResults]) -> list[Statement]:
    """Collect the warnings that concern the whole run."""
    best = findings[0].best
    of_weights = [check_weights(each.rule, best.sha256) for each in findings if best]
    statements = [
        leakage_statement(findings[0].records),
        next((each for each in of_weights if each), None),
    ]
    return [each for each in statements if each]


def prior_shift_sentences(rule: DecisionRule | None, *, has_unknown: bool = False) -> list[str]:
    """Describe how sampling and loss changed the prior; no sentence without a rule."""
    if rule is None:
        return []
    prior_shift, positive = rule.prior_shift, rule.finding
    share = prior_shift.prevalence
    known = " with a known label" if has_unknown else ""
    first = (
        f"{percent(share)} of the training images{known} are {positive}, and "
        f"{percent(prior_shift.sampled_prevalence)} of those drawn by the sampler"
    )
    seen, shift = prior_shift.seen_prevalence, prior_shift.logit_shift
    if seen is None or shift is None:
        return [
            f"{first}.",
            "The effect of the loss on the scores is not known, so there are no probabilities: "
            f"read a score as a ranking of images, not as a probability of {positive}.",
        ]
    if rule.exclusive:
        return [
            f"{first}. With the weights of the loss, scores behave as if {percent(seen)} of the "
            f"images were {positive}.",
            "Probabilities correct for that in all classes together, so equal scores may have "
            "different probabilities. This changes no decision. The probabilities hold only if "
            "each class is about as frequent as among the training images.",
        ]
    first += (
        f". The loss weights each {positive} image by {prior_shift.pos_weight:.3g}, so scores "
        f"behave as if {percent(seen)} of the images were {positive}"
    )
    second = f"Probabilities correct for that (a shift of {decimal(shift)} on the logit scale)"
    if rule.threshold_probability is not None:
        second += (
            f": a score of {score_text(rule.threshold)} is a probability of "
            f"{score_text(rule.threshold_probability)}"
        )
    return [
        f"{first}.",
        f"{second}. This changes no decision. The probabilities hold only if about "
        f"{percent(share)} of the images are {positive}.",
    ]


def card_groups(findings: Sequence[RunResults]) -> list[CardGroup]:
    """Fill in the parts of a model card that a run folder contains; no line names a folder."""
    results = findings[0]
    recipe, best, starts = results.recipe, results.best, results.starts
    trainer, data = recipe.child("trainer"), recipe.child("data")
    packages = starts[-1].packages if starts else {}
    num_processes = starts[-1].num_processes if starts else None
    done = f"{len(results.history)} of {text_of(trainer.get('max_epochs'))}"
    groups = (
        CardGroup(
            "Data",
            [
                ("Source", class_name(data.text("source.class_path"))),
                ("Classes", _classes_text(results)),
                ("Images", images_of_splits(results)),
                ("Validation", _validation_words(results)),
                ("Read at, rows x columns", " x ".join(map(str, data.get("image_size") or ()))),
                ("Preprocessing", text_of(data.get("preprocess"))),
                ("Augmentation, training only", text_of(data.get("augment"))),
                ("Batch augmentation, training only", text_of(data.get("batch_augment"))),
                ("Sampler", text_of(data.get("sampler"))),
            ],
        ),
        CardGroup(
            "Model",
            [("Class and parameters", text_of(_model(results))), *_fine_tuning_lines(results)],
        ),
        CardGroup(
            "Training",
            [
                ("Loss", text_of(recipe.get("loss"))),
                ("Optimizer", text_of(recipe.get("optimizer"))),
                ("Schedule", text_of(recipe.get("lr_scheduler"))),
                ("Batch size", batch_words(data, trainer, num_processes)),
                ("Epochs", done if results.history else ""),
                ("Seed", text_of(recipe.get("seed"))),
                ("Device", of_starts(start.device for start in starts)),
                ("Precision", of_starts(start.precision for start in starts)),
                ("Processes", of_starts(start.num_processes for start in starts)),
            ],
        ),
        CardGroup(
            "Weights and threshold" if results.has_one_finding else "Weights and thresholds",
            [
                ("Epoch of the weights", text_of(best and (best.epoch or None))),
                ("Selected by", _selected_by(best, len(findings))),
                ("SHA-256 of the checkpoint", text_of(best and best.sha256)),
                *_threshold_lines(findings),
            ],
        ),
        CardGroup(
            "Software",
            [
                ("cxrignite", of_starts(start.cxrignite for start in starts)),
                (
                    "Revision of the working folder",
                    of_starts(start.git_revision for start in starts),
                ),
                ("Python", of_starts(start.python for start in starts)),
                *(
                    (name, of_starts(start.packages.get(name) for start in starts))
                    for name in packages
                ),
            ],
        ),
    )
    kept = [CardGroup(group.title, [line for line in group.lines if line[1]]) for group in groups]
    return [group for group in kept if group.lines]


def _validation_words(results: RunResults) -> str:
    if results.folds is not None:
        return f"out-of-fold, in {results.folds.num_folds} folds"
    return fold_words(results.recipe.child("data"))


def _classes_text(results: RunResults) -> str:
    if results.has_one_finding:
        return " (negative), ".join(results.classes) + " (positive)"
    if results.is_exclusive:
        return f"{listed(results.all_classes, 'or')}; an image has one of them"
    return f"{listed(results.all_classes[1:])}; an image may have several, or none"


def _threshold_lines(findings: Sequence[RunResults]) -> list[tuple[str, str]]:
    rule = findings[0].rule
    digest = text_of(rule and rule.weights_sha256)
    if len(findings) == 1:
        return [
            ("Status", status(rule) if rule else ""),
            ("Threshold, all digits", text_of(rule and rule.threshold)),
            ("Lower threshold, all digits", text_of(rule and rule.lower_threshold)),
            ("SHA-256 of its checkpoint", digest),
        ]
    lines = []
    for each in findings:
        if each.rule is not None and each.rule.point is not None:
            text = f"{status(each.rule)}; threshold {each.rule.threshold}"
            lower = each.rule.lower_threshold
            text += "" if lower is None else f", lower threshold {lower}"
            lines.append((each.classes[1], text))
    return [*lines, ("SHA-256 of the thresholds' checkpoint", digest)]


def _model(results: RunResults) -> Any:
    """Return the recipe's model with the number of findings that it was built with."""
    model = results.recipe.get("model")
    arguments = model.get("init_args") if isinstance(model, Mapping) else None
    if results.has_one_finding or not isinstance(arguments, Mapping):
        return model
    return {**model, "init_args": {**arguments, "num_findings": len(results.all_classes) - 1}}


def _fine_tuning_lines(results: RunResults) -> list[tuple[str, str]]:
    """Describe the frozen parts and the weights that training started from."""
    if not results.starts:
        return []
    start, tuning = results.starts[0], results.recipe.child("fine_tuning")
    trained, total = start.num_trained, start.num_parameters
    text = "" if total is None else f"{total:,}"
    if trained is not None and trained != total:
        epoch = tuning.get("unfreeze_epoch")
        text += f", {trained:,} of them trained{f' until epoch {epoch}' if epoch else ''}"
    return [
        ("Number of parameters", text),
        ("Frozen parts", text_of(tuning.get("frozen"))),
        ("SHA-256 of the weights at the start", text_of(start.start_from_sha256)),
        ("Averaged weights", text_of(results.recipe.child("trainer").get("averaging"))),
    ]


def _selected_by(best: BestWeights | None, num_findings: int) -> str:
    if best is None or best.score is None:
        return ""
    is_mean = num_findings > 1 and best.metric.endswith(("roc_auc", "average_precision"))
    mean = ", mean over the findings" if is_mean else ""
    return f"{best.metric} {decimal(best.score, 4)}{mean}"


def intended_use(results: RunResults) -> str:
    """State what the model is intended for."""
    classes = results.all_classes
    if results.has_one_finding or results.is_exclusive:
        what = f"the classification of chest X-rays into {listed(classes)}"
    else:
        what = f"the detection of {listed(classes[1:])} on chest X-rays"
    return f"Intended for research on {what}, by people who have reference labels for the images."


def limits_of_use(
    findings: Sequence[RunResults], *, invalid: Sequence[str], unusable: Sequence[str]
) -> list[str]:
    """List what the model must not be used for.

    Args:
        findings: Results of each finding of the run.
        invalid: Findings for which some evaluated images contradict the certificate or differ from
            those the threshold was chosen on.
        unusable: Findings whose threshold was not shown to be better than chance.
    """
    results, names = findings[0], [each.classes[1] for each in findings]
    limits = [
        "Not for patient care. This is a research model, not a medical device; it has not been "
        "reviewed or cleared for clinical use.",
        "Not for images unlike the training images: other ages (adults if it was trained on "
        "children), views (lateral or supine), scanners or processing, photographs of images.",
        *(_of_one_finding(results) if len(names) == 1 else _of_several_findings(results)),
        "Not at another site before it was evaluated on labelled images of that site. If they "
        "differ, choose the threshold again.",
    ]
    if class_name(results.recipe.text("data.source.class_path")) == "Phantom":
        limits.insert(0, "Not for real images: the model was trained on synthetic images.")
    if unusable:
        on = "" if len(names) == 1 else f" on {listed(unusable, 'or')}"
        limits.insert(0, f"Not for any decision{on}: the threshold is {NOT_USABLE} (see the top).")
    uncertified = [
        each.classes[1] for each in findings if each.rule is None or not each.rule.is_certified
    ]
    if invalid:
        of = "" if len(names) == 1 else f" of {listed(invalid, 'or')}"
        limits.append(
            f"Not on images like those for which the certificate{of} is not valid (see the top)."
        )
    uncertified = [name for name in uncertified if name not in invalid]
    if uncertified:
        of = "" if len(names) == 1 else f" for {listed(uncertified, 'or')}"
        limits.append(
            f"Not if a specificity has to be guaranteed{of}: no certificate covers this threshold."
        )
    return limits


def _of_one_finding(results: RunResults) -> list[str]:
    negative, positive = results.classes
    return [
        f"Not for any finding but {positive}: an image called {negative} may show other disease.",
        f"Not as the only reader, and not to rule out {positive}: some {positive} images are "
        f"called {negative}.",
    ]


def _of_several_findings(results: RunResults) -> list[str]:
    limits = [
        f"Not for any finding but {listed(results.all_classes[1:])}: an image that is negative for "
        "all of them may show other disease.",
        "Not as the only reader, and not to rule out a finding: some images that show a finding "
        "are called negative for it.",
    ]
    if results.is_exclusive:
        limits.append(
            "Not for images that may show several of these findings: the model was trained on "
            "images with one of them at most."
        )
    return limits


def class_name(class_path: str) -> str:
    """Return the last part of an import path."""
    return class_path.rpartition(".")[2]


def text_of(value: object) -> str:
    """Describe a value of the recipe in a few words, without folders.

    Args:
        value: A class with its settings, a list of them, or a plain value.

    Returns:
        One line, cut if it is very long; empty for None.

    Examples:
        >>> text_of({"class_path": "nn.LightCNN", "init_args": {"width": 32, "weights": "/a/b.pt"}})
        'LightCNN (width 32, weights b.pt)'
    """
    text = _describe(value)
    return text if len(text) <= _LONGEST else f"{text[:_LONGEST]} ..."


def _describe(value: Any, depth: int = 6) -> str:
    if value is None or not depth:
        return ""
    if isinstance(value, str):
        return _without_folders(value)
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, Mapping):
        if isinstance(value.get("class_path"), str):
            arguments = value.get("init_args")
            settings = _describe(arguments, depth - 1) if isinstance(arguments, Mapping) else ""
            return f"{class_name(value['class_path'])} ({settings})".removesuffix(" ()")
        parts = ((key, _describe(setting, depth - 1)) for key, setting in value.items())
        return ", ".join(f"{key} {setting}" for key, setting in parts if setting)
    if isinstance(value, list):
        items = [_describe(item, depth - 1) for item in value]
        is_plain = not any(isinstance(item, Mapping) for item in value)
        if not value:
            return "none"
        return f"[{', '.join(items)}]" if is_plain else "; ".join(items)
    return str(value)


def _without_folders(text: str) -> str:
    if re.match(r"[A-Za-z]:[\\/]|\\\\", text):
        return PureWindowsPath(text).name
    return PurePosixPath(text).name if "/" in text else text


def patient_origin(source: Tree, records: Sequence[ImageRecord]) -> str:
    """Describe how patients were identified, and count the images without a known patient."""
    settings = source.child("init_args")
    kind = source.text("class_path").rpartition(".")[2]
    alone = sum(record.patient in (record.name, _without_suffix(record.name)) for record in records)
    if kind in _BY_NAME:
        where = "the file names"
    elif kind != "Manifest":
        where = f"the source {kind}" if kind else "an unknown source"
    elif settings.flag("patients.from_header"):
        where = "the DICOM headers"
    elif settings.text("patients.pattern"):
        where = "the paths of the images"
    else:
        column = settings.text("columns.patient") or "patient"
        where = f"the column '{column}' of the manifest"
    if records and alone == len(records):
        return "No image has a known patient, so each counts as a patient of its own."
    own = f"; {counted(alone, 'image')} without one count as one patient each" if alone else ""
    return f"Patients were identified by {where}{own}."


def batch_words(data: Tree, trainer: Tree, num_processes: int | None) -> str:
    """Describe how many images make one step of the optimizer."""
    size = data.count("batch_size")
    if size is None:
        return ""
    factors = {
        "batches accumulated": trainer.count("accumulation_steps") or 1,
        "processes": num_processes or 1,
    }
    several = {name: number for name, number in factors.items() if number > 1}
    if not several:
        return str(size)
    images = size
    for number in several.values():
        images *= number
    parts = " and ".join(f"{number} {name}" for name, number in several.items())
    return f"{size}; with {parts}, {images} images make one step of the optimizer"


def images_of_splits(results: RunResults) -> str:
    """Count the images of each split: a source may have splits of its own."""
    counts = [
        (sum(record.split == name for record in results.records), split_name(name))
        for name in results.split_names
    ]
    return ", ".join(f"{number:,} {name}" for number, name in counts)


def fold_words(data: Tree) -> str:
    """Name the fold that validated; empty if there are no folds."""
    index, count = data.count("fold.index"), data.count("fold.count")
    if index is None or count is None:
        return ""
    return f"fold {index} of {count}, counted from 0"


def of_starts(values: Iterable[object]) -> str:
    """List a property of each start of a run in order; equal values are listed once."""
    return ", then ".join(dict.fromkeys(str(value) for value in values if value is not None))


def _without_suffix(name: str) -> str:
    return str(PurePosixPath(name).with_suffix("")) if PurePosixPath(name).name else name
