"""End a run after the current batch on Ctrl-C or SIGTERM, by an exception."""

from __future__ import annotations

import logging
import os
import signal
import threading
from types import FrameType
from typing import Any

from ignite.engine import Engine, Events

from cxrignite.errors import WorkerKilled
from cxrignite.handlers.attachable import Attachable
from cxrignite.stops import STOPS, StopRequested, note_stop

_log = logging.getLogger(__name__)


class GracefulStop(Attachable):
    """Signal handler that raises `StopRequested` after the current batch.

    A second signal raises it at once. So does the first, if the engine is waiting for a batch.
    It raises, instead of calling `engine.terminate`, so that no `EPOCH_COMPLETED` handler writes
    half an epoch. The former signal handlers are restored when the outermost engine ends, however
    it ends. A `RuntimeError` or `WorkerKilled` between the signal and the end of its batch counts
    as the stop: the same signal has ended a worker of the loader.
    Outside the main thread, where Python receives no signals, it does nothing but log one warning.

    *Attach to* the trainer and every evaluator that it runs; after other handlers of
    `EXCEPTION_RAISED`, because this one raises the exception again.
    *Expects* nothing.
    *Publishes* nothing.

    Args:
        signals: The signals to handle.

    Raises:
        StopRequested: During the run.

    Examples:
        >>> trainer = Engine(lambda engine, batch: signal.raise_signal(signal.SIGTERM))
        >>> GracefulStop().attach(trainer)
        >>> try:
        ...     state = trainer.run(range(4))
        ... except StopRequested as stop:
        ...     print(f"{stop}, after batch {trainer.state.iteration}")
        stopped by SIGTERM, after batch 1
    """

    def __init__(self, signals: tuple[signal.Signals, ...] = STOPS) -> None:
        self.signals = signals
        self._engines: list[Engine] = []
        self._former: dict[signal.Signals, Any] = {}
        self._requested: int | None = None
        self._process = os.getpid()
        self._warned = False

    def attach(self, engine: Engine) -> None:
        """Handle signals while `engine` runs; attaching twice acts once.

        Args:
            engine: A trainer, or an evaluator that runs inside it.
        """
        if engine.has_event_handler(self._enter, Events.STARTED):
            return
        engine.add_event_handler(Events.STARTED, self._enter)
        # A signal during an evaluator without this handler ends the run before the next epoch.
        engine.add_event_handler(Events.EPOCH_STARTED, self.stop_if_requested)
        # For a signal between the end of a batch and the wait for the next one.
        engine.add_event_handler(Events.GET_BATCH_STARTED, self.stop_if_requested)
        engine.add_event_handler(Events.ITERATION_COMPLETED, self.stop_if_requested)
        engine.add_event_handler(Events.COMPLETED, self._complete)
        engine.add_event_handler(Events.TERMINATE, self._terminate)
        engine.add_event_handler(Events.INTERRUPT, self._leave)
        engine.add_event_handler(Events.EXCEPTION_RAISED, self._fail)

    def stop_if_requested(self) -> None:
        """Raise if a signal has arrived; call it in a handler between steps that take seconds.

        Raises:
            StopRequested: If a signal has arrived since the last batch.
        """
        if self._requested is not None:
            number, self._requested = self._requested, None
            raise StopRequested(number)

    def _enter(self, engine: Engine) -> None:
        if threading.current_thread() is not threading.main_thread():
            if not self._warned:
                _log.warning(
                    "signals are handled only in the main thread: this run cannot be stopped by one"
                )
                self._warned = True
            return
        if not self._engines:
            self._requested = None
            note_stop(None)
            self._process = os.getpid()
            self._former = {number: signal.getsignal(number) for number in self.signals}
            for number in self.signals:
                signal.signal(number, self._on_signal)
        self._engines.append(engine)

    def _leave(self, engine: Engine) -> None:
        if engine not in self._engines:
            return
        self._engines.remove(engine)
        if not self._engines:
            for number, former in self._former.items():
                # None: it was not set from Python, so Python cannot restore it.
                signal.signal(number, signal.SIG_DFL if former is None else former)

    def _complete(self, engine: Engine) -> None:
        self._leave(engine)
        # A signal after the last batch must not be lost.
        self.stop_if_requested()

    def _terminate(self, engine: Engine) -> None:
        if engine.should_terminate == "skip_completed":
            self._leave(engine)

    def _fail(self, engine: Engine, error: BaseException) -> None:
        # Ignite calls this twice for one exception, and swallows it unless it is raised again.
        self._leave(engine)
        if self._requested is not None and isinstance(error, RuntimeError | WorkerKilled):
            # A scheduler signals all processes of a job. The loader's workers end at once, and
            # torch raises for that inside the batch; likewise for other ranks that have ended.
            number, self._requested = self._requested, None
            _log.warning("the current batch was abandoned: %s", str(error).partition("\n")[0])
            raise StopRequested(number) from error
        raise error

    def _on_signal(self, number: int, frame: FrameType | None) -> None:
        if os.getpid() != self._process:
            # A forked loader worker has inherited this method. Ctrl-C reaches it too, but its
            # parent still needs the batch; any other signal is meant for the worker.
            if number != signal.SIGINT:
                os._exit(128 + number)
            return
        # While the engine waits for a batch, maybe for ever, no current batch can end.
        is_waiting = any(
            engine.last_event_name is Events.GET_BATCH_STARTED for engine in self._engines[-1:]
        )
        if self._requested is not None or is_waiting:
            note_stop(number)
            raise StopRequested(number)
        self._requested = number
        note_stop(number)
        _log.warning(
            "%s: stopping after this batch; send it again to stop at once",
            signal.Signals(number).name,
        )
