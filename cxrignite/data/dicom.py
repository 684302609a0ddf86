"""Reading of a DICOM file: a grey image, and the patient's number."""

from __future__ import annotations

import contextlib
import math
import mmap
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from cxrignite.data.dicom_elements import (
    FLOAT_PIXEL_DATA,
    PIXEL_DATA,
    DicomRefusal,
    Elements,
    find_elements,
)
from cxrignite.data.dicom_pixels import stored_bits
from cxrignite.data.dicom_streams import PixelFormat
from cxrignite.data.dicom_values import VALUE_TAGS, grey_range
from cxrignite.data.grey_scaling import GreyScaling
from cxrignite.data.image_formats import DICOM_SUFFIXES
from cxrignite.data.pixel_limit import check_pixels
from cxrignite.errors import UnreadableImageError, is_resource_error

_PATIENT_ID = 0x0010_0020
_SAMPLES, _PHOTOMETRIC, _NUM_FRAMES = 0x0028_0002, 0x0028_0004, 0x0028_0008
_ROWS, _COLUMNS = 0x0028_0010, 0x0028_0011
_ALLOCATED, _STORED, _HIGH_BIT, _SIGNED = 0x0028_0100, 0x0028_0101, 0x0028_0102, 0x0028_0103

# The only elements that are read from an image; none is about the person.
_IMAGE_TAGS = VALUE_TAGS | {
    *(_SAMPLES, _PHOTOMETRIC, _NUM_FRAMES, _ROWS, _COLUMNS),
    *(_ALLOCATED, _STORED, _HIGH_BIT, _SIGNED),
    *(*FLOAT_PIXEL_DATA, PIXEL_DATA),
}
# PS3.3, C.7.6.3.1.2. Errors do not quote any other value.
_COLOURS = {
    *("PALETTE COLOR", "RGB", "HSV", "ARGB", "CMYK", "YBR_FULL", "YBR_FULL_422"),
    *("YBR_PARTIAL_422", "YBR_PARTIAL_420", "YBR_ICT", "YBR_RCT", "XYB"),
}


def is_dicom(data: bytes) -> bool:
    """True if a file's content begins like DICOM: `DICM` after 128 bytes.

    Args:
        data: At least the first 132 bytes of the file.
    """
    return data[128:132] == b"DICM"


def decode_dicom(
    data: bytes, path: Path | str, grey_scaling: GreyScaling = "file"
) -> NDArray[np.uint8]:
    """Decode the content of a DICOM file to a grey image.

    First the modality LUT or rescale is applied, then the VOI LUT or else the window; of several,
    the first. The whole nominal range of the result becomes `[0, 255]`, rounded. Without VOI LUT
    and window, the range of the pixels is used if they have more than 8 bits. MONOCHROME1 is
    inverted last, so that white always means less radiation.

    Args:
        data: The file's content, with or without a preamble.
        path: The file, for errors.
        grey_scaling: Rule for the values that become black and white, see `GreyScaling`.

    Returns:
        Shape `(H, W)`, in `[0, 255]`.

    Raises:
        UnreadableImageError: If it is not one complete monochrome image of at most 16 bits and
            `MAX_PIXELS` pixels (by its header, before decoding). Also if a setting of the header is
            not valid, such as a window without a width, or a decoder is not installed.
    """
    try:
        syntax, header = find_elements(data, frozenset(_IMAGE_TAGS))
        pixels, is_inverted = _pixel_format(header, path)
        steps = grey_range(header, pixels.bits_stored, pixels.is_signed, grey_scaling)
        bits = stored_bits(header, syntax, pixels)
        levels = steps.levels(bits)
        return np.take(255 - levels if is_inverted else levels, bits)
    except DicomRefusal as refusal:
        raise UnreadableImageError(path, str(refusal)) from None
    except UnreadableImageError:
        raise
    except Exception as error:
        if is_resource_error(error):
            raise
        # A damaged header can raise anything, and its content must not be in a message.
        reason = f"its header or its pixel data is damaged ({type(error).__name__})"
        raise UnreadableImageError(path, reason) from None


