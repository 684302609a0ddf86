"""What a compressed stream says of itself, before a decoder believes it and takes the memory."""

from __future__ import annotations

import struct
from dataclasses import dataclass

from cxrignite.data.dicom_elements import DicomRefusal

# Start of frame of every kind, 0xF7 that of JPEG-LS.
_FRAME_MARKERS = {0xF7, *range(0xC0, 0xD0)} - {0xC4, 0xC8, 0xCC}
_MAX_TILES = 2**14


@dataclass(frozen=True)
class PixelFormat:
    """How pixels are stored.

    Attributes:
        rows: Rows of the image, at least 1.
        columns: Columns of the image, at least 1.
        bits_allocated: Bits a pixel takes, 8 or 16.
        bits_stored: Bits of them that are its value.
        high_bit: The highest of those.
        is_signed: Whether a value is two's complement.
    """

    rows: int
    columns: int
    bits_allocated: int
    bits_stored: int
    high_bit: int
    is_signed: bool


def check_stream(kind: str, frame: bytes, pixels: PixelFormat) -> None:
    """Refuses a stream that is not the image that its DICOM header describes.

    Args:
        kind: `JPEG`, `JPEG-LS`, `JPEG 2000` or `RLE`.
        frame: The whole stream.
        pixels: What the DICOM header says of the pixels.

    Raises:
        DicomRefusal: If the stream's own header says otherwise, or its end is missing.
    """
    _CHECKS[kind](frame, pixels)


def _check_jpeg(frame: bytes, pixels: PixelFormat) -> None:
    _check_ends(frame, b"\xff\xd8")
    at = 2
    while at + 4 <= len(frame) and frame[at] == 0xFF:
        marker = frame[at + 1]
        if marker == 0xFF:  # filling
            at += 1
            continue
        if marker in _FRAME_MARKERS and at + 10 <= len(frame):
            precision, rows, columns, samples = struct.unpack_from(">BHHB", frame, at + 4)
            return _check_size(rows, columns, samples, precision, pixels)
        at += 2 + int.from_bytes(frame[at + 2 : at + 4])
    raise DicomRefusal("its JPEG stream does not say how large it is")


def _check_jpeg_2000(frame: bytes, pixels: PixelFormat) -> None:
    _check_ends(frame, b"\xff\x4f\xff\x51")
    right, bottom, left, top, *tile, samples = struct.unpack_from(">8IH", frame, 8)
    precision, x_step, y_step = struct.unpack_from(">3B", frame, 42)
    if (x_step, y_step) != (1, 1) or min(tile[:2]) < 1:
        raise DicomRefusal("its JPEG 2000 stream is subsampled or damaged")
    _check_size(bottom - top, right - left, samples, (precision & 0x7F) + 1, pixels)
    num_tiles = -(-(right - tile[2]) // tile[0]) * -(-(bottom - tile[3]) // tile[1])
    if num_tiles > _MAX_TILES:  # each takes kilobytes, however small it is
        raise DicomRefusal(f"its JPEG 2000 stream has {num_tiles:,} tiles")


def _check_rle(frame: bytes, pixels: PixelFormat) -> None:
    if len(frame) < 64 or int.from_bytes(frame[:4], "little") != pixels.bits_allocated // 8:
        raise DicomRefusal("its RLE stream is damaged, or has other bits than its header says")


def _check_ends(frame: bytes, start: bytes) -> None:
    if not frame.startswith(start):
        raise DicomRefusal("its pixel data is not the stream that its transfer syntax asks for")
    if not frame.rstrip(b"\0\xff").endswith(b"\xff\xd9"):
        raise DicomRefusal("its pixel data is truncated: the stream's end is missing")


def _check_size(rows: int, columns: int, samples: int, precision: int, pixels: PixelFormat) -> None:
    """Before a decoder believes its stream, and takes the memory that it claims to need."""
    if samples != 1:
        raise DicomRefusal(f"its compressed stream has {samples} samples a pixel, must have 1")
    if (rows, columns) != (pixels.rows, pixels.columns):
        raise DicomRefusal(
            f"its compressed stream claims {columns} x {rows} pixels, "
            f"its header {pixels.columns} x {pixels.rows}"
        )
    if precision > 16:
        raise DicomRefusal(
            f"its compressed stream has {precision} bits a pixel, at most 16 allowed"
        )


_CHECKS = {
    "JPEG": _check_jpeg,
    "JPEG-LS": _check_jpeg,
    "JPEG 2000": _check_jpeg_2000,
    "RLE": _check_rle,
}
