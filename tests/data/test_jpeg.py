"""JPEGs of every kind: whole, damaged, with faulty metadata, and those that claim too much."""

import io
import random
import struct

import imagecodecs
import numpy as np
import pytest
import simplejpeg
from messages import refused
from PIL import Image

from cxrignite.data.jpeg import MAX_SCANS
from cxrignite.data.reading import decode_image
from cxrignite.errors import UnreadableImageError

END = b"\xff\xd9"
SIDE = 8000


def jpeg(image: Image.Image, **options) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", **options)
    return buffer.getvalue()


def segment(marker: int, body: bytes) -> bytes:
    return struct.pack(">BBH", 0xFF, marker, len(body) + 2) + body


def picture() -> Image.Image:
    rows, columns = np.mgrid[:120, :160]
    noise = np.random.default_rng(0).normal(0, 4, (120, 160))
    grey = 128 + 80 * np.sin(columns / 17) * np.cos(rows / 13) + noise
    return Image.fromarray(np.clip(grey, 0, 255).astype(np.uint8))


GREY = picture()
COLOURS = GREY.convert("RGB")
WHOLE = {
    "baseline": jpeg(GREY),
    "baseline colours": jpeg(COLOURS),
    "stored as RGB": jpeg(COLOURS, keep_rgb=True),
    "progressive": jpeg(GREY, progressive=True),
    "progressive colours": jpeg(COLOURS, progressive=True),
    "with restarts": jpeg(GREY, restart_marker_rows=2),
    "CMYK": jpeg(COLOURS.convert("CMYK")),
    "lossless": imagecodecs.jpeg8_encode(np.asarray(GREY), lossless=True),
    "lossless colours": imagecodecs.jpeg8_encode(np.asarray(COLOURS), lossless=True),
}


@pytest.fixture
def undecoded(monkeypatch):
    """Fails if a decoder is asked for a file that is to be refused by its header."""

    def decode(*args, **options):
        raise AssertionError("decoded")

    monkeypatch.setattr(simplejpeg, "decode_jpeg", decode)


@pytest.mark.parametrize("size", [None, (30, 40), (60, 90)])
@pytest.mark.parametrize("kind", WHOLE)
def test_every_kind_is_read_at_every_size(kind, size):
    image = decode_image(WHOLE[kind], "a.jpeg", size)
    expected = np.asarray(GREY.resize(size[::-1], Image.Resampling.BILINEAR) if size else GREY)
    assert np.abs(image.astype(int) - expected).mean() < 3


@pytest.mark.parametrize("kind", ["lossless", "lossless colours"])
def test_a_lossless_jpeg_is_never_decoded_at_a_reduced_size(kind, monkeypatch):
    asked, decode = [], simplejpeg.decode_jpeg
    monkeypatch.setattr(
        simplejpeg,
        "decode_jpeg",
        lambda *args, **options: (asked.append(options), decode(*args, **options))[1],
    )
    decode_image(WHOLE[kind], "a.jpeg", (8, 8))
    assert [(each["min_height"], each["min_width"]) for each in asked] == [(120, 160)]


