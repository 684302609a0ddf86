"""Results of an audit: findings, probes, and the splits and certificates to expect from `fit`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Annotated, Literal

from pydantic import Field

from cxrignite.data import ImageRecord
from cxrignite.data.survey import ImageFacts
from cxrignite.functional import PriorShift
from cxrignite.functional.shift import ShiftCheck

Severity = Literal["problem", "warning"]
"""Grade of a finding: a problem makes results wrong, a warning may mislead."""

SEVERITIES: Mapping[str, Severity] = {
    **dict.fromkeys(("unreadable", "patient_leakage", "content_leakage"), "problem"),
    **dict.fromkeys(("near_leakage", "label_conflict", "cannot_split"), "problem"),
    "too_few_negatives": "problem",
    **dict.fromkeys(("duplicate", "near_duplicate", "not_compared", "unknown_patient"), "warning"),
    **dict.fromkeys(("blank", "narrow_range", "colour", "odd_size", "wrong_suffix"), "warning"),
    **dict.fromkeys(("shortcut", "shift", "corrected_twice"), "warning"),
}
"""Severity of each kind of finding; the worst come first."""

MAX_PROBED = 5
"""Largest number of findings whose labels are probed; all of many findings would take minutes."""

MAX_COMPARED = 100_000
"""Largest number of images that are searched for near duplicates; more would take hours."""


def conflicting(records: Sequence[ImageRecord]) -> list[int]:
    """Return the positions of the findings that are present in one image and absent in another.

    An unknown label contradicts none.

    Args:
        records: Images that should have the same labels.
    """
    labels = zip(*(record.labels for record in records), strict=True)
    return [number for number, column in enumerate(labels) if {0, 1} <= {*column}]


@dataclass(frozen=True)
class ListedImage:
    """One image of a finding's list.

    Attributes:
        group: Number of its group, from 1; null if the finding has no groups.
        error: Reason why it cannot be read; null if it can.
        facts: Measurements of the image; null if the finding does not depend on them.
    """

    record: ImageRecord
    group: int | None = None
    error: str | None = None
    facts: ImageFacts | None = None


@dataclass(frozen=True)
class ListedPair:
    """Two images that belong together.

    Attributes:
        likeness: Kind of similarity; null if the images share their patient or all bytes.
        correlation: Correlation of their pixels; null as above.
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
        error: Exception that `fit` would end with; null if it would not fail.
        image_size: Rows and columns of the loaded images, if the finding depends on them.
        list_file: Name of the CSV file that lists it; null if there is nothing to list.
        rows: Lines of that file; the JSON leaves them out.
        probes: Probes of the finding; the JSON has them elsewhere.
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
        """Severity of its kind."""
        return SEVERITIES[self.kind]

    @property
    def groups(self) -> list[list[ImageRecord]]:
        """Listed images to draw, in groups that belong together."""
        groups: dict[int, list[ImageRecord]] = {}
        for number, row in enumerate(self.rows, start=1):
            if isinstance(row, ListedPair):
                groups[number] = [row.first, row.second]
            elif row.group is not None or row.facts is not None:
                groups.setdefault(row.group or number, []).append(row.record)
        return list(groups.values())


@dataclass(frozen=True)
class Probe:
    """Separation of two kinds of images by a classifier of a few features.

    Attributes:
        name: Name of the features, or of the images that are compared.
        check: Its area under the curve, on patients it was not fitted on; null if the features of
            both kinds are equal.
        is_control: True if it compares images that are known to be alike.
        may_be_disease: True if a disease may show in the features.
    """

    name: str
    check: ShiftCheck | None
    is_control: bool = False
    may_be_disease: bool = False

    @property
    def is_detected(self) -> bool:
        """True if the two kinds are separated significantly."""
        return bool(self.check and self.check.is_detected)

    @property
    def is_finding(self) -> bool:
        """True if it is one of the findings."""
        return self.is_detected and not self.is_control and not self.may_be_disease


@dataclass(frozen=True)
class ClassSize:
    """Images and patients of one class in one split.

    Attributes:
        name: Name of images without a finding, or of the finding.
        num_images: Its images.
        num_patients: Their patients.
        num_unknown: Images whose label of this finding is unknown.
    """

    name: str
    num_images: int
    num_patients: int
    num_unknown: int = 0


@dataclass(frozen=True)
class SplitSize:
    """Images and patients of one split, and of each class in it; an image may have several."""

    split: str
    num_images: int
    num_patients: int
    classes: tuple[ClassSize, ...]


@dataclass(frozen=True)
class ClassFiles:
    """Files of one class: median columns and rows, and the number of files of each pixel mode."""

    name: str
    median_width: float
    median_height: float
    modes: Mapping[str, int]


@dataclass(frozen=True)
class CertificateOutlook:
    """Certificate that the patients with or without a finding in a split allow.

    Attributes:
        finding: Name of the finding.
        split: Split that would choose the threshold.
        rate: Rate to certify: `tnr`, by the negative patients, or `tpr`, by the positive ones.
        num_patients: Its patients of that class.
        minimum: Lowest rate to certify.
        confidence: Confidence of the certificate.
        num_allowed: Allowed false decisions; null if no certificate is possible.
        num_needed: Patients of that class that a certificate needs.
    """

    finding: str
    split: str
    rate: Literal["tnr", "tpr"]
    num_patients: int
    minimum: float
    confidence: float
    num_allowed: int | None
    num_needed: int


@dataclass(frozen=True)
class AuditResult:
    """Result of an audit.

    Attributes:
        classes: The name of images without a finding, then the findings.
        exclusive: True if an image has one of several findings at most.
        num_unreadable: Images that cannot be read.
        splits: Splits that `fit` would make.
        files: Files of each class that has any.
        prior_shifts: Change of the prior of each finding by sampler and loss; empty if it cannot be
            computed.
        certificates: Possible certificates of each finding: of each threshold search of the recipe,
            and of each usual TNR, in ascending order; those of the TNR first. Of several findings,
            the usual ones are there only without a search.
        probed: Findings of the probes, at most `MAX_PROBED`: those with most positive patients
            outside of the test split.
        shortcut_probes: Separation of the classes by properties of the files.
        shift_probes: Separation of the test images from the others by their thumbnails.
        findings: Findings, the worst first; their rows are in separate files.
    """

    source: str
    classes: Annotated[tuple[str, ...], Field(min_length=2)]
    num_images: int
    num_unreadable: int
    splits: tuple[SplitSize, ...]
    files: tuple[ClassFiles, ...]
    prior_shifts: tuple[PriorShift, ...]
    certificates: tuple[CertificateOutlook, ...]
    probed: tuple[str, ...]
    shortcut_probes: tuple[Probe, ...]
    shift_probes: tuple[Probe, ...]
    findings: tuple[Finding, ...]
    exclusive: bool = False
    format: Literal[1] = 1
