"""An argument parser whose complaints are one line, as all others of the command line."""

from __future__ import annotations

import argparse
import difflib
import re
from typing import Any, NoReturn

from cxrignite.errors import RecipeError


class OneLineParser(argparse.ArgumentParser):
    """Raises what `argparse` would print below its usage, with the nearest right name.

    Args:
        prog: The command, such as `cxrignite report`.
        description: What it does.
        settings: Further arguments of `ArgumentParser`; `argparse` gives its subparsers some.
    """

    def __init__(self, prog: str, description: str | None = None, **settings: Any) -> None:
        super().__init__(prog=prog, description=description, allow_abbrev=False, **settings)

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
            near = difflib.get_close_matches(choice[2], names, n=1)
            hint = f"did you mean '{near[0]}'?" if near else f"there are {', '.join(names)}"
            message = f"no {choice[1].lower()} '{choice[2]}'; {hint}"
        elif missing:
            message = f"{missing[1]} is missing; `{self.prog} --help` tells what it takes"
        raise RecipeError(message)
