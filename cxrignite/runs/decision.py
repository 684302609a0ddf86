"""How a run turns a score into a decision: what `operating_point.json` holds."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from cxrignite.functional import ImbalanceLedger, OperatingPoint
from cxrignite.functional.score_maps import Platt, Temperature, fit_platt, fit_temperature
from cxrignite.runs.usability import films_in_words, status_words, unusable_warning


@dataclass(frozen=True)
class Scaling:
    """Maps that bring scores nearer to probabilities; none changes a decision.

    Attributes:
        platt: Null where scores do not rise with the label.
        temperature: One number for all scores.
    """

    platt: Platt | None
    temperature: Temperature

    @classmethod
    def fit(cls, y_score: NDArray[np.float64], y_true: NDArray[np.int64]) -> Self:
        """Fit both on a split that neither trained the weights nor reports on them.

        Raises:
            ValueError: If a class is missing.
        """
        temperature = fit_temperature(y_score, y_true)
        try:
            return cls(fit_platt(y_score, y_true), temperature)
        except ValueError:
            return cls(None, temperature)

    def to_dict(self) -> dict[str, Any]:
        """Plain Python values, ready for JSON."""
        return {
            "platt": asdict(self.platt) if self.platt else None,
            "temperature": self.temperature.temperature,
        }

    @classmethod
    def from_dict(cls, mapping: Mapping[str, Any]) -> Self:
        """What `to_dict` returned, as an object.

        Raises:
            KeyError: If an entry is missing.
            ValueError: If a number is out of its range.
        """
        platt = Platt(**mapping["platt"]) if mapping["platt"] else None
        return cls(platt, Temperature(mapping["temperature"]))


@dataclass(frozen=True)
class Decision:
    """An operating point, where it comes from, and what its scores mean.

    Attributes:
        point: The operating point; null where the recipe chooses none.
        chosen_on: `val`, `calibration`, or the name of the site whose films chose it.
        imbalance: What sampler and loss did to the prior.
        weights_sha256: Digest of the weights' file that it belongs to.
        scaling: Fitted on the validation split; null where that has one class.
        not_usable: Why the films that chose the threshold do not show that it is better than
            chance; empty where they do.
    """

    point: OperatingPoint | None
    chosen_on: str
    imbalance: ImbalanceLedger
    weights_sha256: str
    scaling: Scaling | None = None
    not_usable: tuple[str, ...] = ()

    @property
    def threshold(self) -> float | None:
        """A score at or above it is positive; null where none was chosen."""
        return self.point.threshold if self.point else None

    @property
    def natural_threshold(self) -> float | None:
        """The threshold as a probability at the natural prevalence; null where unknown."""
        if self.point is None:
            return None
        natural = self.imbalance.natural([self.point.threshold])
        return None if natural is None else float(natural[0])

    def scales(self, y_score: NDArray[np.float64]) -> dict[str, NDArray[np.float64]]:
        """The scores on every scale that is known, by its name: `raw`, `natural`, ..."""
        scaling = self.scaling
        maps = {
            "natural": self.imbalance.natural,
            "platt": scaling.platt if scaling else None,
            "temperature": scaling.temperature if scaling else None,
        }
        mapped = {scale: each(y_score) for scale, each in maps.items() if each is not None}
        return {"raw": y_score} | {k: part for k, part in mapped.items() if part is not None}

    @property
    def status(self) -> str:
        """The verdict, or first that the threshold is not usable; empty where none was chosen."""
        return status_words(self.point.verdict if self.point else "", self.not_usable)

    def moved_to(self, site: str, point: OperatingPoint, not_usable: Sequence[str]) -> Self:
        """The same weights with another site's operating point."""
        return replace(self, point=point, chosen_on=site, not_usable=tuple(not_usable))

    @property
    def warning(self) -> str:
        """One line that says why the threshold is not usable and is shown first; empty if it is."""
        return unusable_warning(self.not_usable, films_in_words(self.chosen_on))

    def describe(self) -> str:
        """The operating point in one line, the threshold on both scales."""
        if self.point is None:
            return "no operating point was chosen"
        natural = self.natural_threshold
        share = "where as many are positive as in training"
        scale = f" ({natural:.4f} {share})" if natural is not None else ""
        return f"chosen on {films_in_words(self.chosen_on)}{scale}: {self.point.describe()}"

    def to_dict(self) -> dict[str, Any]:
        """Plain Python values, ready for JSON; the operating point's fields come first."""
        point = self.point.to_dict() if self.point else {"threshold": None}
        return {
            **point,
            "not_usable": list(self.not_usable),
            "chosen_on": self.chosen_on,
            "threshold_natural": self.natural_threshold,
            "imbalance": self.imbalance.to_dict(),
            "scaling": self.scaling.to_dict() if self.scaling else None,
            "weights_sha256": self.weights_sha256,
        }

    @classmethod
    def from_dict(cls, mapping: Mapping[str, Any]) -> Self:
        """What `to_dict` returned, as an object.

        Raises:
            KeyError: If an entry is missing.
            ValueError: If an entry is out of its range.
        """
        chosen = mapping["threshold"] is not None
        return cls(
            point=OperatingPoint.from_dict(mapping) if chosen else None,
            chosen_on=mapping["chosen_on"],
            imbalance=ImbalanceLedger.from_dict(mapping["imbalance"]),
            weights_sha256=mapping["weights_sha256"],
            scaling=Scaling.from_dict(mapping["scaling"]) if mapping["scaling"] else None,
            not_usable=tuple(mapping["not_usable"]),
        )
