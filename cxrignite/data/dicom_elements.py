"""The elements of a DICOM file: found by their lengths, read only on demand.

`pydicom.dcmread` is not used for three reasons. It converts values, and its warnings quote those
that it cannot convert. It inflates a deflated file before its size can be checked. And it always
reads the character set, and complete sequences of undefined length. An image needs two dozen
elements, none of them about a person: no other element's value is read here.
"""

from __future__ import annotations

import mmap
import struct
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

MAX_ELEMENTS = 1_000_000
"""Limit of elements per file. Images have a few hundred; empty elements could take minutes."""

IMPLICIT_LITTLE = "1.2.840.10008.1.2"
EXPLICIT_LITTLE = "1.2.840.10008.1.2.1"
DEFLATED = "1.2.840.10008.1.2.1.99"
EXPLICIT_BIG = "1.2.840.10008.1.2.2"

TRANSFER_SYNTAX_UID = 0x0002_0010
PIXEL_DATA = 0x7FE0_0010
FLOAT_PIXEL_DATA = (0x7FE0_0008, 0x7FE0_0009)

UNDEFINED = 0xFFFF_FFFF
_SWAPPED_8 = 0x0800  # the first group, 8, in big endian
_ITEM, _ITEM_END, _SEQUENCE_END = 0xFFFE_E000, 0xFFFE_E00D, 0xFFFE_E0DD

# PS3.5, tables 7.1-1 and 7.1-2: the length has four bytes after two reserved ones, or two.
_LONG_VRS = frozenset(b"OB OD OF OL OV OW SQ SV UC UN UR UT UV".split())
_SHORT_VRS = frozenset(b"AE AS AT CS DA DS DT FD FL IS LO LT PN SH SL SS ST TM UI UL US".split())
_VRS = _LONG_VRS | _SHORT_VRS

Content = bytes | mmap.mmap


class DicomRefusal(Exception):
    """The reason why a file is not read, without any content of its header."""


class Element(NamedTuple):
    """The position of a value.

    Attributes:
        vr: Its value representation, empty if the file does not give it.
        start: The value's first byte.
        length: Bytes that the header claims, perhaps beyond the file's end; or `UNDEFINED`.
    """

    vr: bytes
    start: int
    length: int


class Elements:
    """Some elements of a data set, by tag.

    Args:
        data: The whole file.
        found: Position of each element's value.
        implicit: True if the file has no value representations.
        order: `<` for little endian, `>` for big.
        end: Position of the end of the search.
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
        """Return the bytes of a value, empty if there is none."""
        element = self._found.get(tag)
        return b"" if element is None else self.data[element.start : element.start + element.length]

    def words(self, tag: int) -> NDArray[np.uint16]:
        """Return a value's 16-bit words, taken as unsigned."""
        raw = self.raw(tag)
        return np.frombuffer(raw[: len(raw) // 2 * 2], f"{self.order}u2")

    def number(self, tag: int) -> int | None:
        """Return a value's first 16-bit word, `None` if it has none."""
        words = self.words(tag)
        return int(words[0]) if len(words) else None

    def text(self, tag: int) -> str:
        """Return a value's text without padding; `?` replaces what is not ASCII."""
        return self.raw(tag).decode("ascii", "replace").replace("\ufffd", "?").strip(" \0")

    def first_item(self, tag: int, tags: frozenset[int]) -> Elements | None:
        """Return some elements of the first item of a sequence, `None` if it has no item.

        Raises:
            DicomRefusal: If the tag's value is not a sequence.
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
        return _walk(self.data, start, end, self._implicit, self.order, tags)


def find_elements(data: Content, tags: frozenset[int]) -> tuple[str, Elements]:
    """Find some elements of a DICOM file's top level.

    Args:
        data: The file, with or without its preamble.
        tags: Their tags. The search ends once all of them are found, or at the file's end, since
            elements may be out of order. Damage behind the highest tag is not an error.

    Returns:
        The transfer syntax's UID, guessed if the file does not give it, and the elements.

    Raises:
        DicomRefusal: If it is not a DICOM file, its header is damaged or truncated, or it is
            deflated.
    """
    start = 132 if data[128:132] == b"DICM" else 0
    first = _head(data, start, False, "<")
    if first is None or (start == 0 and first[0] >> 16 not in (2, 8, _SWAPPED_8)):
        raise DicomRefusal("not a DICOM file")
    # The group that gives the encoding of the others always has this encoding.
    about = _walk(data, start, len(data), False, "<", frozenset({TRANSFER_SYNTAX_UID}), group=2)
    start = about.end
    syntax = about.text(TRANSFER_SYNTAX_UID)
    if syntax == DEFLATED:
        raise DicomRefusal(
            "its transfer syntax is Deflated Explicit VR Little Endian, which is not supported: "
            "a small file may inflate to any size"
        )
    is_explicit = data[start + 4 : start + 6] in _VRS
    if not syntax and is_explicit and data[start : start + 2] == b"\0\x08":
        syntax = EXPLICIT_BIG
    elif not syntax:
        syntax = EXPLICIT_LITTLE if is_explicit else IMPLICIT_LITTLE
    order = ">" if syntax == EXPLICIT_BIG else "<"
    implicit = syntax == IMPLICIT_LITTLE and not is_explicit  # some files claim it wrongly
    return syntax, _walk(data, start, len(data), implicit, order, tags)


def fragments(data: Content, start: int, order: str) -> Iterator[memoryview]:
    """Yield the fragments of encapsulated pixel data, without the offset table, which is first.

    Raises:
        DicomRefusal: If one is longer than the file, or there is other data between them.
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
    tags: frozenset[int],
    group: int | None = None,
) -> Elements:
    """Step from element to element, also through sequences without a length.

    This is a loop, not a recursion, since a file may nest sequences to any depth.
    """
    found: dict[int, Element] = {}
    depth, last, has_passed_last = 0, max(tags), False
    for _ in range(MAX_ELEMENTS):
        head = _head(data, start, implicit, order) if start < end else None
        if head is None:
            return Elements(data, found, implicit, order, start)
        tag, vr, value, length = head
        if depth == 0:
            if tag in tags:
                found.setdefault(tag, Element(vr, value, length))
            has_passed_last = has_passed_last or tag >= last
            if len(found) == len(tags) if group is None else tag >> 16 != group:
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
    if has_passed_last:  # only elements out of order could be missing
        return Elements(data, found, implicit, order, start)
    raise DicomRefusal("its header is damaged or truncated")


def _head(
    data: Content, start: int, implicit: bool, order: str
) -> tuple[int, bytes, int, int] | None:
    """Return tag, value representation, start and length of a value; `None` at the file's end."""
    if start + 8 > len(data):
        return None
    group, number, length = struct.unpack_from(order + "HHI", data, start)
    vr = b"" if implicit or group == 0xFFFE else data[start + 4 : start + 6]
    # In an explicit file, a sequence of unknown representation has implicit encoding.
    if vr not in _VRS:
        return group << 16 | number, b"", start + 8, length
    if vr in _SHORT_VRS:
        (length,) = struct.unpack_from(order + "H", data, start + 6)
        return group << 16 | number, vr, start + 8, length
    if start + 12 > len(data):
        return None
    (length,) = struct.unpack_from(order + "I", data, start + 8)
    return group << 16 | number, vr, start + 12, length
