"""Whether new images are of the kind that a threshold was chosen on: a classifier two-sample test.

A certificate speaks of images exchangeable with those it was chosen on. Where a classifier tells
the new ones from the reference ones, they are not (Lopez-Paz and Oquab, ICLR 2017, arXiv
1610.06545). Compare images of one class: a site with more of the ill is another matter than a site
whose healthy images look different.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import scipy
from numpy.typing import ArrayLike, NDArray
from torch import Tensor

from cxrignite.functional.delong import delong_covariance
from cxrignite.functional.intervals import Interval, delong_interval

SHIFT_LEVEL = 0.6
"""The AUC that the interval has to exceed (ours): below it a classifier hardly beats a coin."""

MIN_PATIENTS = 20
"""The fewest patients a side (ours): fewer have so wide an interval that little can be found."""

_CONFIDENCE = 0.95
_NUM_FOLDS = 5
_NUM_REPEATS = 3
_MAX_COMPONENTS = 32
_PATIENTS_A_COMPONENT = 4
_INVERSE_PENALTY = 0.1


@dataclass(frozen=True)
class ShiftCheck:
    """How well a classifier tells new images from the reference images.

    Args:
        roc_auc: Of patients it was not fitted on, 0.5 where the images look alike; None where a
        side
            has fewer than `MIN_PATIENTS` patients.
        interval: DeLong's interval of it at 95 %; None as above.
        num_reference: Reference images.
        num_images: New images.
        num_reference_patients: Patients of the reference images.
        num_image_patients: Patients of the new images.
        is_detected: Whether the whole interval lies above `SHIFT_LEVEL`; None where it cannot be
            decided. False is no proof that there is no shift.
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
    records: ArrayLike | Tensor,
    reference_patients: Sequence[str],
    image_patients: Sequence[str],
    *,
    seed: int = 0,
) -> ShiftCheck:
    """Tell new images from reference images by their features, and say how well that goes.

    The features are standardised and reduced to their first whitened principal components, at most
    32 and at most one for four patients, over all images and without a look at their side, which
    keeps two draws from one distribution alike. A logistic regression with an L2 penalty, in which
    each patient and each side weigh the same, gives out-of-fold scores in five folds by patient;
    they are the mean over three divisions into folds. The AUC and DeLong's interval are those of
    the patients' mean scores, since images of one patient are not independent.

    The interval takes the scores as given: in simulation the area of two draws from one
    distribution varies about a third more than it says. `SHIFT_LEVEL` leaves room for that: of 200
    such pairs (191 and 117 images of 64 to 1280 features, 1 to 3 images a patient) at most 1 was
    flagged.

    Args:
        reference: Features of the reference images, shape `(N, D)`, such as the input of the
            classifier's last layer.
        records: Features of the new images, shape `(M, D)`.
        reference_patients: Whose each reference image is, shape `(N,)`.
        image_patients: Whose each new image is, shape `(M,)`. A name of both sides stays in one
        fold.
        seed: Of the folds and of the components' randomised search.

    Returns:
        The check; it is not decided where a side has fewer than 20 patients.

    Raises:
        ValueError: If features have another shape, are not finite, differ in width, or the
            patients are not one an image.

    Examples:
        >>> rng = np.random.default_rng(0)
        >>> names = [f"{n}" for n in range(120)]
        >>> bright, dark = rng.normal(1, 1, (60, 8)), rng.normal(0, 1, (60, 8))
        >>> check_shift(dark, bright, names[:60], names[60:]).is_detected
        True
        >>> check_shift(dark[:30], dark[30:], names[:30], names[30:60]).is_detected
        False
    """
    sides = [_as_features(reference, "reference"), _as_features(records, "images")]
    if sides[0].shape[1] != sides[1].shape[1]:
        raise ValueError(
            "reference and images must have the same features, "
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
        # Ranks lie in [0, 1], as scores do, and leave the AUC and its variance as they are.
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
    """Return out-of-fold scores, one a patient and side, and which of them are of the new side."""
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
        # Split by patients, not by images: a patient of many images would fill a fold alone.
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
    # A feature that never changes may differ from its mean by a rounding.
    varies = spread > 1e-9 * np.abs(features).max(axis=0)
    if not varies.any():
        return np.zeros((len(features), 1))
    standard = (features[:, varies] - features[:, varies].mean(axis=0)) / spread[varies]
    number = min(_MAX_COMPONENTS, max_components, *standard.shape)
    components = PCA(number, random_state=seed).fit_transform(standard)
    spread = components.std(axis=0)
    # Features that repeat each other leave components of rounding errors, not to be blown up.
    is_real = spread > 1e-6 * spread.max()
    whitened: NDArray[np.float64] = components[:, is_real] / spread[is_real]
    return whitened


def _as_features(features: ArrayLike | Tensor, name: str) -> NDArray[np.float64]:
    if isinstance(features, Tensor):
        features = features.detach().double().cpu().numpy()
    array = np.asarray(features, dtype=np.float64)
    if array.ndim != 2 or not array.shape[1]:
        raise ValueError(
            f"{name} must have shape (N, D) with a feature at least, got {array.shape}"
        )
    num_not_finite = int(np.sum(~np.isfinite(array)))
    if num_not_finite:
        raise ValueError(f"{name} must be finite, got {num_not_finite} NaN or infinite values")
    return array


def _check_patients(
    patients: Sequence[str], features: NDArray[np.float64], name: str, what: str
) -> None:
    if len(patients) != len(features):
        raise ValueError(
            f"{name} must name one for each {what}, got {len(patients)} for {len(features)}"
        )
