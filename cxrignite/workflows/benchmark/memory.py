"""Peak memory of this process and its workers."""

from __future__ import annotations

import re
import threading
from pathlib import Path
from types import TracebackType

import torch

_PROPORTIONAL = re.compile(r"^Pss_(?:Anon|Shmem):\s+(\d+) kB", re.MULTILINE)


class PeakMemory:
    """Monitor of the peak memory inside a context, or until `stop`.

    On CUDA it is the memory allocated by torch. On Linux it is the proportional set size of this
    process and its children, which counts shared pages once. Pages of files are left out, because
    the system frees them when needed. It is sampled every `interval` seconds and at the end.
    Elsewhere it is 0. A sample takes 40 ms once torch is loaded, and slows down steps meanwhile.

    Args:
        device: The device of the model.
        interval: Seconds between two samples.
    """

    def __init__(self, device: torch.device, interval: float = 0.1) -> None:
        self._device, self._interval = device, interval
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)
        self._peak = 0

    @property
    def num_bytes(self) -> int:
        """Highest value so far."""
        if self._device.type == "cuda":
            return torch.cuda.max_memory_allocated(self._device)
        return self._peak

    def __enter__(self) -> PeakMemory:
        if self._device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(self._device)
        else:
            self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.stop()

    def stop(self) -> None:
        """End the sampling, before a part of the context whose time is measured."""
        if self._thread.is_alive():
            self._stop.set()
            self._thread.join()
            self._sample()

    def _watch(self) -> None:
        while not self._stop.wait(self._interval):
            self._sample()

    def _sample(self) -> None:
        self._peak = max(self._peak, memory_with_children(Path("/proc/self")))


def memory_with_children(process: Path) -> int:
    """Return the bytes of a process and its children, each page once; 0 after its end.

    `process` is a folder in `/proc`.
    """
    try:
        children = [
            Path("/proc", pid)
            for task in (process / "task").iterdir()
            for pid in (task / "children").read_text().split()
        ]
    except OSError:
        children = []
    return sum(_memory_of(each) for each in (process, *children))


def _memory_of(process: Path) -> int:
    try:
        found = _PROPORTIONAL.findall((process / "smaps_rollup").read_text())
    except OSError:
        return 0  # the process has ended, or this is not Linux
    return 1024 * sum(map(int, found))
