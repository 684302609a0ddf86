"""Checks of a compressed stream's own header, before a decoder allocates memory for it."""

from __future__ import annotations

import re
import struct
from collections.abc import Callable
from dataclasses import dataclass

from cxrignite.data.dicom_elements import DicomRefusal

# Start of frame of every kind; 0xF7 is that of JPEG-LS.
_FRAME_MARKERS = {0xF7, *range(0xC0, 0xD0)} - {0xC4, 0xC8, 0xCC}
_HUFFMAN_CODED, _PROGRESSIVE = (0xC0, 0xC1, 0xC2), 0xC2
_SCAN, _END, _TILE_PART = 0xDA, 0xD9, 0x90
_JP2 = b"\0\0\0\x0cjP  \r\n\x87\n"
_MAX_TILES = 2**14
_NO_END = "its pixel data is truncated or damaged: the stream has no end marker"


@dataclass(frozen=True)
class PixelFormat:
    """The storage format of pixels.

    Attributes:
        rows: Rows of the image, at least 1.
        columns: Columns of the image, at least 1.
        bits_allocated: Bits per pixel, 8 or 16.
        bits_stored: Number of these bits that hold the value.
        high_bit: Position of the value's highest bit.
        is_signed: True if a value is two's complement.
    """

    rows: int
    columns: int
    bits_allocated: int
    bits_stored: int
    high_bit: int
    is_signed: bool


def checked_stream(kind: str, frame: bytes, pixels: PixelFormat) -> bytes:
    """Check that a stream is the image that its DICOM header describes.

    Args:
        kind: `JPEG`, `JPEG-LS`, `JPEG 2000` or `RLE`.
        frame: The whole stream, perhaps with padding behind it.
        pixels: The pixel format in the DICOM header.

    Returns:
        The stream from its start to its end, without a file format around it or padding.

    Raises:
        DicomRefusal: If the stream's own header differs, its end is missing, or its parts are not
            contiguous.
    """
    return _CHECKS[kind](frame, pixels)


def as_eight_bits(frame: bytes) -> tuple[bytes, int]:
    """Return a JPEG whose header claims 8 bits, and its true bits; 0 if it is not Huffman coded.

    Coded data of 12 bits has the same form. Decoded as 8 bits it is not an image, but the decoder
    finds the same damage.

    Args:
        frame: A stream that was checked.
    """
    at = size_at = 2
    while at + 10 <= len(frame) and frame[at + 1] != _SCAN:
        size_at = at if frame[at + 1] in _FRAME_MARKERS else size_at
        at += 1 if frame[at + 1] == 0xFF else 2 + int.from_bytes(frame[at + 2 : at + 4])
    if frame[size_at + 1] not in _HUFFMAN_CODED:  # lossless, arithmetic
        return frame, 0
    eight = bytearray(frame)
    eight[size_at + 4] = 8
    if frame[size_at + 1] != _PROGRESSIVE:
        # It has one scan, with all coefficients; some writers claim otherwise, which is harmless.
        eight[at + 7 : at + 10] = b"\0\x3f\0"
    return bytes(eight), frame[size_at + 4]


def _jpeg(next_marker: re.Pattern[bytes]) -> Callable[[bytes, PixelFormat], bytes]:
    """Return a check that steps over a JPEG's segments and scans up to its end.

    `next_marker` matches the marker that ends the coded data of a scan, which may contain 0xFF.
    """

    def check(frame: bytes, pixels: PixelFormat) -> bytes:
        _check_start(frame, b"\xff\xd8")
        at, has_size = 2, False
        while at + 4 <= len(frame) and frame[at] == 0xFF:
            marker = frame[at + 1]
            if marker == 0xFF:  # filling
                at += 1
                continue
            if marker == _END:
                break
            if marker in _FRAME_MARKERS and at + 10 <= len(frame):
                precision, rows, columns, samples = struct.unpack_from(">BHHB", frame, at + 4)
                _check_size(rows, columns, samples, precision, pixels)
                has_size = True
            at += 2 + int.from_bytes(frame[at + 2 : at + 4])
            if marker == _SCAN:
                found = next_marker.search(frame, at)
                at = len(frame) if found is None else found.start()
        if frame[at : at + 2] != bytes([0xFF, _END]):
            raise DicomRefusal(_NO_END)
        if not has_size:
            raise DicomRefusal("its JPEG stream must give the image's size, it does not")
        return frame[: at + 2]

    return check


