"""Ensemble of classifiers that were trained apart; its score is the mean of their scores."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from cxrignite.functional.findings import with_first_class
from cxrignite.nn.classifiers import BinaryClassifier


class Ensemble(BinaryClassifier):
    """Classifiers of one kind, whose scores are averaged.

    `cross_validate` makes it of the models of its folds. The features of an image, which the shift
    check compares, are those of all members, side by side.

    Args:
        model: Class of the members.
        num_members: Number of members, at least 2.
        num_findings: Number of findings, K, at least 1.
        exclusive: True if an image shows one finding at most, so that the scores are a softmax.

    Raises:
        ValueError: If `num_members` is below 2.
    """

    def __init__(
        self,
        model: Callable[[], BinaryClassifier],
        num_members: int,
        num_findings: int = 1,
        exclusive: bool = False,
    ) -> None:
        if num_members < 2:
            raise ValueError(f"num_members must be at least 2, got {num_members}")
        given: dict[str, Any] = {"num_findings": num_findings} if num_findings > 1 else {}
        members = nn.ModuleList(model(**given) for _ in range(num_members))
        super().__init__(
            nn.Identity(),  # type: ignore[arg-type]  # each member has its own normaliser
            members,
            MeanScore(exclusive),
            getattr(members[0], "image_size", None),
            num_findings,
        )

    @property
    def members(self) -> nn.ModuleList:
        """The classifiers."""
        return self.backbone  # type: ignore[return-value]  # see the constructor

    @property
    def cam_layer(self) -> str:
        """Dotted name of the layer for class activation maps, in each member."""
        return str(self.members[0].cam_layer)

    def forward(self, images: Tensor) -> Tensor:
        """Score a batch.

        Args:
            images: Shape `(N, 1, H, W)`, uint8 in `[0, 255]` or floating point in `[0, 1]`.

        Returns:
            Logits of the mean scores, `(N,)` or `(N, K)`.
        """
        features: list[Tensor] = []
        logits = []
        for member in self.members:
            # A member may be a user's class, so its features are taken where `fit` takes them.
            head: Any = member.head
            hook = head.register_forward_pre_hook(
                lambda _, inputs: features.append(inputs[0].float())
            )
            try:
                logits.append(member(images).float())
            finally:
                hook.remove()
        mean: Tensor = self.head(torch.cat(features, dim=1), torch.stack(logits))
        return mean


class MeanScore(nn.Module):
    """Head of an `Ensemble`: the logits of the mean of its members' scores.

    Args:
        exclusive: True if the scores are a softmax over the classes.
    """

    def __init__(self, exclusive: bool = False) -> None:
        super().__init__()
        self.exclusive = exclusive

    def forward(self, features: Tensor, logits: Tensor) -> Tensor:
        """Average scores. It is computed with logarithms, since a sigmoid saturates in float32.

        Args:
            features: The members' features, `(N, F)`, which are not used here.
            logits: Their logits, `(M, N)` or `(M, N, K)`.

        Returns:
            Logits of the mean scores, `(N,)` or `(N, K)`.
        """
        if self.exclusive and logits.ndim == 3:
            sums = F.log_softmax(with_first_class(logits), dim=2).logsumexp(dim=0)
            return sums[:, 1:] - sums[:, :1]
        return F.logsigmoid(logits).logsumexp(dim=0) - F.logsigmoid(-logits).logsumexp(dim=0)
