"""One image file to one grey image, rows by columns."""

from __future__ import annotations

from io import BytesIO
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps, UnidentifiedImageError

from cxrignite.errors import UnreadableImageError

# The largest digital detectors have about 20 megapixels. From 89 on Pillow itself warns.
MAX_PIXELS = 80_000_000


def read_image(path: Path | str) -> NDArray[np.uint8]:
    """Reads a JPEG or PNG file as a grey image.

    Args:
        path: The file.

    Returns:
        Shape `(H, W)`, in `[0, 255]`, rows by columns, turned as its EXIF orientation says; its
        memory is its own. See `decode_image` for how colours and depths become grey.

    Raises:
        UnreadableImageError: If the file cannot be opened or is not a whole JPEG or PNG image.
    """
    return decode_image(read_bytes(path), path)


def read_bytes(path: Path | str) -> bytes:
    """Reads a file's content.

    Args:
        path: The file.

    Raises:
        UnreadableImageError: If the file cannot be opened or read.
    """
    try:
        return Path(path).read_bytes()
    except OSError as error:
        raise UnreadableImageError(path, error.strerror or str(error)) from error


def decode_image(data: bytes, path: Path | str) -> NDArray[np.uint8]:
    """Decodes the content of a JPEG or PNG file to a grey image.

    Colours become ITU-R 601 luma and transparency is ignored. 16 bits become 8 by
    `65535 -> 255`, rounded; nothing is clipped.

    Args:
        data: The file's content.
        path: The file, named in errors.

    Returns:
        Shape `(H, W)`, in `[0, 255]`.

    Raises:
        UnreadableImageError: If the content is not a whole JPEG or PNG image, or its header claims
            more than `MAX_PIXELS` pixels (which is found before anything is decoded).
    """
    if not data:
        raise UnreadableImageError(path, "the file is empty")
    try:
        with Image.open(BytesIO(data), formats=("JPEG", "PNG")) as image:
            width, height = image.size
            if width * height > MAX_PIXELS:
                raise UnreadableImageError(
                    path,
                    f"its header claims {width} x {height} pixels, at most {MAX_PIXELS:,} allowed",
                )
            return _grey(ImageOps.exif_transpose(image))
    except UnreadableImageError:
        raise
    except UnidentifiedImageError as error:
        raise UnreadableImageError(path, "not a JPEG or PNG image") from error
    except Exception as error:
        # A damaged file can raise nearly anything inside Pillow: OSError, SyntaxError, ValueError,
        # struct.error, zlib.error, DecompressionBombError.
        raise UnreadableImageError(path, str(error) or type(error).__name__) from error


def _grey(image: Image.Image) -> NDArray[np.uint8]:
    if image.mode.startswith("I;16"):
        # `convert("L")` would clip at 255. 65535 / 255 is 257, so this is an exact rounding.
        return ((np.asarray(image).astype(np.uint32) + 128) // 257).astype(np.uint8)
    if image.mode in {"P", "PA"}:
        # Only by way of RGBA does Pillow take a palette with transparency without a warning.
        image = image.convert("RGBA")
    if image.mode in {"CMYK", "YCbCr"}:
        image = image.convert("RGB")
    if image.mode not in {"L", "LA", "1", "RGB", "RGBA"}:
        raise ValueError(f"pixel format {image.mode} is not supported")
    return np.array(image.convert("L"))