def _jpeg_2000(frame: bytes, pixels: PixelFormat) -> bytes:
    """Step over the tile parts by their lengths."""
    frame = _code_stream(frame)
    _check_start(frame, b"\xff\x4f\xff\x51")
    right, bottom, left, top, *tile, samples = struct.unpack_from(">8IH", frame, 8)
    precision, x_step, y_step = struct.unpack_from(">3B", frame, 42)
    if (x_step, y_step) != (1, 1) or min(tile[:2]) < 1:
        raise DicomRefusal("its JPEG 2000 stream is subsampled or damaged")
    _check_size(bottom - top, right - left, samples, (precision & 0x7F) + 1, pixels)
    num_tiles = -(-(right - tile[2]) // tile[0]) * -(-(bottom - tile[3]) // tile[1])
    if num_tiles > _MAX_TILES:  # even a small tile takes kilobytes
        raise DicomRefusal(
            f"its JPEG 2000 stream has {num_tiles:,} tiles, at most {_MAX_TILES:,} are allowed"
        )
    at, tiles = 2, set()
    while at + 12 <= len(frame) and frame[at] == 0xFF and frame[at + 1] not in (_TILE_PART, _END):
        at += 2 + int.from_bytes(frame[at + 2 : at + 4])
    while at + 12 <= len(frame) and frame[at : at + 2] == bytes([0xFF, _TILE_PART]):
        number, length = struct.unpack_from(">HI", frame, at + 4)
        tiles.add(number)
        # Length 0 means the last tile part, up to the end.
        at = at + length if length else max(at + 12, frame.rfind(bytes([0xFF, _END])))
        if 0 < length < 14:
            break
    if frame[at : at + 2] != bytes([0xFF, _END]):
        raise DicomRefusal(_NO_END)
    if tiles != set(range(num_tiles)):
        raise DicomRefusal(f"its JPEG 2000 stream must have {num_tiles} tiles, some are missing")
    return frame[: at + 2]


def _code_stream(frame: bytes) -> bytes:
    """Return the code stream from the boxes of a JP2 file; other streams are not changed."""
    if not frame.startswith(_JP2):
        return frame
    at = 0
    while at + 16 <= len(frame):
        length, kind = struct.unpack_from(">I4s", frame, at)
        start = at + 8
        if length == 1:  # the length follows, in eight bytes
            (length,), start = struct.unpack_from(">Q", frame, start), at + 16
        if kind == b"jp2c":
            return frame[start : at + length if length else len(frame)]
        if length < 8:
            break
        at += length
    raise DicomRefusal("its JPEG 2000 file has no code stream")


def _rle(frame: bytes, pixels: PixelFormat) -> bytes:
    if len(frame) < 64 or int.from_bytes(frame[:4], "little") != pixels.bits_allocated // 8:
        raise DicomRefusal("its RLE stream is damaged, or its bits differ from its header")
    return frame


def _check_start(frame: bytes, start: bytes) -> None:
    if not frame.startswith(start):
        raise DicomRefusal("its pixel data does not match its transfer syntax")


def _check_size(rows: int, columns: int, samples: int, precision: int, pixels: PixelFormat) -> None:
    """Check the size in a stream's header, before a decoder allocates memory for it."""
    if samples != 1:
        raise DicomRefusal(f"its compressed stream must have 1 sample per pixel, got {samples}")
    if (rows, columns) != (pixels.rows, pixels.columns):
        raise DicomRefusal(
            f"its compressed stream claims {columns} x {rows} pixels, "
            f"its header {pixels.columns} x {pixels.rows}"
        )
    if precision > 16:
        raise DicomRefusal(
            f"its compressed stream must have at most 16 bits per pixel, got {precision}"
        )


_CHECKS = {
    # In coded data, 0xFF is followed by a zero in JPEG, and by a byte below 0x80 in JPEG-LS.
    "JPEG": _jpeg(re.compile(rb"\xff[^\x00\xff\xd0-\xd7]")),
    "JPEG-LS": _jpeg(re.compile(rb"\xff[\x80-\xcf\xd8-\xfe]")),
    "JPEG 2000": _jpeg_2000,
    "RLE": _rle,
}
