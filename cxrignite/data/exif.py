"""The orientation in EXIF data; all other EXIF data are ignored.

Pillow reads all of it, raises for some damage and warns of other. A warning cannot be silenced in
one thread only.
"""

from __future__ import annotations

import struct

_ORIENTATION = 0x0112


def orientation(exif: bytes) -> int:
    """Return the orientation in the content of an EXIF segment or chunk.

    Args:
        exif: The content, from its TIFF header on.

    Returns:
        1 to 8; 1, as stored, if there is none or the EXIF data before it are damaged.
    """
    order = {b"II*\0": "<", b"MM\0*": ">"}.get(exif[:4])
    if order is None:
        return 1
    try:
        (start,) = struct.unpack_from(f"{order}I", exif, 4)
        (num_entries,) = struct.unpack_from(f"{order}H", exif, start)
        for at in range(start + 2, start + 2 + 12 * num_entries, 12):
            tag, kind, _, value = struct.unpack_from(f"{order}HHIH", exif, at)
            if tag == _ORIENTATION:
                return value if kind == 3 and 1 <= value <= 8 else 1
    except struct.error:  # the data end too early
        pass
    return 1
