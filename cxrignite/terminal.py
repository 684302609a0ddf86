"""How wide text may be where it is read, and log lines that keep to that width."""

from __future__ import annotations

import logging
import os
import re
import sys
import textwrap
import unicodedata

MAX_WIDTH = 100
"""Columns of text at most: longer lines are harder to read, however wide the terminal is."""

IN_FILE_ONLY = {"in_file_only": True}
"""`extra` of a log line that is one of very many: it goes to the log file, not to the terminal."""

_MIN_WIDTH = 40
_LABEL = re.compile(r"\S+ {2,}(?=\S)")


def text_width() -> int:
    """Columns that a line of text may take, in `[40, 100]`.

    Those of the terminal that this process was started in, also where only one of its streams goes
    there (`fit 2>&1 | tee log`); 100 where there is none.
    """
    for stream in (sys.__stdout__, sys.__stderr__, sys.__stdin__):
        try:
            columns = os.get_terminal_size(stream.fileno()).columns  # type: ignore[union-attr]
        except (AttributeError, ValueError, OSError):  # none, closed, or no terminal
            continue
        # A terminal that does not know its width says 0.
        return min(max(columns, _MIN_WIDTH), MAX_WIDTH) if columns else MAX_WIDTH
    return MAX_WIDTH


def counted(count: int, noun: str) -> str:
    """A count and its noun, with an s where they are not one.

    Examples:
        >>> counted(1, "image"), counted(1200, "image")
        ('1 image', '1,200 images')
    """
    return f"{count:,} {noun}{'' if count == 1 else 's'}"


def wrapped(text: str, first: str = "", further: str | None = None) -> str:
    """Text in lines that fit; a word that is longer, such as a path, stays whole.

    Args:
        text: One line.
        first: How the first line begins.
        further: How the others begin; as many spaces as `first` is long by default.
    """
    return textwrap.fill(
        text,
        text_width(),
        initial_indent=first,
        subsequent_indent=" " * len(first) if further is None else further,
        break_long_words=False,
        break_on_hyphens=False,
    )


class TerminalHandler(logging.StreamHandler):  # type: ignore[type-arg]  # of the stderr of the moment
    """Log lines on stderr: wrapped on a terminal, and whole in a file, where they are searched.

    On a terminal a progress line may stand where the next line is to begin; it is wiped away first,
    and draws itself anew.
    """

    def __init__(self) -> None:
        super().__init__(sys.stderr)
        self.addFilter(lambda record: not getattr(record, "in_file_only", False))

    def format(self, record: logging.LogRecord) -> str:
        """A record's text as it is to be shown.

        Args:
            record: What was logged.
        """
        text = printable(super().format(record))
        return _shown(text) if self.stream.isatty() else text


def printable(text: str, keep: str = "\n\t") -> str:
    r"""A text whose control characters are written as `\x1b`: they would steer the terminal.

    Names of files may hold any character but a slash and a NUL, and tables may hold that one.

    Args:
        text: What is to be shown.
        keep: Control characters that stay.
    """
    return "".join(
        each if each.isprintable() or each in keep or not _is_control(each) else _escaped(each)
        for each in text
    )


def _is_control(character: str) -> bool:
    # Cf holds marks that turn the direction of writing; Cs what is no UTF-8 in a file's name.
    return unicodedata.category(character) in {"Cc", "Cf", "Cs", "Zl", "Zp"}


def _escaped(character: str) -> str:
    if "\udc80" <= character <= "\udcff":
        return f"\\x{ord(character) - 0xDC00:02x}"  # a byte of a name
    return character.encode("unicode_escape").decode()


def print_error(text: str) -> None:
    """Write a last word to stderr: on a terminal wrapped, and over what is left of a progress line.

    Args:
        text: One line.
    """
    text = printable(text, keep="")
    shown = _shown(text) if sys.stderr.isatty() else text
    sys.stderr.write(f"{shown}\n")


def _shown(text: str) -> str:
    return "\r\x1b[K" + "\n".join(map(_fitted, text.splitlines() or [""]))


def _fitted(line: str) -> str:
    """A line that is too long in several; what follows a label stands below its beginning."""
    if len(line) <= text_width():
        return line
    label = _LABEL.match(line)
    return wrapped(line[label.end() :], label[0]) if label else wrapped(line, "", "  ")
