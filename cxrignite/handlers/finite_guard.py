"""Training stops at the step that broke it."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from ignite.engine import Engine, Events
from torch import nn

from cxrignite.errors import NonFiniteError
from cxrignite.handlers.attachable import Attachable


class FiniteGuard(Attachable):
    """Stops a trainer when its loss or a parameter is NaN or infinite.

    It costs one pass over the parameters and one synchronisation a step.

    *Attach to* a trainer, before whatever saves its weights.
    *Expects* `state.output` to be the loss of the step, a 0-d tensor or a number.
    *Publishes* nothing.

    Args:
        model: Whose parameters to watch.
        describe_batch: Gives the files of a batch in words, for the error message.

    Raises:
        NonFiniteError: During the run, naming epoch, step, what is not finite and the files.
    """

    def __init__(
        self, model: nn.Module, describe_batch: Callable[[Any], str] | None = None
    ) -> None:
        self.model = model
        self.describe_batch = describe_batch

    def attach(self, engine: Engine) -> None:
        """Look after every step of `engine`; attaching twice acts once.

        Args:
            engine: The trainer.
        """
        if not engine.has_event_handler(self._check, Events.ITERATION_COMPLETED):
            engine.add_event_handler(Events.ITERATION_COMPLETED, self._check)

    @torch.no_grad()
    def _check(self, engine: Engine) -> None:
        parameters = [value for value in self.model.parameters() if value.is_floating_point()]
        # The largest magnitude: unlike a sum of squares it cannot overflow, and NaN goes through.
        largest = torch.nn.utils.get_total_norm(parameters, norm_type=math.inf)
        loss = torch.as_tensor(engine.state.output, device=largest.device)
        if not bool(torch.isfinite(loss).all() & torch.isfinite(largest)):
            raise NonFiniteError(self._describe(engine, loss))

    def _describe(self, engine: Engine, loss: torch.Tensor) -> str:
        state = engine.state
        if not torch.isfinite(loss).all():
            what = f"the loss is {loss.tolist()}"
        else:
            name = next(
                name
                for name, value in self.model.named_parameters()
                if not torch.isfinite(value).all()
            )
            what = f"parameter {name} is not finite"
        message = f"epoch {state.epoch}, step {state.iteration}: {what}"
        if self.describe_batch is not None:
            message += f"; the batch: {self.describe_batch(state.batch)}"
        return message
