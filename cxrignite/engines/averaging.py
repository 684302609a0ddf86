"""Running average of a model's weights over the steps of its training."""

from __future__ import annotations

import torch
from torch import nn
from torch.optim.swa_utils import AveragedModel


class AveragedWeights(AveragedModel):
    """Average of a model's weights and batch statistics: `module` is the averaged model.

    Torch's own update waits for the GPU at each step and cannot average the integer counters of
    batch norm, so it is replaced: one `lerp` for all weights, and a copy of the counters.

    Args:
        model: The model; it is copied.
        decay: Share of the average that an update keeps, in (0, 1): an exponential moving average.
            The first updates keep less, `(1 + n) / (10 + n)` after n of them. Null weights all
            updates the same (stochastic weight averaging).

    Examples:
        >>> model = nn.Linear(1, 1)
        >>> average = AveragedWeights(model)
        >>> for weight in (1.0, 2.0):
        ...     _ = nn.init.constant_(model.weight, weight)
        ...     average.update_parameters(model)
        >>> average.module.weight.item()
        1.5
    """

    def __init__(self, model: nn.Module, decay: float | None = None) -> None:
        super().__init__(model, use_buffers=True)
        self.decay = decay

    @torch.no_grad()
    def update_parameters(self, model: nn.Module) -> None:
        """Add the weights of `model` to the average; the first ones are copied.

        Args:
            model: The model that is trained.
        """
        count = int(self.n_averaged)  # on the CPU
        kept = count / (count + 1)
        if self.decay is not None and count:
            kept = min(self.decay, (1 + count) / (10 + count))
        ours, theirs = (
            [
                *each.parameters(),
                *(buffer for buffer in each.buffers() if buffer.is_floating_point()),
            ]
            for each in (self.module, model)
        )
        torch._foreach_lerp_(ours, theirs, 1 - kept)
        for counter, newest in zip(self.module.buffers(), model.buffers(), strict=True):
            if not counter.is_floating_point():
                counter.copy_(newest)
        self.n_averaged += 1
