"""The threshold that turns a score into a decision, what it costs, and how sure that is.

A score at or above the threshold is positive, compared in float64 (`confusion.py` says why).
Thresholds lie in `[0, 1]`, never at infinity: where a negative that must be cleared scores 1.0, no
threshold does it.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields, replace
from typing import Any, Literal, Self, get_args

import numpy as np

from cxrignite.functional.arrays import Numbers, Patients
from cxrignite.functional.certificate import (
    certified_floor,
    check_certificate,
    independent_negatives,
    num_negatives_needed,
)
from cxrignite.functional.confusion import checked_scores, counts_by_threshold
from cxrignite.functional.intervals import clopper_pearson_lower

Status = Literal["certified", "empirical", "infeasible"]

USUAL_CONFIDENCE = 0.95
"""For the bound that is told beside a threshold that asked for no certificate."""


@dataclass(frozen=True)
class OperatingPoint:
    """A chosen threshold, how it did on the images it was chosen on, and what was asked of it.

    Args:
        threshold: A score at or above it is positive; in `[0, 1]`.
        status: `certified` (with `confidence` the true TNR by patient is at least `min_tnr`, for
            images like these), `empirical` (the constraints hold on these images only) or
            `infeasible` (they do not hold).
        tnr: True negative rate on these images (specificity), in `[0, 1]`.
        tpr: True positive rate on these images (sensitivity), in `[0, 1]`.
        num_negative: Negative images.
        num_positive: Positive images.
        num_false_positive: Negatives called positive.
        num_false_negative: Positives called negative.
        min_tnr: The TNR asked for.
        min_threshold: The lowest threshold allowed.
        fp_cost: Weight of `tnr` in the soft score.
        fn_cost: Weight of `tpr` in the soft score.
        confidence: The confidence asked for; None where no certificate was.
        num_negative_patients: Independent negatives: patients, where they were told.
        tnr_lower_bound: One-sided Clopper-Pearson bound of the TNR by patient, at `confidence` (95
            % where none was asked for). Where the status is `certified` it holds as it stands;
            else it takes the threshold as given and is a little too high.
        num_negatives_needed: The fewest independent negatives that could certify `min_tnr` with as
            many false positives as here; None where no number could.
        note: Why it is not certified though a confidence was asked for; else empty.
    """

    threshold: float
    status: Status
    tnr: float
    tpr: float
    num_negative: int
    num_positive: int
    num_false_positive: int
    num_false_negative: int
    min_tnr: float
    min_threshold: float
    fp_cost: float
    fn_cost: float
    confidence: float | None
    num_negative_patients: int
    tnr_lower_bound: float
    num_negatives_needed: int | None
    note: str = ""

    @property
    def balanced_accuracy(self) -> float:
        """Mean of `tnr` and `tpr`, in `[0, 1]`."""
        return (self.tnr + self.tpr) / 2

    def without_certificate(self, why: str) -> Self:
        """Return the point as at most `empirical`.

        Args:
            why: What keeps it from being certified, for `note`.

        Returns:
            The same point where no confidence was asked for or the constraints do not hold.
        """
        if self.status != "certified":
            return self
        return replace(self, status="empirical", note=why)

    def to_dict(self) -> dict[str, Any]:
        """Return the fields as plain Python values, ready for JSON."""
        return asdict(self)

    @classmethod
    def from_dict(cls, mapping: Mapping[str, Any]) -> Self:
        """Make a point from what `to_dict` returned; further keys are left alone.

        Args:
            mapping: Every field of the class by its name.

        Returns:
            The point.

        Raises:
            ValueError: If a field is missing, the status is unknown, or the threshold is not in
                `[0, 1]`.
        """
        names = [field.name for field in fields(cls)]
        missing = [name for name in names if name not in mapping]
        if missing:
            raise ValueError(f"an operating point must have {', '.join(missing)}")
        point = cls(**{name: mapping[name] for name in names})
        if point.status not in get_args(Status):
            raise ValueError(
                f"status must be one of {', '.join(get_args(Status))}, got {point.status!r}"
            )
        _check_unit("threshold", point.threshold)
        return point


def select_operating_point(
    y_score: Numbers,
    y_true: Numbers,
    *,
    min_tnr: float = 0.93,
    min_threshold: float = 0.90,
    fp_cost: float = 1.0,
    fn_cost: float = 1.0,
    confidence: float | None = None,
    patients: Patients | None = None,
) -> OperatingPoint:
    """Choose the threshold of the best soft score among those that meet the hard constraints.

    The candidates are `min_threshold` and every distinct score above it. Of those with
    `TNR >= min_tnr` the one of the highest soft score (ours)

        (fn_cost * TPR + fp_cost * TNR) / (fn_cost + fp_cost)

    is taken; a tie goes to the higher threshold. Where none meets `min_tnr` the answer is the
    candidate of the highest TNR, then of the highest TPR, marked `infeasible`.

    With a `confidence` the threshold also has to stand above the rank of the Neyman-Pearson
    umbrella (`certificate.py`), and the status is `certified`: whatever lies above that rank
    inherits its bound, so the soft score may choose freely among it. That is true of images that
    chose neither the weights nor the checkpoint, which this function cannot know: see
    `OperatingPoint.without_certificate`.

    Args:
        y_score: Probabilities of the positive class, shape `(N,)`, in `[0, 1]`.
        y_true: 0 (negative) or 1 (positive), shape `(N,)`, both present.
        min_tnr: Lowest true negative rate allowed (specificity), in `[0, 1]`; below 1 with a
            `confidence`.
        min_threshold: Lowest threshold allowed, in `[0, 1]`.
        fp_cost: Weight of the TNR, above 0; above `fn_cost` it prefers fewer false alarms.
        fn_cost: Weight of the TPR, above 0.
        confidence: Probability with which the true TNR has to be at least `min_tnr`, in `(0, 1)`;
            None asks for no certificate.
        patients: Whose each image is, shape `(N,)`. Images of one patient are not independent, so a
            patient's negatives count once, with the highest score. None: each image for itself.

    Returns:
        The point, `certified` where a confidence was asked for and is had, `empirical` where none
        was and the constraints hold, else `infeasible`.

    Raises:
        ValueError: If a setting is out of range, scores are not finite or outside `[0, 1]`,
            labels are not 0 or 1, the lengths differ, or a class has no image.

    Examples:
        >>> point = select_operating_point([0.1, 0.92, 0.95, 0.99], [0, 0, 1, 1])
        >>> point.threshold, point.tnr, point.tpr, point.status
        (0.95, 1.0, 1.0, 'empirical')
    """
    _check_unit("min_tnr", min_tnr)
    _check_unit("min_threshold", min_threshold)
    _check_cost("fp_cost", fp_cost)
    _check_cost("fn_cost", fn_cost)
    if confidence is not None:
        check_certificate(min_tnr, confidence)
    scores, positive = checked_scores(y_score, y_true)
    num_positive = int(positive.sum())
    num_negative = positive.size - num_positive
    if not num_negative or not num_positive:
        raise ValueError(
            "an operating point needs both classes, "
            f"got {num_negative} negatives and {num_positive} positives"
        )
    independent = independent_negatives(scores, ~positive, patients)
    floor = None if confidence is None else certified_floor(independent, min_tnr, confidence)
    lowest = max(float(min_threshold), floor.threshold if floor else 0.0)

    thresholds, fp, tp = counts_by_threshold(scores, positive, lowest)
    tn = num_negative - fp
    tnr = tn / num_negative
    feasible = (tnr >= min_tnr) & (confidence is None or floor is not None)
    if feasible.any():
        # Over a common denominator, so that with whole-number costs a tie is exactly a tie.
        soft_score = fn_cost * (tp * num_negative) + fp_cost * (tn * num_positive)
        # Candidates descend: argmax takes the first of equals, the highest threshold.
        best = int(np.argmax(np.where(feasible, soft_score, -np.inf)))
        status: Status = "empirical" if confidence is None else "certified"
    else:
        best = int(np.argmax(np.where(tn == tn.max(), tp, -1)))
        status = "infeasible"
    threshold = float(thresholds[best])
    # The bound of the lowest candidate holds for all above it, however one of them is chosen.
    num_cleared = int(np.sum(independent < (lowest if status == "certified" else threshold)))
    if status == "certified" and floor is not None and lowest == floor.threshold:
        num_cleared = floor.rank
    level = confidence if confidence is not None else USUAL_CONFIDENCE
    false_alarms = int(np.sum(independent >= threshold))
    return OperatingPoint(
        threshold=threshold,
        status=status,
        tnr=float(tnr[best]),
        tpr=float(tp[best] / num_positive),
        num_negative=num_negative,
        num_positive=num_positive,
        num_false_positive=int(fp[best]),
        num_false_negative=num_positive - int(tp[best]),
        min_tnr=float(min_tnr),
        min_threshold=float(min_threshold),
        fp_cost=float(fp_cost),
        fn_cost=float(fn_cost),
        confidence=None if confidence is None else float(confidence),
        num_negative_patients=independent.size,
        tnr_lower_bound=clopper_pearson_lower(num_cleared, independent.size, level),
        num_negatives_needed=(
            None if min_tnr == 1 else num_negatives_needed(min_tnr, level, false_alarms)
        ),
    )


def _check_unit(name: str, value: float) -> None:
    if not 0 <= value <= 1:
        raise ValueError(f"{name} must be in [0, 1], got {value}")


def _check_cost(name: str, value: float) -> None:
    if not 0 < value < math.inf:
        raise ValueError(f"{name} must be above 0 and finite, got {value}")
