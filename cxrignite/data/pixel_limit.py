"""Limits for the pixels and the memory that an image may claim, for all formats."""

from __future__ import annotations

from pathlib import Path

from cxrignite.errors import UnreadableImageError

# The largest digital detectors have about 20 megapixels. From 89 on Pillow itself warns.
MAX_PIXELS = 80_000_000

# 25 megapixels in the most expensive way there is to store them: CMYK in several scans.
MAX_MEMORY = 2**29


def check_pixels(width: int, height: int, path: Path | str) -> None:
    """Refuses an image by its header, before anything of it is decoded.

    Args:
        width: Columns that the header claims.
        height: Rows that it claims.
        path: The file, named in the error.

    Raises:
        UnreadableImageError: If one of them is 0, or they make more than `MAX_PIXELS`.
    """
    if min(width, height) < 1:
        raise UnreadableImageError(path, f"its header claims {width} x {height} pixels")
    if width * height > MAX_PIXELS:
        raise UnreadableImageError(
            path, f"its header claims {width} x {height} pixels, at most {MAX_PIXELS:,} allowed"
        )


def check_memory(num_bytes: int, path: Path | str) -> None:
    """Refuses an image by its header, before a decoder takes the memory.

    Args:
        num_bytes: What decoding takes at most, as far as the header says.
        path: The file, named in the error.

    Raises:
        UnreadableImageError: If that is more than `MAX_MEMORY`.
    """
    if num_bytes > MAX_MEMORY:
        raise UnreadableImageError(
            path,
            f"decoding it takes {num_bytes / 2**20:,.0f} MiB by its header, "
            f"at most {MAX_MEMORY >> 20:,} allowed",
        )


def check_content(least: int, present: int, path: Path | str) -> None:
    """Refuses a file too small for the pixels that its header claims, before it is decoded.

    Args:
        least: Bytes that the shortest code of such an image has.
        present: Bytes of the file.
        path: The file, named in the error.

    Raises:
        UnreadableImageError: If there are fewer.
    """
    if present < least:
        raise UnreadableImageError(
            path, f"image file is truncated: {present:,} of at least {least:,} bytes"
        )
