"""Signals that end a command, Ctrl-C and SIGTERM, wherever the process happens to be."""

from __future__ import annotations

import os
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from sys import UnraisableHookArgs

STOPS = (signal.SIGINT, signal.SIGTERM)
"""The signals that ask for the end."""


class StopRequested(KeyboardInterrupt):
    """A signal asked for the run to end.

    Args:
        signal_number: The signal; a process that ends because of it exits with 128 more.
    """

    def __init__(self, signal_number: int) -> None:
        super().__init__(f"stopped by {signal.Signals(signal_number).name}")
        self.signal_number = signal_number


class _Seen:
    """The stop that is under way, in which process."""

    number: int | None = None
    process = os.getpid()


def note_stop(number: int | None) -> None:
    """Note that a signal asks for the end; `None` forgets it.

    Args:
        number: The signal.
    """
    _Seen.number = number


def is_stopping() -> bool:
    """Whether a signal has asked for the end: what ends from now on may end because of it."""
    return _Seen.number is not None


@contextmanager
def stoppable() -> Iterator[None]:
    """Let Ctrl-C and SIGTERM raise `StopRequested` in the block, wherever the process is then.

    Outside the main thread, where Python takes no signals, it does nothing.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    note_stop(None)
    _Seen.process = os.getpid()
    former = {number: signal.signal(number, _stop) for number in STOPS}
    hook = sys.unraisablehook

    def send_again(lost: UnraisableHookArgs) -> None:
        # It came while a destructor ran or a hook, whose errors Python prints and forgets.
        if isinstance(lost.exc_value, StopRequested) and (main := threading.main_thread().ident):
            number = lost.exc_value.signal_number
            threading.Timer(0.05, signal.pthread_kill, (main, number)).start()
        else:
            hook(lost)

    sys.unraisablehook = send_again
    try:
        yield
    finally:
        sys.unraisablehook = hook
        for number, handler in former.items():
            # None: it was not set from Python, so Python cannot set it back.
            signal.signal(number, signal.SIG_DFL if handler is None else handler)
        note_stop(None)


def _stop(number: int, frame: FrameType | None) -> None:
    if os.getpid() == _Seen.process:
        note_stop(number)
        raise StopRequested(number)
    # A forked child leaves Ctrl-C, which reaches it too, to its parent.
    if number != signal.SIGINT:
        os._exit(128 + number)


@contextmanager
def held_signals() -> Iterator[None]:
    """Hold Ctrl-C and SIGTERM back while processes are forked; they come when the block ends.

    One that comes in the middle of a fork is lost: Python runs its handler in a hook whose errors
    are ignored. And a child would take it by its parent's handler; it has to set its own. Not by a
    mask, since other threads would let the signal through.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    held: list[int] = []
    former = {each: signal.signal(each, lambda number, _: held.append(number)) for each in STOPS}
    try:
        yield
    finally:
        for number, handler in former.items():
            signal.signal(number, signal.SIG_DFL if handler is None else handler)
        for each in held:
            signal.raise_signal(each)
