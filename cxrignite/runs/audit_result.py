"""Results of an audit: its findings, its probes, and what `fit` would make of the data."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Annotated, Literal

from pydantic import Field

from cxrignite.data import ImageRecord
from cxrignite.data.survey import ImageFacts
from cxrignite.functional import PriorShift
from cxrignite.functional.shift import ShiftCheck

Severity = Literal["problem", "warning"]
"""A problem makes the result of training wrong; a warning may mislead."""

SEVERITIES: Mapping[str, Severity] = {
    **dict.fromkeys(("unreadable", "patient_leakage", "content_leakage"), "problem"),
    **dict.fromkeys(("near_leakage", "label_conflict", "cannot_split"), "problem"),
    "too_few_negatives": "problem",
    **dict.fromkeys(("duplicate", "near_duplicate", "not_compared", "unknown_patient"), "warning"),
    **dict.fromkeys(("blank", "narrow_range", "colour", "odd_size", "wrong_suffix"), "warning"),
    **dict.fromkeys(("shortcut", "shift", "corrected_twice"), "warning"),
}
"""From each kind of finding to its severity; the worst come first."""

MAX_COMPARED = 100_000
"""More images than this are not searched for near duplicates, which would take hours."""


@dataclass(frozen=True)
class ListedImage:
    """One image of a finding's list.

    Attributes:
        record: The image.
        group: Number of the group that it belongs to, from 1; null if the finding has no groups.
        error: Why it cannot be read; null if it can.
        facts: What was measured; null if the finding does not depend on that.
    """

    record: ImageRecord
    group: int | None = None
    error: str | None = None
    facts: ImageFacts | None = None


@dataclass(frozen=True)
class ListedPair:
    """Two images that belong together.

    Attributes:
        first: One of them.
        second: The other.
        likeness: How the pictures are alike; null if the images share their patient or all bytes.
        correlation: Of the pictures' pixels; null as above.
    """

    first: ImageRecord
    second: ImageRecord
    likeness: str | None = None
    correlation: float | None = None


@dataclass(frozen=True)
class Finding:
    """One finding of an audit.

    Attributes:
        kind: A key of `SEVERITIES`.
        count: Of what was found: files, pairs, groups, probes.
        error: The exception with which `fit` would end; null if it is none of that.
        image_size: Rows and columns that images are read at, if the finding depends on that.
        list_file: Name of the CSV file with all of it; null if there is nothing to list.
        rows: The lines of that file, which the JSON leaves out.
        probes: Those that were found, which the JSON has elsewhere.
    """

    kind: str
    count: int
    error: str | None = None
    image_size: tuple[int, int] | None = None
    list_file: str | None = None
    rows: Annotated[tuple[ListedImage | ListedPair, ...], Field(exclude=True)] = field(
        default=(), compare=False
    )
    probes: Annotated[tuple[Probe, ...], Field(exclude=True)] = field(default=(), compare=False)

    @property
    def severity(self) -> Severity:
        """Its severity."""
        return SEVERITIES[self.kind]

    @property
    def groups(self) -> list[list[ImageRecord]]:
        """Listed images that are worth a look, those together that belong together."""
        groups: dict[int, list[ImageRecord]] = {}
        for number, row in enumerate(self.rows, start=1):
            if isinstance(row, ListedPair):
                groups[number] = [row.first, row.second]
            elif row.group is not None or row.facts is not None:
                groups.setdefault(row.group or number, []).append(row.record)
        return list(groups.values())


@dataclass(frozen=True)
class Probe:
    """Separation of two kinds of images by a classifier that sees a few numbers of each.

    Attributes:
        name: What the classifier sees, or whose images it compares.
        check: Its area under the curve, of patients it was not fitted on; null if the two kinds do
            not differ in it at all.
        is_control: True if it compares what is known to be alike.
        may_be_disease: True if a disease may show in what it sees.
    """

    name: str
    check: ShiftCheck | None
    is_control: bool = False
    may_be_disease: bool = False

    @property
    def is_detected(self) -> bool:
        """True if it separates them for certain."""
        return bool(self.check and self.check.is_detected)

    @property
    def is_finding(self) -> bool:
        """True if it is marked, and listed among the findings."""
        return self.is_detected and not self.is_control and not self.may_be_disease


@dataclass(frozen=True)
class ClassSize:
    """Images and patients of one class in one split."""

    name: str
    num_images: int
    num_patients: int


@dataclass(frozen=True)
class SplitSize:
    """Images and patients of one split, and of each class in it."""

    split: str
    num_images: int
    num_patients: int
    classes: tuple[ClassSize, ...]


@dataclass(frozen=True)
class ClassFiles:
    """The files of one class: median columns and rows, and how many have each kind of pixels."""

    name: str
    median_width: float
    median_height: float
    modes: Mapping[str, int]


@dataclass(frozen=True)
class CertificateOutlook:
    """Certificate that the negative patients of a split allow.

    Attributes:
        split: The split that would choose the threshold.
        num_negative_patients: Its negative patients.
        min_tnr: The TNR to certify.
        confidence: The confidence to certify it with.
        num_allowed: False positives that are allowed; null if no certificate is possible.
        num_needed: Negative patients that it takes.
    """

    split: str
    num_negative_patients: int
    min_tnr: float
    confidence: float
    num_allowed: int | None
    num_needed: int


@dataclass(frozen=True)
class AuditResult:
    """A whole audit.

    Attributes:
        source: The data set's folder.
        classes: The negative and the positive class.
        num_images: Images that the source lists.
        num_unreadable: Those that cannot be read.
        splits: The splits that `fit` would make.
        files: The files of each class that has any.
        prior_shift: What sampler and loss would do to the prior; null if it is not known.
        certificates: What each threshold search of the recipe could certify.
        shortcut_probes: Classes told apart by what the files are like.
        shift_probes: Test images told from the others by their thumbnails.
        findings: The worst first; their rows are in files of their own.
        format: Of the file.
    """

    source: str
    classes: tuple[str, str]
    num_images: int
    num_unreadable: int
    splits: tuple[SplitSize, ...]
    files: tuple[ClassFiles, ...]
    prior_shift: PriorShift | None
    certificates: tuple[CertificateOutlook, ...]
    shortcut_probes: tuple[Probe, ...]
    shift_probes: tuple[Probe, ...]
    findings: tuple[Finding, ...]
    format: Literal[1] = 1
