"""Learning-rate schedule over the steps of a run."""

from __future__ import annotations

import math
from typing import Any

from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler


class WarmupCosine(LRScheduler):
    """Linear warm-up of the learning rate, then half a cosine down to a share of it.

    It suits `trainer.lr_step: iteration`. Every parameter group keeps its own factor.

    Args:
        optimizer: The optimizer.
        warmup: Share of the steps in which the rate rises, in [0, 1).
        final_factor: Share of the learning rate at the end, in [0, 1].
        total_steps: Number of steps; null is set from the run by `fit`.
        last_epoch: As in torch's schedulers.

    Raises:
        ValueError: If a value is out of range.

    Examples:
        >>> import torch
        >>> optimizer = torch.optim.SGD([torch.zeros(1)], lr=1.0)
        >>> schedule = WarmupCosine(optimizer, warmup=0.5, total_steps=4)
        >>> rates = []
        >>> for _ in range(5):
        ...     rates.append(round(optimizer.param_groups[0]["lr"], 3))
        ...     optimizer.step()
        ...     schedule.step()
        >>> rates
        [0.5, 1.0, 1.0, 0.5, 0.0]
    """

    def __init__(
        self,
        optimizer: Optimizer,
        warmup: float = 0.05,
        final_factor: float = 0.0,
        total_steps: int | None = None,
        last_epoch: int = -1,
    ) -> None:
        if not 0 <= warmup < 1:
            raise ValueError(f"warmup must be in [0, 1), got {warmup}")
        if not 0 <= final_factor <= 1:
            raise ValueError(f"final_factor must be in [0, 1], got {final_factor}")
        if total_steps is None or total_steps < 1:
            raise ValueError(f"total_steps must be at least 1, got {total_steps}")
        self.final_factor = final_factor
        self.total_steps = total_steps
        self.warmup_steps = round(warmup * total_steps)
        super().__init__(optimizer, last_epoch)

    def get_lr(self) -> list[Any]:
        """Return the rate of each parameter group at this step.

        Returns:
            The rates, numbers as those of the optimizer.
        """
        step, warmup = self.last_epoch, self.warmup_steps
        if step < warmup:
            factor = (step + 1) / warmup
        else:
            done = min(1.0, (step - warmup) / max(1, self.total_steps - warmup))
            wave = (1 + math.cos(math.pi * done)) / 2
            factor = self.final_factor + (1 - self.final_factor) * wave
        return [factor * rate for rate in self.base_lrs]
