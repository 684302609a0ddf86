"""Marker file of folders with pictures that a command wrote; no command reads them as input."""

from __future__ import annotations

from pathlib import Path

from cxrignite.durable_write import write_durably

OUTPUT_MARKER = ".cxrignite-output"
"""Name of the marker file."""

_TEXT = b"cxrignite wrote the pictures in this folder. No command reads them as input images.\n"


def mark_output(folder: Path) -> None:
    """Mark a folder for pictures that a command writes; make it if it is missing.

    Raises:
        CxrIgniteError: If it cannot be written.
    """
    marker = folder / OUTPUT_MARKER
    if not marker.exists():
        write_durably(marker, _TEXT)
