"""Compressed pixel data to stored values, one decoder for each transfer syntax."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from typing import Any, NamedTuple

from numpy.typing import NDArray

from cxrignite.data.dicom_elements import DicomRefusal
from cxrignite.data.dicom_streams import PixelFormat
from cxrignite.data.foreign_errors import raise_if_foreign
from cxrignite.data.jpeg import checked_bits, open_jpeg
from cxrignite.errors import UnreadableImageError


class Codec(NamedTuple):
    """How a transfer syntax is decoded.

    Attributes:
        stream: What the streams look like, for `check_stream`.
        decode: Gives the values, of any type, `(rows, columns)`.
    """

    stream: str
    decode: Callable[[bytes, str, PixelFormat], NDArray[Any]]


def decoded(frame: bytes, syntax: str, pixels: PixelFormat) -> NDArray[Any]:
    """Decodes a stream whose own header was checked.

    Args:
        frame: The whole stream.
        syntax: The transfer syntax's UID, one in `CODECS`.
        pixels: What the DICOM header says of the pixels.

    Returns:
        Shape `(rows, columns)`: signed values, or their bits.

    Raises:
        DicomRefusal: If the decoder is not installed, or cannot decode it.
    """
    try:
        with _QUIET:
            return CODECS[syntax].decode(frame, syntax, pixels).reshape(pixels.rows, pixels.columns)
    except DicomRefusal:
        raise
    except UnreadableImageError as error:
        raise DicomRefusal(error.reason) from error
    except ImportError as error:
        raise DicomRefusal(
            f"its transfer syntax is {syntax_name(syntax)}, whose decoder is not installed: "
            "in a checkout, pip install '.[dicom]'"
        ) from error
    except Exception as error:
        raise_if_foreign(error)
        # What they raise has no form that could be relied on, nor words that help.
        raise DicomRefusal(
            f"its pixel data is damaged, or a kind of {syntax_name(syntax)} that is not supported"
        ) from error


def syntax_name(syntax: str) -> str:
    """A transfer syntax in words; what is no known one is not repeated."""
    from pydicom._uid_dict import UID_dictionary

    return UID_dictionary[syntax][0] if syntax in UID_dictionary else "not a known one"


def _by_pydicom(plugin: str) -> Callable[[bytes, str, PixelFormat], NDArray[Any]]:
    def decode(frame: bytes, syntax: str, pixels: PixelFormat) -> NDArray[Any]:
        # Takes as long to import as dozens of films to read, and most do not need it.
        from pydicom.encaps import encapsulate
        from pydicom.pixels.decoders.base import get_decoder
        from pydicom.uid import UID

        decoder = get_decoder(UID(syntax))
        if plugin not in decoder.available_plugins:
            raise ImportError(plugin)
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
            "correct_unused_bits": False,
        }
        # The stream was checked: pydicom would warn and go on. Without `raw` it changes colours.
        return decoder.as_array(
            encapsulate([frame], has_bot=False),
            index=0,
            raw=True,
            validate=False,
            decoding_plugin=plugin,
            **options,
        )[0]

    return decode


def _jpeg(frame: bytes, syntax: str, pixels: PixelFormat) -> NDArray[Any]:
    if checked_bits(frame, "") == 8:
        # What pydicom would take passes over damage, or ends the process at it.
        return open_jpeg(frame, "").decode("GRAY")[..., 0]
    import imagecodecs

    values: NDArray[Any] = imagecodecs.jpeg8_decode(frame)
    return values


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

_JPEG = Codec("JPEG", _jpeg)
_JPEG_LS = Codec("JPEG-LS", _by_pydicom("pyjpegls"))
_JPEG_2000 = Codec("JPEG 2000", _by_pydicom("pylibjpeg"))

# One for each, so that a film does not depend on what else is installed.
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
    "1.2.840.10008.1.2.5": Codec("RLE", _by_pydicom("pydicom")),
}
