"""The elements of a DICOM file: found by walking over lengths, read only when asked for.

`pydicom.dcmread` would do, were it not for three things. It converts what it finds, and its
warnings quote values that it could not convert. It inflates a deflated file before anyone can
refuse to. And it always reads the character set, and sequences of undefined length with all that is
in them. An image needs two dozen elements, none of them about a person: here no other element's
value is ever touched.
"""

from __future__ import annotations

import mmap
import struct
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

MAX_ELEMENTS = 1_000_000
"""Images have a few hundred. A file made of empty elements would keep us busy for minutes."""

IMPLICIT_LITTLE = "1.2.840.10008.1.2"
EXPLICIT_LITTLE = "1.2.840.10008.1.2.1"
DEFLATED = "1.2.840.10008.1.2.1.99"
EXPLICIT_BIG = "1.2.840.10008.1.2.2"

TRANSFER_SYNTAX_UID = 0x0002_0010
PIXEL_DATA = 0x7FE0_0010
FLOAT_PIXEL_DATA = (0x7FE0_0008, 0x7FE0_0009)

UNDEFINED = 0xFFFF_FFFF
_SWAPPED_8 = 0x0800  # how group 8, the first one, looks in big endian
_ITEM, _ITEM_END, _SEQUENCE_END = 0xFFFE_E000, 0xFFFE_E00D, 0xFFFE_E0DD

# PS3.5, tables 7.1-1 and 7.1-2: the length has four bytes after two reserved ones, or two.
_LONG_VRS = frozenset(b"OB OD OF OL OV OW SQ SV UC UN UR UT UV".split())
_SHORT_VRS = frozenset(b"AE AS AT CS DA DS DT FD FL IS LO LT PN SH SL SS ST TM UI UL US".split())
_VRS = _LONG_VRS | _SHORT_VRS

Content = bytes | mmap.mmap


class DicomRefusal(Exception):
    """Why a file is not read, in words that hold nothing of what its header holds."""


class Element(NamedTuple):
    """Where a value lies.

    Attributes:
        vr: Its value representation, empty where the file does not say.
        start: The value's first byte.
        length: In bytes as the header claims, perhaps beyond the file's end; or `UNDEFINED`.
    """

    vr: bytes
    start: int
    length: int


