"""Text on the terminal: its width, wrapped log lines, safe characters."""

from __future__ import annotations

import logging
import os
import re
import sys
import textwrap
import unicodedata

MAX_WIDTH = 100
"""Largest number of columns; longer lines are hard to read on any terminal."""

IN_FILE_ONLY = {"in_file_only": True}
"""`extra` of a log line that is one of very many: only the log file gets it."""

_MIN_WIDTH = 40
_LABEL = re.compile(r"\S+ {2,}(?=\S)")


def text_width() -> int:
    """Return the columns that a line of text may take, in `[40, 100]`.

    It is the width of the terminal that any of the three standard streams is connected to, as in
    `fit 2>&1 | tee log`; 100 without a terminal.
    """
    for stream in (sys.__stdout__, sys.__stderr__, sys.__stdin__):
        try:
            columns = os.get_terminal_size(stream.fileno()).columns  # type: ignore[union-attr]
        except (AttributeError, ValueError, OSError):  # missing, closed, or not a terminal
            continue
        # A terminal that does not know its width reports 0.
        return min(max(columns, _MIN_WIDTH), MAX_WIDTH) if columns else MAX_WIDTH
    return MAX_WIDTH


def counted(count: int, noun: str) -> str:
    """Return a count and its noun, with an s unless the count is 1.

    Examples:
        >>> counted(1, "image"), counted(1200, "image")
        ('1 image', '1,200 images')
    """
    return f"{count:,} {noun}{'' if count == 1 else 's'}"


def wrapped(text: str, first: str = "", further: str | None = None) -> str:
    """Return text wrapped to the width; a longer word, such as a path, stays whole.

    Args:
        text: One line.
        first: Beginning of the first line.
        further: Beginning of the other lines; by default as many spaces as `first` is long.
    """
    return textwrap.fill(
        text,
        text_width(),
        initial_indent=first,
        subsequent_indent=" " * len(first) if further is None else further,
        break_long_words=False,
        break_on_hyphens=False,
    )


class TerminalHandler(logging.StreamHandler):  # type: ignore[type-arg]  # of the current stderr
    """Log lines on stderr: wrapped on a terminal, unwrapped in a file, where they are searched.

    On a terminal, a progress line is erased before a log line; the progress bar draws it again.
    """

    def __init__(self) -> None:
        super().__init__(sys.stderr)
        self.setFormatter(EscapingFormatter())
        self.addFilter(lambda record: not getattr(record, "in_file_only", False))

    def format(self, record: logging.LogRecord) -> str:
        """Return the text of a log record for stderr.

        Args:
            record: The log record.
        """
        text = printable(super().format(record))
        return _shown(text) if self.stream.isatty() else text


def printable(text: str, keep: str = "\n\t") -> str:
    r"""Return a text with control characters escaped (`\x1b`), so that none acts on a terminal.

    File names may hold any character except a slash and a NUL, and tables may even hold a NUL.

    Args:
        text: The text.
        keep: Control characters that stay.
    """
    return "".join(
        each if each.isprintable() or each in keep or not _is_control(each) else _escaped(each)
        for each in text
    )


def _is_control(character: str) -> bool:
    # Cf has marks that change the writing direction; Cs has bytes of file names that are not UTF-8.
    return unicodedata.category(character) in {"Cc", "Cf", "Cs", "Zl", "Zp"}


def _escaped(character: str) -> str:
    if "\udc80" <= character <= "\udcff":
        return f"\\x{ord(character) - 0xDC00:02x}"  # a byte of a file name
    return character.encode("unicode_escape").decode()


class EscapingFormatter(logging.Formatter):
    """Formatter in which no value of a log line, such as a file name, can begin another line."""

    def format(self, record: logging.LogRecord) -> str:
        """Return the text of a log record with control characters of its values escaped.

        Args:
            record: The log record; it is not changed.
        """
        if isinstance(record.args, tuple):
            record = logging.makeLogRecord(record.__dict__)
            record.args = tuple(
                printable(str(each), keep="") if isinstance(each, str | os.PathLike) else each
                for each in record.args or ()
            )
        return super().format(record)


def print_output(text: str) -> None:
    """Write results to stdout, with control characters of names escaped."""
    sys.stdout.write(printable(text))


def print_error(text: str) -> None:
    """Write an error to stderr: wrapped on a terminal, over what is left of a progress line."""
    text = printable(text, keep="")
    shown = _shown(text) if sys.stderr.isatty() else text
    sys.stderr.write(f"{shown}\n")


def _shown(text: str) -> str:
    return "\r\x1b[K" + "\n".join(map(_fitted, text.splitlines() or [""]))


def _fitted(line: str) -> str:
    """Return a line, wrapped if it is too long; text after a label is aligned below it."""
    if len(line) <= text_width():
        return line
    label = _LABEL.match(line)
    return wrapped(line[label.end() :], label[0]) if label else wrapped(line, "", "  ")
