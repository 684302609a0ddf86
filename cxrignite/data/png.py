"""A PNG's header and pixels, without its metadata.

A reader may ignore any chunk that is not critical. Pillow reads them all, and rejects an image for
a wrong checksum, a damaged colour profile or a long text.
"""

from __future__ import annotations

import struct
import zlib
from io import BytesIO
from pathlib import Path

from PIL import Image, UnidentifiedImageError

from cxrignite.data.exif import orientation
from cxrignite.data.pixel_limit import check_content, check_pixels
from cxrignite.errors import UnreadableImageError

SIGNATURE = b"\x89PNG\r\n\x1a\n"

_CHANNELS = {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}
_PALETTE = 3
_END = struct.pack(">I", 0) + b"IEND" + struct.pack(">I", zlib.crc32(b"IEND"))
# The highest ratio of deflate; a file that claims more cannot have a complete image.
_MAX_RATIO = 1032


def open_png(data: bytes, path: Path | str) -> tuple[Image.Image, int]:
    """Decode a PNG; return it as stored, with its EXIF orientation.

    Returns:
        The image, loaded, and the orientation 1 to 8; 1 if EXIF is missing or damaged.

    Raises:
        UnreadableImageError: If a critical chunk is damaged or missing, or the header claims more
            than `MAX_PIXELS` pixels or more than the file can hold.
        MemoryError: If there is too little memory.
    """
    content, turned = _critical_chunks(data, path)
    try:
        image = Image.open(BytesIO(content), formats=("PNG",))
        image.load()
    except UnidentifiedImageError as error:  # its text contains a memory address
        raise UnreadableImageError(path, "its PNG header is damaged") from error
    except (OSError, SyntaxError, ValueError, EOFError, struct.error, zlib.error) as error:
        # The errors that Pillow raises for damage. Not `Exception`: a loader's signal handler
        # raises a RuntimeError in any running code, and a MemoryError is not the file's fault.
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise UnreadableImageError(path, f"its PNG pixel data is damaged: {reason}") from error
    return image, turned


def _critical_chunks(data: bytes, path: Path | str) -> tuple[bytes, int]:
    """Return the checked file with only the chunks that its pixels need, and the orientation."""
    kept, turned, at, num_coded = [SIGNATURE], 1, len(SIGNATURE), 0
    kinds: set[bytes] = set()
    while at + 12 <= len(data):
        length = int.from_bytes(data[at : at + 4])
        kind, end = data[at + 4 : at + 8], at + 12 + length
        if end > len(data) or kind == b"IEND":
            break
        body = memoryview(data)[at + 4 : end - 4]
        is_critical = not kind[0] & 0x20
        if is_critical or kind == b"eXIf":
            is_whole = zlib.crc32(body) == int.from_bytes(data[end - 4 : end])
            if is_critical:
                _check_chunk(kind, is_whole, not kinds, path)
                kinds.add(kind)
                kept.append(data[at:end])
                num_coded += length if kind == b"IDAT" else 0
            elif is_whole:
                turned = orientation(bytes(body[4:]))
        at = end
    if b"IDAT" not in kinds or data[at + 4 : at + 8] == b"IDAT":
        raise UnreadableImageError(path, "image file is truncated")
    _check_header(kept[1], kinds, num_coded, path)
    return b"".join([*kept, _END]), turned


def _check_chunk(kind: bytes, is_whole: bool, is_first: bool, path: Path | str) -> None:
    name = kind.decode("ascii", "replace")
    if not is_whole:
        what = f"chunk {name} has a wrong checksum" if kind.isalpha() else "a chunk has no name"
        raise UnreadableImageError(path, f"its PNG is damaged: {what}")
    if is_first != (kind == b"IHDR"):
        raise UnreadableImageError(path, "its PNG is damaged: IHDR must be the first chunk")
    if kind not in {b"IHDR", b"PLTE", b"IDAT"}:
        raise UnreadableImageError(path, f"its PNG has an unknown chunk, {name}")


def _check_header(header: bytes, kinds: set[bytes], num_coded: int, path: Path | str) -> None:
    if len(header) != 25:
        raise UnreadableImageError(path, "its PNG is damaged: IHDR must have 13 bytes")
    width, height, depth, colours = struct.unpack_from(">IIBB", header, 8)
    check_pixels(width, height, path)
    if colours == _PALETTE and b"PLTE" not in kinds:
        raise UnreadableImageError(path, "its PNG is damaged: its palette is missing")
    bits = width * depth * _CHANNELS.get(colours, 1)
    check_content(height * (1 + bits // 8) // _MAX_RATIO, num_coded, path)
