"""The stored values of a DICOM image: its pixel data, decoded if compressed.

The decoders are called directly, not through pydicom: it uses another decoder if one is not
installed, only warns if one returns too much data, and logs a traceback if one fails.
"""

from __future__ import annotations

import logging
import struct
import threading
from collections.abc import Callable
from itertools import pairwise
from typing import Any, NamedTuple

import numpy as np
import simplejpeg
from numpy.typing import NDArray

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
from cxrignite.data.dicom_streams import PixelFormat, as_eight_bits, checked_stream
from cxrignite.errors import is_resource_error

_CODING_STYLE = 0x52
_PREDICTABLE_END, _HIGH_THROUGHPUT = 0x10, 0x40  # of its code blocks
_BLOCK_PIXELS = 64 * 64


class Codec(NamedTuple):
    """The decoder of a transfer syntax.

    Attributes:
        stream: Kind of the streams, for `checked_stream`.
        decode: Function that returns the values, of any type, `(rows, columns)`.
    """

    stream: str
    decode: Callable[[bytes, PixelFormat], NDArray[Any]]


def decoded(frame: bytes, syntax: str, pixels: PixelFormat) -> NDArray[Any]:
    """Decode a stream whose own header was checked.

    Returns:
        Shape `(rows, columns)`: signed values, or their bits.

    Raises:
        DicomRefusal: If the decoder is not installed, or cannot decode it.
    """
    try:
        return CODECS[syntax].decode(frame, pixels).reshape(pixels.rows, pixels.columns)
    except DicomRefusal:
        raise
    except ImportError as error:
        raise DicomRefusal(
            f"its transfer syntax is {syntax_name(syntax)}, whose decoder is not installed; "
            "in a checkout, pip install '.[dicom]'"
        ) from error
    except Exception as error:
        if is_resource_error(error):
            raise
        # The decoders raise exceptions of any type, whose texts do not help.
        raise DicomRefusal(
            f"its pixel data is damaged, or a kind of {syntax_name(syntax)} that is not supported"
        ) from error


def syntax_name(syntax: str) -> str:
    """Return the name of a transfer syntax; an unknown UID is not quoted."""
    from pydicom._uid_dict import UID_dictionary

    return UID_dictionary[syntax][0] if syntax in UID_dictionary else "unknown"


def _jpeg(frame: bytes, pixels: PixelFormat) -> NDArray[Any]:
    eight, precision = as_eight_bits(frame)
    if precision:
        # Without `strict` it returns garbage for damaged streams and no error, as imagecodecs does.
        plain: NDArray[np.uint8] = simplejpeg.decode_jpeg(eight, "GRAY", strict=True)
        if precision == 8:
            return plain
    # gdcm crashes on some damaged files.
    import imagecodecs

    values: NDArray[Any] = imagecodecs.jpeg8_decode(frame)
    return values


def _jpeg_ls(frame: bytes, pixels: PixelFormat) -> NDArray[Any]:
    import jpeg_ls  # type: ignore[import-untyped]

    values, about = jpeg_ls.decode_pixel_data(frame)
    return np.frombuffer(values, np.uint8 if about["bits_per_sample"] <= 8 else "<u2")


