"""Entry point of `python -m cxrignite` and of the console script `cxrignite`."""

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
    """Run the command line and exit with its code."""
    # Set before the slow imports; in force again after the command.
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, _leave)
    from cxrignite.cli import run

    # `python -m` does the same: a recipe may name classes from the current folder.
    if not {"", os.getcwd()} & set(sys.path):
        sys.path.insert(0, os.getcwd())
    # If one file takes both streams, results and log lines keep their order.
    if isinstance(sys.stdout, io.TextIOWrapper):
        # File names that are not UTF-8 hold surrogates: escape them as stderr does.
        sys.stdout.reconfigure(line_buffering=True, errors="backslashreplace")
    # Report a crash of native code; data/crash_report.py adds the image that was being read.
    faulthandler.enable(2, all_threads=False)
    # The help of a class uses this name, which would be `__main__.py`.
    sys.argv[0] = "cxrignite"
    code = run(sys.argv[1:])
    # Otherwise the last garbage collection visits a million objects of the imported libraries:
    # over a second, in which a scheduler waits for a process that it stopped.
    gc.freeze()
    sys.exit(code)


def _leave(number: int, frame: FrameType | None) -> NoReturn:
    os.write(2, b"cxrignite: stopped by signal %d\n" % number)
    os._exit(128 + number)


if __name__ == "__main__":
    main()
