"""The stored values of a DICOM film: its pixel data, decoded where it is compressed."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from cxrignite.data.dicom_decoders import CODECS, decoded, syntax_name
from cxrignite.data.dicom_elements import (
    EXPLICIT_BIG,
    EXPLICIT_LITTLE,
    IMPLICIT_LITTLE,
    PIXEL_DATA,
    UNDEFINED,
    DicomRefusal,
    Elements,
    fragments,
)
from cxrignite.data.dicom_streams import PixelFormat, checked_stream

Bits = NDArray[np.unsignedinteger[Any]]

_NATIVE = (IMPLICIT_LITTLE, EXPLICIT_LITTLE, EXPLICIT_BIG)

# Some writers fill the last block up.
_PADDING = 512


def stored_bits(header: Elements, syntax: str, pixels: PixelFormat) -> Bits:
    """Each pixel's stored bits, taken as unsigned.

    Args:
        header: The file's elements, its pixel data among them.
        syntax: The transfer syntax's UID.
        pixels: What the header says of the pixels.

    Returns:
        Shape `(rows, columns)`, below `2**bits_stored`; may be the file's own memory.

    Raises:
        DicomRefusal: If the transfer syntax is unknown or its decoder is not installed, or the
            pixel data is cut, damaged, or not what the header says.
    """
    if syntax in _NATIVE:
        return _native(header, syntax, pixels)
    if syntax not in CODECS:
        raise DicomRefusal(f"its transfer syntax is {syntax_name(syntax)}, which is not supported")
    return _decompressed(header, syntax, pixels)


def _native(header: Elements, syntax: str, pixels: PixelFormat) -> Bits:
    element = header[PIXEL_DATA]
    num_pixels = pixels.rows * pixels.columns
    num_bytes = num_pixels * pixels.bits_allocated // 8
    if element.length == UNDEFINED:
        raise DicomRefusal("its pixel data is compressed, which its transfer syntax denies")
    present = min(element.length, len(header.data) - element.start)
    if present < num_bytes:
        raise DicomRefusal(f"its pixel data is truncated: {present:,} of {num_bytes:,} bytes")
    if element.length - num_bytes > max(_PADDING, num_bytes // pixels.rows - 1):
        raise DicomRefusal(
            f"its pixel data has {element.length:,} bytes, {num_bytes:,} by its rows and columns"
        )
    if syntax == EXPLICIT_BIG and pixels.bits_allocated == 8 and element.vr == b"OW":
        # Two pixels to a word, the second one first.
        words = np.frombuffer(header.data, ">u2", present // 2, element.start).astype("<u2")
        bits: Bits = words.view(np.uint8)[:num_pixels]
    else:
        dtype = f"{header.order}u{pixels.bits_allocated // 8}"
        bits = np.frombuffer(header.data, dtype, num_pixels, element.start)
    shift = pixels.high_bit + 1 - pixels.bits_stored
    if shift:
        bits = np.right_shift(bits, shift)
    return _lowest(bits, pixels).reshape(pixels.rows, pixels.columns)


def _decompressed(header: Elements, syntax: str, pixels: PixelFormat) -> Bits:
    element = header[PIXEL_DATA]
    if element.length != UNDEFINED:
        raise DicomRefusal("its pixel data is not encapsulated, which its transfer syntax asks for")
    frame = b"".join(fragments(header.data, element.start, header.order))
    frame = checked_stream(CODECS[syntax].stream, frame, pixels)
    values = decoded(frame, syntax, pixels)
    if values.itemsize * 8 < pixels.bits_stored:  # by the stream, which may be of fewer bits
        values = values.astype(f"{values.dtype.kind}2")
    if values.dtype.kind == "i":
        low, high = -(2 ** (pixels.bits_stored - 1)), 2 ** (pixels.bits_stored - 1) - 1
        is_within = low <= values.min() and values.max() <= high
    else:
        # Of a signed value, the bits above may repeat its sign.
        is_within = pixels.is_signed or values.max() < 2**pixels.bits_stored
    if not is_within:
        raise DicomRefusal(f"its pixel data has values of more than {pixels.bits_stored} bits")
    return _lowest(values.view(f"u{values.itemsize}"), pixels)


def _lowest(bits: Bits, pixels: PixelFormat) -> Bits:
    """The bits of the value; overlays and signs may lie above."""
    if bits.itemsize * 8 == pixels.bits_stored:
        return bits
    return np.bitwise_and(bits, bits.dtype.type(2**pixels.bits_stored - 1))
