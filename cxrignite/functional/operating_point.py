"""Choice of the decision threshold under a constraint on the true negative rate.

A score at or above the threshold is positive, compared in float64 (see `confusion.py`). Thresholds
lie in `[0, 1]`, so no threshold makes a score of 1.0 negative.
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
"""Confidence of the reported TNR bound if no certificate is requested."""


@dataclass(frozen=True)
class OperatingPoint:
    """A threshold, its rates on the images it was chosen on, and the settings of the choice.

    Args:
        threshold: A score at or above it is positive; in `[0, 1]`.
        status: `certified`, `empirical` or `infeasible`. Certified: the true TNR per patient is at
            least `min_tnr` with probability `confidence`, for images exchangeable with these.
            Empirical: the constraints hold on these images, without a guarantee. Infeasible: they
            do not hold.
        tnr: True negative rate on these images (specificity), in `[0, 1]`.
        tpr: True positive rate on these images (sensitivity), in `[0, 1]`.
        num_negative: Number of negative images.
        num_positive: Number of positive images.
        num_false_positive: Number of negative images called positive.
        num_false_negative: Number of positive images called negative.
        min_tnr: Lowest true negative rate allowed.
        min_threshold: Lowest threshold allowed.
        fp_cost: Weight of `tnr` in the soft score.
        fn_cost: Weight of `tpr` in the soft score.
        confidence: Confidence of the requested certificate; None if none was requested.
        num_negative_patients: Number of independent negatives: patients if they are known, else
            images.
        tnr_lower_bound: One-sided Clopper-Pearson bound of the TNR per patient, at `confidence`, or
            at 95 % without one. It is valid if the status is `certified`. Otherwise it ignores that
            the threshold was chosen on the same images, and is slightly optimistic.
        num_negatives_needed: Fewest independent negatives that can certify `min_tnr` with the same
            number of false positives; None if no number can.
        note: Reason why a requested certificate was not granted; else empty.
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
        """Return the point with its certificate withdrawn.

        `select_operating_point` cannot know how the images were used. A caller withdraws the
        certificate if they also served to train the weights or to select the checkpoint.

        Args:
            why: Reason of the withdrawal, for `note`.

        Returns:
            An `empirical` point if this one is `certified`, else this point.
        """
        if self.status != "certified":
            return self
        return replace(self, status="empirical", note=why)

    def to_dict(self) -> dict[str, Any]:
        """Return the fields as plain Python values, ready for JSON."""
        return asdict(self)

    @classmethod
    def from_dict(cls, mapping: Mapping[str, Any]) -> Self:
        """Return a point made from the result of `to_dict`; other keys are ignored.

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
    """Choose the threshold with the best soft score among those that satisfy the constraints.

    The candidates are `min_threshold` and every distinct score above it. Among those with
    `TNR >= min_tnr` the highest soft score wins, and a tie goes to the higher threshold:

        (fn_cost * TPR + fp_cost * TNR) / (fn_cost + fp_cost)

    The soft score is a definition of this library. If no candidate reaches `min_tnr`, the status is
    `infeasible` and the candidate with the highest TNR, then the highest TPR, is returned.

    With a `confidence`, every candidate must also lie at or above the lowest certified threshold
    (the Neyman-Pearson umbrella, `certificate.py`). This floor is needed because a threshold that
    just reaches `min_tnr` on the sample has a lower true TNR about half of the time. A higher
    threshold has at least the same TNR, so the bound of the floor covers all candidates at once.
    The soft score may therefore choose among them without a correction for multiple comparisons.

    The certificate holds only if the images were used neither to train the weights nor to select
    the checkpoint. This function cannot check that: see `OperatingPoint.without_certificate`.

    Args:
        y_score: Probabilities of the positive class, shape `(N,)`, in `[0, 1]`.
        y_true: 0 (negative) or 1 (positive), shape `(N,)`, both present.
        min_tnr: Lowest true negative rate allowed (specificity), in `[0, 1]`; below 1 with a
            `confidence`.
        min_threshold: Lowest threshold allowed, in `[0, 1]`.
        fp_cost: Weight of the TNR, above 0; above `fn_cost` it prefers fewer false positives.
        fn_cost: Weight of the TPR, above 0.
        confidence: Probability with which the true TNR is at least `min_tnr`, in `(0, 1)`; None for
            no certificate.
        patients: Patient of each image, shape `(N,)`. Images of one patient are not independent, so
            the negatives of a patient count once, with their highest score. None treats images as
            independent.

    Returns:
        The operating point: `certified` if a confidence is given and all constraints hold,
        `empirical` if none is given and they hold, else `infeasible`.

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
        # Over a common denominator, so that ties are exact if the costs are whole numbers.
        soft_score = fn_cost * (tp * num_negative) + fp_cost * (tn * num_positive)
        # Thresholds descend and argmax takes the first maximum: a tie goes to the higher threshold.
        best = int(np.argmax(np.where(feasible, soft_score, -np.inf)))
        status: Status = "empirical" if confidence is None else "certified"
    else:
        best = int(np.argmax(np.where(tn == tn.max(), tp, -1)))
        status = "infeasible"
    threshold = float(thresholds[best])
    # A certified point gets the bound of the lowest candidate, which holds for all candidates. The
    # bound of the chosen threshold would not account for the choice.
    num_cleared = int(np.sum(independent < (lowest if status == "certified" else threshold)))
    if status == "certified" and floor is not None and lowest == floor.threshold:
        num_cleared = floor.rank
    level = confidence if confidence is not None else USUAL_CONFIDENCE
    num_false_positive = int(np.sum(independent >= threshold))
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
            None if min_tnr == 1 else num_negatives_needed(min_tnr, level, num_false_positive)
        ),
    )


def _check_unit(name: str, value: float) -> None:
    if not 0 <= value <= 1:
        raise ValueError(f"{name} must be in [0, 1], got {value}")


def _check_cost(name: str, value: float) -> None:
    if not 0 < value < math.inf:
        raise ValueError(f"{name} must be above 0 and finite, got {value}")
