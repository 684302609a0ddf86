"""Training or evaluation mode, without a walk through the model at each step."""

from __future__ import annotations

from torch import nn


class ModelMode:
    """Keeps a model in one mode, whatever else runs it in between.

    `model.train()` visits every part of a model: 60 microseconds for ten layers, 320 for ResNet-50.
    To look whether a part has left its mode takes 2 and 6. Each part counts, since an evaluator
    that runs the model inside a wrapper leaves the wrapper's own mode as it is.

    Args:
        model: Whose mode.
        is_training: Training mode, else evaluation mode.
    """

    def __init__(self, model: nn.Module, *, is_training: bool) -> None:
        self._model = model
        self._is_training = is_training
        self._parts: list[nn.Module] = []
        self._modes: list[bool] = []

    def enter(self) -> None:
        """Put the model into the mode if it has left it."""
        if self._parts and [part.training for part in self._parts] == self._modes:
            return
        self._model.train(self._is_training)
        # As it leaves them: a part may keep its own mode, as a frozen batch norm does.
        self._parts = list(self._model.modules())
        self._modes = [part.training for part in self._parts]
