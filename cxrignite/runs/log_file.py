"""Log file of a run."""

from __future__ import annotations

import logging
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from cxrignite.errors import CxrIgniteError, WorkerKilled
from cxrignite.terminal import EscapingFormatter, printable


@contextmanager
def log_file(path: Path) -> Iterator[None]:
    """Append the log of the library to a file, and the exception that ends the block, if any."""
    handler = _FileHandler(path, encoding="utf-8", errors="backslashreplace")
    handler.setFormatter(EscapingFormatter("%(asctime)s %(levelname)s %(message)s"))
    logger = logging.getLogger("cxrignite")
    logger.addHandler(handler)
    try:
        yield
    except BaseException as error:
        # Only in the file: the command line prints the error as one line. Only unexpected errors
        # get a traceback.
        is_expected = isinstance(error, (CxrIgniteError, KeyboardInterrupt, WorkerKilled))
        info = None if is_expected else (type(error), error, error.__traceback__)
        text = printable(f"ended by {type(error).__name__}: {error}")
        handler.emit(logger.makeRecord(logger.name, logging.ERROR, __file__, 0, text, (), info))
        raise
    finally:
        logger.removeHandler(handler)
        with suppress(OSError):  # a full disk must not hide the exception of the block
            handler.close()


class _FileHandler(logging.FileHandler):
    """File handler that drops lines if the disk is full; the terminal still shows them."""

    def handleError(self, record: logging.LogRecord) -> None:
        if not isinstance(sys.exc_info()[1], OSError):
            super().handleError(record)
