"""Scores of one split, of all findings and of one."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from cxrignite.data import ImageRecord
from cxrignite.data.sources import class_pair
from cxrignite.functional import UNKNOWN_LABEL, Confusion, confusion_at


@dataclass(frozen=True)
class SplitScores:
    """Scores of one finding on one split, one for each image whose label is known.

    Attributes:
        records: Records of the split, with the label and the mask of this finding.
        classes: Names of the negative and the positive class.
        y_score: Scores in [0, 1] of the positive class in the order of `records`, `(N,)`.
        y_true: Labels 0 and 1, `(N,)`.
        features: Input of the classifier's head for each image, `(N, F)`.
        probability: Probabilities of an exclusive class at the training prevalence, `(N,)`, which
            follow from the scores of all classes; None for other findings, or if unknown.
    """

    records: Sequence[ImageRecord]
    classes: tuple[str, str]
    y_score: NDArray[np.float64]
    y_true: NDArray[np.int64]
    features: NDArray[np.float32]
    probability: NDArray[np.float64] | None = None

    @property
    def patients(self) -> list[str]:
        """Patient of each image."""
        return [record.patient for record in self.records]

    @property
    def num_images(self) -> int:
        """Number of images."""
        return len(self.y_true)

    @property
    def num_positive(self) -> int:
        """Number of images of the positive class."""
        return int(self.y_true.sum())

    @property
    def has_both_classes(self) -> bool:
        """True if both classes are present, so that a threshold and an area can be computed."""
        return 0 < self.num_positive < self.num_images

    def confusion(self, threshold: float, lower: float | None = None) -> Confusion:
        """Return the confusion counts at a threshold, or at two."""
        return confusion_at(self.y_score, self.y_true, threshold, lower)


@dataclass(frozen=True)
class FindingScores:
    """Scores of all findings on one split.

    Attributes:
        records: Records of the split.
        classes: Name of an image without a finding, then the findings.
        exclusive: True if an image shows one finding at most.
        y_score: Scores in [0, 1] in the order of `records`, `(N, K)`.
        y_true: Labels 0, 1 and `UNKNOWN_LABEL`, `(N, K)`.
        features: Input of the classifier's head for each image, `(N, F)`.
        probability: Probabilities of exclusive classes at the training prevalence, `(N, K)`; None
            for other findings, or if unknown.
    """

    records: Sequence[ImageRecord]
    classes: tuple[str, ...]
    exclusive: bool
    y_score: NDArray[np.float64]
    y_true: NDArray[np.int64]
    features: NDArray[np.float32]
    probability: NDArray[np.float64] | None = None

    @property
    def patients(self) -> list[str]:
        """Patient of each image."""
        return [record.patient for record in self.records]

    @property
    def num_images(self) -> int:
        """Number of images."""
        return len(self.records)

    def __len__(self) -> int:
        return len(self.classes) - 1

    def __iter__(self) -> Iterator[SplitScores]:
        """Return the scores of each finding."""
        return map(self.of, range(len(self)))

    def of(self, index: int) -> SplitScores:
        """Return the scores of one finding, without the images whose label is unknown.

        Args:
            index: Position of the finding, from 0.
        """
        y_true = self.y_true[:, index]
        known = np.flatnonzero(y_true != UNKNOWN_LABEL)
        return SplitScores(
            [record_of(self.records[row], self.classes, index) for row in known.tolist()],
            class_pair(self.classes, index),
            self.y_score[known, index],
            y_true[known],
            self.features[known],
            None if self.probability is None else self.probability[known, index],
        )


def record_of(record: ImageRecord, classes: Sequence[str], index: int) -> ImageRecord:
    """Return a record with the label and the mask of one finding only.

    Args:
        record: The record.
        classes: Name of an image without a finding, then the findings.
        index: Position of the finding, from 0.
    """
    if len(classes) == 2:
        return record
    # Those without a finding's name may be of another finding.
    attributes = {
        name: value
        for name, value in record.attributes.items()
        if name.partition(":")[0] not in ("mask", "boxes")
    }
    for kind in ("mask", "boxes"):
        value = record.attributes.get(f"{kind}:{classes[index + 1]}")
        if value is not None:
            attributes[kind] = value
    return record._replace(label=record.labels[index], attributes=attributes)


def results_name(name: str, classes: Sequence[str], index: int) -> str:
    """Return the name of the files of one finding's results.

    Args:
        name: Name of the images, a split or a given name.
        classes: Name of an image without a finding, then the findings.
        index: Position of the finding, from 0.

    Examples:
        >>> results_name("test", ("NORMAL", "PNEUMONIA"), 0)
        'test'
        >>> results_name("test", ("No Finding", "Effusion", "Pleural/Other"), 1)
        'test_Pleural-Other'
    """
    return name if len(classes) == 2 else f"{name}_{file_name(classes, index)}"


def file_name(classes: Sequence[str], index: int) -> str:
    """Return the name of a finding in file names; no two findings have the same.

    Args:
        classes: Name of an image without a finding, then the findings.
        index: Position of the finding, from 0.

    Examples:
        >>> file_name(("No Finding", "Pleural/Other", "Mass"), 0)
        'Pleural-Other'
        >>> file_name(("No Finding", "A/B", "A-B"), 1)
        '2-A-B'
    """
    # File systems may ignore case, so names are compared without it.
    names = [re.sub(r"[^A-Za-z0-9]+", "-", each).strip("-") for each in classes[1:]]
    is_clear = len({each.lower() for each in names} - {""}) == len(names)
    return names[index] if is_clear else f"{index + 1}-{names[index]}"
