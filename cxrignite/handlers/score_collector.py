"""One epoch's scores, labels and indices, collected once for all handlers of an evaluator."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from ignite.engine import Engine, Events
from numpy.typing import NDArray
from torch import Tensor

from cxrignite.functional.gathering import gather_rows
from cxrignite.handlers.attachable import Attachable

_NO_INDEX = -1


Scores = tuple[NDArray[np.float64], NDArray[np.int64], NDArray[np.int64]]


class ScoreCollector(Attachable):
    """Collects what an evaluator puts out, without synchronising the device during the epoch.

    *Attach to* an evaluator.
    *Expects* `state.output` to be `(y_score, y_true)`, each of shape `(N,)`, and `state.batch[2]`,
    where there is one, to be the index of each image.
    *Publishes* nothing; `gather()` gives the epoch's scores.
    """

    def __init__(self) -> None:
        self._rows: list[Tensor] = []
        self._index: list[Tensor] = []
        self._gathered: Scores | None = None

    @classmethod
    def on(cls, engine: Engine) -> ScoreCollector:
        """Give the collector of `engine`, so that several handlers gather once.

        Args:
            engine: The evaluator; it gets a collector if it has none.

        Returns:
            The one collector of that engine.
        """
        collector = getattr(engine.state, "score_collector", None)
        if not isinstance(collector, cls):
            collector = cls()
            collector.attach(engine)
        return collector

    def attach(self, engine: Engine) -> None:
        """Collect every epoch of `engine` from now on; attaching twice acts once.

        Args:
            engine: The evaluator.
        """
        if not engine.has_event_handler(self._append, Events.ITERATION_COMPLETED):
            engine.add_event_handler(Events.EPOCH_STARTED, self._reset)
            engine.add_event_handler(Events.ITERATION_COMPLETED, self._append)
        vars(engine.state)["score_collector"] = self

    def gather(self) -> Scores:
        """Join the epoch's scores over all processes, each image once.

        It is a collective call: every process of a group makes it, after the epoch's last batch.

        Returns:
            `y_score`, `y_true` and `index`, each of shape `(N,)` and sorted by index: probabilities
            of the positive class in float64, labels 0 or 1, positions in the evaluated split. Where
            the batches have no index it is -1, and the order is that of collection.
        """
        if self._gathered is None:
            # The empty first piece gives a process without images the right shape.
            rows = torch.cat([torch.empty(0, 2), *(rows.cpu() for rows in self._rows)])
            index = torch.cat([torch.empty(0, dtype=torch.int64), *self._index])
            self._gathered = _each_image_once(
                gather_rows(rows).double().numpy(), gather_rows(index).numpy()
            )
            self._rows, self._index = [], []
        return self._gathered

    def _reset(self) -> None:
        self._rows, self._index, self._gathered = [], [], None

    def _append(self, engine: Engine) -> None:
        output: Any = engine.state.output
        batch: Any = engine.state.batch
        y_score, y_true = output
        # Copies: a tensor that a loader worker sent keeps a file descriptor open while it lives.
        rows = torch.stack([y_score.detach().float(), y_true.detach().float()], dim=1)
        if isinstance(batch, list | tuple) and len(batch) > 2:
            index = torch.as_tensor(batch[2], dtype=torch.int64).cpu().clone()
        else:
            index = torch.full((len(rows),), _NO_INDEX)
        if len(index) != len(rows):
            raise ValueError(f"index must have one entry a score, got {len(index)} for {len(rows)}")
        self._rows.append(rows)
        self._index.append(index)


def _each_image_once(rows: NDArray[np.float64], index: NDArray[np.int64]) -> Scores:
    if (index == _NO_INDEX).any():
        return rows[:, 0], rows[:, 1].astype(np.int64), index
    # A distributed sampler repeats images to fill the last batch.
    unique, first = np.unique(index, return_index=True)
    return rows[first, 0], rows[first, 1].astype(np.int64), unique
