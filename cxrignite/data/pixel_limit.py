"""How many pixels an image may claim to have, whatever its format."""

from __future__ import annotations

from pathlib import Path

from cxrignite.errors import UnreadableImageError

# The largest digital detectors have about 20 megapixels. From 89 on Pillow itself warns.
MAX_PIXELS = 80_000_000


def check_pixels(width: int, height: int, path: Path | str) -> None:
    """Refuses an image by its header, before anything of it is decoded.

    Args:
        width: Columns that the header claims.
        height: Rows that it claims.
        path: The file, named in the error.

    Raises:
        UnreadableImageError: If they make more than `MAX_PIXELS`.
    """
    if width * height > MAX_PIXELS:
        raise UnreadableImageError(
            path, f"its header claims {width} x {height} pixels, at most {MAX_PIXELS:,} allowed"
        )
