"""An audit in words: its findings with advice, its tables, and its lists as CSV."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence

from cxrignite.csv_text import dict_rows
from cxrignite.data import ImageRecord
from cxrignite.reporting.text_table import table_lines
from cxrignite.runs.audit_result import (
    MAX_COMPARED,
    AuditResult,
    CertificateOutlook,
    Finding,
    ListedImage,
    ListedPair,
    Probe,
)
from cxrignite.terminal import counted, wrapped

WORDS: Mapping[str, tuple[str, str]] = {
    "unreadable": (
        "Files that cannot be read",
        "fix or remove them; data.on_unreadable: skip leaves them out of training",
    ),
    "patient_leakage": (
        "Patients in more than one split",
        "move each patient to one split, or remove the split and have it made by patient",
    ),
    "content_leakage": (
        "Identical files in more than one split",
        "keep one of each, or move them to one split",
    ),
    "near_leakage": (
        "Nearly identical images in more than one split",
        "look at the pairs; remove one of each, or give both the same patient",
    ),
    "label_conflict": (
        "The same picture with both labels",
        "have the label decided, and keep one",
    ),
    "cannot_split": (
        "Splits of the recipe that these images cannot give",
        "take other shares, or more patients",
    ),
    "too_few_negatives": (
        "Too few negative patients for the certificate",
        "take a larger data.calibration_fraction, a lower min_tnr or confidence, or more images",
    ),
    "duplicate": (
        "Identical files within a split",
        "each counts as often as it is there; keep one of each",
    ),
    "near_duplicate": (
        "Nearly identical images within a split",
        "look at the pairs; if the patients differ, a patient may have two keys",
    ),
    "not_compared": (
        "No search for near duplicates",
        "audit parts of the data set by themselves",
    ),
    "unknown_patient": (
        "Images of unknown patients",
        "name the patients' column or pattern: each image counts as a patient of its own",
    ),
    "blank": ("Images without a picture", "remove them"),
    "narrow_range": (
        "Images that use few of the grey levels",
        "look at them: a window that does not fit, or a wrong exposure; data.grey_scaling"
        " may spread them",
    ),
    "colour": (
        "Images in colour",
        "look at them: annotations, or no X-ray at all; they are read as grey",
    ),
    "odd_size": (
        "Images of unusual size or shape",
        "look at them: a cut-out, a screenshot, or another view",
    ),
    "wrong_suffix": (
        "Wrong file extension",
        "they are read by their content; other programs may fail",
    ),
    "shortcut": (
        "Labels predictable from acquisition artefacts (shortcuts)",
        "resize all images to one size, augment acquisition, evaluate on images of another origin",
    ),
    "shift": (
        "Test images that differ from the other images",
        "a certificate will not hold there: choose the threshold on images like the test images",
    ),
    "corrected_twice": (
        "Class balance corrected by both sampler and loss",
        "drop one of the two, or read probability",
    ),
}
"""From each kind of finding to its title and what to do about it."""

SHORTCUT_TITLE = "Classes told apart by"
SHIFT_TITLE = "Test images told from the others by thumbnails"
_MARKS = {"problem": "!!", "warning": " !"}
_SCORE = 0.9


def finding_text(finding: Finding) -> str:
    """Describe a finding in one line, with the first examples of its list."""
    if finding.error is not None:
        return finding.error
    if finding.kind == "corrected_twice":
        return "the sampler balances the classes, and the loss weighs them too"
    if finding.kind == "not_compared":
        return f"{finding.count:,} different files, at most {MAX_COMPARED:,} are compared"
    if finding.probes:
        return _probes_text(finding)
    pairs = [row for row in finding.rows if isinstance(row, ListedPair)]
    if pairs:
        return _pairs_text(finding.kind, pairs)
    return _images_text(finding, [row for row in finding.rows if isinstance(row, ListedImage)])


def list_csv(finding: Finding) -> bytes:
    """The list of a finding as CSV."""
    rows = [
        _pair_cells(row)
        if isinstance(row, ListedPair)
        else {**_cells(row.record), "group": row.group, "reason": _reason(finding, row)}
        for row in finding.rows
    ]
    # A list has all cells of a column or none.
    return dict_rows(rows, [name for name, cell in rows[0].items() if cell is not None])


def audit_text(result: AuditResult) -> str:
    """Lay out an audit for a terminal."""
    splits = split_rows(result)
    lines = [
        f"{result.source}: {counted(result.num_images, 'image')}",
        "",
        *(table_lines(splits, "<>", indent="  ") if splits else ["  no image can be read"]),
        "",
        *(wrapped(each, "  ") for each in [*file_sentences(result), *plan_sentences(result)]),
    ]
    rows: list[list[str]] = []
    for name, probes in (
        (SHORTCUT_TITLE, result.shortcut_probes),
        (SHIFT_TITLE, result.shift_probes),
    ):
        if probes:
            rows += [[], [name, "AUC"], *([probe.name, auc_text(probe)] for probe in probes)]
    lines += [*table_lines(rows, indent="  "), ""]
    for finding in result.findings:
        (title, advice), mark = WORDS[finding.kind], _MARKS[finding.severity]
        lines += [f"{mark} {title} ({finding.kind})", wrapped(finding_text(finding), "     ")]
        lines.append(wrapped(advice, "     -> "))
    if not result.findings:
        lines.append("nothing was found to be wrong")
    return "\n".join(lines)


def split_rows(result: AuditResult) -> list[list[str]]:
    """Images and patients of each split, below a header; none if no image can be read."""
    # A class's patients stand beside its images, so that the table fits 80 columns.
    head = ["split", "images", "patients", *(f"{name} (patients)" for name in result.classes)]
    rows = [
        [
            *(row.split, f"{row.num_images:,}", f"{row.num_patients:,}"),
            *(f"{each.num_images:,} ({each.num_patients:,})" for each in row.classes),
        ]
        for row in result.splits
    ]
    return [head, *rows] if rows else []


def file_sentences(result: AuditResult) -> list[str]:
    """Describe the files of each class."""
    return [
        f"{row.name}: {row.median_width:g} x {row.median_height:g} pixels (columns by rows, "
        f"median), {', '.join(f'{count:,} {mode}' for mode, count in row.modes.items())}"
        for row in result.files
    ]


def plan_sentences(result: AuditResult) -> list[str]:
    """Describe what `fit` would make of the images: the prior it sees, its certificates."""
    sentences = []
    if result.prior_shift is not None:
        sentences.append(
            f"{result.prior_shift.prevalence:.1%} of the training images are {result.classes[1]}"
        )
        probability, seen = (
            result.prior_shift.probability([_SCORE]),
            result.prior_shift.seen_prevalence,
        )
        sentences.append(
            "the effect of the loss on that is not known: scores are a ranking only"
            if probability is None or seen is None
            else f"after sampler and loss training sees {seen:.1%}: a score of {_SCORE:.3f} stands "
            f"for {probability[0]:.3f} if as many are positive as in training"
        )
    sentences += map(_certificate_text, result.certificates)
    if any(each.split == "val" for each in result.certificates):
        sentences.append(
            "val picks the checkpoint too, so nothing chosen on it is certified: "
            "set data.calibration_fraction"
        )
    return sentences


def auc_text(probe: Probe) -> str:
    """A probe's area with its interval, and if that is more than chance."""
    check = probe.check
    if check is None:
        return "0.5, they do not differ in it"
    if check.roc_auc is None or check.interval is None:
        return "too few patients"
    interval = f"({check.interval.low:.3f} to {check.interval.high:.3f})"
    # What is marked is a finding below; a difference in greys may be the disease itself.
    return f"{check.roc_auc:.3f} {interval}{'  !' if probe.is_finding else ''}"


