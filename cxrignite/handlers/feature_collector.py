"""Features of one epoch: the input of one layer of a classifier, for every image."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from ignite.engine import Engine, Events
from numpy.typing import NDArray
from torch import Tensor, nn

from cxrignite.functional.gathering import gather_images, gather_rows, image_index
from cxrignite.handlers.attachable import Attachable

Features = tuple[NDArray[np.float32], NDArray[np.int64]]


class FeatureCollector(Attachable):
    """Collector of one layer's input for each image of an epoch, in float32 on the CPU.

    The forward hook is on the layer only while a step of this engine runs, however the step ends.
    So other engines of the same model are neither slowed down nor recorded.

    *Attach to* an evaluator.
    *Expects* its step to call the layer with features of shape `(N, F)`, in one or more pieces, and
    `state.batch[2]`, if there is one, to be the index of each image. `state.num_fillings`, if set,
    is the number of filler images that the step appended to the batch; `state.num_views`, if set,
    is the number of times that it scored the batch, of which the first one is collected.
    *Publishes* nothing; `gather()` returns the epoch's features.

    Args:
        layer: A module of the model that the engine runs, such as the `head` of a classifier.

    Examples:
        >>> model = nn.Sequential(nn.Linear(3, 2), nn.Linear(2, 1))
        >>> evaluator = Engine(lambda engine, batch: model(batch[0]))
        >>> collector = FeatureCollector(model[1])
        >>> collector.attach(evaluator)
        >>> state = evaluator.run([(torch.ones(4, 3), torch.ones(4))])
        >>> features, index = collector.gather()
        >>> features.shape
        (4, 2)
    """

    def __init__(self, layer: nn.Module) -> None:
        self.layer = layer
        self._pieces: list[Tensor] = []
        self._rows: list[Tensor] = []
        self._index: list[Tensor] = []
        self._gathered: Features | None = None

    def attach(self, engine: Engine) -> None:
        """Collect every epoch of `engine` from now on; attaching twice acts once.

        Args:
            engine: The evaluator.

        Raises:
            ValueError: During the run, if a step does not call the layer, its input has another
                shape, or the batch does not have one index per image.
        """
        if engine.has_event_handler(self._append, Events.ITERATION_COMPLETED):
            return
        engine.add_event_handler(Events.EPOCH_STARTED, self._reset)
        engine.add_event_handler(Events.ITERATION_COMPLETED, self._append)
        step = engine._process_function

        # No event is certain to remove the hook. Each handler of EXCEPTION_RAISED has to raise the
        # exception again (Ignite 0.5.5 swallows it otherwise), so the next one is never called.
        def observed(engine: Engine, batch: Any) -> Any:
            self._pieces = []
            hook = self.layer.register_forward_pre_hook(self._observe)
            try:
                return step(engine, batch)
            finally:
                hook.remove()

        engine._process_function = observed

    def gather(self) -> Features:
        """Join the epoch's features over all processes, each image once.

        A collective call: every process of the group makes it, after the epoch's last batch.

        Returns:
            `features`, shape `(N, F)`, float32, and `index`, shape `(N,)`, sorted by index:
            positions in the evaluated split. If the batches have no index it is -1, and the order
            is that of collection. `F` is 0 if no process had an image.
        """
        if self._gathered is None:
            width = torch.tensor([self._rows[0].shape[1] if self._rows else 0])
            # The empty first piece gives a process without images the right shape.
            empty = torch.empty(0, int(gather_rows(width).max()))
            index = torch.cat([torch.empty(0, dtype=torch.int64), *self._index])
            rows, index = gather_images(torch.cat([empty, *self._rows]), index)
            self._gathered = rows.numpy(), index.numpy()
            self._rows, self._index = [], []
        return self._gathered

    def _reset(self) -> None:
        self._rows, self._index, self._gathered = [], [], None

    def _observe(self, layer: nn.Module, inputs: tuple[Any, ...]) -> None:
        features = inputs[0] if inputs else None
        if not isinstance(features, Tensor) or features.ndim != 2:
            shape = tuple(features.shape) if isinstance(features, Tensor) else type(features)
            raise ValueError(f"the layer's input must have shape (N, F), got {shape}")
        # A copy, since the layer may change its input in place.
        self._pieces.append(features.detach().to("cpu", torch.float32, copy=True))

    def _append(self, engine: Engine) -> None:
        if not self._pieces:
            raise ValueError(
                f"the step must call the layer, got no call of {type(self.layer).__name__}; "
                "give FeatureCollector a layer of the model that this engine runs"
            )
        rows = torch.cat(self._pieces)
        self._pieces = []
        # The first pass only, without the filler images at the end of the batch.
        num_rows = len(rows) // getattr(engine.state, "num_views", 1)
        rows = rows[: num_rows - getattr(engine.state, "num_fillings", 0)]
        self._rows.append(rows)
        self._index.append(image_index(engine.state.batch, len(rows)))
