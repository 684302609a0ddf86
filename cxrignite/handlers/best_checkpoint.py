"""Checkpoint of the best epoch of a run, by one metric."""

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
    """Checkpoint of some objects, saved whenever a metric beats its best value so far.

    A value that is NaN or infinite is never the best. The file is a dictionary of the objects'
    states by name, plus `epoch`, `metric` and `score`.

    *Attach to* a trainer, after the handler that publishes the metric.
    *Expects* the metric in `state.metrics`.
    *Publishes* the checkpoint, on rank 0 only, and the attributes `best_score` and `best_epoch`.

    Args:
        to_save: The objects to save, by name; each has `state_dict()`. The names `epoch`, `metric`,
            `score` and `best` are reserved. Wrappers for several processes are removed.
        directory: The folder of the checkpoint.
        metric: Key of `state.metrics`.
        mode: `max` if the highest value is the best, `min` if the lowest is.
        name: Name of the file, without `.pt`; unique in its directory.
        tie: Key of `state.metrics` whose lower value wins if `metric` is equal, such as a loss;
            null keeps the earlier epoch.
        mean_of: Number of the last epochs whose mean of `metric` is compared, at least 1. Earlier
            epochs are never the best.

    Raises:
        ValueError: If `mode` or `mean_of` is out of range, or a name in `to_save` is reserved;
            during the run, if a metric is missing.

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
        tie: str | None = None,
        mean_of: int = 1,
    ) -> None:
        if mode not in ("max", "min"):
            raise ValueError(f"mode must be 'max' or 'min', got {mode!r}")
        if mean_of < 1:
            raise ValueError(f"mean_of must be at least 1, got {mean_of}")
        if taken := {*_ABOUT, "best"} & set(to_save):
            raise ValueError(
                f"to_save must not name {', '.join(sorted(taken))}: the file uses these keys itself"
            )
        self.metric = metric
        self.mode = mode
        self.tie = tie
        self.mean_of = mean_of
        self.best_score: float | None = None
        self.best_epoch: int | None = None
        self._best_tie: float | None = None
        self._recent: dict[int, float] = {}  # values of the last epochs, by epoch
        self._saver = SafeSaver(directory)
        # Ignite's `Checkpoint` only collects the states here. Its own ranking would keep a NaN for
        # ever. It saves a single object without its name, so `best` is added as a second one.
        self._checkpoint = Checkpoint(
            {**to_save, "best": self}, self._save, filename_pattern=f"{name}.pt", n_saved=None
        )

    def attach(self, engine: Engine) -> None:
        """Check the metric after every epoch of `engine`; attaching twice acts once.

        Args:
            engine: The trainer.
        """
        if not engine.has_event_handler(self._compare, Events.EPOCH_COMPLETED):
            engine.add_event_handler(Events.EPOCH_COMPLETED, self._compare)

    def state_dict(self) -> dict[str, Any]:
        """Return the best score and its epoch, and the values that later epochs need."""
        return {
            "best_score": self.best_score,
            "best_epoch": self.best_epoch,
            "best_tie": self._best_tie,
            "recent": dict(self._recent),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore the best score, so that a resumed run has to beat it.

        Args:
            state: The result of `state_dict()`.
        """
        self.best_score = state["best_score"]
        self.best_epoch = state["best_epoch"]
        self._best_tie = state["best_tie"]
        self._recent = {int(epoch): float(value) for epoch, value in state["recent"].items()}

    def _compare(self, engine: Engine) -> None:
        epoch = engine.state.epoch
        self._recent[epoch] = self._read(engine, self.metric)
        self._recent = {
            each: value
            for each, value in self._recent.items()
            if epoch - self.mean_of < each <= epoch
        }
        tie = None if self.tie is None else self._read(engine, self.tie)
        if len(self._recent) < self.mean_of:
            return
        score = sum(self._recent.values()) / self.mean_of
        if not math.isfinite(score):
            _log.warning("epoch %d: %s is %s, which is never the best", epoch, self.metric, score)
        elif self._is_better(score, tie):
            self.best_score, self.best_epoch, self._best_tie = score, epoch, tie
            self._checkpoint(engine)

    def _read(self, engine: Engine, metric: str) -> float:
        metrics = engine.state.metrics
        if metric not in metrics:
            raise RecipeError(
                f"metric must be one of {sorted(metrics)}, got {metric!r}; "
                "attach the handler that publishes it before BestCheckpoint"
            )
        return float(metrics[metric])

    def _is_better(self, score: float, tie: float | None) -> bool:
        if self.best_score is None:
            return True
        if score == self.best_score:
            return tie is not None and self._best_tie is not None and tie < self._best_tie
        return score > self.best_score if self.mode == "max" else score < self.best_score

    def _save(self, checkpoint: Mapping[str, Any], filename: str, metadata: object) -> None:
        states = {name: state for name, state in checkpoint.items() if name != "best"}
        about = dict(zip(_ABOUT, (self.best_epoch, self.metric, self.best_score), strict=True))
        self._saver({**states, **about}, filename, about)
