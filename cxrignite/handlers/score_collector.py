"""One epoch's scores, labels and indices, collected once for all handlers of an evaluator."""

from __future__ import annotations

from typing import Any

import torch
from ignite.engine import Engine, Events
from torch import Tensor

from cxrignite.functional.gathering import EpochScores, ScoreSource, gather_images, image_index
from cxrignite.handlers.attachable import Attachable


class ScoreCollector(Attachable):
    """Collects what an evaluator puts out, without synchronising the device during the epoch.

    Where the evaluator collects its scores already, as `state.score_source`, it takes them there.

    *Attach to* an evaluator.
    *Expects* `state.output` to be `(y_score, y_true)`, each of shape `(N,)`, and `state.batch[2]`,
    where there is one, to be the index of each image.
    *Publishes* nothing; `gather()` gives the epoch's scores.
    """

    def __init__(self) -> None:
        self._rows: list[Tensor] = []
        self._index: list[Tensor] = []
        self._gathered: EpochScores | None = None
        self._source: ScoreSource | None = None

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
        source = getattr(engine.state, "score_source", None)
        self._source = source if isinstance(source, ScoreSource) else None
        is_collecting = engine.has_event_handler(self._append, Events.ITERATION_COMPLETED)
        if self._source is None and not is_collecting:
            engine.add_event_handler(Events.EPOCH_STARTED, self._reset)
            engine.add_event_handler(Events.ITERATION_COMPLETED, self._append)
        vars(engine.state)["score_collector"] = self

    def gather(self) -> EpochScores:
        """Join the epoch's scores over all processes, each image once.

        It is a collective call: every process of a group makes it, after the epoch's last batch.

        Returns:
            The scores; the same object until the next epoch.
        """
        if self._source is not None:
            return self._source.gather()
        if self._gathered is None:
            # The empty first piece gives a process without images the right shape.
            rows = torch.cat([torch.empty(0, 2), *(rows.cpu() for rows in self._rows)])
            index = torch.cat([torch.empty(0, dtype=torch.int64), *self._index])
            rows, index = gather_images(rows, index)
            y_score, y_true = rows[:, 0].double().numpy(), rows[:, 1].long().numpy()
            self._gathered = EpochScores(y_score, y_true, index.numpy())
            self._rows, self._index = [], []
        return self._gathered

    def _reset(self) -> None:
        self._rows, self._index, self._gathered = [], [], None

    def _append(self, engine: Engine) -> None:
        output: Any = engine.state.output
        y_score, y_true = output
        # `stack` copies, as `image_index` does: the next batch may come in the same memory.
        rows = torch.stack([y_score.detach().float(), y_true.detach().float()], dim=1)
        self._rows.append(rows)
        self._index.append(image_index(engine.state.batch, len(rows)))
