"""Signals that end a command, Ctrl-C and SIGTERM, wherever the process happens to be."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import contextmanager

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


@contextmanager
def held_signals() -> Iterator[None]:
    """Hold signals back while processes are forked; they come when the block ends.

    One that comes in the middle of a fork is lost: Python runs its handler in a hook whose errors
    are ignored. And a child would take it by its parent's handler. A child has them held back, too,
    until it calls `release_signals`.
    """
    former = signal.pthread_sigmask(signal.SIG_BLOCK, {*STOPS, signal.SIGCHLD})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, former)


def release_signals() -> None:
    """Let the signals through that were held back when this process was forked."""
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {*STOPS, signal.SIGCHLD})
