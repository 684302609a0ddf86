"""What the library logs, kept in a file."""

from __future__ import annotations

import logging
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from cxrignite.errors import CxrIgniteError, WorkerKilled


@contextmanager
def log_file(path: Path) -> Iterator[None]:
    """Add what the library logs to a file, and how the block ended if by an exception.

    Args:
        path: The file, in a folder that is there.

    Yields:
        Nothing, for the block whose lines are kept.
    """
    handler = _FileHandler(path, encoding="utf-8", errors="backslashreplace")
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(message)s"))
    logger = logging.getLogger("cxrignite")
    logger.addHandler(handler)
    try:
        yield
    except BaseException as error:
        # In the file alone: the terminal gets one line from the command line. A traceback is
        # for what nobody foresaw.
        foreseen = isinstance(error, (CxrIgniteError, KeyboardInterrupt, WorkerKilled))
        info = None if foreseen else (type(error), error, error.__traceback__)
        text = f"ended by {type(error).__name__}: {error}"
        handler.emit(logger.makeRecord(logger.name, logging.ERROR, __file__, 0, text, (), info))
        raise
    finally:
        logger.removeHandler(handler)
        with suppress(OSError):  # of a full disk, where it would hide what the block ended by
            handler.close()


class _FileHandler(logging.FileHandler):
    """Leaves lines out that a full disk does not take; the terminal has them all the same."""

    def handleError(self, record: logging.LogRecord) -> None:
        if not isinstance(sys.exc_info()[1], OSError):
            super().handleError(record)