def _jpeg_2000(frame: bytes, pixels: PixelFormat) -> NDArray[Any]:
    import imagecodecs

    marked = bytearray(frame)
    at = 2
    while frame[at + 1] != _CODING_STYLE:
        at += 2 + int.from_bytes(frame[at + 2 : at + 4])
    style = at + 12
    # With a flag for a predictable end of code blocks, OpenJPEG decodes the same values. It
    # then warns of each block whose coded data ends too early or too late: only damaged ones do.
    marked[style] |= 0 if frame[style] & _HIGH_THROUGHPUT else _PREDICTABLE_END
    with _ODD_ENDS as odd:
        values: NDArray[Any] = imagecodecs.jpeg2k_decode(bytes(marked), verbose=2)
        num_odd = odd.count
    # If nearly all blocks end in another way, the encoder is the reason, not damage.
    if 0 < num_odd <= max(4, values.size // _BLOCK_PIXELS // 4):
        raise DicomRefusal(f"its JPEG 2000 stream is damaged, in {num_odd} of its code blocks")
    return values


class _OddEnds(logging.Filter, threading.local):
    """A filter that counts OpenJPEG's warnings in this thread and keeps them out of the log."""

    _is_decoding = False
    count = 0

    def filter(self, record: logging.LogRecord) -> bool:
        self.count += self._is_decoding and "PTERM" in record.getMessage()
        return not self._is_decoding

    def __enter__(self) -> _OddEnds:
        self._is_decoding, self.count = True, 0
        return self

    def __exit__(self, *_: object) -> None:
        self._is_decoding = False


_ODD_ENDS = _OddEnds()
logging.getLogger("imagecodecs").addFilter(_ODD_ENDS)


def _rle(frame: bytes, pixels: PixelFormat) -> NDArray[Any]:
    """Decode run lengths; the high bytes of all pixels precede the low ones (PS3.5, annex G)."""
    num_segments, size = pixels.bits_allocated // 8, pixels.rows * pixels.columns
    starts = [*struct.unpack_from(f"<{num_segments}I", frame, 4), len(frame)]
    planes = [_expanded(frame[each:end], size) for each, end in pairwise(starts)]
    return (
        np.frombuffer(b"".join(planes), np.uint8)
        .reshape(num_segments, -1)
        .T.copy()
        .view(f">u{num_segments}")
        .astype(f"u{num_segments}")
    )


def _expanded(segment: bytes, size: int) -> bytes:
    """Return exactly `size` bytes; another number means that a run length is damaged."""
    parts, at, left = [], 0, size
    while left > 0:
        header = segment[at]
        if header == 128:  # no data
            at += 1
            continue
        if header < 128:
            part, end = segment[at + 1 : at + 2 + header], at + 2 + header
        else:
            part, end = segment[at + 1 : at + 2] * (257 - header), at + 2
        if end > len(segment):
            break
        parts.append(part)
        left, at = left - len(part), end
    if left or segment[at:].strip(b"\0\x80"):
        raise DicomRefusal("its RLE stream is damaged: its number of bytes differs from its pixels")
    return b"".join(parts)


_JPEG = Codec("JPEG", _jpeg)
_JPEG_LS = Codec("JPEG-LS", _jpeg_ls)
_JPEG_2000 = Codec("JPEG 2000", _jpeg_2000)

# One decoder each, so that an image does not depend on the other installed packages.
CODECS = {
    "1.2.840.10008.1.2.4.50": _JPEG,
    "1.2.840.10008.1.2.4.51": _JPEG,
    "1.2.840.10008.1.2.4.57": _JPEG,
    "1.2.840.10008.1.2.4.70": _JPEG,
    "1.2.840.10008.1.2.4.80": _JPEG_LS,
    "1.2.840.10008.1.2.4.81": _JPEG_LS,
    "1.2.840.10008.1.2.4.90": _JPEG_2000,
    "1.2.840.10008.1.2.4.91": _JPEG_2000,
    "1.2.840.10008.1.2.4.201": _JPEG_2000,
    "1.2.840.10008.1.2.4.202": _JPEG_2000,
    "1.2.840.10008.1.2.4.203": _JPEG_2000,
    "1.2.840.10008.1.2.5": Codec("RLE", _rle),
}


Bits = NDArray[np.unsignedinteger[Any]]

_NATIVE = (IMPLICIT_LITTLE, EXPLICIT_LITTLE, EXPLICIT_BIG)

# Some writers fill the last block.
_PADDING = 512


def stored_bits(header: Elements, syntax: str, pixels: PixelFormat) -> Bits:
    """Return each pixel's stored bits, taken as unsigned.

    Returns:
        Shape `(rows, columns)`, below `2**bits_stored`; may be the file's own memory.

    Raises:
        DicomRefusal: If the transfer syntax is unknown or its decoder is not installed, or the
            pixel data is truncated, damaged, or differs from the header.
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
        raise DicomRefusal("its pixel data is compressed, but its transfer syntax is not")
    present = min(element.length, len(header.data) - element.start)
    if present < num_bytes:
        raise DicomRefusal(f"its pixel data is truncated: got {present:,} of {num_bytes:,} bytes")
    if element.length - num_bytes > max(_PADDING, num_bytes // pixels.rows - 1):
        raise DicomRefusal(
            f"its pixel data has {element.length:,} bytes, "
            f"but its rows and columns need {num_bytes:,}"
        )
    if syntax == EXPLICIT_BIG and pixels.bits_allocated == 8 and element.vr == b"OW":
        # Two pixels per word, the second one first.
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
        raise DicomRefusal("its pixel data must be encapsulated for its transfer syntax, it is not")
    frame = b"".join(fragments(header.data, element.start, header.order))
    frame = checked_stream(CODECS[syntax].stream, frame, pixels)
    values = decoded(frame, syntax, pixels)
    if values.itemsize * 8 < pixels.bits_stored:  # the stream may have fewer bits
        values = values.astype(f"{values.dtype.kind}2")
    if values.dtype.kind == "i":
        low, high = -(2 ** (pixels.bits_stored - 1)), 2 ** (pixels.bits_stored - 1) - 1
        is_within = low <= values.min() and values.max() <= high
    else:
        # The bits above a signed value may repeat its sign.
        is_within = pixels.is_signed or values.max() < 2**pixels.bits_stored
    if not is_within:
        raise DicomRefusal(f"its pixel data has values of more than {pixels.bits_stored} bits")
    return _lowest(values.view(f"u{values.itemsize}"), pixels)


def _lowest(bits: Bits, pixels: PixelFormat) -> Bits:
    """Return the bits of the value; the bits above may be overlays or signs."""
    if bits.itemsize * 8 == pixels.bits_stored:
        return bits
    return np.bitwise_and(bits, bits.dtype.type(2**pixels.bits_stored - 1))
