"""Text of an audit: its findings with advice, its tables, and its lists as CSV."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence

from cxrignite.csv_text import dict_rows
from cxrignite.data import ImageRecord
from cxrignite.data.sources import UNKNOWN, is_of_class
from cxrignite.reporting.text_table import table_lines
from cxrignite.runs.audit_result import (
    MAX_COMPARED,
    AuditResult,
    Finding,
    ListedImage,
    ListedPair,
    Probe,
    conflicting,
)
from cxrignite.terminal import counted, wrapped

WORDS: Mapping[str, tuple[str, str]] = {
    "unreadable": (
        "Files that cannot be read",
        "fix or remove them; data.on_unreadable: skip leaves them out of training",
    ),
    "patient_leakage": (
        "Patients in more than one split",
        "move each patient to one split, or remove the split so that fit splits by patient",
    ),
    "content_leakage": (
        "Identical files in more than one split",
        "keep one of each, or move them to one split",
    ),
    "near_leakage": (
        "Nearly identical images in more than one split",
        "check the pairs; remove one image of each, or give both the same patient",
    ),
    "label_conflict": (
        "The same picture with both labels",
        "have a reader decide on the label, and keep one file",
    ),
    "cannot_split": (
        "The recipe's splits cannot be made from these images",
        "change the shares of the splits, or add patients",
    ),
    "too_few_negatives": (
        "Too few negative patients for the certificate",
        "raise data.calibration_fraction, lower min_tnr or confidence, or add patients",
    ),
    "duplicate": (
        "Identical files within a split",
        "each copy counts as an image; keep one of each",
    ),
    "near_duplicate": (
        "Nearly identical images within a split",
        "check the pairs; if the patients differ, one patient may have two keys",
    ),
    "not_compared": (
        "No search for near duplicates",
        "audit parts of the data set separately",
    ),
    "unknown_patient": (
        "Images of unknown patients",
        "each counts as a patient of its own; set the patients' column or pattern",
    ),
    "blank": ("Blank images", "remove them"),
    "narrow_range": (
        "Images that use few of the grey levels",
        "check window and exposure; data.grey_scaling may spread the grey levels",
    ),
    "colour": (
        "Images in colour",
        "check for annotations and images that are no X-rays; all are read as grey",
    ),
    "odd_size": (
        "Images of unusual size or shape",
        "check for cut-outs, screenshots and other views",
    ),
    "wrong_suffix": (
        "Wrong file extension",
        "rename them; they are read correctly here, but other programs may fail",
    ),
    "shortcut": (
        "Labels predictable from acquisition artefacts (shortcuts)",
        "resize all images to one size, augment acquisition, evaluate on images of another site",
    ),
    "shift": (
        "Test images that differ from the other images",
        "a certificate may not hold for them: choose the threshold on images like the test images",
    ),
    "corrected_twice": (
        "Class balance corrected by both sampler and loss",
        "remove one of the two, or use the column probability",
    ),
}
"""Title of each kind of finding, and what to do about it."""

PRIOR_TITLE = "Share of positives in training"
SHORTCUT_TITLE = "Separation of the classes (shortcuts)"
SHIFT_TITLE = "Separation of test and other images (shift)"
_MARKS = {"problem": "!!", "warning": " !"}
_SCORE = 0.9


def finding_text(finding: Finding, classes: Sequence[str] = ()) -> str:
    """Describe a finding in one line, with the first examples of its list."""
    if finding.error is not None:
        return finding.error
    if finding.kind == "corrected_twice":
        return "the sampler balances the classes, and the loss weights them too"
    if finding.kind == "not_compared":
        return f"{finding.count:,} different files, at most {MAX_COMPARED:,} are compared"
    if finding.probes:
        return _probes_text(finding)
    pairs = [row for row in finding.rows if isinstance(row, ListedPair)]
    if pairs:
        return _pairs_text(finding.kind, pairs)
    images = [row for row in finding.rows if isinstance(row, ListedImage)]
    return _images_text(finding, images, classes)


def list_csv(finding: Finding, classes: Sequence[str]) -> bytes:
    """Write the list of a finding as CSV."""
    rows = [
        _pair_cells(row, classes)
        if isinstance(row, ListedPair)
        else {**_cells(row.record, classes), "group": row.group, "reason": _reason(finding, row)}
        for row in finding.rows
    ]
    # In a list, a column is filled in every row or in none.
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
    for title, rows in (
        (PRIOR_TITLE, prior_rows(result)),
        (certificate_title(result), certificate_rows(result)),
    ):
        lines += table_lines([[], [f"  {title}"], *rows] if rows else [], indent="  ")
    rows = []
    for name, probes in (
        (SHORTCUT_TITLE, result.shortcut_probes),
        (SHIFT_TITLE, result.shift_probes),
    ):
        if probes:
            rows += [[], [name, "AUC"], *([probe.name, auc_text(probe)] for probe in probes)]
    lines += table_lines(rows, indent="  ")
    lines += [*(wrapped(each, "  ") for each in probed_sentences(result)), ""]
    for finding in result.findings:
        (title, advice), mark = WORDS[finding.kind], _MARKS[finding.severity]
        text = finding_text(finding, result.classes)
        lines += [f"{mark} {title} ({finding.kind})", wrapped(text, "     ")]
        lines.append(wrapped(advice, "     -> "))
    if not result.findings:
        lines.append("no problems found")
    return "\n".join(lines)


def split_rows(result: AuditResult) -> list[list[str]]:
    """Count images and patients of each split, below a header; no rows if no image can be read.

    Several findings have a row each, one finding has a column for each class.
    """
    if not result.splits:
        return []
    if len(result.classes) > 2:
        return _split_columns(result)
    # A class's patients stand beside its images, so that the table fits 80 columns.
    head = ["split", "images", "patients", *(f"{name} (patients)" for name in result.classes)]
    rows = [
        [
            *(row.split, f"{row.num_images:,}", f"{row.num_patients:,}"),
            *(f"{each.num_images:,} ({each.num_patients:,})" for each in row.classes),
        ]
        for row in result.splits
    ]
    return [head, *rows]


def _split_columns(result: AuditResult) -> list[list[str]]:
    rows = [
        ["images (patients)", *(each.split for each in result.splits)],
        ["all", *(f"{each.num_images:,} ({each.num_patients:,})" for each in result.splits)],
    ]
    for number, name in enumerate(result.classes):
        sizes = [row.classes[number] for row in result.splits]
        if number == 0:
            name += " (known to have no finding)"
        rows.append([name, *(f"{each.num_images:,} ({each.num_patients:,})" for each in sizes)])
    for number, name in enumerate(result.classes):
        unknown = [row.classes[number].num_unknown for row in result.splits]
        if any(unknown):
            rows.append([f"{name}, label unknown", *(f"{each:,}" for each in unknown)])
    return rows


def file_sentences(result: AuditResult) -> list[str]:
    """Describe the files of each class."""
    return [
        f"{row.name}: {row.median_width:g} x {row.median_height:g} pixels (columns by rows, "
        f"median), {', '.join(f'{count:,} {mode}' for mode, count in row.modes.items())}"
        for row in result.files
    ]


def plan_sentences(result: AuditResult) -> list[str]:
    """Describe what `fit` would do with the images: the prior in training, the threshold.

    The prior of several findings is in `prior_rows`.
    """
    sentences = []
    if len(result.prior_shifts) == 1:
        [shift] = result.prior_shifts
        sentences.append(f"{shift.prevalence:.1%} of the training images are {result.classes[1]}")
        probability, seen = shift.probability([_SCORE]), shift.seen_prevalence
        sentences.append(
            "the effect of the loss on that is not known: read scores as a ranking only"
            if probability is None or seen is None
            else f"sampler and loss change that to {seen:.1%}: a score of {_SCORE:.3f} is a "
            f"probability of {probability[0]:.3f} at the training prevalence"
        )
    if any(each.split == "val" for each in result.certificates):
        sentences.append(
            "val also selects the checkpoint, so no threshold chosen on it is certified: "
            "set data.calibration_fraction"
        )
    return sentences


def prior_rows(result: AuditResult) -> list[list[str]]:
    """List the prior of several findings in training, below a header; no rows of one finding."""
    if len(result.prior_shifts) < 2:
        return []
    # The probability of an exclusive class depends on the scores of the others too.
    last = 3 if result.exclusive else 4
    rows = [["", "training images", "with sampler and loss", f"a score of {_SCORE:.3f} means"]]
    for name, shift in zip(result.classes[1:], result.prior_shifts, strict=True):
        probability, seen = shift.probability([_SCORE]), shift.seen_prevalence
        known = probability is not None and seen is not None
        rows.append(
            [
                *(name, f"{shift.prevalence:.1%}"),
                f"{seen:.1%}" if known else "unknown",
                f"{probability[0]:.3f}" if probability is not None else "a ranking only",
            ]
        )
    return [row[:last] for row in rows]


def probed_sentences(result: AuditResult) -> list[str]:
    """Name the findings that were probed, if there are others."""
    if len(result.probed) == len(result.classes) - 1:
        return []
    return [
        f"shortcuts and shift are measured for the {len(result.probed)} findings with the most "
        f"positive patients outside of the test split: {', '.join(result.probed)}"
    ]


def certificate_title(result: AuditResult) -> str:
    """Name the patients that the rows of certificates are about; empty without rows."""
    if not result.certificates:
        return ""
    if len(result.classes) > 2:
        return f"Certificates that the patients of {result.certificates[0].split} allow"
    numbers = {each.rate: each.num_patients for each in result.certificates}
    patients = counted(numbers["tnr"], "negative patient")
    if "tpr" in numbers:
        patients += f" and the {counted(numbers['tpr'], 'positive patient')}"
    return f"Certificates that the {patients} of {result.certificates[0].split} allow"


def certificate_rows(result: AuditResult) -> list[list[str]]:
    """List the possible certificates below a header; no rows if there is no split for them."""
    if not result.certificates:
        return []
    rows = [["rate", "confidence", "patients needed", "errors allowed"]]
    rows += [
        [
            f"{each.rate.upper()} {each.minimum:g}",
            *(f"{100 * each.confidence:g} %", f"{each.num_needed:,}"),
            "too few patients" if each.num_allowed is None else f"{each.num_allowed:,}",
        ]
        for each in result.certificates
    ]
    if len(result.classes) == 2:
        return rows
    # The patients of one finding are in the title.
    have = ["patients", *(f"{each.num_patients:,}" for each in result.certificates)]
    names = ["", *(each.finding for each in result.certificates)]
    return [
        [name, *row[:2], number, *row[2:]]
        for name, number, row in zip(names, have, rows, strict=True)
    ]


def auc_text(probe: Probe) -> str:
    """Return a probe's AUC with its interval, marked if it is a finding."""
    check = probe.check
    if check is None:
        return "0.5, no difference"
    if check.roc_auc is None or check.interval is None:
        return "too few patients"
    interval = f"({check.interval.low:.3f} to {check.interval.high:.3f})"
    # Only findings are marked: a difference in grey levels may be the disease itself.
    return f"{check.roc_auc:.3f} {interval}{'  !' if probe.is_finding else ''}"


