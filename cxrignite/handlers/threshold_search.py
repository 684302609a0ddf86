"""Search for the operating point of a classifier, on the scores of an evaluator."""

from __future__ import annotations

import logging
import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from ignite.engine import Engine, Events
from numpy.typing import NDArray

from cxrignite.functional.certificate import PatientReading, joint_level
from cxrignite.functional.operating_point import OperatingPoint, select_operating_point
from cxrignite.handlers.attachable import Attachable
from cxrignite.handlers.score_collector import ScoreCollector

_log = logging.getLogger(__name__)

_PUBLISHED = ("threshold", "tnr", "tpr", "balanced_accuracy", "tnr_lower_bound")


class ThresholdSearch(Attachable):
    """Search for the threshold with the highest soft score that meets the hard constraints.

    *Attach to* the evaluator of the validation or calibration split, and to no other: a threshold
    must not be chosen on the images that it is evaluated on.
    *Expects* `state.output` to be `(y_score, y_true)`, probabilities and labels of shape `(N,)`.
    *Publishes* `threshold`, `tnr`, `tpr`, `balanced_accuracy` and `tnr_lower_bound`, with `refer`
    also `referred` (the share of the images between the thresholds), and the attribute
    `operating_point`. If the labels lack a class, the metrics are NaN, `operating_point` is None,
    and a warning is logged; training continues.

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

    Raises:
        ValueError: If a setting is outside its range, or needs another one.

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
        self.publishes = (*_PUBLISHED, "referred") if refer else _PUBLISHED
        self.operating_point: OperatingPoint | None = None
        # `select` checks the settings, so that the rules are in one place.
        self.select(np.array([0.0, 1.0]), np.array([0, 1]))

    @property
    def level(self) -> float | None:
        """Confidence of each certificate; above `confidence` if both hold jointly; null if none."""
        if self.confidence is None or not self.joint:
            return self.confidence
        return joint_level(self.confidence)

    def attach(self, engine: Engine) -> None:
        """Search after every epoch of `engine`; attaching twice acts once.

        Args:
            engine: The validation evaluator.
        """
        if not engine.has_event_handler(self._search, Events.EPOCH_COMPLETED):
            ScoreCollector.on(engine)
            engine.add_event_handler(Events.EPOCH_COMPLETED, self._search)

    def state_dict(self) -> dict[str, Any]:
        """Return the operating point as plain Python values."""
        point = self.operating_point
        return {"operating_point": None if point is None else point.to_dict()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore the operating point of `state_dict()`.

        Args:
            state: The result of `state_dict()`.
        """
        point = state["operating_point"]
        self.operating_point = None if point is None else OperatingPoint.from_dict(point)

    def _search(self, engine: Engine) -> None:
        y_score, y_true, index = ScoreCollector.on(engine).gather()
        num_classes = len(np.unique(y_true))
        if num_classes < 2:
            _log.warning(
                "no threshold: the labels must have 2 classes, got %d scores of %d class",
                len(y_score),
                num_classes,
            )
            self.operating_point = None
            values = [math.nan] * len(self.publishes)
        else:
            patients = None if self.patients is None else self._patients_of(self.patients, index)
            point = self.operating_point = self.select(y_score, y_true, patients)
            values = [getattr(point, name) for name in self.publishes]
        engine.state.metrics.update(zip(self.publishes, values, strict=True))

    def select(
        self,
        y_score: NDArray[np.float64],
        y_true: NDArray[np.int64],
        patients: Sequence[str] | None = None,
    ) -> OperatingPoint:
        """Choose a threshold for given scores, with the settings of this handler.

        Args:
            y_score: Probabilities of the positive class, shape `(N,)`.
            y_true: Labels, 0 or 1, shape `(N,)`, both present.
            patients: Patient of each image, shape `(N,)`; null treats each image as a patient.

        Returns:
            The operating point; the attribute of that name is not changed.

        Raises:
            ValueError: See `select_operating_point`.
        """
        return select_operating_point(
            y_score,
            y_true,
            min_tnr=self.min_tnr,
            min_threshold=self.min_threshold,
            fp_cost=self.fp_cost,
            fn_cost=self.fn_cost,
            confidence=self.confidence,
            patients=patients,
            min_tpr=self.min_tpr,
            patient_found=self.patient_found,
            joint=self.joint,
            refer=self.refer,
        )

    @staticmethod
    def _patients_of(patients: Sequence[str], index: NDArray[np.int64]) -> list[str]:
        if index.size and not 0 <= index.min() <= index.max() < len(patients):
            raise ValueError(
                f"patients has entries for {len(patients)} images, got indices from {index.min()} "
                f"to {index.max()} in state.batch[2]"
            )
        return [patients[position] for position in index.tolist()]
