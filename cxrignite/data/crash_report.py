"""The name of the image file in the report of a decoder's crash, also in threads and workers.

A decoder is native code, and a fault in it ends the process. All that can be done then is to print
the running code. `faulthandler`, which the command line enables, prints only the names of code.
Therefore the code that calls the decoder is named after the file.
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
    """Report a crash of a worker process if the main process does: torch has its own handler."""
    if faulthandler.is_enabled():
        faulthandler.disable()
        faulthandler.enable(_STDERR, all_threads=False)


def call_named(path: Path | str, function: Callable[..., T], *args: Any) -> T:
    """Call a function from code that is named after the file that it reads; takes microseconds.

    Raises:
        CxrIgniteError: If memory runs out, for which the file is not to blame.
    """
    code = _call.__code__.replace(co_filename=str(path), co_name="read_this_image")
    try:
        result: T = FunctionType(code, {})(function, args)
    except MemoryError as error:
        raise CxrIgniteError(
            f"out of memory while reading {path}; lower data.num_workers or data.prefetch_factor"
        ) from error
    return result


def _call(function: Callable[..., T], args: tuple[Any, ...]) -> T:
    return function(*args)
