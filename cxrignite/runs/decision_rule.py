"""Decision rules, which turn a score into a decision."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal, Self

import numpy as np
from numpy.typing import NDArray

from cxrignite.data import View
from cxrignite.functional import (
    Decision,
    OperatingPoint,
    PriorShift,
    decide,
    finding_probabilities,
)
from cxrignite.functional.calibrators import Platt, Temperature, fit_platt, fit_temperature
from cxrignite.runs.informativeness import Informativeness
from cxrignite.runs.scores import SplitScores


@dataclass(frozen=True)
class Calibrators:
    """Monotone maps of scores to calibrated probabilities; they change no decision.

    Attributes:
        platt: Platt scaling; None if the scores do not rise with the label.
    """

    platt: Platt | None
    temperature: Temperature

    @classmethod
    def fit(cls, y_score: NDArray[np.float64], y_true: NDArray[np.int64]) -> Self:
        """Fit both on a split that neither trained nor tests the weights.

        Raises:
            ValueError: A class is missing.
        """
        temperature = fit_temperature(y_score, y_true)
        try:
            return cls(fit_platt(y_score, y_true), temperature)
        except ValueError:
            return cls(None, temperature)


@dataclass(frozen=True)
class SiteStatistics:
    """Batch statistics of a site's images, which replace those of the training images.

    Attributes:
        num_images: Number of images that they were estimated on.
        sha256: Digest of the file that holds them.
    """

    num_images: int
    sha256: str


@dataclass(frozen=True)
class DecisionRule:
    """Threshold of one finding, with its origin and the scale of the scores.

    Attributes:
        finding: The positive class.
        point: The operating point; None if the recipe chooses none.
        chosen_on: `val`, `calibration`, or the name of the site whose images chose it.
        weights_sha256: Digest of the file with its weights.
        calibrators: Maps fitted on the validation split; None if that has one class.
        informativeness: Measured on the images that chose the threshold; None without a threshold.
        exclusive: True if an image has one of several findings at most, so that the scores of its
            findings sum to at most 1.
        views: Views whose scores are averaged with that of the image.
        batch_norm: Batch statistics of a site for its scores; None uses those of the weights.
    """

    finding: str
    point: OperatingPoint | None
    chosen_on: str
    prior_shift: PriorShift
    weights_sha256: str
    calibrators: Calibrators | None = None
    informativeness: Informativeness | None = None
    exclusive: bool = False
    views: tuple[View, ...] = ()
    batch_norm: SiteStatistics | None = None

    @property
    def threshold(self) -> float | None:
        """Threshold; a score at or above it is positive. None if none was chosen."""
        return self.point.threshold if self.point else None

    @property
    def lower_threshold(self) -> float | None:
        """Score below which an image is negative, if the images between both are referred."""
        return self.point.lower_threshold if self.point else None

    def decide(self, score: float) -> Decision | None:
        """Return the decision for one score; None without a threshold."""
        if self.point is None:
            return None
        return decide(score, self.point.threshold, self.point.lower_threshold)

    @property
    def threshold_probability(self) -> float | None:
        """Threshold as a probability at the training prevalence; None if unknown.

        That of an exclusive class depends on the scores of the other classes too.
        """
        if self.point is None or self.exclusive:
            return None
        probability = self.prior_shift.probability([self.point.threshold])
        return None if probability is None else float(probability[0])

    @property
    def is_usable(self) -> bool:
        """True if the threshold beats chance on the images that chose it, or was not tested."""
        return self.informativeness is None or self.informativeness.is_informative

    @property
    def is_certified(self) -> bool:
        """True if the limits are guaranteed for images like those that chose the threshold."""
        return self.point is not None and self.point.status == "certified"

    @property
    def is_of_site(self) -> bool:
        """True if a site's images chose the threshold."""
        return self.chosen_on not in ("val", "calibration")

    def probability(self, scores: SplitScores) -> NDArray[np.float64] | None:
        """Return the probabilities at the training prevalence; None if unknown."""
        if self.exclusive:
            return scores.probability
        return self.prior_shift.probability(scores.y_score)

    def scales(self, scores: SplitScores) -> dict[str, NDArray[np.float64]]:
        """Return the scores on every known scale, by its name: `score`, `probability`, ..."""
        y_score, fitted = scores.y_score, self.calibrators
        maps = {
            "platt": fitted.platt if fitted else None,
            "temperature": fitted.temperature if fitted else None,
        }
        mapped = {"score": y_score, "probability": self.probability(scores)}
        mapped |= {scale: each(y_score) for scale, each in maps.items() if each is not None}
        return {scale: part for scale, part in mapped.items() if part is not None}

    def moved_to(
        self,
        site: str,
        point: OperatingPoint,
        informativeness: Informativeness | None,
        batch_norm: SiteStatistics | None = None,
    ) -> Self:
        """Return this rule with the operating point of another site.

        Calibrators are dropped with other batch statistics, since they were fitted to other scores.
        """
        return replace(
            self,
            point=point,
            chosen_on=site,
            informativeness=informativeness,
            batch_norm=batch_norm,
            calibrators=self.calibrators if batch_norm is None else None,
        )


def probabilities(
    rules: Sequence[DecisionRule], y_score: NDArray[np.float64], prevalence: float | None = None
) -> list[NDArray[np.float64] | None]:
    """Return the probabilities of each finding, shape `(N,)`; None if unknown.

    Args:
        rules: The rule of each finding.
        y_score: Scores of all findings, shape `(N, K)`.
        prevalence: Share of positives for which they hold; None is that of the training images,
            the only one of exclusive classes.
    """
    shifts = [rule.prior_shift for rule in rules]
    exclusive = rules[0].exclusive
    return finding_probabilities(y_score, shifts, exclusive=exclusive, prevalence=prevalence)


@dataclass(frozen=True)
class DecisionRules:
    """Content of `operating_point.json` and of `operating_points/SITE.json`.

    Attributes:
        findings: One rule for each finding.
    """

    findings: tuple[DecisionRule, ...]
    format: Literal[1] = 1
