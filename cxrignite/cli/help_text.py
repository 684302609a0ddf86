"""Help text of recipe keys: only the keys that a command accepts, and a few of many classes."""

from __future__ import annotations

import argparse
import re
from collections.abc import Collection

from jsonargparse import ArgumentParser, DefaultHelpFormatter

_NUM_NAMED, _MAX_NAMED = 3, 6  # MONAI has hundreds of transforms
_CLASS = re.compile(r"<class '(\w+)'>")
# The option names the key, and the next line its classes.
_OF_CLASS = re.compile(r"Show the help for the given subclass .* and exit\.")
# Keys that the help leaves out, and what it has instead.
_IN_REFERENCE = ("fine_tuning.", "trainer.ema_decay", "trainer.swa_start")
_SUMMARIES = {
    "fine_tuning": "start_from, frozen, unfreeze_epoch, lr_factors, layer_decay; see the reference."
}
_OF_GROUP = "Path to a configuration file."
_LITERAL = re.compile(r"\(type: (?:Literal\[[^]]*\]|bool)(?: \| null)?, ")
_NO_DEFAULT = re.compile(r"\(required\) \(type: .*\)$", re.S)
_RECIPES_DEFAULT = re.compile(r", default: .*(?=\)$)", re.S)


class BriefFormatter(DefaultHelpFormatter):
    """Formatter that names a few of many classes; `--KEY.help CLASS` describes each.

    Keys that only the reference describes, and files of single groups, are left out here. If their
    help were suppressed, jsonargparse would also leave the keys out of the stored recipe.
    """

    def add_argument(self, action: argparse.Action) -> None:
        """Add an action to the help, unless it is left out."""
        is_summary = action.dest in _SUMMARIES
        if is_summary or not (action.dest.startswith(_IN_REFERENCE) or action.help == _OF_GROUP):
            super().add_argument(action)

    def _expand_help(self, action: argparse.Action) -> str:
        text: str = _CLASS.sub(r"\1", super()._expand_help(action))
        text = _OF_CLASS.sub("Describe one of the classes, and exit.", text)
        if type(self) is BriefFormatter:
            text = _LITERAL.sub("(", text)  # the values stand beside the key
        if "default: " in (action.help or ""):  # in words
            text = text.removesuffix(", default: null)") + ")" * text.endswith(", default: null)")
        before, marker, classes = text.partition("known subclasses: ")
        names = classes.rstrip(")").split(", ")
        few = ", ".join(names[:_NUM_NAMED])
        return text if len(names) <= _MAX_NAMED else f"{before}{marker}{few}, ...)"


class OfRunFormatter(BriefFormatter):
    """Formatter for commands that read a finished run, whose recipe gives all defaults."""

    def _expand_help(self, action: argparse.Action) -> str:
        text = _NO_DEFAULT.sub("(required)", super()._expand_help(action))
        if "." not in action.dest or ".help" in action.option_strings[0]:
            return text
        text = _RECIPES_DEFAULT.sub("", text.replace("(required, type: ", "(type: "))
        return f"{text.removesuffix(')')}, default: as in the run)"


def summarize(parser: ArgumentParser) -> None:
    """Describe groups of keys in one line each, if only the reference describes the keys."""
    for action in parser._actions:
        if action.dest in _SUMMARIES:
            action.help, action.metavar = _SUMMARIES[action.dest], "KEYS"


def hide_all_but(parser: ArgumentParser, keys: tuple[str, ...], options: Collection[str]) -> None:
    """Hide keys that a command refuses from its help."""
    for action in parser._actions:
        # A list has a second option, which ends with `+`.
        options_of_it = action.option_strings
        name = options_of_it[-1].lstrip("-").rstrip("+") if options_of_it else action.dest
        if name not in ("help", *options) and not name.startswith(keys):
            action.help = argparse.SUPPRESS
