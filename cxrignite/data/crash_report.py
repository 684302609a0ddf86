"""A decoder that crashes names the file it was reading, in threads and worker processes too.

A decoder is native code, and a fault in it ends the process. Nothing can be done then but to print
what was running. `faulthandler`, which the command line turns on, prints only the names of code: so
the call that reads a file is code that is named after the file.
"""

from __future__ import annotations

import faulthandler
from collections.abc import Callable
from pathlib import Path
from types import FunctionType
from typing import Any, TypeVar

from cxrignite.errors import CxrIgniteError

T = TypeVar("T")

_STDERR = 2


def report_crashes_of_worker() -> None:
    """Reports a crash of a worker process if the main process does: torch has its own handler."""
    if faulthandler.is_enabled():
        faulthandler.disable()
        faulthandler.enable(_STDERR, all_threads=False)


def call_named(path: Path | str, function: Callable[..., T], *args: Any) -> T:
    """Calls a function from code that is named after the file that it reads; takes microseconds.

    Args:
        path: The file.
        function: What reads it.
        *args: Its arguments.

    Returns:
        What it gives.

    Raises:
        CxrIgniteError: If memory ran out, which is no fault of the file.
    """
    code = _call.__code__.replace(co_filename=str(path), co_name="read_this_image")
    try:
        result: T = FunctionType(code, {})(function, args)
    except MemoryError as error:
        raise CxrIgniteError(
            f"out of memory while {path} was read; lower data.num_workers or data.prefetch_factor"
        ) from error
    return result


def _call(function: Callable[..., T], args: tuple[Any, ...]) -> T:
    return function(*args)
