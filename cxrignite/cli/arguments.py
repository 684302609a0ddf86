"""Argument parser whose errors are one line, like all errors of the command line."""

from __future__ import annotations

import argparse
import itertools
import re
import sys
from collections.abc import Sequence
from typing import Any, NoReturn

from cxrignite.errors import RecipeError, suggestion


class OneLineParser(argparse.ArgumentParser):
    """Argument parser that raises its errors, with the nearest known name.

    Args:
        prog: The command, such as `cxrignite report`.
        description: Its task.
        settings: Further arguments of `ArgumentParser`, which `argparse` passes to subparsers.
    """

    def __init__(self, prog: str, description: str | None = None, **settings: Any) -> None:
        super().__init__(prog=prog, description=description, allow_abbrev=False, **settings)

    def parse_known_args(  # type: ignore[override]  # the only overload in use
        self, args: Sequence[str] | None = None, namespace: argparse.Namespace | None = None
    ) -> tuple[argparse.Namespace, list[str]]:
        """Refuse unknown options, then parse: `argparse` would report missing ones first.

        Args:
            args: The arguments after the command; by default those of this process.
            namespace: Namespace that receives the values.

        Raises:
            RecipeError: An option is unknown, or an argument is wrong.
        """
        words = sys.argv[1:] if args is None else list(args)
        options = [name[2:] for name in self._option_string_actions if name.startswith("--")]
        for word in itertools.takewhile(lambda word: word != "--", words):
            name = word.partition("=")[0][2:]
            if word.startswith("--") and name not in options:
                raise RecipeError(f"unknown option '--{name}'{suggestion(name, options, '--')}")
        return super().parse_known_args(words, namespace)

    def error(self, message: str) -> NoReturn:
        """Refuse the arguments.

        Args:
            message: Message of `argparse`.

        Raises:
            RecipeError: Always.
        """
        choice = re.search(r"argument (\S+): invalid choice: '(.*?)' \(choose from (.*)\)", message)
        missing = re.search(r"the following arguments are required: (.+)", message)
        if choice:
            names = choice[3].replace("'", "").split(", ")
            message = f"unknown {choice[1].lower()} '{choice[2]}'{suggestion(choice[2], names)}"
        elif missing:
            message = f"{missing[1]} is missing; see `{self.prog} --help`"
        raise RecipeError(message)
