"""A command line: which verb is meant, and what its end means to whoever called it."""

from __future__ import annotations

import argparse
import logging
import sys
from collections.abc import Iterator
from contextlib import contextmanager

from cxrignite import __version__
from cxrignite.errors import CxrIgniteError
from cxrignite.parsing import EXIT_CODES
from cxrignite.terminal import TerminalHandler
from cxrignite.verbs import COMMANDS, VERBS

_AFTER_A_STOP = {
    "fit": "; go on with --resume auto",
    "predict": "; the same command goes on",
    "download": "; the same command goes on",
}


def run(argv: list[str]) -> int:
    """Run one command line.

    Args:
        argv: The arguments without the program's name.

    Returns:
        The exit code: 0 done, 1 it failed while running, 2 bad recipe or arguments, 3 a data
        problem, 4 a constraint that cannot be met, 130 and 143 for signals.
    """
    verb = argv[0] if argv and argv[0] in VERBS else None
    try:
        if verb is None:
            return _top_level(argv)
        with _log_to_terminal():
            return COMMANDS[verb](argv[1:])
    except CxrIgniteError as error:
        sys.stderr.write(f"cxrignite {verb}: error: {error}\n")
        return error.exit_code
    except KeyboardInterrupt as interrupt:
        number: int = getattr(interrupt, "signal_number", 2)
        hint = _AFTER_A_STOP.get(str(verb), "")
        sys.stderr.write(f"cxrignite {verb}: stopped by signal {number}{hint}\n")
        return 128 + number
    except BrokenPipeError:
        return 1
    except OSError as error:  # a full disk, say, where no better message was found
        name = f" {error.filename}" if error.filename else ""
        sys.stderr.write(f"cxrignite {verb}: error: {error.strerror or error}{name}\n")
        return 1
    except SystemExit as leaving:  # argparse's help and version leave this way
        return leaving.code if isinstance(leaving.code, int) else 0


@contextmanager
def _log_to_terminal() -> Iterator[None]:
    logger, handler = logging.getLogger("cxrignite"), TerminalHandler()
    logger.setLevel(logging.INFO)
    logger.addHandler(handler)
    # Ignite logs every exception that passes through an engine; here each is told once.
    logging.getLogger("ignite").setLevel(logging.CRITICAL)
    try:
        yield
    finally:
        logger.removeHandler(handler)


def _top_level(argv: list[str]) -> int:
    width = max(map(len, VERBS))
    verbs = "\n".join(f"  {verb:<{width}}  {what}" for verb, what in VERBS.items())
    parser = argparse.ArgumentParser(
        prog="cxrignite",
        description="Train medical image classifiers from a recipe, with a threshold to trust.",
        epilog=f"verbs:\n{verbs}\n\n'cxrignite VERB --help' tells more.\n{EXIT_CODES}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("--version", action="version", version=f"cxrignite {__version__}")
    parser.add_argument("verb", choices=list(VERBS), metavar="VERB")
    parser.parse_args(argv or ["--help"])
    return 0
