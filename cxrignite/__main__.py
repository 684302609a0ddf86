"""`python -m cxrignite`, and the console script of the same name."""

from __future__ import annotations

import sys

from cxrignite.cli import run


def main() -> None:
    """Run the command line and leave with its exit code."""
    sys.exit(run(sys.argv[1:]))


if __name__ == "__main__":
    main()
