"""An argument parser whose errors are one line, as all others of the command line."""

from __future__ import annotations

import argparse
import itertools
import re
import sys
from collections.abc import Sequence
from typing import Any, NoReturn

from cxrignite.errors import RecipeError, suggestion


class OneLineParser(argparse.ArgumentParser):
    """Raises what `argparse` would print below its usage, with the nearest right name.

    Args:
        prog: The command, such as `cxrignite report`.
        description: What it does.
        settings: Further arguments of `ArgumentParser`; `argparse` gives its subparsers some.
    """

    def __init__(self, prog: str, description: str | None = None, **settings: Any) -> None:
        super().__init__(prog=prog, description=description, allow_abbrev=False, **settings)

    def parse_known_args(  # type: ignore[override]  # of argparse's several forms, the one in use
        self, args: Sequence[str] | None = None, namespace: argparse.Namespace | None = None
    ) -> tuple[argparse.Namespace, list[str]]:
        """Parse, after the options are checked: `argparse` reports what is missing first.

        Args:
            args: The words after the command; those of this process by default.
            namespace: Gets the values.

        Raises:
            RecipeError: There is no such option, or something is wrong with the words.
        """
        words = sys.argv[1:] if args is None else list(args)
        options = [name[2:] for name in self._option_string_actions if name.startswith("--")]
        for word in itertools.takewhile(lambda word: word != "--", words):
            name = word.partition("=")[0][2:]
            if word.startswith("--") and name not in options:
                raise RecipeError(f"no option '--{name}'{suggestion(name, options, '--')}")
        return super().parse_known_args(words, namespace)

    def error(self, message: str) -> NoReturn:
        """Refuse the arguments.

        Args:
            message: What `argparse` found.

        Raises:
            RecipeError: Always.
        """
        choice = re.search(r"argument (\S+): invalid choice: '(.*?)' \(choose from (.*)\)", message)
        missing = re.search(r"the following arguments are required: (.+)", message)
        if choice:
            names = choice[3].replace("'", "").split(", ")
            message = f"no {choice[1].lower()} '{choice[2]}'{suggestion(choice[2], names)}"
        elif missing:
            message = f"{missing[1]} is missing; `{self.prog} --help` prints what it takes"
        raise RecipeError(message)
