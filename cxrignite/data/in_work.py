"""Notes of the file that each worker process reads, for the message if it hangs."""

from __future__ import annotations

import mmap
import os
from pathlib import Path

NOTE_BYTES = 4096
"""Size of a worker's note, the largest length of a path."""

_kept: tuple[mmap.mmap, int] | None = None


def keep_notes(notes: mmap.mmap, worker_id: int) -> None:
    """Set the memory for the notes of this process.

    Args:
        notes: Memory shared with the main process, `NOTE_BYTES` for each worker.
        worker_id: From 0.
    """
    global _kept
    _kept = notes, worker_id * NOTE_BYTES


def note(path: Path | str) -> None:
    """Note the file that this process reads; do nothing without memory for notes.

    Args:
        path: The file.
    """
    if _kept is not None:
        notes, start = _kept
        text = os.fsencode(path)[: NOTE_BYTES - 1] + b"\0"
        notes[start : start + len(text)] = text


def read_note(notes: mmap.mmap, worker_id: int) -> str:
    """Return the file that a worker noted last, empty if there is none.

    Args:
        notes: Memory shared with the workers.
        worker_id: From 0.
    """
    start = worker_id * NOTE_BYTES
    return os.fsdecode(notes[start : start + NOTE_BYTES].partition(b"\0")[0])
