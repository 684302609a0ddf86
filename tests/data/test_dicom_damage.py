"""Compressed DICOM that was cut, zeroed or spliced: unreadable, as far as decoders notice."""

import struct
import warnings
from pathlib import Path

import imagecodecs
import numpy as np
import pydicom
import pytest
from pydicom.encaps import encapsulate
from pydicom.uid import JPEGBaseline8Bit, JPEGLosslessSV1

from cxrignite.data.dicom import decode_dicom
from cxrignite.errors import UnreadableImageError

FILES = Path(pydicom.__path__[0]) / "data" / "test_files"
PIXEL_DATA = b"\xe0\x7f\x10\x00"
DELIMITER = struct.pack("<HHI", 0xFFFE, 0xE0DD, 0)

# Of ten files each with a block zeroed or replaced, how many may be served though they differ by
# more than two grey levels on average. A decoder notices that what follows is out of step; a piece
# of the same JPEG may fit by chance.
NOT_NOTICED = {
    "MR_small_jpeg_ls_lossless.dcm": 0,
    "JPEGLSNearLossless_16.dcm": 0,
    "lossless JPEG": 0,
    "baseline JPEG": 1,
    "JPEG-lossy.dcm": 2,  # of 12 bits
    "MR_small_RLE.dcm": 0,
    "MR_small_jp2klossless.dcm": 0,
}


@pytest.fixture(scope="module")
def wholes(dicom_bytes):
    """A file of each encoding, by name."""
    found = {name: (FILES / name).read_bytes() for name in NOT_NOTICED if name.endswith(".dcm")}
    record = pydicom.dcmread(FILES / "examples_overlay.dcm")
    values = (record.pixel_array & 4095).astype(np.uint16)
    del record.WindowCenter, record.WindowWidth
    streams = {
        "lossless JPEG": (
            JPEGLosslessSV1,
            12,
            imagecodecs.jpeg8_encode(values, lossless=True, bitspersample=12),
        ),
        "baseline JPEG": (
            JPEGBaseline8Bit,
            8,
            imagecodecs.jpeg8_encode((values >> 3).clip(0, 255).astype(np.uint8), level=95),
        ),
    }
    for name, (syntax, bits, stream) in streams.items():
        record.BitsAllocated, record.BitsStored, record.HighBit = 8 * -(-bits // 8), bits, bits - 1
        record.PixelData = encapsulate([stream])
        record["PixelData"].VR = "OB"
        plain = dicom_bytes(record)
        found[name] = with_syntax(plain, syntax)
    return found


def with_syntax(data: bytes, syntax: str) -> bytes:
    """The file with another transfer syntax, and encapsulated pixel data of no length."""
    at = data.index(b"\x02\x00\x10\x00UI")
    length = int.from_bytes(data[at + 6 : at + 8], "little")
    uid = syntax.encode() + bytes(len(syntax) % 2)
    data = data[: at + 6] + struct.pack("<H", len(uid)) + uid + data[at + 8 + length :]
    start = data.rindex(PIXEL_DATA) + 8
    return data[:start] + b"\xff\xff\xff\xff" + data[start + 4 :] + DELIMITER


def damaged(whole: bytes, kind: str, rng: np.random.Generator) -> bytes:
    start = whole.rindex(PIXEL_DATA)
    at = start + 40 + int(rng.random() * (len(whole) - start - 60))
    block = int(rng.integers(8, max(9, min(512, (len(whole) - start) // 8))))
    if kind == "cut":
        return whole[:at]
    if kind == "cut, with its end":
        return whole[:at] + b"\xff\xd9"[: 2 - at % 2] + DELIMITER
    if kind == "dropped":
        return whole[:at] + whole[at + block // 2 * 2 :]
    other = start + 40 + int(rng.random() * (len(whole) - start - 60 - block))
    filling = bytes(block) if kind == "zeroed" else whole[other : other + block]
    return (whole[:at] + filling + whole[at + block :])[: len(whole)]


def outcomes(whole: bytes, kinds: list[str], name: str) -> tuple[int, int]:
    """Count the served files of ten, and those that differ by more than two grey levels."""
    expected = decode_dicom(whole, "a").astype(float)
    num_served = num_wrong = 0
    for number in range(10):
        rng = np.random.default_rng([number, len(name)])
        data = damaged(whole, kinds[number % len(kinds)], rng)
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            try:
                image = decode_dicom(data, "a")
            except UnreadableImageError:
                image = None
        assert [str(each.message) for each in caught] == []
        if image is not None:
            num_served += 1
            num_wrong += bool(np.abs(image - expected).mean() > 2)
    return num_served, num_wrong


@pytest.mark.parametrize("name", NOT_NOTICED)
def test_a_stream_that_is_cut_or_lacks_a_piece_is_unreadable(wholes, name):
    kinds = ["cut", "cut, with its end", "dropped"]
    _, num_wrong = outcomes(wholes[name], kinds, name)
    assert num_wrong == 0


@pytest.mark.parametrize("name", NOT_NOTICED)
def test_a_stream_with_other_bytes_in_it_is_unreadable_where_the_decoder_notices(wholes, name):
    _, num_wrong = outcomes(wholes[name], ["zeroed", "spliced"], name)
    assert num_wrong <= NOT_NOTICED[name]
