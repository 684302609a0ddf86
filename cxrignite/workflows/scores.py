"""The scores of one split, each film once, and what a run folder keeps of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass

import numpy as np
from numpy.typing import NDArray

from cxrignite.data import Film
from cxrignite.functional import Confusion, OperatingPoint, confusion_at
from cxrignite.handlers import BoardWriter
from cxrignite.workflows import illustrations
from cxrignite.workflows.run_folder import RunFolder


@dataclass(frozen=True)
class SplitScores:
    """The scores of one split, each film once.

    Attributes:
        films: The films of the split.
        classes: Names of the negative and the positive class.
        y_score: Probabilities of the positive class in the order of `films`, `(N,)`.
        y_true: Labels 0 and 1, `(N,)`.
        metrics: What the evaluator published: loss, AUC and average precision.
        operating_point: The threshold that decides; None where none was chosen.
    """

    films: Sequence[Film]
    classes: tuple[str, str]
    y_score: NDArray[np.float64]
    y_true: NDArray[np.int64]
    metrics: dict[str, float]
    operating_point: OperatingPoint | None

    @property
    def at_half(self) -> Confusion:
        """Decisions at 0.5, which nobody chose."""
        return confusion_at(self.y_score, self.y_true, 0.5)

    @property
    def at_threshold(self) -> Confusion | None:
        """Decisions at the operating point."""
        point = self.operating_point
        return confusion_at(self.y_score, self.y_true, point.threshold) if point else None

    def to_dict(self) -> dict[str, object]:
        """What `metrics/*.json` holds; a rate over no images is null, since JSON has no NaN."""
        content: dict[str, object] = {
            "num_images": len(self.y_true),
            "num_positive": int(self.y_true.sum()),
            "num_patients": len({film.patient for film in self.films}),
            **{name: _json_number(self.metrics[name]) for name in sorted(self.metrics)},
            "at_half": _rates(0.5, self.at_half),
        }
        point, confusion = self.operating_point, self.at_threshold
        if point is not None and confusion is not None:
            content["at_threshold"] = _rates(point.threshold, confusion)
            content["operating_point"] = point.to_dict()
        return content

    def write(self, folder: RunFolder, name: str, board: BoardWriter, step: int) -> None:
        """Write metrics, figures and TensorBoard entries under `name`."""
        folder.write_json(folder.metrics_path(name), self.to_dict())
        illustrations.illustrate_scores(folder, name, self, board, step)

    def table(self, name: str) -> str:
        """The figures as a person reads them in a terminal."""
        negatives = len(self.y_true) - int(self.y_true.sum())
        patients = len({film.patient for film in self.films})
        lines = [
            f"{name}: {len(self.y_true)} films of {patients} patients, "
            f"{negatives} {self.classes[0]} and {len(self.y_true) - negatives} {self.classes[1]}",
            f"  AUC {self.metrics['roc_auc']:.4f}   "
            f"average precision {self.metrics['average_precision']:.4f}",
            "  threshold     TNR     TPR     PPV     NPV  balanced accuracy   missed  false alarms",
        ]
        for threshold, confusion in self._decisions():
            lines.append(
                f"  {threshold:9.4f}  {confusion.tnr:6.3f}  {confusion.tpr:6.3f}"
                f"  {confusion.ppv:6.3f}"
                f"  {confusion.npv:6.3f}  {confusion.balanced_accuracy:17.3f}   {confusion.fn:6d}"
                f"  {confusion.fp:12d}"
            )
        if self.operating_point is not None:
            lines.append(f"  chosen on validation: {self.operating_point.describe()}")
        return "\n".join(lines)

    def _decisions(self) -> list[tuple[float, Confusion]]:
        decisions = [(0.5, self.at_half)]
        if self.operating_point is not None and self.at_threshold is not None:
            decisions.append((self.operating_point.threshold, self.at_threshold))
        return decisions


def _rates(threshold: float, confusion: Confusion) -> dict[str, float | int | None]:
    names = ("tnr", "tpr", "ppv", "npv", "balanced_accuracy", "accuracy")
    rates = {name: _json_number(getattr(confusion, name)) for name in names}
    return {"threshold": threshold, **asdict(confusion), **rates}


def _json_number(value: float) -> float | None:
    return float(value) if np.isfinite(value) else None
