"""Entry point of the command line: run a command and return its exit code."""

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
    "fit": "; resume with --resume auto",
    "cross_validate": "; resume with --resume auto",
    "predict": "; run the same command again to resume",
    "download": "; run the same command again to resume",
}


def run(argv: list[str]) -> int:
    """Run one command line.

    Args:
        argv: The arguments without the program's name.

    Returns:
        The exit code: 0 success, 1 failure while running, 2 wrong recipe or arguments, 3 wrong
        data, 4 a constraint that cannot be met, 130 and 143 for signals.
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
    except OSError as error:  # such as a full disk, if no better message is available
        file = f" {error.filename}" if error.filename else ""
        print_error(f"{name}: error: {error.strerror or error}{file}")
        return 1
    except SystemExit as leaving:  # argparse exits this way after help and version
        return leaving.code if isinstance(leaving.code, int) else 0


@contextmanager
def _log_to_terminal() -> Iterator[None]:
    logger, handler = logging.getLogger("cxrignite"), TerminalHandler()
    # Ignite logs every exception that passes through an engine; `run` prints it once instead.
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
        raise RecipeError(f"unknown command '{argv[0]}'{hint}")
    width = max(map(len, COMMANDS))
    lines = "\n".join(wrapped(task, f"  {name:<{width}}  ") for name, task in COMMANDS.items())
    more = "'cxrignite COMMAND --help' shows the options of a command."
    ending = f"commands:\n{lines}\n\n{more}\n{wrapped(EXIT_CODES)}"
    parser = argparse.ArgumentParser(
        prog="cxrignite",
        description="Train chest X-ray classifiers from a recipe, with a certifiable threshold.",
        epilog=ending,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("--version", action="version", version=f"cxrignite {__version__}")
    parser.add_argument("command", metavar="COMMAND")
    parser.parse_args(argv or ["--help"])
    return 0