class Elements:
    """Some elements of a data set, by tag.

    Args:
        data: The whole file.
        found: Where each element's value lies.
        implicit: Whether the value representations are left out.
        order: `<` for little endian, `>` for big.
        end: Where the walk over them ended.
    """

    def __init__(
        self, data: Content, found: dict[int, Element], implicit: bool, order: str, end: int
    ) -> None:
        self.data = data
        self.order = order
        self.end = end
        self._found = found
        self._implicit = implicit

    def __contains__(self, tag: int) -> bool:
        return tag in self._found

    def __getitem__(self, tag: int) -> Element:
        return self._found[tag]

    def raw(self, tag: int) -> bytes:
        """The bytes of a value, empty where there is none."""
        element = self._found.get(tag)
        return b"" if element is None else self.data[element.start : element.start + element.length]

    def words(self, tag: int) -> NDArray[np.uint16]:
        """A value's 16-bit words, taken as unsigned."""
        raw = self.raw(tag)
        return np.frombuffer(raw[: len(raw) // 2 * 2], f"{self.order}u2")

    def number(self, tag: int) -> int | None:
        """A value's first 16-bit word, `None` where it has none."""
        words = self.words(tag)
        return int(words[0]) if len(words) else None

    def text(self, tag: int) -> str:
        """A value's text without its padding, `?` for what is not ASCII."""
        return self.raw(tag).decode("ascii", "replace").replace("\ufffd", "?").strip(" \0")

    def first_item(self, tag: int, wanted: frozenset[int]) -> Elements | None:
        """The first item of a sequence, `None` where it has none.

        Raises:
            DicomRefusal: If what the tag has is no sequence.
        """
        element = self._found.get(tag)
        if element is None or element.length == 0:
            return None
        head = _head(self.data, element.start, self._implicit, self.order)
        if head is None or head[0] not in (_ITEM, _SEQUENCE_END):
            raise DicomRefusal("a sequence of its header is damaged")
        if head[0] == _SEQUENCE_END:
            return None
        start, length = head[2:]
        end = len(self.data) if length == UNDEFINED else start + length
        return _walk(self.data, start, end, self._implicit, self.order, wanted)


def find_elements(data: Content, wanted: frozenset[int]) -> tuple[str, Elements]:
    """Finds some elements of a DICOM file's top level.

    Args:
        data: The file, with its preamble or without.
        wanted: Their tags. The walk ends once all of them are found, or at the file's end: elements
            may be out of order. Damage behind the greatest of them is not an error.

    Returns:
        The transfer syntax's UID, guessed where the file does not give it, and the elements.

    Raises:
        DicomRefusal: If it is no DICOM file, is damaged or cut within its header, or is deflated.
    """
    start = 132 if data[128:132] == b"DICM" else 0
    first = _head(data, start, False, "<")
    if first is None or (start == 0 and first[0] >> 16 not in (2, 8, _SWAPPED_8)):
        raise DicomRefusal("not a DICOM file")
    # The group that says how the others are written is always written this way itself.
    about = _walk(data, start, len(data), False, "<", frozenset({TRANSFER_SYNTAX_UID}), group=2)
    start = about.end
    syntax = about.text(TRANSFER_SYNTAX_UID)
    if syntax == DEFLATED:
        raise DicomRefusal(
            "its transfer syntax is Deflated Explicit VR Little Endian, which is not inflated: "
            "a small file may claim any size"
        )
    is_explicit = data[start + 4 : start + 6] in _VRS
    if not syntax and is_explicit and data[start : start + 2] == b"\0\x08":
        syntax = EXPLICIT_BIG
    elif not syntax:
        syntax = EXPLICIT_LITTLE if is_explicit else IMPLICIT_LITTLE
    order = ">" if syntax == EXPLICIT_BIG else "<"
    implicit = syntax == IMPLICIT_LITTLE and not is_explicit  # some that say so are not
    return syntax, _walk(data, start, len(data), implicit, order, wanted)


def fragments(data: Content, start: int, order: str) -> Iterator[memoryview]:
    """The pieces of encapsulated pixel data, without the offset table that is the first one.

    Raises:
        DicomRefusal: If one is longer than the file, or something else stands between them.
    """
    view = memoryview(data)
    is_table = True
    while head := _head(data, start, True, order):
        tag, _, start, length = head
        if tag == _SEQUENCE_END:
            return
        if tag != _ITEM or start + length > len(data):
            break
        if not is_table:
            yield view[start : start + length]
        is_table = False
        start += length
    raise DicomRefusal("its pixel data is truncated or damaged")


def _walk(
    data: Content,
    start: int,
    end: int,
    implicit: bool,
    order: str,
    wanted: frozenset[int],
    group: int | None = None,
) -> Elements:
    """Steps from element to element, over what is in sequences without a length too.

    A loop and not a recursion: how deep sequences nest is up to whoever wrote the file.
    """
    found: dict[int, Element] = {}
    depth, last, has_passed_last = 0, max(wanted), False
    for _ in range(MAX_ELEMENTS):
        head = _head(data, start, implicit, order) if start < end else None
        if head is None:
            return Elements(data, found, implicit, order, start)
        tag, vr, value, length = head
        if depth == 0:
            if tag in wanted:
                found.setdefault(tag, Element(vr, value, length))
            has_passed_last = has_passed_last or tag >= last
            if len(found) == len(wanted) if group is None else tag >> 16 != group:
                return Elements(data, found, implicit, order, start)
        if tag in (_ITEM_END, _SEQUENCE_END):
            depth -= 1
            if depth < 0:
                break
        elif length == UNDEFINED:
            depth += 1
        elif value + length > end:
            break
        else:
            value += length
        start = value
    if has_passed_last:  # nothing but an element out of order could be missing
        return Elements(data, found, implicit, order, start)
    raise DicomRefusal("its header is damaged, or the file is cut")


def _head(
    data: Content, start: int, implicit: bool, order: str
) -> tuple[int, bytes, int, int] | None:
    """Tag, value representation, where the value starts, its length; `None` at the file's end."""
    if start + 8 > len(data):
        return None
    group, number, length = struct.unpack_from(order + "HHI", data, start)
    vr = b"" if implicit or group == 0xFFFE else data[start + 4 : start + 6]
    # Within an explicit file, a sequence of unknown representation is written implicitly.
    if vr not in _VRS:
        return group << 16 | number, b"", start + 8, length
    if vr in _SHORT_VRS:
        (length,) = struct.unpack_from(order + "H", data, start + 6)
        return group << 16 | number, vr, start + 8, length
    if start + 12 > len(data):
        return None
    (length,) = struct.unpack_from(order + "I", data, start + 8)
    return group << 16 | number, vr, start + 12, length
