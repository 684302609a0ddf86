"""The `--help` of a recipe's keys: only those that the command takes, and few of many classes."""

from __future__ import annotations

import argparse
import re
from collections.abc import Collection

from jsonargparse import ArgumentParser, DefaultHelpFormatter

_NUM_NAMED, _MAX_NAMED = 3, 6  # of MONAI's hundreds of transforms
_RECIPES_DEFAULT = re.compile(r", default: .*(?=\)$)", re.S)


class BriefFormatter(DefaultHelpFormatter):
    """Names a few of many classes; `--KEY.help CLASS` describes each."""

    def _expand_help(self, action: argparse.Action) -> str:
        text: str = super()._expand_help(action)
        before, marker, classes = text.partition("known subclasses: ")
        names = classes.rstrip(")").split(", ")
        few = ", ".join(names[:_NUM_NAMED])
        return text if len(names) <= _MAX_NAMED else f"{before}{marker}{few}, ...)"


class OfRunFormatter(BriefFormatter):
    """For commands that read a finished run, whose recipe gives the default of every key."""

    def _expand_help(self, action: argparse.Action) -> str:
        text = super()._expand_help(action)
        if "." not in action.dest or ".help" in action.option_strings[0]:
            return text
        text = _RECIPES_DEFAULT.sub("", text.replace("(required, type: ", "(type: "))
        return f"{text.removesuffix(')')}, default: as in the run)"


def hide_all_but(parser: ArgumentParser, keys: tuple[str, ...], options: Collection[str]) -> None:
    """Leave out of the help what a command refuses.

    Args:
        parser: Of the command.
        keys: How the recipe's keys begin that it takes.
        options: Its own options.
    """
    for action in parser._actions:
        name = action.option_strings[-1].lstrip("-") if action.option_strings else action.dest
        if name not in ("help", *options) and not name.startswith(keys):
            action.help = argparse.SUPPRESS
