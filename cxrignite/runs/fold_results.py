"""Results of the folds of a cross-validation, which an ensemble is made of."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True)
class FoldResult:
    """Results of one finding on the validation images of one fold; None if undefined.

    Attributes:
        fold: Index of the fold, from 0.
        finding: Name of the finding.
        num_images: Number of validation images whose label is known.
        num_positive: Number of those with the finding.
        epoch: Epoch of the weights.
        weights_sha256: Digest of the weights.
        threshold: Threshold of the fold's own run.
        roc_auc: Area under the ROC curve.
        average_precision: Average precision.
        tnr: Specificity at the threshold.
        tpr: Sensitivity at the threshold.
        balanced_accuracy: Balanced accuracy at the threshold.
    """

    fold: int
    finding: str
    num_images: int
    num_positive: int
    epoch: int
    weights_sha256: str
    threshold: float | None
    roc_auc: float | None
    average_precision: float | None
    tnr: float | None
    tpr: float | None
    balanced_accuracy: float | None


@dataclass(frozen=True)
class FoldResults:
    """Content of `folds.json`.

    Attributes:
        folds: Results of each finding of each fold.
        format: Format number of the file.
    """

    folds: tuple[FoldResult, ...]
    format: Literal[1] = 1

    @property
    def num_folds(self) -> int:
        """Number of folds."""
        return len({each.fold for each in self.folds})
