"""Reading of JPEG headers, and strict decoding of the pixels.

libjpeg warns of damaged pixel data and fills in what is missing; Pillow, OpenCV and imagecodecs
ignore its warnings. `simplejpeg` raises an error for each, also for errors in the metadata (a
colour profile, the version of JFIF), which are therefore removed first. This module checks what
`simplejpeg` does not: a lost scan and a zeroed quantization table.
"""

from __future__ import annotations

import re
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np
import simplejpeg
from numpy.typing import NDArray

from cxrignite.data.exif import orientation
from cxrignite.data.pixel_limit import check_content, check_memory, check_pixels
from cxrignite.errors import UnreadableImageError

SIGNATURE = b"\xff\xd8"

MAX_SCANS = 100
"""Limit of scans; encoders make about 10. A scan of a dozen bytes is a pass over the image."""

MAX_SCANNED = 10**9
"""Limit of pixels times scans, a few seconds of decoding: 50 scans for 20 megapixels."""

_JFIF = b"JFIF\0\1\1\0\0\1\0\1\0\0"
_MODES = {1: "L", 3: "RGB", 4: "CMYK"}
_SCAN, _END, _QUANTIZATION = 0xDA, 0xD9, 0xDB
_FRAMES = set(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}
_PROGRESSIVE, _LOSSLESS, _HUFFMAN = {0xC2, 0xCA}, {0xC3, 0xCB}, {0xC0, 0xC1, 0xC2, 0xC3}
_TABLES = {0xC4, 0xCC, 0xDB, 0xDD}
# In coded pixels 0xFF is followed by 0, by a restart marker or by another 0xFF.
_MARKER = re.compile(rb"\xff([\x01-\xcf\xd8-\xfe])")


class _Component(NamedTuple):
    number: int
    across: int
    down: int


class Jpeg(NamedTuple):
    """A JPEG's header, and the part of the file that its pixels are decoded from.

    Attributes:
        width: Columns as stored.
        height: Rows as stored.
        mode: Pillow's name of the pixel format: `L`, `RGB` or `CMYK`.
        orientation: EXIF orientation, 1 to 8; 1 if EXIF is missing or damaged.
        is_lossless: True if it is coded without a transform, and so has no reduced sizes.
        content: The file without its metadata.
        path: The file, for errors.
    """

    width: int
    height: int
    mode: str
    orientation: int
    is_lossless: bool
    content: bytes
    path: Path | str

    def decode(
        self,
        colours: Literal["GRAY", "RGB", "CMYK"],
        rows: int | None = None,
        columns: int | None = None,
    ) -> NDArray[np.uint8]:
        """Decode the pixels as stored, not rotated.

        Args:
            colours: `CMYK` only for that mode; it is inverted, as Adobe stores it.
            rows: Decode at the smallest multiple of 1/8 of the size that has at least these rows;
                `None` decodes all.
            columns: The same for columns.

        Returns:
            Shape `(H, W, channels)`; H and W are rounded up to whole pixels.

        Raises:
            UnreadableImageError: If the pixel data is damaged, or of a kind that is not supported.
            MemoryError: If there is too little memory.
        """
        if self.is_lossless:
            # At a reduced size the decoder writes past its buffer and crashes.
            rows = columns = None
        try:
            pixels: NDArray[np.uint8] = simplejpeg.decode_jpeg(
                self.content,
                colours,
                min_height=min(rows or self.height, self.height),
                min_width=min(columns or self.width, self.width),
                strict=True,
            )
        except ValueError as error:
            if "nsufficient memory" in str(error):
                raise MemoryError(f"too little memory to decode {self.path}") from error
            reason = str(error).removeprefix("Corrupt JPEG data: ")
            raise UnreadableImageError(
                self.path, f"its JPEG cannot be decoded: {reason}"
            ) from error
        return pixels


