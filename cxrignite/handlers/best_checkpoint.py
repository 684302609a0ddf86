"""The best weights of a run, by one metric."""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

from ignite.engine import Engine, Events
from ignite.handlers import Checkpoint

from cxrignite.errors import RecipeError
from cxrignite.handlers.attachable import Attachable
from cxrignite.handlers.safe_saver import SafeSaver

_log = logging.getLogger(__name__)

_ABOUT = ("epoch", "metric", "score")


class BestCheckpoint(Attachable):
    """Saves some objects whenever a metric is better than ever before.

    A tie keeps the earlier epoch; a value that is NaN or infinite is never the best. The file is a
    dictionary of the objects' states by name, and `epoch`, `metric` and `score`.

    *Attach to* a trainer, after whatever publishes the metric.
    *Expects* the metric in `state.metrics`.
    *Publishes* the checkpoint, on rank 0 only, and the attributes `best_score` and `best_epoch`.

    Args:
        to_save: What to save, by name, which is none of those three nor `best`; each has
            `state_dict()`. Wrappers for several processes are taken off.
        directory: The folder of the checkpoint.
        metric: Key of `state.metrics`.
        mode: Whether the highest or the lowest value is the best.
        name: Name of the file, without `.pt`; another one for each of several in one directory.

    Raises:
        ValueError: If `mode` is another word, or a name in `to_save` is taken; during the run if
            the metric is missing.

    Examples:
        >>> from tempfile import TemporaryDirectory
        >>> from torch import nn
        >>> trainer = Engine(lambda engine, batch: engine.state.metrics.update(val_auc=0.9))
        >>> with TemporaryDirectory() as folder:
        ...     best = BestCheckpoint({"model": nn.Linear(2, 1)}, folder, "val_auc")
        ...     best.attach(trainer)
        ...     state = trainer.run([1, 2], max_epochs=2)
        >>> best.best_epoch, best.best_score
        (1, 0.9)
    """

    def __init__(
        self,
        to_save: Mapping[str, Any],
        directory: Path | str,
        metric: str,
        mode: Literal["max", "min"] = "max",
        name: str = "best",
    ) -> None:
        if mode not in ("max", "min"):
            raise ValueError(f"mode must be 'max' or 'min', got {mode!r}")
        if taken := {*_ABOUT, "best"} & set(to_save):
            raise ValueError(
                f"to_save must not name {', '.join(sorted(taken))}: the file's own keys"
            )
        self.metric = metric
        self.mode = mode
        self.best_score: float | None = None
        self.best_epoch: int | None = None
        self._saver = SafeSaver(directory)
        # Ignite's own ranking keeps a NaN for ever, so it is not asked for one: its `Checkpoint`
        # only collects the states. Of a single object it would save the bare state: `best` is there
        # to be the second one.
        self._checkpoint = Checkpoint(
            {**to_save, "best": self}, self._save, filename_pattern=f"{name}.pt", n_saved=None
        )

    def attach(self, engine: Engine) -> None:
        """Look at the metric after every epoch of `engine`; attaching twice acts once.

        Args:
            engine: The trainer.
        """
        if not engine.has_event_handler(self._compare, Events.EPOCH_COMPLETED):
            engine.add_event_handler(Events.EPOCH_COMPLETED, self._compare)

    def state_dict(self) -> dict[str, Any]:
        """Give the best score and its epoch."""
        return {"best_score": self.best_score, "best_epoch": self.best_epoch}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take over the best of `state_dict()`, so that a resumed run has to beat it.

        Args:
            state: What `state_dict()` gave.
        """
        self.best_score = state["best_score"]
        self.best_epoch = state["best_epoch"]

    def _compare(self, engine: Engine) -> None:
        metrics = engine.state.metrics
        if self.metric not in metrics:
            raise RecipeError(
                f"metric must be one of {sorted(metrics)}, got {self.metric!r}; what publishes it "
                "is attached before BestCheckpoint"
            )
        score = float(metrics[self.metric])
        if not math.isfinite(score):
            _log.warning("epoch %d: %s is %s, not the best", engine.state.epoch, self.metric, score)
        elif self._is_better(score):
            self.best_score, self.best_epoch = score, engine.state.epoch
            self._checkpoint(engine)

    def _is_better(self, score: float) -> bool:
        if self.best_score is None:
            return True
        return score > self.best_score if self.mode == "max" else score < self.best_score

    def _save(self, checkpoint: Mapping[str, Any], filename: str, metadata: object) -> None:
        states = {name: state for name, state in checkpoint.items() if name != "best"}
        about = dict(zip(_ABOUT, (self.best_epoch, self.metric, self.best_score), strict=True))
        self._saver({**states, **about}, filename, about)
