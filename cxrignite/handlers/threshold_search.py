"""Search for the operating point of a classifier, on the scores of an evaluator."""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from ignite.engine import Engine, Events
from numpy.typing import NDArray

from cxrignite.errors import suggestion
from cxrignite.functional.certificate import PatientReading, family_level, joint_level
from cxrignite.functional.findings import finding_names
from cxrignite.functional.image_choice import UNKNOWN_LABEL
from cxrignite.functional.operating_point import (
    SETTINGS,
    OperatingPoint,
    select_operating_point,
)
from cxrignite.handlers.attachable import Attachable
from cxrignite.handlers.score_collector import ScoreCollector

_log = logging.getLogger(__name__)

_PUBLISHED = ("threshold", "tnr", "tpr", "balanced_accuracy", "tnr_lower_bound")


class ThresholdSearch(Attachable):
    """Search for the threshold with the highest soft score that meets the hard constraints.

    *Attach to* the evaluator of the validation or calibration split, and to no other: a threshold
    must not be chosen on the images that it is evaluated on.
    *Expects* `state.output` to be `(y_score, y_true)`, probabilities and labels of shape `(N,)`; of
    several findings `(N, K)`. Each finding then gets its own threshold, chosen on the images whose
    label of this finding is known.
    *Publishes* `threshold`, `tnr`, `tpr`, `balanced_accuracy` and `tnr_lower_bound`, with `refer`
    also `referred` (the share of the images between the thresholds), and the attribute
    `operating_point`; for several findings `threshold/NAME` and so on, and the attribute
    `operating_points`. If the labels lack a class, the metrics are NaN, the operating point is
    None, and a warning is logged; training continues.

    Args:
        min_tnr: Lowest true negative rate (specificity), in `[0, 1]`.
        min_threshold: Lowest threshold, in `[0, 1]`.
        fp_cost: Weight of a false positive, above 0; a value above `fn_cost` prefers a higher TNR.
        fn_cost: Weight of a false negative, above 0.
        confidence: Required probability, in `(0, 1)`, that the true TNR is at least `min_tnr`; null
            requests no certificate. It is valid only on images that chose neither the weights nor
            the checkpoint.
        patients: Patient of each image, by its index in `state.batch[2]`; null treats each image as
            a patient. May be set later, up to the epoch's end.
        min_tpr: Lowest true positive rate (sensitivity), in `[0, 1]`; null sets no limit. With a
            confidence it is certified as well.
        patient_found: When a positive patient counts as found: `every_image` or `any_image` is
            called positive.
        joint: Both limits together hold with `confidence`; false: each does.
        refer: If no single threshold keeps both limits, choose two, and refer the images between
            them to a reader.
        per_finding: Settings of single findings, by name, that replace those above, such as
            `{Effusion: {min_tnr: 0.9, confidence: 0.95}}`.
        familywise: With several findings, all certificates together hold with `confidence`; false:
            those of each finding do. Each is then made at a higher confidence, which its operating
            point records (Bonferroni).
        findings: Names of several findings; without names they are numbered from 0. May be set
            later.

    Attributes:
        operating_points: Operating point of each finding in the last epoch, null without one;
            empty before.

    Raises:
        ValueError: If a setting is outside its range, or needs another one, or a name in
            `per_finding` is unknown; during the run, if there is not one name for each finding.

    Examples:
        >>> import torch
        >>> search, evaluator = ThresholdSearch(0.5, 0.3), Engine(lambda engine, batch: batch)
        >>> search.attach(evaluator)
        >>> y_score, y_true = torch.tensor([0.1, 0.4, 0.6, 0.9]), torch.tensor([0.0, 0.0, 1.0, 1.0])
        >>> metrics = evaluator.run([(y_score, y_true)]).metrics
        >>> metrics["tnr"], metrics["tpr"]
        (1.0, 1.0)
    """

    def __init__(
        self,
        min_tnr: float = 0.93,
        min_threshold: float = 0.90,
        fp_cost: float = 1.0,
        fn_cost: float = 1.0,
        confidence: float | None = None,
        patients: Sequence[str] | None = None,
        min_tpr: float | None = None,
        patient_found: PatientReading = "every_image",
        joint: bool = False,
        refer: bool = False,
        per_finding: dict[str, dict[str, Any]] | None = None,
        familywise: bool = False,
        findings: Sequence[str] = (),
    ) -> None:
        self.min_tnr = min_tnr
        self.min_threshold = min_threshold
        self.fp_cost = fp_cost
        self.fn_cost = fn_cost
        self.confidence = confidence
        self.patients = patients
        self.min_tpr = min_tpr
        self.patient_found: PatientReading = patient_found
        self.joint = joint
        self.refer = refer
        self.per_finding = per_finding
        self.familywise = familywise
        refers = any(each.get("refer", refer) for each in [{}, *self._own_settings()])
        self.publishes = (*_PUBLISHED, "referred") if refers else _PUBLISHED
        self.operating_points: tuple[OperatingPoint | None, ...] = ()
        self._findings: Sequence[str] = ()
        self._check_settings()
        self.findings = findings

    @property
    def operating_point(self) -> OperatingPoint | None:
        """The operating point of the first finding; null if there is none."""
        return self.operating_points[0] if self.operating_points else None

    @property
    def findings(self) -> Sequence[str]:
        """Names of several findings.

        Raises:
            ValueError: When set, if `per_finding` has another name.
        """
        return self._findings

    @findings.setter
    def findings(self, names: Sequence[str]) -> None:
        unknown = [name for name in self.per_finding or {} if names and name not in names]
        if unknown:
            near = suggestion(str(unknown[0]), names)
            raise ValueError(f"per_finding must name findings, got '{unknown[0]}'{near}")
        self._findings = names

    @property
    def level(self) -> float | None:
        """Confidence of each certificate; above `confidence` if both hold jointly; null if none."""
        return self.level_of(None)

    def level_of(self, finding: str | None) -> float | None:
        """Return the confidence of each certificate of a finding.

        Args:
            finding: Its name; null is one without settings of its own.

        Returns:
            The confidence, above the requested one if several certificates hold together; null
            without certificates.
        """
        settings = self.settings_of(finding)
        confidence: float | None = settings["confidence"]
        return joint_level(confidence) if confidence and settings["joint"] else confidence

    def settings_of(self, finding: str | None) -> dict[str, Any]:
        """Return the settings of a finding, as `select_operating_point` takes them.

        Args:
            finding: Its name; null is one without settings of its own.

        Returns:
            The settings by name. With `familywise`, the `confidence` is that of one certificate
            among all that are requested.
        """
        settings = self._requested(finding)
        if self.familywise and settings["confidence"] is not None:
            requests = [self._requested(name) for name in self.findings]
            # A finding with limits for both rates has two certificates, unless they are joint.
            number = sum(
                1 + (each["min_tpr"] is not None and not each["joint"])
                for each in requests
                if each["confidence"] is not None
            )
            settings["confidence"] = family_level(settings["confidence"], max(number, 1))
        return settings

    def family_confidence_of(self, finding: str | None) -> float | None:
        """Return the confidence with which all certificates together hold.

        Args:
            finding: The finding whose settings apply; null is one without settings of its own.

        Returns:
            The confidence; null without `familywise` or without a certificate of this finding.
        """
        confidence: float | None = self._requested(finding)["confidence"]
        return confidence if self.familywise else None

    def _requested(self, finding: str | None) -> dict[str, Any]:
        common = {name: getattr(self, name) for name in SETTINGS}
        own = (self.per_finding or {}).get(finding, {}) if finding is not None else {}
        return {**common, **own}

    def _check_settings(self) -> None:
        # `select` checks the settings, so that the rules are in one place.
        y_score, y_true = np.array([0.0, 1.0]), np.array([0, 1])
        self.select(y_score, y_true)
        for name, own in (self.per_finding or {}).items():
            unknown = set(own) - set(SETTINGS) if isinstance(own, Mapping) else {repr(own)}
            if unknown:
                near = suggestion(min(unknown), SETTINGS, lists=False)
                raise ValueError(
                    f"per_finding of {name} must have settings among {', '.join(SETTINGS)}, "
                    f"got {', '.join(sorted(unknown))}{near}"
                )
            try:
                self.select(y_score, y_true, finding=name)
            except (TypeError, ValueError) as error:
                raise ValueError(f"per_finding of {name}: {error}") from error
        certified = [self.confidence, *(own.get("confidence") for own in self._own_settings())]
        if self.familywise and not any(certified):
            raise ValueError("familywise needs confidence, got confidence null; set confidence")

    def _own_settings(self) -> list[dict[str, Any]]:
        return list((self.per_finding or {}).values())

    def attach(self, engine: Engine) -> None:
        """Search after every epoch of `engine`; attaching twice acts once.

        Args:
            engine: The validation evaluator.
        """
        if not engine.has_event_handler(self._search, Events.EPOCH_COMPLETED):
            ScoreCollector.on(engine)
            engine.add_event_handler(Events.EPOCH_COMPLETED, self._search)

    def state_dict(self) -> dict[str, Any]:
        """Return the operating points as plain Python values."""
        points = [None if each is None else each.to_dict() for each in self.operating_points]
        state: dict[str, Any] = {"operating_point": points[0] if points else None}
        return {**state, "operating_points": points} if len(points) > 1 else state

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore the operating points of `state_dict()`.

        Args:
            state: The result of `state_dict()`.
        """
        points = state.get("operating_points", [state["operating_point"]])
        self.operating_points = tuple(
            None if each is None else OperatingPoint.from_dict(each) for each in points
        )

    def _search(self, engine: Engine) -> None:
        y_score, y_true, index = ScoreCollector.on(engine).gather()
        patients = None if self.patients is None else self._patients_of(self.patients, index)
        if y_true.ndim == 1:
            name = self.findings[0] if len(self.findings) == 1 else None
            point = self._point_of(y_score, y_true, patients, name)
            self.operating_points = (point,)
            engine.state.metrics.update(self._metrics(point, ""))
            return
        self.findings = names = finding_names(self.findings, y_true.shape[1])
        columns = zip(names, y_score.T, y_true.T, strict=True)
        points = [
            self._point_of(scores, labels, patients, name) for name, scores, labels in columns
        ]
        self.operating_points = tuple(points)
        for name, point in zip(names, points, strict=True):
            engine.state.metrics.update(self._metrics(point, f"/{name}"))

    def _point_of(
        self,
        y_score: NDArray[np.float64],
        y_true: NDArray[np.int64],
        patients: NDArray[Any] | None,
        finding: str | None,
    ) -> OperatingPoint | None:
        """Choose the threshold of one finding on the images with a known label."""
        known = y_true != UNKNOWN_LABEL
        y_score, y_true = y_score[known], y_true[known]
        num_classes = len(np.unique(y_true))
        if num_classes < 2:
            _log.warning(
                "no threshold%s: the labels must have 2 classes, got %d scores of %d class",
                f" of {finding}" if len(self.findings) > 1 else "",
                len(y_score),
                num_classes,
            )
            return None
        kept = None if patients is None else patients[known].tolist()
        return self.select(y_score, y_true, kept, finding)

    def _metrics(self, point: OperatingPoint | None, suffix: str) -> dict[str, float]:
        return {
            name + suffix: math.nan if point is None else getattr(point, name)
            for name in self.publishes
        }

    def select(
        self,
        y_score: NDArray[np.float64],
        y_true: NDArray[np.int64],
        patients: Sequence[str] | None = None,
        finding: str | None = None,
    ) -> OperatingPoint:
        """Choose a threshold for given scores of one finding, with the settings of this handler.

        Args:
            y_score: Probabilities of the positive class, shape `(N,)`.
            y_true: Labels, 0 or 1, shape `(N,)`, both present.
            patients: Patient of each image, shape `(N,)`; null treats each image as a patient.
            finding: Name of the finding; null is one without settings of its own.

        Returns:
            The operating point; the attribute of that name is not changed.

        Raises:
            ValueError: See `select_operating_point`.
        """
        settings = self.settings_of(finding)
        return select_operating_point(y_score, y_true, patients=patients, **settings)

    @staticmethod
    def _patients_of(patients: Sequence[str], index: NDArray[np.int64]) -> NDArray[Any]:
        if index.size and not 0 <= index.min() <= index.max() < len(patients):
            raise ValueError(
                f"patients has entries for {len(patients)} images, got indices from {index.min()} "
                f"to {index.max()} in state.batch[2]"
            )
        # Of objects, since an array of strings would take the longest name for each.
        return np.array([patients[position] for position in index.tolist()], dtype=object)
