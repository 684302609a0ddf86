"""Layer 0: pure functions from tensors and arrays to numbers; no Ignite, no files, no state.

Write `import scipy` and use its parts by their full names. SciPy then loads a part at its first
use; importing `scipy.stats` alone takes a third as long as importing torch and Ignite.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from cxrignite.functional.calibration import (
    ReliabilityBin,
    calibration_statistics,
    ece_interval,
    reliability_bins,
)
from cxrignite.functional.calibrators import (
    Platt,
    Temperature,
    fit_platt,
    fit_temperature,
    prior_logit_shift,
    shift_logit,
)
from cxrignite.functional.certificate import (
    family_level,
    num_false_positives_allowed,
    num_negatives_needed,
    num_positives_needed,
    umbrella_rank,
)
from cxrignite.functional.class_balance import (
    ClassCounts,
    PriorShift,
    balanced_weights,
    class_counts,
    drawn_share,
    exclusive_probabilities,
    finding_probabilities,
    soft_pos_weight,
)
from cxrignite.functional.confusion import Confusion, Decision, confusion_at, decide, highest_class
from cxrignite.functional.image_choice import UNKNOWN_LABEL, ImageChoice, ImageKind
from cxrignite.functional.intervals import (
    Interval,
    bootstrap_differences,
    bootstrap_intervals,
    bootstrap_samples,
    clopper_pearson,
    clopper_pearson_lower,
    delong_covariance,
    delong_difference,
    delong_interval,
    patient_resamples,
)
from cxrignite.functional.near_duplicates import NearPair, detail_correlation, near_duplicates
from cxrignite.functional.operating_point import OperatingPoint, Status, select_operating_point
from cxrignite.functional.planning import (
    ExpectedReferral,
    ExpectedSensitivity,
    expected_referral,
    expected_sensitivity,
    patients_for_one_threshold,
    planned_sizes,
)
from cxrignite.functional.predictive_values import (
    DEFAULT_PREVALENCES,
    predictive_intervals,
    predictive_values,
)
from cxrignite.functional.shift import ShiftCheck, check_shift
from cxrignite.functional.weighted_metrics import decision_statistics, ranking_statistics
from cxrignite.lazy_names import lazy_names

if TYPE_CHECKING:
    from cxrignite.functional.class_activation import CamMaps, CamMethod, CamTarget, grad_cam
    from cxrignite.functional.faithfulness import PerturbationCurve, deletion_curve, insertion_curve
    from cxrignite.functional.findings import (
        FindingRanks,
        average_statistics,
        exclusive_confusion,
        exclusive_statistics,
        finding_logit,
        rank_findings,
        scores_from_logits,
    )
    from cxrignite.functional.gathering import gather_rows
    from cxrignite.functional.localization import EnergyInside, energy_inside, pointing_game
    from cxrignite.functional.map_overlay import overlay
    from cxrignite.functional.random_importance import (
        PairedDifference,
        paired_difference,
        random_maps,
    )
    from cxrignite.functional.weight_randomization import (
        RandomizationCheck,
        randomization_check,
        randomized_copy,
        rank_correlation,
    )
else:
    # Their modules import torch, which takes seconds.
    __getattr__ = lazy_names(
        __name__,
        {
            "class_activation": "CamMaps CamMethod CamTarget grad_cam",
            "faithfulness": "PerturbationCurve deletion_curve insertion_curve",
            "findings": "FindingRanks average_statistics exclusive_confusion exclusive_statistics "
            "finding_logit rank_findings scores_from_logits",
            "gathering": "gather_rows",
            "localization": "EnergyInside energy_inside pointing_game",
            "map_overlay": "overlay",
            "random_importance": "PairedDifference paired_difference random_maps",
            "weight_randomization": "RandomizationCheck randomization_check randomized_copy "
            "rank_correlation",
        },
    )

__all__ = [
    "DEFAULT_PREVALENCES",
    "UNKNOWN_LABEL",
    "CamMaps",
    "CamMethod",
    "CamTarget",
    "ClassCounts",
    "Confusion",
    "Decision",
    "EnergyInside",
    "ExpectedReferral",
    "ExpectedSensitivity",
    "FindingRanks",
    "ImageChoice",
    "ImageKind",
    "Interval",
    "NearPair",
    "OperatingPoint",
    "PairedDifference",
    "PerturbationCurve",
    "Platt",
    "PriorShift",
    "RandomizationCheck",
    "ReliabilityBin",
    "ShiftCheck",
    "Status",
    "Temperature",
    "average_statistics",
    "balanced_weights",
    "bootstrap_differences",
    "bootstrap_intervals",
    "bootstrap_samples",
    "calibration_statistics",
    "check_shift",
    "class_counts",
    "clopper_pearson",
    "clopper_pearson_lower",
    "confusion_at",
    "decide",
    "decision_statistics",
    "deletion_curve",
    "delong_covariance",
    "delong_difference",
    "delong_interval",
    "detail_correlation",
    "drawn_share",
    "ece_interval",
    "energy_inside",
    "exclusive_confusion",
    "exclusive_probabilities",
    "exclusive_statistics",
    "expected_referral",
    "expected_sensitivity",
    "family_level",
    "finding_logit",
    "finding_probabilities",
    "fit_platt",
    "fit_temperature",
    "gather_rows",
    "grad_cam",
    "highest_class",
    "insertion_curve",
    "near_duplicates",
    "num_false_positives_allowed",
    "num_negatives_needed",
    "num_positives_needed",
    "overlay",
    "paired_difference",
    "patient_resamples",
    "patients_for_one_threshold",
    "planned_sizes",
    "pointing_game",
    "predictive_intervals",
    "predictive_values",
    "prior_logit_shift",
    "random_maps",
    "randomization_check",
    "randomized_copy",
    "rank_correlation",
    "rank_findings",
    "ranking_statistics",
    "reliability_bins",
    "scores_from_logits",
    "select_operating_point",
    "shift_logit",
    "soft_pos_weight",
    "umbrella_rank",
]
