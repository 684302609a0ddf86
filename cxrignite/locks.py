"""File locks of one process: its children do not hold them, and they end with it."""

from __future__ import annotations

import errno
import logging
import os
from contextlib import ExitStack, suppress
from pathlib import Path

_logger = logging.getLogger(__name__)

_NO_LOCKS = {errno.ENOLCK, errno.ENOSYS, errno.ENOTSUP, errno.EOPNOTSUPP}


def hold_lock(path: Path, *, wait: bool = False, is_required: bool = True) -> ExitStack:
    """Lock a file until the context or this process ends, even if the process is killed.

    The file holds the number of this process. It stays, unless the caller removes it before the
    context ends, as with `lock.callback(path.unlink)`.

    Args:
        path: A file used only as a lock; its folder exists.
        wait: Wait for a process that holds it, and log that.
        is_required: Raise an error on a file system without locks; otherwise log that.

    Returns:
        The context that releases the lock.

    Raises:
        BlockingIOError: Another process, named in `strerror`, holds it and `wait` is not set.
        OSError: The file cannot be locked.
    """
    from filelock import FileLock, Timeout  # imports asyncio: 100 ms

    # A soft lock would stay after its process is killed, and block all later processes.
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
            _logger.info(
                "%s: this file system has no locks, so other processes may write there too",
                path.parent,
            )
            return held.pop_all()
        path.write_text(str(os.getpid()), encoding="ascii")
        return held.pop_all()


def _holder(path: Path) -> str:
    with suppress(OSError, ValueError):
        return path.read_text(encoding="ascii").strip() or "unknown"
    return "unknown"
