"""The stored values of a DICOM film: its pixel data, decompressed where it is compressed."""

from __future__ import annotations

import logging
import threading
from typing import Any, NamedTuple

import numpy as np
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
from cxrignite.data.dicom_streams import PixelFormat, check_stream

Bits = NDArray[np.unsignedinteger[Any]]

NATIVE = (IMPLICIT_LITTLE, EXPLICIT_LITTLE, EXPLICIT_BIG)


# Some writers fill the last block up.
_PADDING = 512


class _Codec(NamedTuple):
    """Who decompresses, by pydicom's name for it, and what the streams look like."""

    plugin: str
    stream: str


# One for each, so that a film does not depend on what else is installed. Pillow's is always there.
_CODECS = {
    "1.2.840.10008.1.2.4.50": _Codec("pillow", "JPEG"),
    "1.2.840.10008.1.2.4.51": _Codec("pillow", "JPEG"),
    "1.2.840.10008.1.2.4.57": _Codec("gdcm", "JPEG"),
    "1.2.840.10008.1.2.4.70": _Codec("gdcm", "JPEG"),
    "1.2.840.10008.1.2.4.80": _Codec("pyjpegls", "JPEG-LS"),
    "1.2.840.10008.1.2.4.81": _Codec("pyjpegls", "JPEG-LS"),
    "1.2.840.10008.1.2.4.90": _Codec("pylibjpeg", "JPEG 2000"),
    "1.2.840.10008.1.2.4.91": _Codec("pylibjpeg", "JPEG 2000"),
    "1.2.840.10008.1.2.4.201": _Codec("pylibjpeg", "JPEG 2000"),
    "1.2.840.10008.1.2.4.202": _Codec("pylibjpeg", "JPEG 2000"),
    "1.2.840.10008.1.2.4.203": _Codec("pylibjpeg", "JPEG 2000"),
    "1.2.840.10008.1.2.5": _Codec("pylibjpeg", "RLE"),
}


def stored_bits(header: Elements, syntax: str, pixels: PixelFormat) -> Bits:
    """Each pixel's stored bits, taken as unsigned.

    Args:
        header: The file's elements, its pixel data among them.
        syntax: The transfer syntax's UID.
        pixels: What the header says of the pixels.

    Returns:
        Shape `(rows, columns)`, below `2**bits_stored`.

    Raises:
        DicomRefusal: If the transfer syntax is unknown or its decoder is not installed, or the
            pixel data is cut, damaged, or not what the header says.
    """
    if syntax in NATIVE:
        return _native(header, syntax, pixels)
    if syntax not in _CODECS:
        raise DicomRefusal(f"its transfer syntax is {_named(syntax)}, which is not supported")
    return _decompressed(header, syntax, pixels)


def _native(header: Elements, syntax: str, pixels: PixelFormat) -> Bits:
    element = header[PIXEL_DATA]
    num_bytes = pixels.rows * pixels.columns * pixels.bits_allocated // 8
    if element.length == UNDEFINED:
        raise DicomRefusal("its pixel data is compressed, which its transfer syntax denies")
    present = min(element.length, len(header.data) - element.start)
    if present < num_bytes:
        raise DicomRefusal(f"its pixel data is truncated: {present:,} of {num_bytes:,} bytes")
    if element.length - num_bytes > max(_PADDING, num_bytes // pixels.rows - 1):
        raise DicomRefusal(
            f"its pixel data has {element.length:,} bytes, {num_bytes:,} by its rows and columns"
        )
    is_swapped = syntax == EXPLICIT_BIG and pixels.bits_allocated == 8 and element.vr == b"OW"
    bits: Bits
    if is_swapped:  # two pixels to a word, the second one first
        words = np.frombuffer(header.data, ">u2", -(-num_bytes // 2), element.start)
        bits = words.astype("<u2").view(np.uint8)[:num_bytes]
    else:
        dtype = np.dtype(f"{header.order}u{pixels.bits_allocated // 8}")
        bits = np.frombuffer(header.data, dtype, pixels.rows * pixels.columns, element.start)
    shift = pixels.high_bit + 1 - pixels.bits_stored
    if shift:
        bits = np.right_shift(bits, shift)
    if pixels.bits_stored + shift < pixels.bits_allocated:
        bits = np.bitwise_and(bits, 2**pixels.bits_stored - 1)  # overlays may lie above
    return bits.reshape(pixels.rows, pixels.columns)


def _decompressed(header: Elements, syntax: str, pixels: PixelFormat) -> Bits:
    codec = _CODECS[syntax]
    element = header[PIXEL_DATA]
    if element.length != UNDEFINED:
        raise DicomRefusal("its pixel data is not encapsulated, which its transfer syntax asks for")
    frame = b"".join(fragments(header.data, element.start, header.order))
    check_stream(codec.stream, frame, pixels)
    with _QUIET:
        values = _decoded(frame, syntax, codec.plugin, pixels)
    # Signed values came with their sign spread over all bits.
    low = -(2 ** (pixels.bits_stored - 1)) if pixels.is_signed else 0
    if values.min() < low or values.max() >= low + 2**pixels.bits_stored:
        raise DicomRefusal(f"its pixel data has values of more than {pixels.bits_stored} bits")
    bits = values.view(f"u{values.itemsize}")
    return bits & (2**pixels.bits_stored - 1) if pixels.is_signed else bits


def _decoded(frame: bytes, syntax: str, plugin: str, pixels: PixelFormat) -> NDArray[Any]:
    # pydicom takes as long to import as a film to read, and most films do not need it.
    from pydicom.encaps import encapsulate
    from pydicom.pixels.decoders.base import get_decoder
    from pydicom.uid import UID

    decoder = get_decoder(UID(syntax))
    if plugin not in decoder.available_plugins:
        raise DicomRefusal(
            f"its transfer syntax is {_named(syntax)}, whose decoder is not installed: "
            "pip install 'cxrignite[dicom]'"
        )
    options: dict[str, Any] = {
        "rows": pixels.rows,
        "columns": pixels.columns,
        "samples_per_pixel": 1,
        "number_of_frames": 1,
        "photometric_interpretation": "MONOCHROME2",
        "bits_allocated": pixels.bits_allocated,
        "bits_stored": pixels.bits_stored,
        "pixel_representation": int(pixels.is_signed),
        "pixel_keyword": "PixelData",
    }
    try:
        # Validated above: pydicom would warn and go on.
        values, _ = decoder.as_array(
            encapsulate([frame], has_bot=False),
            index=0,
            raw=True,
            validate=False,
            decoding_plugin=plugin,
            **options,
        )
    except Exception as error:
        # What they raise has no form that could be relied on, nor words that help.
        raise DicomRefusal(
            f"its pixel data is damaged, or of a kind of {_named(syntax)} that is not supported"
        ) from error
    return values


def _named(syntax: str) -> str:
    from pydicom._uid_dict import UID_dictionary

    # Whatever else is written there is not repeated.
    return UID_dictionary[syntax][0] if syntax in UID_dictionary else "not a known one"


class _QuietThread(logging.Filter, threading.local):
    """Drops what pydicom logs of a decoder's failure, a traceback, while we decode.

    The failure becomes an error of ours. Other threads' records, and the user's own, pass.
    """

    _is_quiet = False

    def filter(self, record: logging.LogRecord) -> bool:
        return not self._is_quiet

    def __enter__(self) -> None:
        self._is_quiet = True

    def __exit__(self, *_: object) -> None:
        self._is_quiet = False


_QUIET = _QuietThread()
logging.getLogger("pydicom.pixels.decoders.base").addFilter(_QUIET)
