"""Scores of one split."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from cxrignite.data import ImageRecord
from cxrignite.functional import Confusion, confusion_at


@dataclass(frozen=True)
class SplitScores:
    """Scores of one split, one for each image.

    Attributes:
        classes: Names of the negative and the positive class.
        y_score: Scores in [0, 1] of the positive class in the order of `records`, `(N,)`.
        y_true: Labels 0 and 1, `(N,)`.
        features: Input of the classifier's head for each image, `(N, F)`.
    """

    records: Sequence[ImageRecord]
    classes: tuple[str, str]
    y_score: NDArray[np.float64]
    y_true: NDArray[np.int64]
    features: NDArray[np.float32]

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
