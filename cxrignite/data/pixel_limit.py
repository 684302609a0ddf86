"""Limits for the pixels and the memory that an image's header may claim, for all formats."""

from __future__ import annotations

from pathlib import Path

from cxrignite.errors import UnreadableImageError

# The largest digital detectors have about 20 megapixels. Above 89 megapixels Pillow warns.
MAX_PIXELS = 80_000_000

# Enough for 25 megapixels in the format that needs most memory: CMYK in several scans.
MAX_MEMORY = 2**29


def check_pixels(width: int, height: int, path: Path | str) -> None:
    """Check the size in an image's header, before decoding.

    Raises:
        UnreadableImageError: If one of them is 0, or their product exceeds `MAX_PIXELS`.
    """
    if min(width, height) < 1:
        raise UnreadableImageError(path, f"its header claims {width} x {height} pixels")
    if width * height > MAX_PIXELS:
        raise UnreadableImageError(
            path,
            f"its header claims {width} x {height} pixels, at most {MAX_PIXELS:,} are allowed",
        )


def check_memory(num_bytes: int, path: Path | str) -> None:
    """Check the memory needed according to an image's header, before decoding.

    Raises:
        UnreadableImageError: If that is more than `MAX_MEMORY`.
    """
    if num_bytes > MAX_MEMORY:
        raise UnreadableImageError(
            path,
            f"by its header, decoding needs {num_bytes / 2**20:,.0f} MiB, "
            f"at most {MAX_MEMORY >> 20:,} are allowed",
        )


def check_content(least: int, present: int, path: Path | str) -> None:
    """Check that a file is large enough for the pixels that its header claims, before decoding.

    `least` is the number of bytes of the shortest possible code of such an image.

    Raises:
        UnreadableImageError: If there are fewer.
    """
    if present < least:
        raise UnreadableImageError(
            path, f"image file is truncated: got {present:,} of at least {least:,} bytes"
        )