def _certificate_text(outlook: CertificateOutlook) -> str:
    can = (
        f"cannot certify (it takes {outlook.num_needed})"
        if outlook.num_allowed is None
        else f"can certify, with {outlook.num_allowed} false positives"
    )
    return (
        f"the {outlook.num_negative_patients} negative patients of {outlook.split} {can}, "
        f"a TNR of {outlook.min_tnr:g} with {100 * outlook.confidence:g} % confidence"
    )


def _probes_text(finding: Finding) -> str:
    areas = [f"{each.name} (AUC {each.check.roc_auc:.3f})" for each in finding.probes if each.check]
    if finding.image_size is not None:
        rows, columns = finding.image_size
        areas.append(f"read at {rows} x {columns} in grey, only what stretching leaves is seen")
    return "; ".join(areas)


def _images_text(finding: Finding, records: Sequence[ListedImage]) -> str:
    if finding.kind == "unreadable":
        errors = Counter(each.error for each in records)
        most = "; ".join(f"{count} x {error}" for error, count in errors.most_common(3))
        more = f"; {len(errors) - 3} more reasons" if len(errors) > 3 else ""
        return f"{counted(len(records), 'file')}: {most}{more}"
    if records[0].group is None:
        reasons = [(each.record.name, _reason(finding, each)) for each in records]
        names = [f"{name} ({reason})" if reason else name for name, reason in reasons]
        return f"{counted(len(records), 'image')}: {_examples(names)}"
    groups: dict[int | None, list[str]] = {}
    for each in records:
        groups.setdefault(each.group, []).append(each.record.name)
    if finding.kind == "label_conflict":
        named = _examples([" and ".join(names) for names in groups.values()])
        return f"{counted(len(groups), 'picture')}: {named}"
    num_pairs = sum(len(names) * (len(names) - 1) // 2 for names in groups.values())
    return (
        f"{counted(len(groups), 'group')} of identical files: {counted(len(records), 'file')}, "
        f"{counted(num_pairs, 'pair')}"
    )


def _reason(finding: Finding, listed: ListedImage) -> str | None:
    """Say why an image is listed; None if the finding's kind says it."""
    facts, (rows, columns) = listed.facts, finding.image_size or (0, 0)
    if facts is None:
        return listed.error
    is_small = facts.height < rows or facts.width < columns
    size = f"under {rows} x {columns}" if is_small else "unlike the others"
    return {
        "blank": f"its grey levels deviate by {facts.deviation:.1f}",
        "narrow_range": (
            f"98 % of it lies between {facts.quantiles[0]:.0f} and {facts.quantiles[-1]:.0f}"
        ),
        "colour": f"its channels differ by {facts.colour:.1f} levels",
        "odd_size": f"{facts.height} x {facts.width} is {size}",
        "wrong_suffix": f"holds {facts.format}",
    }[finding.kind]


def _pairs_text(kind: str, pairs: Sequence[ListedPair]) -> str:
    if kind.startswith("near_"):
        strangers = sum(pair.first.patient != pair.second.patient for pair in pairs)
        named = _examples([f"{pair.first.name} and {pair.second.name}" for pair in pairs])
        return f"{counted(len(pairs), 'pair')}, {strangers} of them of different patients: {named}"
    by_patient = kind == "patient_leakage"
    keys = {pair.first.patient if by_patient else pair.first.name for pair in pairs}
    also = counted(len(keys), "patient" if by_patient else "picture")
    return (
        f"{counted(len(pairs), 'image')} outside of train, {also} also in another split: "
        f"{_examples(sorted(keys), 2)}"
    )


def _cells(record: ImageRecord) -> dict[str, object]:
    return {
        "path": record.name,
        "split": record.split,
        "label": record.label,
        "patient": record.patient,
    }


def _pair_cells(pair: ListedPair) -> dict[str, object]:
    sides = {"first": pair.first, "second": pair.second}
    cells = {f"{side}_{k}": v for side, record in sides.items() for k, v in _cells(record).items()}
    correlation = None if pair.correlation is None else f"{pair.correlation:.4f}"
    return {**cells, "likeness": pair.likeness, "correlation": correlation}


def _examples(names: Sequence[str], most: int = 1) -> str:
    return ", ".join(names[:most]) + (", ..." if len(names) > most else "")
