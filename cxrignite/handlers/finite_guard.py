"""Training stops at the step that broke it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from ignite.engine import Engine, Events
from torch import nn

from cxrignite.errors import NonFiniteError
from cxrignite.handlers.attachable import Attachable


class FiniteGuard(Attachable):
    """Stops a trainer when its loss or a parameter is NaN or infinite.

    It costs one pass over the parameters and one synchronisation a step: on one CPU core 1 ms for
    EfficientNet-B0 and 8 ms for ResNet-50, under 1 % of a step of 8 images of 64 by 64 pixels.

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
        # One number for all; on the CPU ten times faster than `isfinite` of each parameter.
        norm = torch.nn.utils.get_total_norm(parameters)
        loss = torch.as_tensor(engine.state.output, device=norm.device)
        if bool(torch.isfinite(loss).all() & torch.isfinite(norm)):
            return
        # The norm may overflow where every weight is finite: then there is no culprit.
        culprit = self._find_culprit(loss)
        if culprit is not None:
            where = f"epoch {engine.state.epoch}, step {engine.state.iteration}"
            files = self.describe_batch(engine.state.batch) if self.describe_batch else None
            raise NonFiniteError(f"{where}: {culprit}" + (f"; the batch: {files}" if files else ""))

    def _find_culprit(self, loss: torch.Tensor) -> str | None:
        if not torch.isfinite(loss).all():
            return f"the loss is {loss.tolist()}"
        for name, value in self.model.named_parameters():
            if not torch.isfinite(value).all():
                return f"parameter {name} is not finite"
        return None
