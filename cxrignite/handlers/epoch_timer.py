"""Duration of training epochs, and the share of it spent waiting for data."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from time import perf_counter
from typing import Any

import ignite.distributed as idist
import torch
from ignite.engine import Engine, Events

from cxrignite.handlers.attachable import Attachable
from cxrignite.handlers.image_count import num_images


@dataclass(frozen=True)
class EpochTiming:
    """The times of one epoch.

    Attributes:
        epoch: Number of the epoch, from 1.
        seconds: From the epoch's start to the end of its last step.
        data_wait_seconds: Part of `seconds` spent waiting for batches and for workers to start.
        num_images: Images of the epoch, on all processes.
        is_warmup: True for the first epochs of a process, which the summary leaves out.
    """

    epoch: int
    seconds: float
    data_wait_seconds: float
    num_images: int
    is_warmup: bool

    @property
    def compute_seconds(self) -> float:
        """Seconds not spent waiting for data."""
        return self.seconds - self.data_wait_seconds

    @property
    def images_per_second(self) -> float:
        """Images per second, on all processes."""
        return self.num_images / self.seconds


class EpochTimer(Attachable):
    """Timer of a trainer's epochs.

    CUDA is synchronised when an epoch starts and when its last step ends, and not between. The time
    of other handlers at `EPOCH_COMPLETED` (a validation, a checkpoint) does not count, in whatever
    order they are attached.

    *Attach to* a trainer.
    *Expects* `state.batch` to be a tensor, or a sequence or mapping whose first member is one, with
    the images along its first dimension; or a list with one mapping per image.
    *Publishes* `epoch_seconds`, `images_per_second` and `data_wait_seconds`, and the attribute
    `epochs`.

    Args:
        num_warmup_epochs: Number of epochs, from the start of the process, that `summary()` leaves
            out.

    Raises:
        ValueError: If `num_warmup_epochs` is negative.

    Examples:
        >>> timer, trainer = EpochTimer(), Engine(lambda engine, batch: None)
        >>> timer.attach(trainer)
        >>> state = trainer.run([torch.zeros(8, 1, 4, 4)] * 3, max_epochs=2)
        >>> [epoch.num_images for epoch in timer.epochs]
        [24, 24]
    """

    def __init__(self, num_warmup_epochs: int = 0) -> None:
        if num_warmup_epochs < 0:
            raise ValueError(f"num_warmup_epochs must be 0 or more, got {num_warmup_epochs}")
        self.num_warmup_epochs = num_warmup_epochs
        self.epochs: list[EpochTiming] = []
        self._num_epochs_here = 0
        self._started = self._ended = 0.0
        self._waiting_since: float | None = None
        self._data_wait = 0.0
        self._num_images = 0

    def attach(self, engine: Engine) -> None:
        """Time every epoch of `engine`; attaching twice acts once.

        Args:
            engine: The trainer.
        """
        if engine.has_event_handler(self._publish, Events.EPOCH_COMPLETED):
            return
        engine.add_event_handler(Events.EPOCH_STARTED, self._start)
        engine.add_event_handler(Events.GET_BATCH_STARTED, self._wait)
        engine.add_event_handler(Events.GET_BATCH_COMPLETED, self._receive)
        engine.add_event_handler(Events.ITERATION_COMPLETED, self._step)
        engine.add_event_handler(Events.EPOCH_COMPLETED, self._publish)

    def summary(self) -> dict[str, float]:
        """Summarize the epochs that are not warm-up.

        Returns:
            `num_epochs`; the means per epoch `epoch_seconds` and `data_wait_seconds`; and
            `images_per_second` over all of them. Means are NaN if there is no such epoch.
        """
        epochs = [epoch for epoch in self.epochs if not epoch.is_warmup]
        count = len(epochs)
        seconds = sum(epoch.seconds for epoch in epochs)
        waited = sum(epoch.data_wait_seconds for epoch in epochs)
        images = sum(epoch.num_images for epoch in epochs)
        return {
            "num_epochs": count,
            "epoch_seconds": seconds / count if count else math.nan,
            "data_wait_seconds": waited / count if count else math.nan,
            "images_per_second": images / seconds if count else math.nan,
        }

    def state_dict(self) -> dict[str, Any]:
        """Return the epochs timed so far as plain Python values."""
        return {"epochs": [asdict(epoch) for epoch in self.epochs]}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore the epochs of `state_dict()`.

        Args:
            state: The result of `state_dict()`.
        """
        self.epochs = [EpochTiming(**epoch) for epoch in state["epochs"]]

    def _start(self) -> None:
        _synchronize()
        self._started = self._ended = perf_counter()
        # A loader starts its workers before the first batch is requested: that is a wait too.
        self._waiting_since = self._started
        self._data_wait = 0.0
        self._num_images = 0

    def _wait(self) -> None:
        if self._waiting_since is None:
            self._waiting_since = perf_counter()

    def _receive(self) -> None:
        if self._waiting_since is not None:
            self._data_wait += perf_counter() - self._waiting_since
            self._waiting_since = None

    def _step(self, engine: Engine) -> None:
        self._num_images += num_images(engine.state.batch)
        length = engine.state.epoch_length
        if length is not None and engine.state.iteration % length == 0:
            _synchronize()
        self._ended = perf_counter()

    def _publish(self, engine: Engine) -> None:
        self._num_epochs_here += 1
        timing = EpochTiming(
            epoch=engine.state.epoch,
            seconds=self._ended - self._started,
            data_wait_seconds=self._data_wait,
            num_images=int(idist.all_reduce(self._num_images)),
            is_warmup=self._num_epochs_here <= self.num_warmup_epochs,
        )
        self.epochs.append(timing)
        engine.state.metrics["epoch_seconds"] = timing.seconds
        engine.state.metrics["images_per_second"] = timing.images_per_second
        engine.state.metrics["data_wait_seconds"] = timing.data_wait_seconds


def _synchronize() -> None:
    if torch.cuda.is_available():
        torch.cuda.synchronize()
