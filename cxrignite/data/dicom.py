"""A DICOM file to one grey image, and to the patient it is of."""

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

# All that is ever read of an image: nothing here is about the person.
_WANTED = VALUE_TAGS | {
    *(_SAMPLES, _PHOTOMETRIC, _NUM_FRAMES, _ROWS, _COLUMNS),
    *(_ALLOCATED, _STORED, _HIGH_BIT, _SIGNED),
    *(*FLOAT_PIXEL_DATA, PIXEL_DATA),
}
# PS3.3, C.7.6.3.1.2. What else may stand there is not repeated in an error.
_COLOURS = {
    *("PALETTE COLOR", "RGB", "HSV", "ARGB", "CMYK", "YBR_FULL", "YBR_FULL_422"),
    *("YBR_PARTIAL_422", "YBR_PARTIAL_420", "YBR_ICT", "YBR_RCT", "XYB"),
}


def is_dicom(data: bytes) -> bool:
    """Whether a file's content begins as DICOM does: `DICM` after 128 bytes.

    Args:
        data: The file's first 132 bytes, or more of them.
    """
    return data[128:132] == b"DICM"


def decode_dicom(
    data: bytes, path: Path | str, grey_scaling: GreyScaling = "file"
) -> NDArray[np.uint8]:
    """Decodes the content of a DICOM file to a grey image.

    The modality LUT or rescale, then the VOI LUT or else the window, the first where there are
    several; the whole nominal range of what they give becomes `[0, 255]`, rounded. Where there is
    neither it is the range of the pixels, if they have more than 8 bits. MONOCHROME1 is inverted
    last, so that white is always where less radiation came through.

    Args:
        data: The file's content, with a preamble or without.
        path: The file, named in errors.
        grey_scaling: Which values become black and white, see `GreyScaling`.

    Returns:
        Shape `(H, W)`, in `[0, 255]`.

    Raises:
        UnreadableImageError: If it is not one whole monochrome image of at most 16 bits and
            `MAX_PIXELS` pixels (by its header, before anything is decoded), or its header asks for
            something that cannot be done as it stands, such as a window without a width, or it is
            compressed and the decoder is not installed.
    """
    try:
        syntax, header = find_elements(data, frozenset(_WANTED))
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
        # A damaged header leads anywhere, and what it holds must not get into a message.
        reason = f"its header or its pixel data is damaged ({type(error).__name__})"
        raise UnreadableImageError(path, reason) from None


def patient_id(path: Path | str) -> str | None:
    """The PatientID that a DICOM file names, to be hashed and never to be shown.

    The issuer of the number is left out: where some files of a patient name it and others do not,
    the patient would become two, one of them in training and one in the test.

    Args:
        path: The file. Its header is stepped over until the number is found, which may stand out
            of order.

    Returns:
        The number; `None` where it is empty, or the file is no DICOM file.

    Raises:
        UnreadableImageError: If the file cannot be read, or is damaged before where a PatientID
            belongs.
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
    except (OSError, ValueError) as error:  # a ValueError is an empty file's
        reason = getattr(error, "strerror", None) or "the file is empty"
        raise UnreadableImageError(path, reason) from None
    try:
        text = raw.decode()
    except UnicodeDecodeError:
        text = raw.decode("latin-1")
    return text.strip(" \0") or None


def _pixel_format(header: Elements, path: Path | str) -> tuple[PixelFormat, bool]:
    """What the header says of the pixels, and whether the least value is white."""
    if any(tag in header for tag in FLOAT_PIXEL_DATA):
        raise DicomRefusal("its pixels are floating point numbers, which is not supported")
    if PIXEL_DATA not in header:
        raise DicomRefusal("it holds no pixel data")
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
        raise DicomRefusal(f"it has {samples} samples a pixel, must have 1")
    frames = header.text(_NUM_FRAMES)
    try:
        num_frames = float(frames or 1)  # "01" and "1.0" are written, too
    except ValueError:
        num_frames = math.nan
    if num_frames not in (0, 1):
        is_number = math.isfinite(num_frames)
        count = f"{num_frames:g} frames" if is_number else "a number of frames that is none"
        raise DicomRefusal(f"it has {count}, must have 1")
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