def _probes_text(finding: Finding) -> str:
    areas = [f"{each.name} (AUC {each.check.roc_auc:.3f})" for each in finding.probes if each.check]
    if finding.image_size is not None:
        rows, columns = finding.image_size
        areas.append(f"resizing to {rows} x {columns} in grey hides all of it but the distortion")
    return "; ".join(areas)


def _images_text(finding: Finding, images: Sequence[ListedImage], classes: Sequence[str]) -> str:
    if finding.kind == "unreadable":
        errors = Counter(each.error for each in images)
        most = "; ".join(f"{count} x {error}" for error, count in errors.most_common(3))
        more = f"; {len(errors) - 3} more reasons" if len(errors) > 3 else ""
        return f"{counted(len(images), 'file')}: {most}{more}"
    if images[0].group is None:
        reasons = [(each.record.name, _reason(finding, each)) for each in images]
        names = [f"{name} ({reason})" if reason else name for name, reason in reasons]
        return f"{counted(len(images), 'image')}: {_examples(names)}"
    groups: dict[int | None, list[str]] = {}
    for each in images:
        groups.setdefault(each.group, []).append(each.record.name)
    if finding.kind == "label_conflict":
        named = _examples([" and ".join(names) for names in groups.values()])
        of_each = "" if len(classes) <= 2 else f" ({_conflicts(images, classes)})"
        return f"{counted(len(groups), 'picture')}{of_each}: {named}"
    num_pairs = sum(len(names) * (len(names) - 1) // 2 for names in groups.values())
    return (
        f"{counted(len(groups), 'group')} of identical files: {counted(len(images), 'file')}, "
        f"{counted(num_pairs, 'pair')}"
    )


def _conflicts(images: Sequence[ListedImage], classes: Sequence[str]) -> str:
    """Count the conflicts of each finding."""
    groups: dict[int | None, list[ImageRecord]] = {}
    for each in images:
        groups.setdefault(each.group, []).append(each.record)
    numbers = Counter(number for group in groups.values() for number in conflicting(group))
    return ", ".join(f"{classes[number + 1]} {count:,}" for number, count in numbers.most_common())


def _reason(finding: Finding, listed: ListedImage) -> str | None:
    """Return why an image is listed; None if the kind of the finding is reason enough."""
    facts, (rows, columns) = listed.facts, finding.image_size or (0, 0)
    if facts is None:
        return listed.error
    is_small = facts.height < rows or facts.width < columns
    size = f"smaller than {rows} x {columns}" if is_small else "unlike the others"
    return {
        "blank": f"standard deviation of the grey levels {facts.deviation:.1f}",
        "narrow_range": (
            f"98 % of the pixels lie between {facts.quantiles[0]:.0f} and {facts.quantiles[-1]:.0f}"
        ),
        "colour": f"its channels differ by {facts.colour:.1f} grey levels",
        "odd_size": f"{facts.height} x {facts.width} is {size}",
        "wrong_suffix": f"is {facts.format}",
    }[finding.kind]


def _pairs_text(kind: str, pairs: Sequence[ListedPair]) -> str:
    if kind.startswith("near_"):
        num_two_patients = sum(pair.first.patient != pair.second.patient for pair in pairs)
        named = _examples([f"{pair.first.name} and {pair.second.name}" for pair in pairs])
        return (
            f"{counted(len(pairs), 'pair')}, {num_two_patients} of them of different patients: "
            f"{named}"
        )
    by_patient = kind == "patient_leakage"
    keys = {pair.first.patient if by_patient else pair.first.name for pair in pairs}
    also = counted(len(keys), "patient" if by_patient else "picture")
    return (
        f"{counted(len(pairs), 'image')} outside train, {also} also in another split: "
        f"{_examples(sorted(keys), 2)}"
    )


def label_text(record: ImageRecord, classes: Sequence[str]) -> str:
    """Name the class of an image, or its findings and the number of those that are unknown."""
    names = [name for number, name in enumerate(classes) if is_of_class(record, number)]
    num_unknown = record.labels.count(UNKNOWN)
    return " and ".join([*names, *([f"{num_unknown} unknown"] if num_unknown else [])])


def _cells(record: ImageRecord, classes: Sequence[str]) -> dict[str, object]:
    # As in `split.csv`.
    labels: dict[str, object] = {"label": record.label}
    if isinstance(record.label, tuple):
        labels = {
            f"label:{name}": "" if label == UNKNOWN else label
            for name, label in zip(classes[1:], record.label, strict=True)
        }
    return {"path": record.name, "split": record.split, **labels, "patient": record.patient}


def _pair_cells(pair: ListedPair, classes: Sequence[str]) -> dict[str, object]:
    cells = {
        f"{side}_{name}": cell
        for side, record in (("first", pair.first), ("second", pair.second))
        for name, cell in _cells(record, classes).items()
    }
    correlation = None if pair.correlation is None else f"{pair.correlation:.4f}"
    return {**cells, "likeness": pair.likeness, "correlation": correlation}


def _examples(names: Sequence[str], most: int = 1) -> str:
    return ", ".join(names[:most]) + (", ..." if len(names) > most else "")
