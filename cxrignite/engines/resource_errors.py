"""One-line errors if memory runs out or a worker process is killed."""

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
    """Turn errors of exhausted resources into one line that names the settings to lower.

    Yields:
        Nothing, for the block that computes.

    Raises:
        CxrIgniteError: If the memory of the device or of the machine runs out, or a worker process
            of the data loader is killed; other exceptions are not changed.
    """
    with _logged_once(), _killed_workers_noticed():
        try:
            yield
        except torch.OutOfMemoryError as error:
            raise CxrIgniteError(
                f"{_reason(error)}; lower data.batch_size (trainer.accumulation_steps "
                "compensates for it) or data.eval_batch_size, or start a new run with a smaller "
                "data.image_size"
            ) from error
        except (MemoryError, RuntimeError, OSError, WorkerKilled) as error:
            text = str(error)
            # Not "Caught ... in DataLoader worker process 0", which is an exception in the worker.
            # Torch has two messages, for the signal and for a worker that does not answer.
            if worker := re.search(r"DataLoader worker \(pid(?:\(s\))? ([\d, ]+)\)", text):
                raise CxrIgniteError(
                    f"a worker of the data loader (pid {worker[1]}) was killed; if memory ran "
                    "out, lower data.num_workers or data.prefetch_factor"
                ) from error
            if is_resource_error(error):
                raise CxrIgniteError(
                    f"out of memory: {_reason(error)}; lower data.batch_size, data.num_workers or "
                    "data.image_size"
                ) from error
            raise


@contextmanager
def _killed_workers_noticed() -> Iterator[None]:
    """Raise `WorkerKilled` if a loader's worker dies; no `except Exception` catches it.

    Torch's SIGCHLD handler raises a RuntimeError at an arbitrary point of the main process. Code
    there would mistake it for its own error, for example for a damaged image. No error is raised if
    the run is being stopped, since the same signal may have ended the worker. Windows has no such
    signal: there the loader finds the worker dead.
    """
    number = getattr(signal, "SIGCHLD", None)
    if number is None or threading.current_thread() is not threading.main_thread():
        yield
        return
    _set_SIGCHLD_handler()  # torch sets it when it starts the first worker, and never again
    of_torch = signal.getsignal(number)

    def on_child(number: int, frame: FrameType | None) -> None:
        try:
            if callable(of_torch):
                of_torch(number, frame)
        except RuntimeError as error:
            if "Terminated" in str(error) and not is_stopping():
                time.sleep(0.5)  # some schedulers signal the processes of a job one by one
            if not is_stopping():
                raise WorkerKilled(str(error)) from None

    signal.signal(number, on_child)
    try:
        yield
    finally:
        signal.signal(number, of_torch)


@contextmanager
def _logged_once() -> Iterator[None]:
    """Ignore write errors of TensorBoard's thread, since the next write raises them again."""
    former = threading.excepthook

    def report(failure: threading.ExceptHookArgs) -> None:
        of_board = type(failure.thread).__module__.startswith("tensorboard.")
        if not (of_board and isinstance(failure.exc_value, OSError)):
            former(failure)

    threading.excepthook = report
    try:
        yield
    finally:
        threading.excepthook = former


def _reason(error: BaseException) -> str:
    """Return the first sentence of torch's message, without its explanations."""
    lines = str(error).splitlines()
    # For an error in a worker the first line names the worker and the last one the error.
    line = lines[-1 if lines[0].startswith("Caught ") else 0] if lines else ""
    first = line.partition(" GPU ")[0]
    text = first.partition(" It is possible")[0].rpartition("DefaultCPUAllocator: ")[2]
    return text.strip().rstrip(".") or type(error).__name__
