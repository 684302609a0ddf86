"""Reading of an image file as a grey image, rows by columns."""

from __future__ import annotations

import errno
import os
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from cxrignite.data import jpeg, png
from cxrignite.data.crash_report import call_named
from cxrignite.data.dicom import decode_dicom, is_dicom
from cxrignite.data.grey_scaling import GreyScaling, rescaled
from cxrignite.data.image_formats import DICOM_SUFFIXES
from cxrignite.data.pillow_formats import open_with_pillow
from cxrignite.data.pixel_limit import MAX_PIXELS
from cxrignite.errors import CxrIgniteError, UnreadableImageError

__all__ = [
    "MAX_PIXELS",
    "TRANSPOSED",
    "Size",
    "decode_image",
    "holds_dicom",
    "read_bytes",
    "read_image",
    "resize_image",
]

Size = tuple[int, int]
"""Rows and columns."""

TRANSPOSED = {5, 6, 7, 8}
"""EXIF orientations that swap rows and columns."""


def read_image(
    path: Path | str, size: Size | None = None, grey_scaling: GreyScaling = "file"
) -> NDArray[np.uint8]:
    """Read an image file as a grey image.

    Args:
        path: The file.
        size: Rows and columns to resize to, each at least 1; `None` keeps the file's own.
        grey_scaling: Rule for the values that become black and white, see `GreyScaling`.

    Returns:
        Shape `(H, W)`, in `[0, 255]`, rows by columns, rotated by its EXIF orientation, with its
        own memory. See `decode_image` for the handling of colours, depths and sizes.

    Raises:
        UnreadableImageError: If the file cannot be opened or is not a complete image of a supported
            format.
    """
    return decode_image(read_bytes(path), path, size, grey_scaling)


def read_bytes(path: Path | str) -> bytes:
    """Read a file's content.

    Raises:
        UnreadableImageError: If the file cannot be opened or read.
        CxrIgniteError: If this process or machine cannot open any file.
    """
    if "\0" in str(path):
        # A damaged manifest can contain one, and `open` raises a ValueError for it.
        raise UnreadableImageError(path, "its name contains a NUL character")
    try:
        # `Path.read_bytes` takes twice as long for a small file.
        with open(path, "rb", buffering=0) as file:
            return file.readall()
    except OSError as error:
        if error.errno in {errno.EMFILE, errno.ENFILE, errno.ENOMEM}:
            raise CxrIgniteError(f"cannot open {path}: {error.strerror}") from error
        raise UnreadableImageError(path, error.strerror or str(error)) from error


def decode_image(
    data: bytes,
    path: Path | str,
    size: Size | None = None,
    grey_scaling: GreyScaling = "file",
) -> NDArray[np.uint8]:
    """Decode the content of an image file to a grey image.

    Colours become ITU-R 601 luma and transparency is ignored. In 16-bit images the lowest value
    becomes 0 and the highest 255, unless `grey_scaling` sets another rule. For DICOM files see
    `decode_dicom`. Of the metadata of a JPEG or PNG only the EXIF orientation is used; damage in it
    is ignored.

    With a `size`, a JPEG is decoded at the smallest multiple of 1/8 of its size that covers `size`,
    which takes a quarter of the time, and is then resized. On average over an image, the result
    differs by less than one grey level from a full decode and the same resize.

    Args:
        data: The file's content.
        path: The file, for errors.
        size: Rows and columns to resize to, bilinear with antialiasing, ignoring the aspect ratio;
            `None` keeps the file's own.
        grey_scaling: Rule for the values that become black and white, see `GreyScaling`; it is
            applied before resizing.

    Returns:
        Shape `(H, W)`, in `[0, 255]`.

    Raises:
        UnreadableImageError: If the content is not a complete image of a supported format. Also,
            before decoding, if its header claims more than `MAX_PIXELS` pixels, `MAX_MEMORY` bytes,
            `MAX_SCANS` scans or more than the file can hold.
        CxrIgniteError: If memory runs out.
    """
    return call_named(path, _decode, data, path, size, grey_scaling)


