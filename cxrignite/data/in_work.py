"""The file that a worker process is at, for a message should it never answer."""

from __future__ import annotations

import mmap
import os
from pathlib import Path

NOTE_BYTES = 4096
"""Of one worker: as long as a path may be."""

_kept: tuple[mmap.mmap, int] | None = None


def keep_notes(notes: mmap.mmap, worker_id: int) -> None:
    """Keep the notes of this process from now on.

    Args:
        notes: Shared with the main process, `NOTE_BYTES` for each worker.
        worker_id: From 0.
    """
    global _kept
    _kept = notes, worker_id * NOTE_BYTES


def note(path: Path | str) -> None:
    """Note that this process is at a file; where none keeps notes, nothing.

    Args:
        path: The file.
    """
    if _kept is not None:
        notes, start = _kept
        text = os.fsencode(path)[: NOTE_BYTES - 1] + b"\0"
        notes[start : start + len(text)] = text


def read_note(notes: mmap.mmap, worker_id: int) -> str:
    """The file that a worker noted last; empty where there is none.

    Args:
        notes: Shared with the workers.
        worker_id: From 0.
    """
    start = worker_id * NOTE_BYTES
    return os.fsdecode(notes[start : start + NOTE_BYTES].partition(b"\0")[0])
