"""The scores of one split, each film once."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from cxrignite.data import Film
from cxrignite.functional import Confusion, confusion_at


@dataclass(frozen=True)
class SplitScores:
    """The scores of one split, each film once.

    Attributes:
        films: The films of the split.
        classes: Names of the negative and the positive class.
        y_score: Probabilities of the positive class in the order of `films`, `(N,)`.
        y_true: Labels 0 and 1, `(N,)`.
        features: What the classifier's head saw of each film, `(N, F)`.
    """

    films: Sequence[Film]
    classes: tuple[str, str]
    y_score: NDArray[np.float64]
    y_true: NDArray[np.int64]
    features: NDArray[np.float32]

    @property
    def patients(self) -> list[str]:
        """Whose each film is."""
        return [film.patient for film in self.films]

    @property
    def num_images(self) -> int:
        """Films in all."""
        return len(self.y_true)

    @property
    def num_positive(self) -> int:
        """Films of the positive class."""
        return int(self.y_true.sum())

    @property
    def has_both_classes(self) -> bool:
        """Whether a threshold can be chosen and an area computed."""
        return 0 < self.num_positive < self.num_images

    def confusion(self, threshold: float) -> Confusion:
        """Decisions at a threshold."""
        return confusion_at(self.y_score, self.y_true, threshold)
