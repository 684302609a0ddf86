"""`python -m cxrignite`, and the console script of the same name."""

from __future__ import annotations

import faulthandler
import gc
import io
import os
import signal
import sys
from types import FrameType
from typing import NoReturn


def main() -> None:
    """Run the command line and leave with its exit code."""
    # Before anything is imported, which takes a moment, and again when all is done.
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, _leave)
    from cxrignite.cli import run

    # As `python -m` does, so that a recipe may name the user's own classes either way.
    if not {"", os.getcwd()} & set(sys.path):
        sys.path.insert(0, os.getcwd())
    # In a file that takes both streams, results stand where they were written between log lines.
    if isinstance(sys.stdout, io.TextIOWrapper):
        # File names that are not UTF-8 hold surrogates, which are escaped as stderr does it.
        sys.stdout.reconfigure(line_buffering=True, errors="backslashreplace")
    # A crash of native code is printed, and with it the image that was read: data/crash_report.py.
    faulthandler.enable(2, all_threads=False)
    # A class's help is printed by a parser that is named after this, `__main__.py` otherwise.
    sys.argv[0] = "cxrignite"
    code = run(sys.argv[1:])
    # The interpreter would look through a million objects of the imported libraries before it
    # ends: a second and more, in which a scheduler waits for the process that it stopped.
    gc.freeze()
    sys.exit(code)


def _leave(number: int, frame: FrameType | None) -> NoReturn:
    os.write(2, b"cxrignite: stopped by signal %d\n" % number)
    os._exit(128 + number)


if __name__ == "__main__":
    main()
