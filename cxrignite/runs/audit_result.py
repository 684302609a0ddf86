"""Results of an audit: its findings and their kinds, its probes, and all of it together."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import numpy as np

from cxrignite.data import Film
from cxrignite.data.survey import Survey
from cxrignite.functional import ImbalanceLedger
from cxrignite.functional.shift import ShiftCheck

Severity = Literal["problem", "warning"]
"""Trained on as it is, the result is wrong; or it may mislead."""


class Kind(NamedTuple):
    """A kind of finding.

    Attributes:
        severity: How grave it is.
        title: What it is called.
        advice: What to do about it.
    """

    severity: Severity
    title: str
    advice: str


KINDS: Mapping[str, Kind] = {
    "unreadable": Kind(
        "problem",
        "Files that cannot be read",
        "mend or remove them; data.on_unreadable: skip leaves them out of training",
    ),
    "patient_leakage": Kind(
        "problem",
        "Patients in more than one split",
        "move each patient to one side, or remove the split and have one carved by patient",
    ),
    "content_leakage": Kind(
        "problem",
        "Identical files in more than one split",
        "keep one of each, or move them to one side",
    ),
    "near_leakage": Kind(
        "problem",
        "Nearly identical films in more than one split",
        "look at the pairs; remove one of each, or give both the same patient",
    ),
    "label_conflict": Kind(
        "problem",
        "The same picture with both labels",
        "have the label decided, and keep one",
    ),
    "cannot_split": Kind(
        "problem",
        "Splits that the recipe asks for and these films cannot give",
        "take other shares, or more patients",
    ),
    "too_few_negatives": Kind(
        "problem",
        "Too few negative patients for the certificate",
        "take a larger data.calibration_fraction, a lower min_tnr or confidence, or more films",
    ),
    "duplicate": Kind(
        "warning",
        "Identical files within a split",
        "each counts as often as it is there; keep one of each",
    ),
    "near_duplicate": Kind(
        "warning",
        "Nearly identical films within a split",
        "look at the pairs; where patients differ, a patient may have two keys",
    ),
    "not_compared": Kind(
        "warning",
        "Near duplicates that were not looked for",
        "audit parts of the data set by themselves",
    ),
    "unknown_patient": Kind(
        "warning",
        "Films of which nobody knows whose they are",
        "name the patients' column or pattern: each counts as a patient of its own",
    ),
    "blank": Kind("warning", "Films without a picture", "remove them"),
    "narrow_range": Kind(
        "warning",
        "Films that use few of the grey levels",
        "look at them: a window that does not fit, or an exposure gone wrong; data.grey_scaling"
        " may spread them",
    ),
    "colour": Kind(
        "warning",
        "Films in colour",
        "look at them: annotations, or no X-ray at all; they are read as grey",
    ),
    "odd_size": Kind(
        "warning",
        "Films of unusual size or shape",
        "look at them: a cut-out, a screenshot, or another view",
    ),
    "wrong_suffix": Kind(
        "warning",
        "Files called what they are not",
        "they are read by their content; other programs may not",
    ),
    "shortcut": Kind(
        "warning",
        "Labels given away by what is no sign of disease",
        "resize all films to one size, augment acquisition, and judge on films of another origin",
    ),
    "shift": Kind(
        "warning",
        "Test films of another kind than the others",
        "a certificate will not hold there: choose the threshold on films of that kind",
    ),
    "corrected_twice": Kind(
        "warning",
        "Class balance corrected by both sampler and loss",
        "drop one of the two, or read natural_score",
    ),
}
"""From a kind's name to what it means; the worst come first."""


@dataclass(frozen=True)
class Finding:
    """One finding of an audit.

    Attributes:
        kind: One of `KINDS`.
        count: Of what was found: files, pairs, patients, probes.
        text: What was found, in one line, with the first examples.
        rows: All of it, one a row, ready for a CSV; empty where there is nothing to list.
        pictured: Rows of the survey worth a look, in groups that belong together.
    """

    kind: str
    count: int
    text: str
    rows: Sequence[Mapping[str, Any]] = ()
    pictured: Sequence[Sequence[int]] = ()

    @property
    def severity(self) -> Severity:
        """How grave it is."""
        return KINDS[self.kind].severity

    def to_dict(self) -> dict[str, Any]:
        """Plain Python values, ready for JSON; the rows are in a file of their own."""
        return {
            "kind": self.kind,
            "severity": self.severity,
            "count": self.count,
            "text": self.text,
            "list": f"{self.kind}.csv" if self.rows else None,
        }


