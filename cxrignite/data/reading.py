"""One image file to one grey image, rows by columns."""

from __future__ import annotations

import os
from io import BytesIO
from pathlib import Path

import numpy as np
import simplejpeg
from numpy.typing import NDArray
from PIL import Image, ImageOps, UnidentifiedImageError

from cxrignite.data.dicom import DICOM_SUFFIXES, decode_dicom, is_dicom
from cxrignite.data.grey_scaling import GreyScaling, rescaled
from cxrignite.data.pixel_limit import MAX_PIXELS, check_pixels
from cxrignite.errors import UnreadableImageError

__all__ = [
    "MAX_PIXELS",
    "Size",
    "decode_image",
    "holds_dicom",
    "read_bytes",
    "read_image",
    "resize_image",
]

Size = tuple[int, int]
"""Rows and columns."""

# EXIF stands among a JPEG's first segments, each of which ends before 64 KiB.
_EXIF_WITHIN = 2**17
_ORIENTATION = 0x0112


def read_image(
    path: Path | str, size: Size | None = None, grey_scaling: GreyScaling = "file"
) -> NDArray[np.uint8]:
    """Reads a JPEG, PNG or DICOM file as a grey image.

    Args:
        path: The file.
        size: Rows and columns to resize to, each at least 1; `None` keeps the file's own.
        grey_scaling: Which values become black and white, see `GreyScaling`.

    Returns:
        Shape `(H, W)`, in `[0, 255]`, rows by columns, turned as its EXIF orientation says; its
        memory is its own. See `decode_image` for how colours, depths and sizes change.

    Raises:
        UnreadableImageError: If the file cannot be opened or is not a whole JPEG, PNG or
            DICOM image.
    """
    return decode_image(read_bytes(path), path, size, grey_scaling)


def read_bytes(path: Path | str) -> bytes:
    """Reads a file's content.

    Args:
        path: The file.

    Raises:
        UnreadableImageError: If the file cannot be opened or read.
    """
    if "\0" in str(path):
        # A damaged manifest can hold one, and `open` has a ValueError for it.
        raise UnreadableImageError(path, "its name holds a NUL")
    try:
        # `Path.read_bytes` takes twice as long for a small file.
        with open(path, "rb", buffering=0) as file:
            return file.readall()
    except OSError as error:
        raise UnreadableImageError(path, error.strerror or str(error)) from error


def decode_image(
    data: bytes,
    path: Path | str,
    size: Size | None = None,
    grey_scaling: GreyScaling = "file",
) -> NDArray[np.uint8]:
    """Decodes the content of a JPEG, PNG or DICOM file to a grey image.

    Colours become ITU-R 601 luma and transparency is ignored. Of 16 bits the least value of the
    image becomes 0 and the greatest 255, unless `grey_scaling` says otherwise. What is done to a
    DICOM says `decode_dicom`.

    With a `size`, a JPEG is decoded at the smallest eighth of its size that still covers it, which
    takes a quarter of the time, and resized from there. The result is less than one grey level
    away, on average over an image, from that of a full decode and the same resize.

    Args:
        data: The file's content.
        path: The file, named in errors.
        size: Rows and columns to resize to, bilinear with antialiasing, whatever the aspect; `None`
            keeps the file's own.
        grey_scaling: Which values become black and white, see `GreyScaling`; it is applied before
            an image is resized.

    Returns:
        Shape `(H, W)`, in `[0, 255]`.

    Raises:
        UnreadableImageError: If the content is not a whole JPEG, PNG or DICOM image, or its header
            claims more than `MAX_PIXELS` pixels (which is found before anything is decoded).
    """
    if not data:
        raise UnreadableImageError(path, "the file is empty")
    if holds_dicom(data, path):
        grey = decode_dicom(data, path, grey_scaling)
        return grey if size is None else resize_image(grey, size)
    image = _plain_jpeg(data, path, size, grey_scaling)
    return _any_image(data, path, size, grey_scaling) if image is None else image