def image_sides(data: bytes, path: Path | str) -> tuple[int, int]:
    """Return rows and columns of a DICOM image, from its header.

    Args:
        data: The file's content, with or without a preamble.
        path: The file, for errors.

    Raises:
        UnreadableImageError: If the header is damaged or does not have them.
    """
    try:
        _, header = find_elements(data, frozenset({_ROWS, _COLUMNS}))
    except DicomRefusal as refusal:
        raise UnreadableImageError(path, str(refusal)) from None
    rows, columns = header.number(_ROWS) or 0, header.number(_COLUMNS) or 0
    if min(rows, columns) < 1:
        raise UnreadableImageError(path, f"its header claims {columns} x {rows} pixels")
    return rows, columns


def patient_id(path: Path | str) -> str | None:
    """Return the PatientID of a DICOM file, which must be hashed and never shown.

    The issuer of the number is ignored: if only some files of a patient have it, the patient would
    count as two, possibly in different splits.

    Args:
        path: The file. Its header is searched up to the number, even if that is out of order.

    Returns:
        The number; `None` if it is empty, or the file is not DICOM.

    Raises:
        UnreadableImageError: If the file cannot be read, or is damaged before the position of a
            PatientID.
    """
    try:
        with open(path, "rb") as file, contextlib.ExitStack() as stack:
            if not is_dicom(file.read(132)) and Path(path).suffix.lower() not in DICOM_SUFFIXES:
                return None
            mapped = stack.enter_context(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ))
            _, header = find_elements(mapped, frozenset({_PATIENT_ID}))
            raw = header.raw(_PATIENT_ID)
    except DicomRefusal as refusal:
        raise UnreadableImageError(path, str(refusal)) from None
    except (OSError, ValueError) as error:  # an empty file raises ValueError
        reason = getattr(error, "strerror", None) or "the file is empty"
        raise UnreadableImageError(path, reason) from None
    try:
        text = raw.decode()
    except UnicodeDecodeError:
        text = raw.decode("latin-1")
    return text.strip(" \0") or None


def _pixel_format(header: Elements, path: Path | str) -> tuple[PixelFormat, bool]:
    """Return the pixel format in the header, and True if the lowest value is white."""
    if any(tag in header for tag in FLOAT_PIXEL_DATA):
        raise DicomRefusal("its pixels are floating point numbers, which is not supported")
    if PIXEL_DATA not in header:
        raise DicomRefusal("it has no pixel data")
    photometric = header.text(_PHOTOMETRIC)
    if photometric not in {"MONOCHROME1", "MONOCHROME2"}:
        found = (
            photometric if photometric in _COLOURS else "something else" if photometric else "none"
        )
        raise DicomRefusal(
            f"its photometric interpretation must be MONOCHROME1 or MONOCHROME2, got {found}"
        )
    samples = header.number(_SAMPLES)
    if samples not in (None, 1):
        raise DicomRefusal(f"it must have 1 sample per pixel, got {samples}")
    frames = header.text(_NUM_FRAMES)
    try:
        num_frames = float(frames or 1)  # some files have "01" or "1.0"
    except ValueError:
        num_frames = math.nan
    if num_frames not in (0, 1):
        is_number = math.isfinite(num_frames)
        count = f"{num_frames:g}" if is_number else "a text that is not a number"
        raise DicomRefusal(f"it must have 1 frame, got {count}")
    rows, columns = header.number(_ROWS) or 0, header.number(_COLUMNS) or 0
    if min(rows, columns) < 1:
        raise DicomRefusal(f"its header claims {columns} x {rows} pixels")
    check_pixels(columns, rows, path)
    allocated, stored = header.number(_ALLOCATED), header.number(_STORED)
    signed, high_bit = header.number(_SIGNED), header.number(_HIGH_BIT)
    if allocated not in (8, 16):
        raise DicomRefusal(f"its BitsAllocated must be 8 or 16, got {allocated}")
    stored = allocated if stored is None else stored
    high_bit = stored - 1 if high_bit is None else high_bit
    if not 1 <= stored <= allocated or not stored - 1 <= high_bit < allocated:
        raise DicomRefusal(
            f"its BitsStored and HighBit must fit into {allocated} bits, got {stored}, {high_bit}"
        )
    if signed not in (0, 1):
        raise DicomRefusal(f"its PixelRepresentation must be 0 or 1, got {signed}")
    return PixelFormat(rows, columns, allocated, stored, high_bit, signed == 1), (
        photometric == "MONOCHROME1"
    )