@dataclass(frozen=True)
class Probe:
    """How well two kinds of films are told apart by some of what is known of them.

    Attributes:
        name: What the classifier sees, or whose films it compares.
        check: Its area under the curve, of patients it was not fitted on; None where the two kinds
            do not differ in it at all.
        is_control: Whether it compares what is known to be alike.
        may_be_disease: Whether a disease may show in what it sees.
    """

    name: str
    check: ShiftCheck | None
    is_control: bool = False
    may_be_disease: bool = False

    @property
    def is_detected(self) -> bool:
        """Whether it tells them apart for certain."""
        return bool(self.check and self.check.is_detected)

    @property
    def is_finding(self) -> bool:
        """Whether it is marked, and told among the findings."""
        return self.is_detected and not self.is_control and not self.may_be_disease

    def to_dict(self) -> dict[str, Any]:
        """Plain Python values, ready for JSON."""
        return {"name": self.name, **(self.check.to_dict() if self.check else {"roc_auc": 0.5})}


@dataclass(frozen=True)
class AuditResults:
    """A whole audit.

    Attributes:
        root: The data set's folder.
        classes: The negative and the positive class.
        survey: What was looked at, its films in the splits that `fit` would make.
        splits: A row a split: films and patients, by class.
        imbalance: What sampler and loss would do to the prior; None where it cannot be told.
        sentences: What `fit` would make of the films.
        probes: From what they look for to the probes.
        findings: The worst first.
    """

    root: str
    classes: tuple[str, str]
    survey: Survey
    splits: Sequence[Mapping[str, Any]]
    imbalance: ImbalanceLedger | None
    sentences: Sequence[str]
    probes: Mapping[str, Sequence[Probe]]
    findings: Sequence[Finding]

    @property
    def num_films(self) -> int:
        """Films that the source lists."""
        return len(self.survey.films) + len(self.survey.unreadable)

    @property
    def files_by_class(self) -> list[Mapping[str, Any]]:
        """What the files of each class are like: median columns and rows, and kinds of pixels."""
        found: list[Mapping[str, Any]] = []
        for label, name in enumerate(self.classes):
            pairs = zip(self.survey.films, self.survey.facts, strict=True)
            facts = [each for film, each in pairs if film.label == label]
            if facts:
                modes = Counter(f"{each.format} {each.mode}" for each in facts)
                found.append(
                    {
                        "class": name,
                        "median_width": float(np.median([each.width for each in facts])),
                        "median_height": float(np.median([each.height for each in facts])),
                        "modes": dict(modes.most_common()),
                    }
                )
        return found

    def describe_files(self) -> list[str]:
        """`files_by_class`, a line a class."""
        return [
            f"{row['class']}: {row['median_width']:g} x {row['median_height']:g} pixels "
            "(columns by rows, median), "
            + ", ".join(f"{count:,} {mode}" for mode, count in row["modes"].items())
            for row in self.files_by_class
        ]

    def to_dict(self) -> dict[str, Any]:
        """Plain Python values, ready for JSON."""
        return {
            "source": self.root,
            "classes": list(self.classes),
            "num_films": self.num_films,
            "num_unreadable": len(self.survey.unreadable),
            "splits": list(self.splits),
            "files": self.files_by_class,
            "plan": {
                "imbalance": self.imbalance.to_dict() if self.imbalance else None,
                "sentences": list(self.sentences),
            },
            "probes": {
                name: [probe.to_dict() for probe in some] for name, some in self.probes.items()
            },
            "findings": [finding.to_dict() for finding in self.findings],
        }


def sorted_findings(findings: Sequence[Finding]) -> list[Finding]:
    """Findings in the order of `KINDS`."""
    order = list(KINDS)
    return sorted(findings, key=lambda each: order.index(each.kind))


def film_row(film: Film, **more: object) -> dict[str, object]:
    """A film as a row of a list."""
    about = {"path": film.name, "split": film.split, "label": film.label, "patient": film.patient}
    return {**about, **more}


def pair_row(first: Film, second: Film, **more: object) -> dict[str, object]:
    """Two films that belong together as a row of a list."""
    sides = {"first": film_row(first), "second": film_row(second)}
    told = {f"{side}_{key}": value for side, row in sides.items() for key, value in row.items()}
    return {**told, **more}


def examples(names: Sequence[str], most: int = 2) -> str:
    """The first few of many names."""
    return ", ".join(names[:most]) + (", ..." if len(names) > most else "")
