"""Locks of this process alone: its children do not hold them, and none outlives it."""

from __future__ import annotations

import errno
import logging
import os
from contextlib import ExitStack, suppress
from pathlib import Path

_logger = logging.getLogger(__name__)

_NO_LOCKS = {errno.ENOLCK, errno.ENOSYS, errno.ENOTSUP, errno.EOPNOTSUPP}


def hold_lock(path: Path, *, wait: bool = False, is_required: bool = True) -> ExitStack:
    """Lock a file until the context ends or this process ends, however it ends.

    The file holds the number of this process. It stays, unless the caller removes it before the
    context ends, as with `lock.callback(path.unlink)`.

    Args:
        path: A file that is there for this alone; its folder exists.
        wait: Wait for a process that holds it, which is logged.
        is_required: Raise an error on a file system without locks; otherwise that is logged.

    Returns:
        The context that gives the lock back.

    Raises:
        BlockingIOError: Another process holds it, which `strerror` names, and `wait` is not set.
        OSError: The file cannot be locked.
    """
    from filelock import FileLock, Timeout  # takes 100 ms, with asyncio

    # A soft lock would stay when its process is killed, and keep all later ones out.
    lock = FileLock(path, fallback_to_soft=False)
    with ExitStack() as held:
        try:
            held.enter_context(lock.acquire(timeout=0))
        except Timeout:
            in_use = f"in use by process {_holder(path)}"
            if not wait:
                raise BlockingIOError(errno.EAGAIN, in_use, str(path)) from None
            _logger.info("waiting: %s is %s", path, in_use)
            held.enter_context(lock.acquire())
        except OSError as error:
            if is_required or error.errno not in _NO_LOCKS:
                raise
            _logger.info("%s has no locks: other processes may write there too", path.parent)
            return held.pop_all()
        path.write_text(str(os.getpid()), encoding="ascii")
        return held.pop_all()


def _holder(path: Path) -> str:
    with suppress(OSError, ValueError):
        return path.read_text(encoding="ascii").strip() or "unknown"
    return "unknown"