def _plain_jpeg(
    data: bytes, path: Path | str, size: Size | None, grey_scaling: GreyScaling
) -> NDArray[np.uint8] | None:
    """Decodes a JPEG straight to grey, at a fraction of its size; `None` leaves it to Pillow.

    That is for whatever is out of the ordinary: another format, damage that Pillow has better words
    for, CMYK, an orientation.
    """
    try:
        height, width, colours, _ = simplejpeg.decode_jpeg_header(data)
    except ValueError:
        return None
    check_pixels(width, height, path)
    if colours not in {"Gray", "YCbCr"} or _is_turned(data):
        return None
    rows, columns = size or (height, width)
    try:
        # Unless it is strict it gives garbage for damaged files without a word.
        grey = simplejpeg.decode_jpeg(
            data, "GRAY", min_height=min(rows, height), min_width=min(columns, width), strict=True
        )[..., 0]
    except ValueError:
        return None
    grey = rescaled(grey, grey_scaling)
    if size is None:
        return np.ascontiguousarray(grey)
    # The decoder rounds up to whole pixels: without the part that is padding the image would be
    # stretched by up to a pixel, and twice as far from a full decode.
    eighths = next(
        n for n in range(1, 9) if grey.shape == (-(-height * n // 8), -(-width * n // 8))
    )
    return _resized(Image.fromarray(grey), size, (width * eighths / 8, height * eighths / 8))


def _any_image(
    data: bytes, path: Path | str, size: Size | None, grey_scaling: GreyScaling
) -> NDArray[np.uint8]:
    try:
        with Image.open(BytesIO(data), formats=("JPEG", "PNG")) as image:
            check_pixels(*image.size, path)
            grey = rescaled(_grey(ImageOps.exif_transpose(image)), grey_scaling)
    except UnreadableImageError:
        raise
    except UnidentifiedImageError as error:
        raise UnreadableImageError(path, "not a JPEG, PNG or DICOM image") from error
    except Exception as error:
        # A damaged file can raise nearly anything inside Pillow: OSError, SyntaxError, ValueError,
        # struct.error, zlib.error, DecompressionBombError.
        raise UnreadableImageError(path, str(error) or type(error).__name__) from error
    return grey if size is None else resize_image(grey, size)


def holds_dicom(data: bytes, path: Path | str) -> bool:
    """Whether a file is to be read as DICOM: by its preamble or, where it has none, by its name.

    Args:
        data: The file's content.
        path: The file.
    """
    if is_dicom(data):
        return True
    is_named = os.path.splitext(path)[1].lower() in DICOM_SUFFIXES
    return is_named and not data.startswith((b"\xff\xd8", b"\x89PNG"))


def resize_image(grey: NDArray[np.uint8], size: Size) -> NDArray[np.uint8]:
    """Resizes a grey image as `decode_image` does.

    Args:
        grey: Shape `(H, W)`.
        size: Rows and columns, each at least 1.
    """
    return _resized(Image.fromarray(grey), size, (grey.shape[1], grey.shape[0]))


def _resized(image: Image.Image, size: Size, covered: tuple[float, float]) -> NDArray[np.uint8]:
    """Resizes the part of an image that it `covers`, columns by rows, from the top left."""
    box = (0.0, 0.0, *covered)
    return np.array(image.resize((size[1], size[0]), Image.Resampling.BILINEAR, box=box))


def _is_turned(data: bytes) -> bool:
    if data.find(b"Exif\0\0", 0, _EXIF_WITHIN) < 0:
        return False
    try:
        with Image.open(BytesIO(data), formats=("JPEG",)) as image:
            return bool(image.getexif().get(_ORIENTATION, 1) != 1)
    except Exception:  # see `_any_image`, which has the words for it
        return True


def _grey(image: Image.Image) -> NDArray[np.uint8 | np.uint16]:
    if image.mode.startswith("I;16"):
        return np.asarray(image).astype(np.uint16)  # `convert("L")` would clip at 255
    if image.mode in {"P", "PA"}:
        # Only by way of RGBA does Pillow take a palette with transparency without a warning.
        image = image.convert("RGBA")
    if image.mode in {"CMYK", "YCbCr"}:
        image = image.convert("RGB")
    if image.mode not in {"L", "LA", "1", "RGB", "RGBA"}:
        raise ValueError(f"pixel format {image.mode} is not supported")
    return np.array(image.convert("L"))
