"""What ran out, memory or a disk, and what was ended for it, told in one line."""

from __future__ import annotations

import re
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

import torch
from torch.utils.data._utils.signal_handling import _set_SIGCHLD_handler

from cxrignite.errors import CxrIgniteError, WorkerKilled, is_resource_error
from cxrignite.stops import is_stopping


@contextmanager
def resource_errors_in_one_line() -> Iterator[None]:
    """Turn what a machine's limits end into one line that says which key to lower.

    Yields:
        Nothing, for the block that computes.

    Raises:
        CxrIgniteError: The memory of the device or of the machine ran out, or a loader's worker
            process was ended; other exceptions pass as they are.
    """
    with _logged_once(), _killed_workers_noticed():
        try:
            yield
        except torch.OutOfMemoryError as error:
            raise CxrIgniteError(
                f"{_printed(error)}; lower data.batch_size (trainer.accumulation_steps makes up "
                "for it) or data.eval_batch_size; or begin a run with a smaller data.image_size"
            ) from error
        except (MemoryError, RuntimeError, OSError, WorkerKilled) as error:
            text = str(error)
            # Not "Caught ... in DataLoader worker process 0", which is an error of the code there.
            # Torch says it in two ways, by whether the signal or the silence is noticed first.
            if worker := re.search(r"DataLoader worker \(pid(?:\(s\))? ([\d, ]+)\)", text):
                raise CxrIgniteError(
                    f"a worker of the data loader (pid {worker[1]}) was killed; where memory ran "
                    "out, lower data.num_workers or data.prefetch_factor"
                ) from error
            if is_resource_error(error):
                raise CxrIgniteError(
                    f"out of memory: {_printed(error)}; lower data.batch_size, data.num_workers or "
                    "data.image_size"
                ) from error
            raise


@contextmanager
def _killed_workers_noticed() -> Iterator[None]:
    """Let the end of a loader's worker raise `WorkerKilled`, which no `except Exception` takes.

    Torch's handler of SIGCHLD raises a RuntimeError wherever the main process happens to be, and
    what is at work there was blamed for it: an image that was being decoded, say. A signal that
    has asked for the end may have ended the worker, too.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    _set_SIGCHLD_handler()  # torch sets it when it starts the first worker, and never again
    of_torch = signal.getsignal(signal.SIGCHLD)

    def on_child(number: int, frame: FrameType | None) -> None:
        try:
            if callable(of_torch):
                of_torch(number, frame)
        except RuntimeError as error:
            if "Terminated" in str(error) and not is_stopping():
                time.sleep(0.5)  # some signal all processes of a job, one after the other
            if not is_stopping():
                raise WorkerKilled(str(error)) from None

    signal.signal(signal.SIGCHLD, on_child)
    try:
        yield
    finally:
        signal.signal(signal.SIGCHLD, of_torch)


@contextmanager
def _logged_once() -> Iterator[None]:
    """Pass over what TensorBoard's thread could not write: the next write tells it."""
    former = threading.excepthook

    def tell(failure: threading.ExceptHookArgs) -> None:
        of_board = type(failure.thread).__module__.startswith("tensorboard.")
        if not (of_board and isinstance(failure.exc_value, OSError)):
            former(failure)

    threading.excepthook = tell
    try:
        yield
    finally:
        threading.excepthook = former


def _printed(error: BaseException) -> str:
    """The first line of what torch says, up to where it explains itself."""
    lines = str(error).splitlines()
    # Of an error in a worker the first line names the worker, the last one what was raised there.
    line = lines[-1 if lines[0].startswith("Caught ") else 0] if lines else ""
    first = line.partition(" GPU ")[0]
    text = first.partition(" It is possible")[0].rpartition("DefaultCPUAllocator: ")[2]
    return text.strip().rstrip(".") or type(error).__name__
