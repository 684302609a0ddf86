"""The mark on folders of pictures that a command wrote, which are never the input of another."""

from __future__ import annotations

from pathlib import Path

from cxrignite.durable_write import write_durably

OUTPUT_MARKER = ".cxrignite-output"
"""The file that marks such a folder."""

_TEXT = b"Pictures that cxrignite wrote: no command takes them for images to be read.\n"


def mark_output(folder: Path) -> None:
    """Mark a folder whose pictures a command writes; it is made if it is missing.

    Args:
        folder: It holds no image of the user's.

    Raises:
        CxrIgniteError: If it cannot be written.
    """
    marker = folder / OUTPUT_MARKER
    if not marker.exists():
        write_durably(marker, _TEXT)
