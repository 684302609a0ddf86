"""The most memory that this process and its workers hold at a time."""

from __future__ import annotations

import re
import threading
from pathlib import Path
from types import TracebackType

import torch

_PROPORTIONAL = re.compile(r"^Pss_(?:Anon|Shmem):\s+(\d+) kB", re.MULTILINE)


class PeakMemory:
    """Watches memory while it is entered.

    On CUDA it is what torch has allocated there. Elsewhere it is the proportional set size (pages
    that processes share are counted once) of this process and its children, without the pages of
    files, which the system drops when it needs the room; looked at every
    `interval` seconds, where the system tells it (Linux); else 0.

    Args:
        device: Where the model computes.
        interval: Seconds.
    """

    def __init__(self, device: torch.device, interval: float = 0.1) -> None:
        self._device, self._interval = device, interval
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)
        self._most = 0

    @property
    def num_bytes(self) -> int:
        """The most that was seen."""
        if self._device.type == "cuda":
            return torch.cuda.max_memory_allocated(self._device)
        return self._most

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
        if self._thread.is_alive():
            self._stop.set()
            self._thread.join()

    def _watch(self) -> None:
        while not self._stop.wait(self._interval):
            self._most = max(self._most, memory_with_children(Path("/proc/self")))


def memory_with_children(process: Path) -> int:
    """Bytes that a process and its children hold, each page counted once; 0 where it has ended.

    Args:
        process: Its folder in `/proc`.
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
        return 0  # it has ended, or this is no Linux
    return 1024 * sum(map(int, found))
