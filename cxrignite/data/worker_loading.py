"""A `DataLoader` with a time limit for its workers, which end with it and use no shared memory."""

from __future__ import annotations

import gc
import logging
import os
import signal
import threading
from collections.abc import Iterator
from functools import partial
from multiprocessing.sharedctypes import RawArray
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset
from torch.utils.data._utils import signal_handling

from cxrignite.data.crash_report import report_crashes_of_worker
from cxrignite.errors import CxrIgniteError
from cxrignite.stops import end_with_parent, held_signals

logger = logging.getLogger(__name__)

_POLL_SECONDS = 5
_WARN_SECONDS = 60  # long before the limit
_NOTE_BYTES = 4096  # of each worker: the largest length of a path
_own_note: tuple[Any, int] | None = None


def note(path: Path | str) -> None:
    """Note the file that this process reads, for the message if it hangs; only workers do."""
    if _own_note is not None:
        notes, start = _own_note
        text = os.fsencode(path)[: _NOTE_BYTES - 1] + b"\0"
        memoryview(notes).cast("B")[start : start + len(text)] = text


class WorkerLoader(DataLoader[Any]):
    """A loader of whole batches that raises the errors which the data set returns.

    torch raises a worker's exception again from its text only (pytorch `ExceptionWrapper`): an
    exception with two arguments becomes a RuntimeError. A returned exception arrives unchanged.

    A worker sends its tensors as arrays, through the pipe of its queue. Torch's own methods need
    shared memory (64 MB in a container), one descriptor per tensor, and sockets in TMPDIR, whose
    names have a limited length. If one of them is missing, the batch is lost and the main process
    waits forever. For a batch of 32 images of 224 x 224 the pipe is as fast.

    Args:
        dataset: Its `__getitems__` returns a whole batch (tensors, plain values, and tuples of
            either), or a `CxrIgniteError`.
        num_workers: Worker processes; 0 loads in the main process.
        prefetch_factor: Batches that each worker prepares ahead.
        worker_timeout: Seconds without a response after which a worker counts as hung; `None`
            waits without limit.
        **settings: Arguments of `DataLoader` that define the batches.

    Raises:
        CxrIgniteError: During iteration, if a worker hangs, none can be started, or the data set
            returned the error.
    """

    def __init__(
        self,
        dataset: Dataset[Any],
        *,
        num_workers: int,
        prefetch_factor: int = 2,
        worker_timeout: float | None = None,
        **settings: Any,
    ) -> None:
        super().__init__(
            dataset,
            collate_fn=_as_arrays if num_workers else _unchanged,
            num_workers=num_workers,
            prefetch_factor=prefetch_factor if num_workers else None,
            persistent_workers=num_workers > 0,  # until `close`
            # Torch notices a worker that ended without a message only after this time.
            timeout=min(_POLL_SECONDS, worker_timeout or _POLL_SECONDS) if num_workers else 0,
            **settings,
        )
        self.worker_timeout = worker_timeout
        # Unlike an anonymous map, it reaches a worker that is not forked, as on Windows and macOS.
        self._notes = RawArray("c", max(1, num_workers) * _NOTE_BYTES)

    def __iter__(self) -> Iterator[Any]:  # type: ignore[override]
        """Start the workers, or a new pass with the existing ones."""
        try:
            if self._iterator is None and self.num_workers:
                of_main = threading.current_thread() is threading.main_thread()
                parent = os.getpid() if of_main else None
                self.worker_init_fn = partial(init_worker, notes=self._notes, parent=parent)
                with held_signals():
                    batches: Any = super().__iter__()
            elif self.num_workers:
                # Torch waits here for the rest of the previous pass, once and with its own timeout.
                batches = self._iterator
                batches._timeout = self.worker_timeout or 0
                batches = super().__iter__()
                batches._timeout = self.timeout
            else:
                return map(_raise_failure, super().__iter__())
        except OSError as error:
            raise CxrIgniteError(
                f"cannot start {self.num_workers} workers of a data loader: "
                f"{error.strerror or error}; lower data.num_workers, or raise the limit (open "
                "files: ulimit -n; /dev/shm of a container: --shm-size)"
            ) from error
        except BaseException as error:
            self._end(error)
            raise
        return self._received(batches)

    def close(self) -> None:
        """End the worker processes, which otherwise wait for another pass."""
        iterator: Any = self._iterator
        self._iterator = None
        if iterator is None:
            return
        # Killed, since a regular shutdown takes five seconds per hung worker, and no work is lost.
        # Torch's own shutdown may block on the lock of an event that a killed worker held.
        signal_handling._remove_worker_pids(id(iterator))  # type: ignore[attr-defined]
        iterator._worker_pids_set, iterator._shutdown = False, True
        for worker in iterator._workers:
            worker.kill()
        for worker in iterator._workers:
            worker.join(timeout=_POLL_SECONDS)
        for queue in iterator._index_queues:
            queue.cancel_join_thread()
            queue.close()

    def _received(self, batches: Any) -> Iterator[Any]:
        waited = 0.0
        while True:
            try:
                batch = next(batches)
            except StopIteration:
                return
            except BaseException as error:
                if _is_timeout(error):
                    waited += self.timeout
                    if waited == _WARN_SECONDS:
                        logger.warning("%s", self._silent_worker(batches, waited))
                    if self.worker_timeout is None or waited < self.worker_timeout:
                        continue
                self._end(error)
                raise
            waited = 0.0
            yield self._pinned(_raise_failure(_as_tensors(batch)))

    def _pinned(self, batch: Any) -> Any:
        return _of_each(batch, Tensor, Tensor.pin_memory) if torch.cuda.is_available() else batch

    def _end(self, error: BaseException) -> None:
        """End the workers, since part of a batch may be in the pipe; name one that hangs."""
        iterator: Any = self._iterator
        self.close()
        if _is_timeout(error):
            raise CxrIgniteError(
                f"{self._silent_worker(iterator, self.worker_timeout or 0)}; check the disk and "
                "the transforms, or raise data.worker_timeout"
            ) from error

    def _silent_worker(self, iterator: Any, seconds: float) -> str:
        # A worker without work has an empty note.
        starts = range(0, self.num_workers * _NOTE_BYTES, _NOTE_BYTES)
        notes = (self._notes[start : start + _NOTE_BYTES].partition(b"\0")[0] for start in starts)
        paths = [os.fsdecode(each) for each in notes]
        number = next((each for each, path in enumerate(paths) if path), 0)
        return (
            f"worker {number} (pid {iterator._workers[number].pid}) of the data loader has not "
            f"responded for {seconds:g} s, its file is {paths[number] or 'unknown'}"
        )


