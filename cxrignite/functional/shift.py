"""Shift check: a classifier two-sample test of new images against reference images.

A certificate holds for images that are exchangeable with those the threshold was chosen on. If a
classifier can distinguish new images from reference images, they are not exchangeable (Lopez-Paz
and Oquab, ICLR 2017, arXiv 1610.06545). Compare images of one class only. Otherwise a different
prevalence is detected as well, which does not invalidate a certificate of the TNR.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import scipy
from numpy.typing import ArrayLike, NDArray

from cxrignite.functional.arrays import all_as_float64
from cxrignite.functional.delong import delong_covariance
from cxrignite.functional.intervals import Interval, delong_interval

if TYPE_CHECKING:
    from torch import Tensor

SHIFT_LEVEL = 0.6
"""AUC that the interval must exceed, a choice of this library: below it a classifier is hardly
better than chance."""

MIN_PATIENTS = 20
"""Minimum number of patients per side, a choice of this library: with fewer, the interval is too
wide to detect a shift."""

_CONFIDENCE = 0.95
_NUM_FOLDS = 5
_NUM_REPEATS = 3
_MAX_COMPONENTS = 32
_PATIENTS_A_COMPONENT = 4
_INVERSE_PENALTY = 0.1


@dataclass(frozen=True)
class ShiftCheck:
    """Result of a shift check.

    Args:
        roc_auc: AUC of the classifier on patients it was not fitted on; 0.5 if the images do not
            differ, None if a side has fewer than `MIN_PATIENTS` patients.
        interval: DeLong's 95 % interval of `roc_auc`; None as above.
        num_reference: Number of reference images.
        num_images: Number of new images.
        num_reference_patients: Number of patients of the reference images.
        num_image_patients: Number of patients of the new images.
        is_detected: True if the whole interval lies above `SHIFT_LEVEL`; None as above. False does
            not prove that there is no shift.
    """

    roc_auc: float | None
    interval: Interval | None
    num_reference: int
    num_images: int
    num_reference_patients: int
    num_image_patients: int
    is_detected: bool | None

    def to_dict(self) -> dict[str, Any]:
        """Return the fields as plain Python values, ready for JSON."""
        return asdict(self) | {"interval": None if self.interval is None else [*self.interval]}


def check_shift(
    reference: ArrayLike | Tensor,
    images: ArrayLike | Tensor,
    reference_patients: Sequence[str],
    image_patients: Sequence[str],
    *,
    seed: int = 0,
) -> ShiftCheck:
    """Measure how well a classifier distinguishes new images from reference images.

    The features are standardised and reduced to whitened principal components: at most 32, and at
    most one per four patients. The components are computed from all images without the side, so
    that they introduce no difference between the sides.

    An L2-penalised logistic regression gives out-of-fold scores in five folds by patient, averaged
    over three divisions into folds. Patients have equal weight, as have the two sides. The AUC and
    DeLong's interval use the mean score of each patient, since images of one patient are not
    independent.

    The interval ignores the variance from fitting the classifier. In simulations without a shift
    the AUC varies about a third more than the interval implies. `SHIFT_LEVEL` allows for this: of
    200 such pairs at most 1 was flagged (191 and 117 images, 64 to 1280 features, 1 to 3 images per
    patient).

    Args:
        reference: Features of the reference images, shape `(N, D)`, such as the input of the
            classifier's last layer.
        images: Features of the new images, shape `(M, D)`.
        reference_patients: Patient of each reference image, shape `(N,)`.
        image_patients: Patient of each new image, shape `(M,)`. A patient of both sides stays in
            one fold.
        seed: Seed of the folds and of the randomised principal component analysis.

    Returns:
        The result; it is undecided if a side has fewer than 20 patients.

    Raises:
        ValueError: If the features have a wrong shape, are not finite or differ in width, or the
            patients are not one per image.

    Examples:
        >>> rng = np.random.default_rng(0)
        >>> names = [f"{n}" for n in range(120)]
        >>> bright, dark = rng.normal(1, 1, (60, 8)), rng.normal(0, 1, (60, 8))
        >>> check_shift(dark, bright, names[:60], names[60:]).is_detected
        True
        >>> check_shift(dark[:30], dark[30:], names[:30], names[30:60]).is_detected
        False
    """
    sides = [_as_features(reference, "reference"), _as_features(images, "images")]
    if sides[0].shape[1] != sides[1].shape[1]:
        raise ValueError(
            "reference and images must have the same number of features, "
            f"got {sides[0].shape[1]} and {sides[1].shape[1]}"
        )
    _check_patients(reference_patients, sides[0], "reference_patients", "reference image")
    _check_patients(image_patients, sides[1], "image_patients", "image")
    num_patients = len(set(reference_patients)), len(set(image_patients))
    roc_auc, interval, is_detected = None, None, None
    if min(num_patients) >= MIN_PATIENTS:
        names = np.asarray([str(name) for name in [*reference_patients, *image_patients]])
        is_new = np.repeat([False, True], [len(side) for side in sides])
        score, is_new_patient = _score_patients(np.concatenate(sides), is_new, names, seed)
        # Ranks lie in [0, 1], as scores must, and give the same AUC and variance.
        ranks = scipy.stats.rankdata(score) / score.size
        roc_auc = float(delong_covariance(ranks[None], is_new_patient)[0][0])
        interval = delong_interval(ranks, is_new_patient, _CONFIDENCE)
        is_detected = bool(interval.low > SHIFT_LEVEL)
    return ShiftCheck(
        roc_auc=roc_auc,
        interval=interval,
        num_reference=len(sides[0]),
        num_images=len(sides[1]),
        num_reference_patients=num_patients[0],
        num_image_patients=num_patients[1],
        is_detected=is_detected,
    )


def _score_patients(
    features: NDArray[np.float64], is_new: NDArray[np.bool_], names: NDArray[np.str_], seed: int
) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
    """Return out-of-fold scores per patient and side, and a mask of those of the new side."""
    from sklearn.linear_model import LogisticRegression
    from sklearn.model_selection import StratifiedGroupKFold

    _, owner = np.unique(names, return_inverse=True)
    units, unit = np.unique(2 * owner + is_new, return_inverse=True)
    group, is_new_unit = units // 2, units % 2 == 1
    num_images = np.bincount(unit)
    num_units = np.bincount(is_new_unit)
    weight = (1 / num_images / num_units[is_new_unit.astype(int)])[unit]
    weight *= unit.size / weight.sum()

    components = _components(features, group.size // _PATIENTS_A_COMPONENT, seed)
    score = np.zeros(unit.size)
    for repeat in range(_NUM_REPEATS):
        folds = StratifiedGroupKFold(
            _NUM_FOLDS, shuffle=True, random_state=_NUM_REPEATS * seed + repeat
        )
        # Split the patients, not the images: a patient with many images would fill a fold.
        for _, held_out in folds.split(group, is_new_unit, group):
            outside = np.isin(unit, held_out)
            model = LogisticRegression(C=_INVERSE_PENALTY, max_iter=1000)
            model.fit(components[~outside], is_new[~outside], sample_weight=weight[~outside])
            score[outside] += model.decision_function(components[outside])
    return np.bincount(unit, score) / num_images, is_new_unit


def _components(
    features: NDArray[np.float64], max_components: int, seed: int
) -> NDArray[np.float64]:
    """Return whitened principal components of the standardised features, shape `(N, K)`."""
    from sklearn.decomposition import PCA

    spread = features.std(axis=0)
    # A constant feature may differ from its mean by a rounding error.
    varies = spread > 1e-9 * np.abs(features).max(axis=0)
    if not varies.any():
        return np.zeros((len(features), 1))
    standard = (features[:, varies] - features[:, varies].mean(axis=0)) / spread[varies]
    number = min(_MAX_COMPONENTS, max_components, *standard.shape)
    components = PCA(number, random_state=seed).fit_transform(standard)
    spread = components.std(axis=0)
    # Redundant features leave components of pure rounding error, which must not be whitened.
    is_real = spread > 1e-6 * spread.max()
    whitened: NDArray[np.float64] = components[:, is_real] / spread[is_real]
    return whitened


def _as_features(features: ArrayLike | Tensor, name: str) -> NDArray[np.float64]:
    array = all_as_float64(features)
    if array.ndim != 2 or not array.shape[1]:
        raise ValueError(
            f"{name} must have shape (N, D) with at least one feature, got {array.shape}"
        )
    num_not_finite = int(np.sum(~np.isfinite(array)))
    if num_not_finite:
        raise ValueError(f"{name} must be finite, got {num_not_finite} NaN or infinite values")
    return array


def _check_patients(
    patients: Sequence[str], features: NDArray[np.float64], name: str, what: str
) -> None:
    if len(patients) != len(features):
        raise ValueError(f"{name} must be one per {what}, got {len(patients)} for {len(features)}")
