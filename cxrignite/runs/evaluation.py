"""Evaluations: the metrics of one set of images, each with its confidence intervals."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from cxrignite.functional.calibration import ReliabilityBin
from cxrignite.functional.intervals import Interval
from cxrignite.functional.shift import ShiftCheck
from cxrignite.runs.decision_rule import DecisionRule
from cxrignite.runs.informativeness import Informativeness


@dataclass(frozen=True)
class Estimate:
    """A metric with its 95 % intervals.

    Attributes:
        value: Value; None if it is undefined.
        interval: Interval by image; None if there is none.
        by_patient: Interval by patient (bootstrap); None if there is none.
    """

    value: float | None
    interval: Interval | None = None
    by_patient: Interval | None = None


@dataclass(frozen=True)
class Decisions:
    """Decisions at one threshold, or at two.

    A referred image counts in `tnr` and `tpr` as not called positive and not called negative, half
    in `balanced_accuracy`, and not in the other rates.

    Attributes:
        threshold: A score at or above it is positive.
        tnr: Specificity.
        tpr: Sensitivity.
        ppv: Positive predictive value.
        npv: Negative predictive value.
        balanced_accuracy: Mean of `tnr` and `tpr`.
        accuracy: Share of correct decisions.
        lower_threshold: A score below it is negative, and one between the two is referred; None if
            there is one threshold.
        num_referred: Number of negative and of positive images that are referred.
        referred: Share of the images that are referred; None if there is one threshold.
        negatives_referred: Share of the negative images that are referred; None as above.
        positives_referred: Share of the positive images that are referred; None as above.
    """

    threshold: float
    tn: int
    fp: int
    fn: int
    tp: int
    tnr: Estimate
    tpr: Estimate
    ppv: Estimate
    npv: Estimate
    balanced_accuracy: Estimate
    accuracy: Estimate
    lower_threshold: float | None = None
    num_referred: tuple[int, int] = (0, 0)
    referred: Estimate | None = None
    negatives_referred: Estimate | None = None
    positives_referred: Estimate | None = None


@dataclass(frozen=True)
class PredictiveValues:
    """Predictive values at the threshold, for images of another prevalence.

    Attributes:
        prevalence: Share of positives among the images, in (0, 1).
        ppv: Share of positives among the images called positive.
        npv: Share of negatives among the images called negative.
        referred: Share of the images that are referred; None if there is one threshold.
    """

    prevalence: float
    ppv: Estimate
    npv: Estimate
    referred: Estimate | None = None


@dataclass(frozen=True)
class Calibration:
    """Calibration of the scores on one scale.

    Attributes:
        calibration_slope: Slope; below 1 the scores are too extreme.
        calibration_intercept: Intercept; below 0 the scores are too high.
    """

    brier: Estimate
    log_loss: Estimate
    ece: Estimate
    calibration_slope: Estimate
    calibration_intercept: Estimate
    bins: tuple[ReliabilityBin, ...]


@dataclass(frozen=True)
class Subgroup:
    """Metrics of the images with one value of one attribute.

    Attributes:
        roc_auc: Area under the ROC curve; if the subgroup has one class, against all images of
            the other.
    """

    attribute: str
    value: str
    num_images: int
    num_negative: int
    num_positive: int
    num_patients: int
    tnr: Estimate
    tpr: Estimate
    roc_auc: Estimate


@dataclass(frozen=True)
class CertificateCheck:
    """Comparison of a threshold's limits with images that did not choose it.

    A certificate is about a rate by patient, so it is compared with the rate by patient. A
    requested rate is compared with the rate by image.

    Attributes:
        tnr: TNR by image, with its exact interval.
        tnr_by_patient: TNR by patient, with its exact interval.
        is_below_certificate: True if the whole interval by patient lies below the certified TNR.
        is_below_min_tnr: True if the whole interval by image lies below the requested TNR.
        tpr: TPR by image, with its exact interval.
        tpr_by_patient: TPR by patient, in the reading of the rule, with its exact interval.
        is_below_certified_tpr: True if the whole interval by patient lies below the certified TPR.
        is_below_min_tpr: True if the whole interval lies below the requested TPR.
        is_shifted: True if these images differ from those that chose the threshold.
        is_certified: True if the threshold is certified.
    """

    tnr: Estimate
    tnr_by_patient: Estimate
    is_below_certificate: bool
    is_below_min_tnr: bool
    tpr: Estimate
    tpr_by_patient: Estimate
    is_below_certified_tpr: bool
    is_below_min_tpr: bool
    is_shifted: bool
    is_certified: bool

    @property
    def is_contradicted(self) -> bool:
        """True if these images have a lower rate than was guaranteed or requested."""
        is_tnr_low = self.is_below_certificate or self.is_below_min_tnr
        return is_tnr_low or self.is_below_certified_tpr or self.is_below_min_tpr

    @property
    def is_invalid(self) -> bool:
        """True if the certificate does not hold for these images."""
        return self.is_certified and (self.is_contradicted or self.is_shifted)


@dataclass(frozen=True)
class Evaluation:
    """Metrics of one finding on one set of images.

    Attributes:
        rule: Decision rule, with its finding.
        at_half: Decisions at 0.5.
        at_threshold: Decisions at the rule's threshold; None if it has none.
        calibration: Calibration by scale: `score`, `probability`, `platt`, `temperature`, if known.
        informativeness: Informativeness of the threshold on these images; None without a threshold
            or if a class is missing.
        at_prevalences: Predictive values at the prevalences that the user named; empty without a
            threshold.
        shift: Comparison with the images that chose the threshold; None if not checked.
        certificate: Comparison with the limits of the threshold; None if not checked.
        num_evaluations: Number of evaluations of these images with this run; None if not counted.
    """

    rule: DecisionRule
    num_images: int
    num_negative: int
    num_positive: int
    num_patients: int
    roc_auc: Estimate
    average_precision: Estimate
    at_half: Decisions
    at_threshold: Decisions | None
    calibration: dict[str, Calibration]
    subgroups: tuple[Subgroup, ...]
    informativeness: Informativeness | None
    at_prevalences: tuple[PredictiveValues, ...] = ()
    shift: ShiftCheck | None = None
    certificate: CertificateCheck | None = None
    num_evaluations: int | None = None

    @property
    def is_usable(self) -> bool:
        """True if the threshold beats chance on these images, or was not tested."""
        return self.informativeness is None or self.informativeness.is_informative

    @property
    def is_invalid(self) -> bool:
        """True if the certificate does not hold for these images."""
        return self.certificate is not None and self.certificate.is_invalid


@dataclass(frozen=True)
class ClassDecisions:
    """Decisions among exclusive classes: the class of the highest probability.

    Attributes:
        counts: Number of images by true class (rows) and decided class (columns).
        accuracy: Share of images with the right class.
        balanced_accuracy: Mean share of right decisions over the classes.
        kappa: Cohen's kappa; 0 is chance, 1 is perfect.
    """

    counts: tuple[tuple[int, ...], ...]
    accuracy: Estimate
    balanced_accuracy: Estimate
    kappa: Estimate


@dataclass(frozen=True)
class Averages:
    """Averages over the findings, with their intervals by patient.

    Attributes:
        num_findings: Number of findings that have both classes; only these are averaged.
        roc_auc: Macro average: mean of the findings' areas under the ROC curve.
        average_precision: Macro average of the average precision.
        roc_auc_micro: Micro average: area of all pairs of image and finding.
        average_precision_micro: Micro average of the average precision.
        f1: Macro average of F1 at the thresholds; None without thresholds.
        f1_micro: Micro average of F1 at the thresholds; None without thresholds.
        decisions: Decisions among exclusive classes; None if findings may occur together.
    """

    num_findings: int
    roc_auc: Estimate
    average_precision: Estimate
    roc_auc_micro: Estimate
    average_precision_micro: Estimate
    f1: Estimate | None = None
    f1_micro: Estimate | None = None
    decisions: ClassDecisions | None = None


@dataclass(frozen=True)
class Evaluations:
    """Content of `metrics/NAME.json`.

    Attributes:
        findings: One evaluation for each finding.
        averages: Averages over the findings; None if there is one.
        format: Format number of the file.
    """

    findings: tuple[Evaluation, ...]
    averages: Averages | None = None
    format: Literal[1] = 1
