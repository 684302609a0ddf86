"""`python -m cxrignite`, and the console script of the same name."""

from __future__ import annotations

import gc
import io
import os
import sys

from cxrignite.cli import run


def main() -> None:
    """Run the command line and leave with its exit code."""
    # As `python -m` does, so that a recipe may name the user's own classes either way.
    if not {"", os.getcwd()} & set(sys.path):
        sys.path.insert(0, os.getcwd())
    # In a file that takes both streams, results stand where they were written between log lines.
    if isinstance(sys.stdout, io.TextIOWrapper):
        # File names that are not UTF-8 hold surrogates, which are escaped as stderr does it.
        sys.stdout.reconfigure(line_buffering=True, errors="backslashreplace")
    # A class's help is printed by a parser that is named after this, `__main__.py` otherwise.
    sys.argv[0] = "cxrignite"
    code = run(sys.argv[1:])
    # The interpreter would look through a million objects of the imported libraries before it
    # ends: a second and more, in which a scheduler waits for the process that it stopped.
    gc.freeze()
    sys.exit(code)


if __name__ == "__main__":
    main()
