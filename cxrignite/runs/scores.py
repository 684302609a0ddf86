"""The scores of one split, each image once."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from cxrignite.data import ImageRecord
from cxrignite.functional import Confusion, confusion_at


@dataclass(frozen=True)
class SplitScores:
    """The scores of one split, each image once.

    Attributes:
        records: The images of the split.
        classes: Names of the negative and the positive class.
        y_score: Probabilities of the positive class in the order of `records`, `(N,)`.
        y_true: Labels 0 and 1, `(N,)`.
        features: What the classifier's head saw of each image, `(N, F)`.
    """

    records: Sequence[ImageRecord]
    classes: tuple[str, str]
    y_score: NDArray[np.float64]
    y_true: NDArray[np.int64]
    features: NDArray[np.float32]

    @property
    def patients(self) -> list[str]:
        """Whose each image is."""
        return [record.patient for record in self.records]

    @property
    def num_images(self) -> int:
        """Images in all."""
        return len(self.y_true)

    @property
    def num_positive(self) -> int:
        """Images of the positive class."""
        return int(self.y_true.sum())

    @property
    def has_both_classes(self) -> bool:
        """Whether a threshold can be chosen and an area computed."""
        return 0 < self.num_positive < self.num_images

    def confusion(self, threshold: float) -> Confusion:
        """Decisions at a threshold."""
        return confusion_at(self.y_score, self.y_true, threshold)
