"""A command line: its command, and the exit code that it ends with."""

from __future__ import annotations

import argparse
import logging
from collections.abc import Iterator
from contextlib import contextmanager

from cxrignite import __version__
from cxrignite.cli.commands import COMMANDS, FUNCTIONS
from cxrignite.cli.parsing import EXIT_CODES
from cxrignite.errors import CxrIgniteError, RecipeError, suggestion
from cxrignite.stops import stoppable
from cxrignite.terminal import TerminalHandler, print_error, wrapped

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
    command = argv[0] if argv and argv[0] in COMMANDS else None
    name = f"cxrignite {command}" if command else "cxrignite"
    try:
        with stoppable():
            if command is None:
                return _top_level(argv)
            with _log_to_terminal():
                return FUNCTIONS[command](argv[1:])
    except CxrIgniteError as error:
        print_error(f"{name}: error: {error}")
        return error.exit_code
    except KeyboardInterrupt as interrupt:
        number: int = getattr(interrupt, "signal_number", 2)
        hint = _AFTER_A_STOP.get(str(command), "")
        print_error(f"{name}: stopped by signal {number}{hint}")
        return 128 + number
    except BrokenPipeError:
        return 1
    except OSError as error:  # a full disk, say, where no better message was found
        file = f" {error.filename}" if error.filename else ""
        print_error(f"{name}: error: {error.strerror or error}{file}")
        return 1
    except SystemExit as leaving:  # argparse's help and version leave this way
        return leaving.code if isinstance(leaving.code, int) else 0


@contextmanager
def _log_to_terminal() -> Iterator[None]:
    logger, handler = logging.getLogger("cxrignite"), TerminalHandler()
    # Ignite logs every exception that passes through an engine; here each is printed once.
    levels = {logger: logging.INFO, logging.getLogger("ignite"): logging.CRITICAL}
    before = {each: each.level for each in levels}
    logger.addHandler(handler)
    try:
        for each, level in levels.items():
            each.setLevel(level)
        yield
    finally:
        logger.removeHandler(handler)
        for each, level in before.items():
            each.setLevel(level)


def _top_level(argv: list[str]) -> int:
    if argv and argv[0] not in ("-h", "--help", "--version"):
        hint = suggestion(argv[0], COMMANDS)
        if argv[0].startswith("-"):
            hint = "; the command comes first, as in `cxrignite fit --config FILE`"
        raise RecipeError(f"no command '{argv[0]}'{hint}")
    width = max(map(len, COMMANDS))
    lines = "\n".join(wrapped(what, f"  {name:<{width}}  ") for name, what in COMMANDS.items())
    ending = f"commands:\n{lines}\n\n'cxrignite COMMAND --help' prints more.\n{wrapped(EXIT_CODES)}"
    parser = argparse.ArgumentParser(
        prog="cxrignite",
        description="Train medical image classifiers from a recipe, with a threshold to trust.",
        epilog=ending,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("--version", action="version", version=f"cxrignite {__version__}")
    parser.add_argument("command", metavar="COMMAND")
    parser.parse_args(argv or ["--help"])
    return 0
