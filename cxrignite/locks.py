"""Locks of this process alone: its children do not hold them, and none outlives it."""

from __future__ import annotations

import fcntl
import os
import weakref
from typing import IO, Any

_held: weakref.WeakSet[IO[Any]] = weakref.WeakSet()


def lock_file(file: IO[Any], *, wait: bool = False) -> None:
    """Lock a file until it is closed or this process ends, however it ends.

    A forked child inherits every descriptor and with it the lock: a loader's worker that has not
    noticed yet that its parent was killed would keep the next process out. Hence the file is closed
    in children. filelock (4.3) leaves it open in them.

    Args:
        file: Open for writing.
        wait: Wait for a process that holds it.

    Raises:
        BlockingIOError: Another process holds it, and `wait` is not set.
        OSError: The file system knows no locks.
    """
    fcntl.flock(file, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
    _held.add(file)


def _close_in_child() -> None:
    for file in list(_held):
        file.close()
    _held.clear()


os.register_at_fork(after_in_child=_close_in_child)
