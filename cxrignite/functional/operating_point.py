"""Choice of the decision threshold under constraints on the true negative and positive rates.

A score at or above the threshold is positive, compared in float64 (see `confusion.py`). Thresholds
lie in `[0, 1]`, so no threshold makes a score of 1.0 negative.
"""

from __future__ import annotations

import inspect
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields, replace
from typing import Any, Literal, Self, get_args

import numpy as np
from numpy.typing import NDArray

from cxrignite.functional.arrays import Numbers, Patients, patient_codes
from cxrignite.functional.certificate import (
    CertifiedLimit,
    PatientReading,
    certified_ceiling,
    certified_floor,
    check_certificate,
    independent_scores,
    joint_level,
    num_negatives_needed,
    num_positives_needed,
)
from cxrignite.functional.confusion import checked_scores, confusion_at, counts_by_threshold
from cxrignite.functional.intervals import clopper_pearson_lower
from cxrignite.functional.planning import patients_for_one_threshold

Status = Literal["certified", "empirical", "infeasible"]

USUAL_CONFIDENCE = 0.95
"""Confidence of the reported bounds if no certificate is requested."""


@dataclass(frozen=True)
class OperatingPoint:
    """One threshold or two, the rates on the images that chose it, and the settings of the choice.

    With a `lower_threshold`, an image between the two is *referred*: a reader decides. Then `tnr`
    is the share of the negatives that are not called positive, and `tpr` the share of the positives
    that are not called negative.

    Args:
        threshold: A score at or above it is positive; in `[0, 1]`.
        status: `certified`, `empirical` or `infeasible`. Certified: each true rate per patient is
            at least its limit with probability `confidence`, for images exchangeable with these.
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
        tnr_lower_bound: One-sided Clopper-Pearson bound of the TNR per patient, at `level`, or at
            95 % without a confidence. It is valid if the status is `certified`. Otherwise it
            ignores that the threshold was chosen on the same images, and is slightly optimistic.
        num_negatives_needed: Fewest independent negatives that can certify `min_tnr` with the same
            number of false positives; None if no number can.
        note: Reason why a requested certificate was not granted; else empty.
        lower_threshold: A score below it is negative, and one between the two is referred; None if
            there is one threshold.
        min_tpr: Lowest true positive rate allowed; None if none was requested.
        patient_found: When a positive patient counts as found.
        joint: True if all limits together hold with `confidence`; else each does.
        refer: True if two thresholds are allowed.
        num_positive_patients: Number of independent positives; None without a `min_tpr`.
        tpr_by_patient: Share of the positive patients that are found, in the reading of
            `patient_found`; None without one.
        tpr_lower_bound: Bound of the TPR per patient, as `tnr_lower_bound`; None without one.
        num_positives_needed: Fewest independent positives that can certify `min_tpr`; None if no
            number can, or no `min_tpr` was requested.
        num_referred_negative: Number of negative images that are referred.
        num_referred_positive: Number of positive images that are referred.
        num_negatives_expected: Number of independent negatives with which, beside
            `num_positives_expected`, one threshold is expected to keep both limits of an infeasible
            pair, see `patients_for_one_threshold`; None if unknown or not infeasible.
        num_positives_expected: Number of independent positives, as above.
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
    lower_threshold: float | None = None
    min_tpr: float | None = None
    patient_found: PatientReading = "every_image"
    joint: bool = False
    refer: bool = False
    num_positive_patients: int | None = None
    tpr_by_patient: float | None = None
    tpr_lower_bound: float | None = None
    num_positives_needed: int | None = None
    num_referred_negative: int = 0
    num_referred_positive: int = 0
    num_negatives_expected: int | None = None
    num_positives_expected: int | None = None

    @property
    def balanced_accuracy(self) -> float:
        """Mean over the classes of the share of correct decisions; a referral counts half."""
        tnr = self.tnr - self.num_referred_negative / self.num_negative / 2
        tpr = self.tpr - self.num_referred_positive / self.num_positive / 2
        return (tnr + tpr) / 2

    @property
    def referred(self) -> float:
        """Share of these images that are referred; 0 with one threshold."""
        num_referred = self.num_referred_negative + self.num_referred_positive
        return num_referred / (self.num_negative + self.num_positive)

    @property
    def level(self) -> float | None:
        """Confidence of each certificate; above `confidence` if two hold jointly; None if none."""
        if self.confidence is None or not self.joint:
            return self.confidence
        return joint_level(self.confidence)

    @property
    def settings(self) -> dict[str, Any]:
        """The settings of the choice, as `select_operating_point` takes them."""
        return {name: getattr(self, name) for name in SETTINGS}

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
            ValueError: If a field is missing, the status is unknown, a threshold is not in
                `[0, 1]`, or the lower one is above the other.
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
        if point.lower_threshold is not None and not 0 <= point.lower_threshold <= point.threshold:
            raise ValueError(
                f"lower_threshold must be in [0, {point.threshold}], got {point.lower_threshold}"
            )
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
    min_tpr: float | None = None,
    patient_found: PatientReading = "every_image",
    joint: bool = False,
    refer: bool = False,
) -> OperatingPoint:
    """Choose the threshold with the best soft score among those that satisfy the constraints.

    The candidates are `min_threshold` and every distinct score above it. Among those with
    `TNR >= min_tnr` (and `TPR >= min_tpr`) the highest soft score wins, and a tie goes to the
    higher threshold:

        (fn_cost * TPR + fp_cost * TNR) / (fn_cost + fp_cost)

    The soft score is a definition of this library. If no candidate keeps the constraints, the
    status is `infeasible`. Of the candidates that reach `min_tnr` the one with the highest TPR is
    then returned; if none reaches it, the one with the highest TNR, then the highest TPR.

    With a `confidence`, every candidate must also lie at or above the lowest threshold certified
    for the TNR and at or below the highest one certified for the TPR (`certificate.py`). The floor
    is needed because a threshold that just reaches `min_tnr` on the sample has a lower true TNR
    about half of the time. A higher threshold has at least the same TNR, so the bound of the floor
    covers all candidates at once, and the ceiling does the same for the TPR. The soft score may
    therefore choose among them without a correction for multiple comparisons.

    With `refer`, two thresholds are chosen if no single one keeps both rates: the lowest one that
    keeps `min_tnr`, at or above which an image is positive, and the highest one that keeps
    `min_tpr`, below which it is negative. The images between them are referred to a reader.

    A certificate holds only if the images were used neither to train the weights nor to select
    the checkpoint. This function cannot check that: see `OperatingPoint.without_certificate`.

    Args:
        y_score: Probabilities of the positive class, shape `(N,)`, in `[0, 1]`.
        y_true: 0 (negative) or 1 (positive), shape `(N,)`, both present.
        min_tnr: Lowest true negative rate allowed (specificity), in `[0, 1]`; below 1 with a
            `confidence`.
        min_threshold: Lowest threshold allowed, in `[0, 1]`; of two, the upper one.
        fp_cost: Weight of the TNR, above 0; above `fn_cost` it prefers fewer false positives.
        fn_cost: Weight of the TPR, above 0.
        confidence: Probability with which each true rate is at least its limit, in `(0, 1)`; None
            for no certificate.
        patients: Patient of each image, shape `(N,)`. Images of one patient are not independent, so
            a patient counts once in each class. None treats images as independent.
        min_tpr: Lowest true positive rate allowed (sensitivity), in `[0, 1]`, below 1 with a
            `confidence`; None for no limit.
        patient_found: When a positive patient counts as found. On these images `min_tpr` then
            applies to images (`every_image`) or to patients (`any_image`).
        joint: Make both certificates at `(1 + confidence) / 2`, so that they hold together with
            probability `confidence` (Bonferroni). Without it each holds with `confidence`, and both
            with at least `2 * confidence - 1`.
        refer: Choose two thresholds if one does not suffice; needs `min_tpr`.

    Returns:
        The operating point: `certified` if a confidence is given and all constraints hold,
        `empirical` if none is given and they hold, else `infeasible`.

    Raises:
        ValueError: If a setting is out of range or needs another one, scores are not finite or
            outside `[0, 1]`, labels are not 0 or 1, the lengths differ, or a class has no image.

    Examples:
        >>> point = select_operating_point([0.1, 0.92, 0.95, 0.99], [0, 0, 1, 1])
        >>> point.threshold, point.tnr, point.tpr, point.status
        (0.95, 1.0, 1.0, 'empirical')
        >>> point = select_operating_point(
        ...     [0.1, 0.95, 0.92, 0.99], [0, 0, 1, 1], min_tpr=0.9, refer=True
        ... )
        >>> point.lower_threshold, point.threshold, point.num_referred_negative
        (0.92, 0.99, 1)
    """
    _check_unit("min_tnr", min_tnr)
    _check_unit("min_threshold", min_threshold)
    _check_cost("fp_cost", fp_cost)
    _check_cost("fn_cost", fn_cost)
    _check_pair(min_tpr, patient_found, confidence, joint=joint, refer=refer)
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
    if min_tpr is not None and patients is not None:
        patients = patient_codes(patients)  # once for both classes
    negatives = independent_scores(scores, ~positive, patients)
    kept: Literal["lowest", "highest"] = "lowest" if patient_found == "every_image" else "highest"
    positives = np.empty(0)
    if min_tpr is not None:
        positives = independent_scores(scores, positive, patients, kept)
    level = joint_level(confidence) if joint and confidence is not None else confidence
    floor: CertifiedLimit | None = None
    ceiling: CertifiedLimit | None = None
    if level is not None:
        floor = certified_floor(negatives, min_tnr, level)
        ceiling = None if min_tpr is None else certified_ceiling(positives, min_tpr, level)

    lowest = max(float(min_threshold), floor.threshold if floor else 0.0)
    # Only the lower of two thresholds may lie below `lowest`.
    thresholds, fp, tp = _candidates(scores, positive, lowest, 0.0 if refer else lowest)
    tn, is_high = num_negative - fp, thresholds >= lowest
    keeps_tnr = is_high & (tn / num_negative >= min_tnr) & (level is None or floor is not None)
    keeps_tpr = _keeps_tpr(thresholds, tp / num_positive, positives, min_tpr, patient_found)
    if level is not None and min_tpr is not None:
        keeps_tpr &= thresholds <= (ceiling.threshold if ceiling else -1.0)
    feasible = keeps_tnr & keeps_tpr
    granted: Status = "empirical" if level is None else "certified"
    lower: float | None = None
    if feasible.any():
        # Over a common denominator, so that ties are exact if the costs are whole numbers.
        soft_score = fn_cost * (tp * num_negative) + fp_cost * (tn * num_positive)
        # Thresholds descend and argmax takes the first maximum: a tie goes to the higher threshold.
        best, status = int(np.argmax(np.where(feasible, soft_score, -np.inf))), granted
    elif refer and keeps_tnr.any() and keeps_tpr.any():
        best, status = int(np.flatnonzero(keeps_tnr)[-1]), granted
        lower = float(thresholds[np.flatnonzero(keeps_tpr)[0]])
    elif min_tpr is not None and keeps_tnr.any():
        best, status = int(np.argmax(np.where(keeps_tnr, tp, -1))), "infeasible"
    else:
        best = int(np.argmax(np.where(is_high & (tn == tn[is_high].max()), tp, -1)))
        status = "infeasible"
    threshold = float(thresholds[best])
    # A certified point gets the bound of the lowest candidate, which holds for all candidates. The
    # bound of the chosen threshold would not account for the choice.
    is_certified = status == "certified"
    num_cleared = int(np.sum(negatives < (lowest if is_certified else threshold)))
    if is_certified and floor is not None and lowest == floor.threshold:
        num_cleared = floor.rank
    negative_below = threshold if lower is None else lower
    num_found = int(np.sum(positives >= negative_below))
    if is_certified and ceiling is not None:
        num_found = ceiling.rank
    usual = USUAL_CONFIDENCE if level is None else level
    expected = None
    if status == "infeasible" and not refer and min_tpr is not None and level is not None:
        expected = patients_for_one_threshold(
            *(negatives, positives),
            min_tnr=min_tnr,
            min_tpr=min_tpr,
            confidence=level,
            min_threshold=min_threshold,
        )
    cells = confusion_at(scores, positive, threshold, lower)
    return OperatingPoint(
        threshold=threshold,
        status=status,
        tnr=cells.tnr,
        tpr=cells.tpr,
        num_negative=num_negative,
        num_positive=num_positive,
        num_false_positive=cells.fp,
        num_false_negative=cells.fn,
        min_tnr=float(min_tnr),
        min_threshold=float(min_threshold),
        fp_cost=float(fp_cost),
        fn_cost=float(fn_cost),
        confidence=None if confidence is None else float(confidence),
        num_negative_patients=negatives.size,
        tnr_lower_bound=clopper_pearson_lower(num_cleared, negatives.size, usual),
        num_negatives_needed=(
            None
            if min_tnr == 1
            else num_negatives_needed(min_tnr, usual, int(np.sum(negatives >= threshold)))
        ),
        lower_threshold=lower,
        min_tpr=None if min_tpr is None else float(min_tpr),
        patient_found=patient_found,
        joint=joint,
        refer=refer,
        num_positive_patients=None if min_tpr is None else positives.size,
        tpr_by_patient=(None if min_tpr is None else float(np.mean(positives >= negative_below))),
        tpr_lower_bound=(
            None if min_tpr is None else clopper_pearson_lower(num_found, positives.size, usual)
        ),
        num_positives_needed=(
            None if min_tpr in (None, 1) else num_positives_needed(min_tpr, usual)
        ),
        num_referred_negative=cells.referred_negative,
        num_referred_positive=cells.referred_positive,
        num_negatives_expected=expected and expected[0],
        num_positives_expected=expected and expected[1],
    )


SETTINGS = tuple(
    each.name
    for each in fields(OperatingPoint)
    if each.name in inspect.signature(select_operating_point).parameters
)
"""Names of the settings of `select_operating_point`; an `OperatingPoint` has them as fields."""


def _candidates(
    scores: NDArray[np.float64], positive: NDArray[np.bool_], lowest: float, start: float
) -> tuple[NDArray[np.float64], NDArray[np.int64], NDArray[np.int64]]:
    """Count false and true positives at `lowest` and every score from `start`, descending."""
    thresholds, fp, tp = counts_by_threshold(scores, positive, start)
    if start == lowest or lowest in thresholds:
        return thresholds, fp, tp
    at = int(np.searchsorted(-thresholds, -lowest))
    num_fp, num_tp = (int(each[at - 1]) if at else 0 for each in (fp, tp))
    return np.insert(thresholds, at, lowest), np.insert(fp, at, num_fp), np.insert(tp, at, num_tp)


def _keeps_tpr(
    thresholds: NDArray[np.float64],
    tpr: NDArray[np.float64],
    positives: NDArray[np.float64],
    min_tpr: float | None,
    patient_found: PatientReading,
) -> NDArray[np.bool_]:
    if min_tpr is None:
        return np.ones(thresholds.shape, dtype=bool)
    if patient_found == "any_image":
        num_below = np.searchsorted(np.sort(positives), thresholds, side="left")
        tpr = (positives.size - num_below) / positives.size
    return tpr >= min_tpr


def _check_pair(
    min_tpr: float | None,
    patient_found: str,
    confidence: float | None,
    *,
    joint: bool,
    refer: bool,
) -> None:
    if patient_found not in get_args(PatientReading):
        known = ", ".join(get_args(PatientReading))
        raise ValueError(f"patient_found must be one of {known}, got {patient_found!r}")
    if min_tpr is None:
        for name, is_set in (("refer", refer), ("joint", joint)):
            if is_set:
                raise ValueError(f"{name} needs min_tpr, got min_tpr null; set min_tpr")
        return
    _check_unit("min_tpr", min_tpr)
    if confidence is not None:
        check_certificate(min_tpr, confidence, "min_tpr")
    elif joint:
        raise ValueError("joint needs confidence, got confidence null; set confidence")


def _check_unit(name: str, value: float) -> None:
    if not 0 <= value <= 1:
        raise ValueError(f"{name} must be in [0, 1], got {value}")


def _check_cost(name: str, value: float) -> None:
    if not 0 < value < math.inf:
        raise ValueError(f"{name} must be above 0 and finite, got {value}")