def open_jpeg(data: bytes, path: Path | str) -> Jpeg:
    """Read and check a JPEG's header.

    Raises:
        UnreadableImageError: If the header is damaged, claims too much (pixels, memory, scans) or
            more than the file can hold, lacks a scan, or is of a kind that is not supported:
            hierarchical, or not of 8 bits.
    """
    kept = [SIGNATURE]
    turned = 1
    frame: tuple[int, bytes] | None = None
    for marker, start, end in _segments(data, 2, path):
        body = data[start:end]
        if marker == _SCAN:
            break
        if marker in _FRAMES:
            if frame is not None:
                raise UnreadableImageError(path, "its JPEG header is damaged: it has two frames")
            frame = marker, body
        elif marker == _QUANTIZATION:
            _check_quantization(body, path)
        elif body.startswith(b"JFIF\0"):  # its version and density do not matter
            body = _JFIF
        elif body.startswith(b"Exif\0\0"):
            turned = orientation(body[6:])
        is_colour = (marker == 0xE0 and body is _JFIF) or (marker == 0xEE and body[:5] == b"Adobe")
        if marker in _FRAMES | _TABLES or is_colour:
            kept.append(struct.pack(">BBH", 0xFF, marker, len(body) + 2) + body)
    if frame is None:
        raise UnreadableImageError(path, "its JPEG header is damaged: it has no frame")
    height, width, components = _frame(*frame, path)
    kept.append(data[start - 4 :])
    kind = frame[0]
    scans = 1
    if kind in _PROGRESSIVE or body[:1] != bytes([len(components)]):
        limit = min(MAX_SCANS, MAX_SCANNED // (width * height))
        scans = _check_scans(data, start - 4, kind, components, limit, path)
    if kind in _HUFFMAN:
        # The shortest code has one bit; a transform codes 8 x 8 pixels at once.
        codes = width * height if kind in _LOSSLESS else -(-width // 8) * -(-height // 8)
        check_content(codes // 8, len(data) - start, path)
    is_lossless = kind in _LOSSLESS
    check_memory(_memory(width, height, components, scans > 1, is_lossless), path)
    mode = _MODES[len(components)]
    return Jpeg(width, height, mode, turned, is_lossless, b"".join(kept), path)


def _segments(data: bytes, at: int, path: Path | str) -> Iterator[tuple[int, int, int]]:
    """Yield marker, start and end of each segment's content, up to the image's or header's end."""
    while data[at : at + 1] == b"\xff":
        marker = data[at + 1 : at + 2]
        if marker == b"\xff":  # filling
            at += 1
            continue
        if marker == bytes([_END]):
            break
        end = at + 2 + int.from_bytes(data[at + 2 : at + 4])
        if end < at + 4 or end > len(data):
            break
        yield marker[0], at + 4, end
        at = end
    raise UnreadableImageError(path, "its JPEG header is damaged or truncated")


def _frame(kind: int, body: bytes, path: Path | str) -> tuple[int, int, list[_Component]]:
    if kind & 7 > 4:
        raise UnreadableImageError(path, "it is a hierarchical JPEG, which is not supported")
    if len(body) < 6 or len(body) != 6 + 3 * body[5]:
        raise UnreadableImageError(path, "its JPEG header is damaged: its frame has a wrong length")
    precision, height, width, num_components = struct.unpack_from(">BHHB", body)
    check_pixels(width, height, path)
    if precision != 8:
        raise UnreadableImageError(path, f"its JPEG must have 8 bits per sample, got {precision}")
    if num_components not in _MODES:
        raise UnreadableImageError(
            path, f"its JPEG must have 1, 3 or 4 samples per pixel, got {num_components}"
        )
    components = [
        _Component(body[at], body[at + 1] >> 4, body[at + 1] & 15) for at in range(6, len(body), 3)
    ]
    if not all(1 <= each.across <= 4 and 1 <= each.down <= 4 for each in components):
        raise UnreadableImageError(path, "its JPEG header is damaged: its sampling is not valid")
    return height, width, components


def _check_quantization(body: bytes, path: Path | str) -> None:
    """Check that a quantization table has no step of 0, which decodes to plain grey."""
    at = 0
    while at < len(body):
        end = at + (129 if body[at] >> 4 else 65)
        if end > len(body):
            raise UnreadableImageError(path, "its JPEG quantization table is damaged")
        # A wide table has two bytes per step, the high one usually 0.
        steps = np.frombuffer(body[at + 1 : end], np.uint8).reshape(-1, 2 if body[at] >> 4 else 1)
        if not steps.any(axis=1).all():
            raise UnreadableImageError(path, "its JPEG quantization table is damaged")
        at = end


def _check_scans(
    data: bytes, at: int, kind: int, components: list[_Component], limit: int, path: Path | str
) -> int:
    """Count the scans, and check that none is missing: decoders return such images blurred."""
    # The bits of each component and coefficient that are still missing.
    missing = {each.number: np.full(64, 15) for each in components}
    num_scans = 0
    while True:
        start, end = next((a, b) for marker, a, b in _segments(data, at, path) if marker == _SCAN)
        body = data[start:end]
        num_scans += 1
        if num_scans > limit:
            raise UnreadableImageError(path, f"its JPEG has more than {limit} scans")
        if len(body) < 6 or len(body) != 4 + 2 * body[0]:
            raise UnreadableImageError(path, "its JPEG is damaged: a scan has a wrong length")
        first, last, bits = body[-3:]
        coded = slice(first, last + 1) if kind in _PROGRESSIVE else slice(None)
        for number in body[1:-3:2]:
            if number in missing:
                missing[number][coded] = bits & 15 if kind in _PROGRESSIVE else 0
        found = _MARKER.search(data, end)
        if found is None or found[1] == bytes([_END]):
            break
        at = found.start()
    if any(each.any() for each in missing.values()):
        raise UnreadableImageError(path, "its JPEG is truncated: a scan is missing")
    return num_scans


def _memory(
    width: int,
    height: int,
    components: list[_Component],
    has_scans: bool,
    is_lossless: bool,
) -> int:
    """Return the peak number of bytes for decoding an image at full size to grey."""
    bytes_per_pixel = 2
    if len(components) == 4:
        bytes_per_pixel = 13  # CMYK twice, RGB in four bytes, grey
    elif is_lossless and len(components) == 3:
        bytes_per_pixel = 8
    total = width * height * bytes_per_pixel
    if has_scans:  # all coefficients are kept until the last scan
        across = max(each.across for each in components)
        down = max(each.down for each in components)
        for each in components:
            blocks = -(-width * each.across // (8 * across)) * -(-height * each.down // (8 * down))
            total += blocks * 64 * 2
    return total