def init_worker(worker_id: int, *, notes: Any = None, parent: int | None = None) -> None:
    """Set up a worker process: it ignores Ctrl-C and uses one thread.

    Args:
        worker_id: From 0.
        notes: Memory in which it notes the file that it reads.
        parent: The process that it must not outlive; `None` leaves that to torch.
    """
    # Ctrl-C reaches the whole process group, and the main process must be able to stop in order.
    # A SIGTERM handler of the main process has no use in a worker.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    report_crashes_of_worker()
    if parent is not None:  # a hung worker never notices that its parent has ended
        end_with_parent(parent)
    if notes is not None:
        global _own_note
        _own_note = notes, worker_id * _NOTE_BYTES
    torch.set_num_threads(1)
    # A garbage collection writes into every object, and so copies the main process's memory.
    gc.freeze()


def _is_timeout(error: BaseException) -> bool:
    return isinstance(error, RuntimeError) and "timed out after" in str(error)


def _unchanged(batch: Any) -> Any:
    return batch


def _of_each(batch: Any, kind: type, change: Any) -> Any:
    if isinstance(batch, kind):
        return change(batch)
    if isinstance(batch, tuple) and hasattr(batch, "_fields"):
        return type(batch)(*(_of_each(part, kind, change) for part in batch))
    return batch


def _as_arrays(batch: Any) -> Any:
    note("")
    return _of_each(batch, Tensor, Tensor.numpy)


def _as_tensors(batch: Any) -> Any:
    return _of_each(batch, np.ndarray, torch.from_numpy)


def _raise_failure(batch: Any) -> Any:
    if isinstance(batch, CxrIgniteError):
        raise batch
    return batch