def _decode(
    data: bytes, path: Path | str, size: Size | None, grey_scaling: GreyScaling
) -> NDArray[np.uint8]:
    if not data:
        raise UnreadableImageError(path, "the file is empty")
    if holds_dicom(data, path):
        grey = decode_dicom(data, path, grey_scaling)
        return grey if size is None else resize_image(grey, size)
    if data.startswith(jpeg.SIGNATURE):
        return _decode_jpeg(jpeg.open_jpeg(data, path), size, grey_scaling)
    if data.startswith(png.SIGNATURE):
        image, orientation = png.open_png(data, path)
        grey = _turned(rescaled(_grey(image), grey_scaling), orientation)
    else:
        grey = rescaled(_grey(open_with_pillow(data, path)), grey_scaling)
    return grey if size is None else resize_image(grey, size)


def _decode_jpeg(
    image: jpeg.Jpeg, size: Size | None, grey_scaling: GreyScaling
) -> NDArray[np.uint8]:
    """Decode a JPEG directly to grey and at a fraction of its size, if the decoder supports it."""
    if size is not None and image.orientation in TRANSPOSED:
        size = (size[1], size[0])
    height, width = image.height, image.width
    if image.mode == "CMYK" or (image.mode == "RGB" and image.is_lossless):
        colours: Literal["CMYK", "RGB"] = "CMYK" if image.mode == "CMYK" else "RGB"
        raw = "CMYK;I" if image.mode == "CMYK" else "RGB"
        pixels = image.decode(colours).tobytes()
        levels = _grey(Image.frombytes(image.mode, (width, height), pixels, "raw", raw))
    else:
        levels = image.decode("GRAY", *(size or ()))[..., 0]
    grey = rescaled(levels, grey_scaling)
    if size is not None:
        # The decoder rounds up to whole pixels. The padding is left out, else the image would be
        # stretched by up to a pixel and differ twice as much from a full decode.
        eighths = next(
            n for n in range(1, 9) if grey.shape == (-(-height * n // 8), -(-width * n // 8))
        )
        covered = (width * eighths / 8, height * eighths / 8)
        grey = _resized(Image.fromarray(grey), size, covered)
    return _turned(grey, image.orientation)


def _turned(grey: NDArray[np.uint8], orientation: int) -> NDArray[np.uint8]:
    """Rotate an image upright from its EXIF orientation."""
    if orientation in TRANSPOSED:
        grey = grey.T
    if orientation in {3, 4, 7, 8}:
        grey = grey[::-1]
    if orientation in {2, 3, 6, 7}:
        grey = grey[:, ::-1]
    return np.ascontiguousarray(grey)


def holds_dicom(data: bytes, path: Path | str) -> bool:
    """True if a file is DICOM, by its preamble or, if it has none, by its name."""
    if is_dicom(data):
        return True
    is_named = os.path.splitext(path)[1].lower() in DICOM_SUFFIXES
    return is_named and not data.startswith((jpeg.SIGNATURE, png.SIGNATURE))


def resize_image(grey: NDArray[np.uint8], size: Size) -> NDArray[np.uint8]:
    """Resize a grey image as in `decode_image`.

    Args:
        grey: Shape `(H, W)`.
        size: Rows and columns, each at least 1.

    Returns:
        The image, of shape `(*size,)`.
    """
    return _resized(Image.fromarray(grey), size, (grey.shape[1], grey.shape[0]))


def _resized(image: Image.Image, size: Size, covered: tuple[float, float]) -> NDArray[np.uint8]:
    """Resize the part of an image from the top left to `covered`, columns by rows."""
    box = (0.0, 0.0, *covered)
    return np.array(image.resize((size[1], size[0]), Image.Resampling.BILINEAR, box=box))


def _grey(image: Image.Image) -> NDArray[np.uint8 | np.uint16]:
    if image.mode.startswith("I;16"):
        return np.asarray(image).astype(np.uint16)  # `convert("L")` clips at 255
    if image.mode in {"CMYK", "PA"}:
        image = image.convert("RGB")
    return np.array(image.convert("L"))
