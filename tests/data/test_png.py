"""PNGs: damaged, with faulty metadata, and those that claim too much."""

import io
import random
import struct
import zlib

import numpy as np
import pytest
from messages import refused
from PIL import Image

from cxrignite.data.png import SIGNATURE
from cxrignite.data.reading import decode_image
from cxrignite.data.sources import ImageRecord
from cxrignite.data.survey import survey_images
from cxrignite.errors import UnreadableImageError

END = b"\0\0\0\0IEND\xaeB`\x82"


def chunk(kind: bytes, body: bytes, damage: int = 0) -> bytes:
    checksum = zlib.crc32(kind + body) ^ damage
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", checksum)


def png(image: Image.Image, **options) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, "PNG", **options)
    return buffer.getvalue()


def with_chunk(whole: bytes, added: bytes) -> bytes:
    """The file with a chunk behind its header."""
    return whole[:33] + added + whole[33:]


PIXELS = np.random.default_rng(0).normal(0, 9, (60, 90)) + 2 * np.arange(90)
GREY = Image.fromarray(PIXELS.clip(0, 255).astype(np.uint8))
WHOLE = {
    "grey": png(GREY),
    "colours": png(GREY.convert("RGB")),
    "palette": png(GREY.convert("RGB").quantize(32)),
    "sixteen bits": png(Image.fromarray(np.asarray(GREY).astype(np.uint16) * 257)),
}

EXIF = b"MM\0*\0\0\0\x08\0\1" + struct.pack(">HHIHH", 0x0112, 3, 1, 3, 0)
METADATA = {
    "a text's checksum": chunk(b"tEXt", b"a\0b", damage=1),
    "a text of 3 MB": chunk(b"tEXt", b"a\0" + bytes(3_000_000)),
    "a compressed text of 5 MB": chunk(b"zTXt", b"a\0\0" + zlib.compress(bytes(5_000_000))),
    "a colour profile that is none": chunk(b"iCCP", b"x\0\0none"),
    "a resolution that is cut": chunk(b"pHYs", b"12"),
    "a colour space without content": chunk(b"sRGB", b""),
    "an animation that is none": chunk(b"acTL", struct.pack(">II", 3, 0)),
    "EXIF that is cut": chunk(b"eXIf", EXIF[:15]),
    "EXIF with another checksum": chunk(b"eXIf", EXIF, damage=1),
    "EXIF of no order": chunk(b"eXIf", b"none"),
    "a transparent grey": chunk(b"tRNS", b"\0\0"),
}


@pytest.mark.parametrize("fault", METADATA)
def test_faults_of_the_metadata_do_not_matter(tmp_path, fault):
    data = with_chunk(WHOLE["grey"], METADATA[fault])
    np.testing.assert_array_equal(decode_image(data, "a.png"), GREY)
    (tmp_path / "a.png").write_bytes(data)
    assert (
        survey_images([ImageRecord(str(tmp_path / "a.png"), "a", 0, "a", "train")]).unreadable == []
    )


def test_exif_that_is_whole_counts_beside_a_fault():
    data = with_chunk(WHOLE["grey"], METADATA["a text's checksum"] + chunk(b"eXIf", EXIF))
    np.testing.assert_array_equal(decode_image(data, "a.png"), np.rot90(np.asarray(GREY), 2))


def test_neither_a_missing_end_nor_what_follows_it_matters():
    for data in (WHOLE["grey"].removesuffix(END), WHOLE["grey"] + b"more"):
        np.testing.assert_array_equal(decode_image(data, "a.png"), GREY)


@pytest.mark.parametrize("kind", WHOLE)
def test_a_png_that_lost_a_part_is_refused_though_it_has_its_end(kind):
    whole = WHOLE[kind]
    draw, num_served = random.Random(2), 0
    for number in range(40):
        at, length = draw.randrange(8, len(whole) - 100), draw.choice([16, 200])
        damaged = [
            whole[:at] + END,
            whole[:at] + whole[at + length :],
            whole[:at] + bytes(length) + whole[at + length :],
            whole[:at] + whole[max(8, at - length) :],
        ][number % 4]
        try:
            decode_image(damaged, "a.png")
        except UnreadableImageError:
            continue
        num_served += 1
    assert num_served == 0


def test_a_damaged_checksum_of_pixels_is_refused():
    whole = bytearray(WHOLE["grey"])
    whole[-len(END) - 1] ^= 1
    with refused(UnreadableImageError, "a.png", "IDAT", "checksum"):
        decode_image(bytes(whole), "a.png")


def header(width: int, height: int, colours: int = 0) -> bytes:
    return SIGNATURE + chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, colours, 0, 0, 0))


@pytest.mark.parametrize(
    ("data", "fact"),
    [
        (header(8000, 8000) + chunk(b"IDAT", zlib.compress(bytes(100_000))) + END, "truncated"),
        (header(0, 8) + chunk(b"IDAT", b"") + END, "0 x 8"),
        (header(8, 8, 3) + chunk(b"IDAT", zlib.compress(bytes(72))) + END, "palette"),
        (header(8, 8) + header(8, 8)[8:] + chunk(b"IDAT", b"") + END, "IHDR"),
        (header(8, 8) + chunk(b"CgBI", b"") + END, "CgBI"),
        (SIGNATURE + chunk(b"IHDR", b"") + chunk(b"IDAT", b"") + END, "13"),
        (header(8, 8) + END, "truncated"),
        (header(8, 8, 5) + chunk(b"IDAT", zlib.compress(bytes(72))) + END, "header"),
        (header(8, 8) + chunk(b"IDAT", zlib.compress(bytes(70))) + END, "damaged"),
    ],
)
def test_a_png_that_is_no_whole_image_is_refused(data, fact):
    with refused(UnreadableImageError, "a.png", fact):
        decode_image(data, "a.png")
