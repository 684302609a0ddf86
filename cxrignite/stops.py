"""Signals that end a command at any point: Ctrl-C and SIGTERM."""

from __future__ import annotations

import ctypes
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
"""Signals that request a stop."""

_PR_SET_PDEATHSIG = 1  # from `sys/prctl.h`


class StopRequested(KeyboardInterrupt):
    """Stop of a run, requested by a signal.

    Args:
        signal_number: The signal; the process then exits with 128 plus this number.
    """

    def __init__(self, signal_number: int) -> None:
        super().__init__(f"stopped by {signal.Signals(signal_number).name}")
        self.signal_number = signal_number


class _Seen:
    """State of a stop: its signal, and the process that takes signals."""

    number: int | None = None
    process = os.getpid()


def note_stop(number: int | None) -> None:
    """Record that a signal requests a stop.

    Args:
        number: The signal; None clears the record.
    """
    _Seen.number = number


def is_stopping() -> bool:
    """True if a signal has requested a stop, which may be the cause of any later failure."""
    return _Seen.number is not None


@contextmanager
def stoppable() -> Iterator[None]:
    """Let Ctrl-C and SIGTERM raise `StopRequested` at any point of the block.

    It does nothing outside the main thread, because only that thread receives signals in Python.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    note_stop(None)
    _Seen.process = os.getpid()
    former = {number: signal.signal(number, _stop) for number in STOPS}
    hook = sys.unraisablehook

    def send_again(lost: UnraisableHookArgs) -> None:
        # Python ignores errors of destructors and hooks, so a stop raised there is sent again.
        if isinstance(lost.exc_value, StopRequested) and (main := threading.main_thread().ident):
            threading.Timer(0.05, _send, (main, lost.exc_value.signal_number)).start()
        else:
            hook(lost)

    sys.unraisablehook = send_again
    try:
        yield
    finally:
        sys.unraisablehook = hook
        for number, handler in former.items():
            # None: it was not set from Python, so Python cannot restore it.
            signal.signal(number, signal.SIG_DFL if handler is None else handler)
        note_stop(None)


def end_with_parent(parent: int) -> None:
    """Have the kernel kill this process when its parent ends; only on Linux.

    The signal comes when the *thread* that started the process ends, so only the main thread should
    start such processes.

    Args:
        parent: Process id of the parent.
    """
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() != parent:
            os._exit(1)


def _send(thread: int, number: int) -> None:
    if sys.platform == "win32":
        signal.raise_signal(number)  # Python runs the handler in its main thread
    else:
        signal.pthread_kill(thread, number)


def _stop(number: int, frame: FrameType | None) -> None:
    if os.getpid() == _Seen.process:
        note_stop(number)
        raise StopRequested(number)
    # Ctrl-C also reaches a forked child, which leaves it to its parent.
    if number != signal.SIGINT:
        os._exit(128 + number)


@contextmanager
def held_signals() -> Iterator[None]:
    """Delay Ctrl-C and SIGTERM until the end of the block, while processes are forked.

    A signal in the middle of a fork would be lost, because Python runs its handler in a hook whose
    errors are ignored. A child would also use the handler of its parent before it sets its own. A
    signal mask does not help: other threads would still receive the signal.
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
