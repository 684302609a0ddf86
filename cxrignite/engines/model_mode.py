"""Fast switch of a model to training or evaluation mode at each step."""

from __future__ import annotations

from torch import nn


class ModelMode:
    """Training or evaluation mode of a model that other code may also switch.

    `model.train()` visits every module: 60 microseconds for ten layers, 320 for ResNet-50. Checking
    the modes takes 2 and 6 microseconds. All modules are checked, since an evaluator that runs the
    model inside a wrapper does not change the mode of the wrapper.

    Args:
        model: The model.
        is_training: True for training mode, else evaluation mode.
    """

    def __init__(self, model: nn.Module, *, is_training: bool) -> None:
        self._model = model
        self._is_training = is_training
        self._parts: list[nn.Module] = []
        self._modes: list[bool] = []

    def enter(self) -> None:
        """Put the model into the mode if any module is in the other one."""
        if self._parts and [part.training for part in self._parts] == self._modes:
            return
        self._model.train(self._is_training)
        # Recorded after the switch: a module may keep its own mode, as a frozen batch norm does.
        self._parts = list(self._model.modules())
        self._modes = [part.training for part in self._parts]
