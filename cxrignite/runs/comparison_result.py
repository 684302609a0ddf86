"""Results of a comparison: each metric of each run minus that of the first run."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

from cxrignite.functional.intervals import Interval
from cxrignite.runs.evaluation import Estimate


@dataclass(frozen=True)
class Difference:
    """Difference of one metric between a run and the baseline.

    Attributes:
        run: Folder of the run.
        finding: Name of the finding.
        metric: `roc_auc`, `average_precision`, `tnr`, `tpr`, `balanced_accuracy` (each run at its
            own threshold) or `brier` (of the probability).
        value: Value of the run; NaN if it is undefined.
        interval: 95 % interval of the difference; NaN if there is none.
        num_images: Number of images whose label of the finding is known.
        num_patients: Number of their patients, by the records of the first run.
    """

    run: str
    finding: str
    metric: str
    value: float
    baseline_value: float
    interval: Interval
    method: Literal["delong", "patient_bootstrap"]
    num_images: int
    num_patients: int

    @property
    def difference(self) -> float:
        """Value of the run minus that of the baseline."""
        return self.value - self.baseline_value

    @property
    def excludes_zero(self) -> bool:
        """True if the whole interval lies on one side of zero."""
        return self.interval.low > 0 or self.interval.high < 0


@dataclass(frozen=True)
class ComparisonResult:
    """Comparison of every run with the first, on the same images.

    Attributes:
        name: Name of the images, a split or a given name.
        baseline: Folder of the first run.
        runs: Folders of all runs, the baseline first.
        recipe_values: Value of each run for each dotted recipe key that differs; "" if it has none.
        rank_by: Validation figure that the runs are ranked by; empty if they are not.
        ranks: That figure of each run; empty without ranks.
        num_images: Number of images with a known label of some finding.
        num_patients: Number of patients, by the records of the first run.
        without_threshold: Runs whose decisions cannot be compared; of several findings also which.
        without_probability: Runs whose probabilities cannot be compared, in the same way.
        without_labels: Findings without a known label, which are not compared.
        warnings: Run and reason for each threshold that is not usable.
    """

    name: str
    baseline: str
    num_images: int
    num_patients: int
    differences: tuple[Difference, ...]
    runs: tuple[str, ...] = ()
    recipe_values: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    rank_by: str = ""
    ranks: tuple[Estimate, ...] = ()
    without_threshold: tuple[str, ...] = ()
    without_probability: tuple[str, ...] = ()
    without_labels: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()
