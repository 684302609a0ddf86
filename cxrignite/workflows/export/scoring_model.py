"""Module from grey images to scores, probabilities and decisions, as one graph for an export."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from cxrignite.functional import PriorShift
from cxrignite.functional.class_balance import exclusive_factors
from cxrignite.functional.findings import scores_from_logits
from cxrignite.runs.decision_rule import DecisionRule

__all__ = ["INPUT", "OUTPUTS", "Limits", "ScoringModel", "limits_of"]

INPUT, OUTPUTS = "image", ("score", "probability", "decision")


@dataclass(frozen=True)
class Limits:
    """Numbers that the scores of a finding are compared with.

    Attributes:
        threshold: A score at or above it is positive.
        lower: A score below it is negative, and one between the two is referred; None if every
            score below `threshold` is negative.
    """

    threshold: float
    lower: float | None = None


def limits_of(rule: DecisionRule) -> Limits | None:
    """Return the thresholds of a decision rule; None without any."""
    return None if rule.point is None else Limits(rule.point.threshold, rule.point.lower_threshold)


class ScoringModel(nn.Module):
    """All steps of `predict` after the reading of an image, in one module that can be exported.

    Args:
        model: Classifier, images in, logits out; it is left in evaluation mode, without gradients.
        limits: Thresholds of each finding; None for one without a threshold.
        prior_shifts: Prior shift of each finding.
        exclusive: True if the findings are exclusive classes.
        views: Functions from images to changed images, whose scores are averaged with the image's.
    """

    def __init__(
        self,
        model: nn.Module,
        limits: Sequence[Limits | None],
        prior_shifts: Sequence[PriorShift],
        *,
        exclusive: bool = False,
        views: Sequence[Callable[[Tensor], Tensor]] = (),
    ) -> None:
        super().__init__()
        self.model = model.eval().requires_grad_(False)
        self.exclusive = exclusive
        self.views = tuple(views)
        # No score reaches infinity, so a missing threshold adds nothing to a decision.
        upper = [each.threshold if each else math.inf for each in limits]
        lower = [each.lower if each and each.lower is not None else math.inf for each in limits]
        shifts = [each.logit_shift for each in prior_shifts]
        odds = [math.nan if each is None else math.exp(-each) for each in shifts]
        factors = exclusive_factors(prior_shifts) if exclusive else None
        self.upper, self.lower, self.odds = _constant(upper), _constant(lower), _constant(odds)
        unknown = [math.nan] * (len(prior_shifts) + 1)
        self.factors = _constant(unknown if factors is None else factors)
        self.first = nn.Buffer(torch.tensor([0 if each else -1 for each in limits]))

    def forward(self, image: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Score a batch.

        Args:
            image: Shape `(N, 1, H, W)`, uint8.

        Returns:
            Each of shape `(N, K)`: scores, float32; probabilities at the training prevalence,
            float32, NaN if unknown; and decisions, int64: the number of thresholds that the score
            reaches, so 0 is negative; -1 without a threshold.
        """
        score = self._scores(image)
        if self.views:
            for view in self.views:
                score = score + self._scores(view(image))
            score = score / (1 + len(self.views))
        # In float64, as everywhere: a float32 threshold could lie on the other side of a score.
        exact = score.double()
        decision = self.first + (exact >= self.lower).long() + (exact >= self.upper).long()
        return score, self._probabilities(exact).float(), decision

    def _scores(self, images: Tensor) -> Tensor:
        logits = self.model(images).float()
        scores = scores_from_logits(logits, self.exclusive)
        return scores.unsqueeze(1) if scores.ndim == 1 else scores

    def _probabilities(self, score: Tensor) -> Tensor:
        """Return the probabilities, computed as `PriorShift` and `exclusive_probabilities` do."""
        if not self.exclusive:
            return 1 / (1 + (1 - score) / (score * self.odds))
        rest = (1 - score.sum(dim=1, keepdim=True)).clamp_min(0)
        shares = torch.cat([rest, score], dim=1) * self.factors
        return shares[:, 1:] / shares.sum(dim=1, keepdim=True)


def _constant(values: Sequence[float] | NDArray[np.float64]) -> nn.Buffer:
    return nn.Buffer(torch.as_tensor(values, dtype=torch.float64))