@pytest.mark.parametrize("kind", WHOLE)
def test_a_jpeg_that_lost_a_part_is_refused_though_it_ends_with_an_end_marker(kind):
    whole = WHOLE[kind]
    reference = decode_image(whole, kind).astype(int)
    draw, served = random.Random(1), []
    for number in range(40):
        at, length = draw.randrange(2, len(whole) - 100), draw.choice([64, 300, 1000])
        damaged = [
            whole[:at] + END,
            whole[:at] + whole[at + length : -2] + END,
            (whole[:at] + bytes(length) + whole[at + length :])[: len(whole) - 2] + END,
            whole[:at] + whole[max(2, at - length) :],
        ][number % 4]
        size = (None, (16, 16))[number % 8 // 4]
        try:
            image = decode_image(damaged, kind, size)
        except UnreadableImageError:
            continue
        if size is not None or np.abs(image - reference).mean() > 2:
            served.append((number, at))
    # What is lost of a quantization table's or of the end's own bytes leaves a whole image.
    assert len(served) <= 1


def test_what_the_decoder_calls_damaged_is_not_tried_with_another():
    whole = WHOLE["baseline"]
    with refused(UnreadableImageError, "a.jpeg", "premature"):
        decode_image(whole[: len(whole) * 2 // 3] + END, "a.jpeg")


@pytest.mark.parametrize("kind", ["progressive", "progressive colours"])
def test_a_jpeg_that_lost_a_whole_scan_is_refused(kind):
    whole = WHOLE[kind]
    last = whole.rindex(b"\xff\xda")
    assert simplejpeg.decode_jpeg(whole[:last] + END, "GRAY", strict=True).any()
    with refused(UnreadableImageError, "a.jpeg", "scan"):
        decode_image(whole[: whole.rindex(b"\xff\xc4", 0, last)] + END, "a.jpeg")


def test_a_quantization_table_of_zeros_is_refused():
    whole = WHOLE["baseline"]
    at = whole.index(b"\xff\xdb") + 20
    with refused(UnreadableImageError, "a.jpeg", "quantization"):
        decode_image(whole[:at] + bytes(8) + whole[at + 8 :], "a.jpeg")


METADATA = {
    "a colour profile that is none": segment(0xE2, b"ICC_PROFILE\0\1\5x"),
    "EXIF that is cut": segment(0xE1, b"Exif\0\0MM\0*\0\0\0\x08\xff\xff"),
    "EXIF that is none": segment(0xE1, b"Exif\0\0none"),
    "a list of pictures that is cut": segment(0xE2, b"MPF\0II*\0\x08\0\0\0\xff\xff"),
    "a comment with markers": segment(0xFE, b"\xff\xda\xff\xd9"),
    "a broken colour transform": segment(0xEE, b"Adobe"),
}


@pytest.mark.parametrize("fault", METADATA)
def test_faults_of_the_metadata_do_not_matter(fault):
    whole = WHOLE["baseline"]
    image = decode_image(whole[:2] + METADATA[fault] + whole[2:], "a.jpeg")
    np.testing.assert_array_equal(image, decode_image(whole, "a.jpeg"))


def test_neither_the_version_of_jfif_nor_what_follows_the_end_matters():
    whole = WHOLE["progressive"]
    assert whole[6:12] == b"JFIF\0\1"
    image = decode_image(whole[:11] + b"\7" + whole[12:] + b"\xff\xd8\xff\xda", "a.jpeg")
    np.testing.assert_array_equal(image, decode_image(whole, "a.jpeg"))


@pytest.mark.usefixtures("undecoded")
@pytest.mark.parametrize("marker", [0xC5, 0xC7, 0xCE])
def test_a_hierarchical_jpeg_is_refused(marker):
    with refused(UnreadableImageError, "a.jpeg", "hierarchical"):
        decode_image(WHOLE["baseline"].replace(b"\xff\xc0", bytes([0xFF, marker])), "a.jpeg")


@pytest.mark.usefixtures("undecoded")
@pytest.mark.parametrize("options", [{}, {"lossless": True}])
def test_a_jpeg_of_twelve_bits_is_refused(options):
    deep = np.asarray(GREY).astype(np.uint16) * 16
    with refused(UnreadableImageError, "a.jpeg", 12, 8):
        decode_image(imagecodecs.jpeg8_encode(deep, bitspersample=12, **options), "a.jpeg")


@pytest.mark.usefixtures("undecoded")
def test_a_jpeg_of_many_scans_is_refused_by_its_header():
    whole = WHOLE["progressive"]
    scan = whole[whole.rindex(b"\xff\xda") : -2]
    with refused(UnreadableImageError, "a.jpeg", MAX_SCANS, "scans"):
        decode_image(whole[:-2] + 3000 * scan + END, "a.jpeg")


def claiming(whole: bytes, side: int = SIDE) -> bytes:
    at = whole.index(b"\x00\x11\x08" if b"\x00\x11\x08" in whole else b"\x00\x0b\x08") + 3
    return whole[:at] + struct.pack(">HH", side, side) + whole[at + 4 :]


@pytest.mark.usefixtures("undecoded")
@pytest.mark.parametrize("kind", ["baseline", "baseline colours", "progressive", "lossless"])
def test_a_jpeg_that_claims_more_than_its_bytes_can_hold_is_refused(kind):
    with refused(UnreadableImageError, "a.jpeg", "truncated"):
        decode_image(claiming(WHOLE[kind]), "a.jpeg")


@pytest.mark.usefixtures("undecoded")
def test_a_jpeg_that_takes_too_much_memory_is_refused():
    filled = WHOLE["CMYK"]
    at = filled.index(b"\xff\xc0") + 5
    filled = filled[:at] + struct.pack(">HH", SIDE, SIDE) + filled[at + 4 : -2] + bytes(2**17) + END
    with refused(UnreadableImageError, "a.jpeg", "MiB", 512):
        decode_image(filled, "a.jpeg")
