"""Compressed images: streams that claim other than their header, end early, or have no decoder."""

import io
import struct
import tracemalloc

import imagecodecs
import numpy as np
import pytest
from messages import line_with, refused
from PIL import Image
from pydicom.uid import (
    MPEG2MPML,
    DeflatedExplicitVRLittleEndian,
    ExplicitVRLittleEndian,
    JPEG2000Lossless,
    JPEGBaseline8Bit,
    JPEGExtended12Bit,
    JPEGLosslessSV1,
    JPEGLSLossless,
    RLELossless,
)

from cxrignite.data.dicom import decode_dicom
from cxrignite.errors import UnreadableImageError


@pytest.fixture
def record():
    """Smooth, so that lossy coding keeps it, and of 12 bits."""
    rows, columns = np.mgrid[0:72, 0:64]
    return (2000 + 1900 * np.sin(rows / 17) * np.cos(columns / 23)).astype(int)


@pytest.fixture
def encapsulated(make_dicom, dicom_bytes):
    """A file around a stream that is already made."""

    def make(values, stream, syntax, fragments=1, **options):
        dataset = make_dicom(values, **options)
        parts = max(2, -(-len(stream) // fragments) // 2 * 2)
        pieces = [stream[start : start + parts] for start in range(0, len(stream), parts)]
        body = b"".join(
            struct.pack("<HHI", 0xFFFE, 0xE000, len(piece) + len(piece) % 2)
            + piece
            + bytes(len(piece) % 2)
            for piece in [b"", *pieces]
        )
        plain = dicom_bytes(dataset)
        marker = b"\xe0\x7f\x10\x00"
        head = plain[: plain.rindex(marker)]
        old, new = (str(uid).encode() for uid in (ExplicitVRLittleEndian, syntax))
        declared = b"\x02\x00\x10\x00UI"
        at = head.index(declared)
        new += bytes(len(new) % 2)
        end = at + 8 + len(old) + len(old) % 2
        head = head[: at + 6] + struct.pack("<H", len(new)) + new + head[end:]
        tail = struct.pack("<HHI", 0xFFFE, 0xE0DD, 0)
        return head + marker + b"OB\0\0\xff\xff\xff\xff" + body + tail

    return make


def jpeg(values, quality=95):
    buffer = io.BytesIO()
    Image.fromarray(values.astype(np.uint8)).save(buffer, "JPEG", quality=quality)
    return buffer.getvalue()


def refuse(data, *facts):
    """Assert that a file is refused for a reason that holds the facts."""
    with refused(UnreadableImageError, "image.dcm", *facts) as caught:
        decode_dicom(data, "image.dcm")
    return caught.value.reason


@pytest.mark.parametrize("fragments", [1, 5])
def test_a_baseline_jpeg_is_what_pillow_decodes(record, encapsulated, fragments):
    stream = jpeg(record >> 4)
    data = encapsulated(record >> 4, stream, JPEGBaseline8Bit, fragments, bits=8)
    with Image.open(io.BytesIO(stream)) as image:
        np.testing.assert_array_equal(decode_dicom(data, "a"), np.asarray(image))


@pytest.mark.parametrize("syntax", [JPEGBaseline8Bit, JPEGExtended12Bit, JPEGLosslessSV1])
def test_a_jpeg_of_another_kind_than_its_transfer_syntax_is_read(record, encapsulated, syntax):
    for stream in (
        jpeg(record >> 4),
        imagecodecs.jpeg8_encode(record.astype(np.uint16), lossless=True),
    ):
        is_plain = stream[2:].find(b"\xff\xc0") >= 0
        values, bits = (record >> 4, 8) if is_plain else (record, 16)
        image = decode_dicom(encapsulated(values, stream, syntax, bits=bits), "a", "minmax")
        assert np.abs(image - (values - values.min()) * 255 / np.ptp(values)).mean() < 2


def test_a_stream_of_fewer_bits_than_its_header_says_is_read(record, encapsulated):
    eight = (record >> 4).astype(np.uint8)
    for syntax, stream in (
        (JPEGBaseline8Bit, jpeg(eight)),
        (JPEGLSLossless, imagecodecs.jpegls_encode(eight)),
        (JPEG2000Lossless, imagecodecs.jpeg2k_encode(eight, level=0, codecformat="j2k")),
    ):
        image = decode_dicom(encapsulated(record >> 4, stream, syntax, bits=12), "a", "stored")
        assert np.abs(image - (record >> 4) * 255 / 4095).max() < 1


@pytest.mark.parametrize("signed", [False, True])
@pytest.mark.parametrize("bits", [8, 12, 16])
def test_a_lossless_jpeg_keeps_every_value(
    record, encapsulated, dicom_bytes, make_dicom, bits, signed
):
    values = record * 16 >> 16 - bits
    values -= 2 ** (bits - 1) * signed
    stored = (values & 2**bits - 1).astype(np.uint8 if bits == 8 else np.uint16)
    stream = imagecodecs.jpeg8_encode(stored, lossless=True, bitspersample=bits)
    data = encapsulated(values, stream, JPEGLosslessSV1, bits=bits, signed=signed)
    plain = dicom_bytes(make_dicom(values, bits=bits, signed=signed))
    np.testing.assert_array_equal(decode_dicom(data, "a"), decode_dicom(plain, "a"))


def test_an_extended_jpeg_of_twelve_bits_is_close(record, encapsulated):
    stream = imagecodecs.jpeg8_encode(record.astype(np.uint16), level=98, bitspersample=12)
    image = decode_dicom(encapsulated(record, stream, JPEGExtended12Bit), "a", "stored")
    assert np.abs(image - record * 255 / 4095).max() < 1.5


@pytest.mark.parametrize("syntax", [JPEGLSLossless, JPEG2000Lossless, JPEGBaseline8Bit])
@pytest.mark.parametrize(("rows", "columns"), [(71, 64), (72, 60_000), (60_000, 60_000)])
def test_a_stream_that_claims_another_size_is_refused_before_it_is_decoded(
    record, make_dicom, dicom_bytes, encapsulated, syntax, rows, columns
):
    if syntax == JPEGBaseline8Bit:
        data = bytearray(encapsulated(record >> 4, jpeg(record >> 4), syntax, bits=8))
    else:
        data = bytearray(dicom_bytes(make_dicom(record), syntax))
    at = data.rindex(b"\xe0\x7f\x10\x00")
    if syntax == JPEG2000Lossless:
        struct.pack_into(">II", data, data.index(b"\xff\x51", at) + 6, columns, rows)
    else:
        marker = b"\xff\xf7" if syntax == JPEGLSLossless else b"\xff\xc0"
        struct.pack_into(">HH", data, data.index(marker, at) + 5, rows, columns)
    tracemalloc.start()
    refuse(bytes(data), columns, rows, 64, 72)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 3_000_000


def test_a_stream_of_colours_is_refused(record, encapsulated):
    buffer = io.BytesIO()
    Image.fromarray((record >> 4).astype(np.uint8)).convert("RGB").save(buffer, "JPEG")
    data = encapsulated(record >> 4, buffer.getvalue(), JPEGBaseline8Bit, bits=8)
    refuse(data, 3, "1 sample per pixel")


def test_a_stream_of_too_many_tiles_is_refused(record, make_dicom, dicom_bytes):
    data = bytearray(dicom_bytes(make_dicom(record, Rows=72), JPEG2000Lossless))
    at = data.rindex(b"\xff\x4f\xff\x51")
    struct.pack_into(">4I", data, at + 8, 64, 60_072, 0, 60_000)
    struct.pack_into(">4I", data, at + 24, 1, 1, 0, 0)
    refuse(bytes(data), "3,844,608")


def test_a_stream_of_more_than_sixteen_bits_is_refused(record, make_dicom, dicom_bytes):
    data = bytearray(dicom_bytes(make_dicom(record), JPEG2000Lossless))
    data[data.rindex(b"\xff\x4f\xff\x51") + 42] = 37
    refuse(bytes(data), 38, 16)


def test_more_bits_than_the_header_says_are_refused(record, make_dicom, dicom_bytes):
    for syntax in (JPEGLSLossless, JPEG2000Lossless, RLELossless):
        data = dicom_bytes(make_dicom(record, bits=12), syntax)
        for old, new in ((12, 10), (11, 9)):  # BitsStored and HighBit
            tag = b"\x28\x00" + (b"\x01" if old == 12 else b"\x02") + b"\x01US\x02\x00"
            data = data.replace(tag + bytes([old, 0]), tag + bytes([new, 0]))
        refuse(data, "10 bits")


@pytest.mark.parametrize("syntax", [JPEGLSLossless, JPEG2000Lossless, RLELossless])
def test_a_stream_cut_anywhere_is_refused_or_whole(record, make_dicom, dicom_bytes, syntax):
    data = dicom_bytes(make_dicom(record), syntax)
    whole = decode_dicom(data, "a")
    start, num_refused = data.rindex(b"\xe0\x7f\x10\x00"), 0
    lengths = range(start + 12, len(data), max(1, (len(data) - start) // 60))
    for length in lengths:
        try:
            image = decode_dicom(data[:length], "a")
        except UnreadableImageError:
            num_refused += 1
        else:
            np.testing.assert_array_equal(image, whole)
    assert num_refused >= len(lengths) - 1


@pytest.mark.parametrize("padding", [b"\0", b"\xff" * 3, b" " * 40, b"\0\x01" * 9, b"\xff\xd9"])
def test_what_lies_behind_the_end_of_a_stream_is_padding(record, encapsulated, padding):
    twelve = record.astype(np.uint16)
    streams = {
        JPEGBaseline8Bit: jpeg(record >> 4),
        JPEGLSLossless: imagecodecs.jpegls_encode(twelve),
        JPEG2000Lossless: imagecodecs.jpeg2k_encode(twelve, level=0, codecformat="j2k"),
    }
    for syntax, stream in streams.items():
        bits = 8 if syntax == JPEGBaseline8Bit else 16
        values = record >> 4 if bits == 8 else record
        plain = decode_dicom(encapsulated(values, stream, syntax, bits=bits), "a")
        padded = encapsulated(values, stream + padding, syntax, 3, bits=bits)
        np.testing.assert_array_equal(decode_dicom(padded, "a"), plain)


def test_a_stream_in_the_file_format_of_jpeg_2000_is_read(record, encapsulated):
    twelve = record.astype(np.uint16)
    bare, boxed = (
        imagecodecs.jpeg2k_encode(twelve, level=0, codecformat=each) for each in ("j2k", "jp2")
    )
    assert boxed[4:8] == b"jP  "
    expected = decode_dicom(encapsulated(record, bare, JPEG2000Lossless, bits=16), "a")
    for data in (boxed, boxed + bytes(40)):
        image = decode_dicom(encapsulated(record, data, JPEG2000Lossless, bits=16), "a")
        np.testing.assert_array_equal(image, expected)
    refuse(encapsulated(record, boxed[:60], JPEG2000Lossless, bits=16), "JPEG 2000", "code stream")


def test_a_stream_without_a_tile_is_refused(record, encapsulated):
    stream = imagecodecs.jpeg2k_encode(record.astype(np.uint16), level=0, codecformat="j2k")
    twice = bytearray(stream)
    twice[twice.index(b"\xff\x90\0\x0a") + 5] = 1  # the only tile, as if it were the second
    refuse(encapsulated(record, bytes(twice), JPEG2000Lossless, bits=16), "tiles")


def test_a_stream_without_its_end_is_refused(record, encapsulated):
    data = encapsulated(record >> 4, jpeg(record >> 4)[:-60], JPEGBaseline8Bit, bits=8)
    refuse(data, "truncated")


def test_the_wrong_stream_for_its_transfer_syntax_is_refused(record, encapsulated):
    reason = refuse(encapsulated(record, jpeg(record >> 4), JPEG2000Lossless), "transfer syntax")
    assert refuse(encapsulated(record, b"no stream", JPEGLSLossless)) == reason


@pytest.mark.parametrize(
    ("syntax", "name"),
    [
        (MPEG2MPML, "MPEG2 Main Profile / Main Level"),
        ("1.2.3.4.5", ""),
        (DeflatedExplicitVRLittleEndian, "Deflated Explicit VR Little Endian"),
    ],
)
def test_a_transfer_syntax_that_is_not_read_is_named(record, encapsulated, syntax, name):
    refuse(encapsulated(record, jpeg(record >> 4), syntax), "transfer syntax", name)


def test_compressed_and_plain_pixel_data_are_not_taken_for_each_other(
    record, make_dicom, dicom_bytes, encapsulated
):
    refuse(encapsulated(record, jpeg(record >> 4), ExplicitVRLittleEndian), "transfer syntax")
    data = dicom_bytes(make_dicom(record))
    at = data.index(b"\x02\x00\x10\x00UI")
    new = str(JPEGBaseline8Bit).encode()
    data = data[: at + 6] + struct.pack("<H", len(new)) + new + data[at + 28 :]
    refuse(data, "encapsulated")


@pytest.mark.integration
def test_without_a_decoder_the_error_says_what_to_install(
    tmp_path, record, make_dicom, dicom_bytes, encapsulated, python
):
    lossless = imagecodecs.jpeg8_encode(record.astype(np.uint16), lossless=True, bitspersample=12)
    files = {
        "JPEG-LS Lossless": dicom_bytes(make_dicom(record), JPEGLSLossless),
        "JPEG 2000 Image Compression (Lossless Only)": dicom_bytes(
            make_dicom(record), JPEG2000Lossless
        ),
        "JPEG Lossless, Non-Hierarchical": encapsulated(record, lossless, JPEGLosslessSV1),
        "read": encapsulated(record >> 4, jpeg(record >> 4), JPEGBaseline8Bit, bits=8),
        "read too": dicom_bytes(make_dicom(record), RLELossless),
    }
    for number, data in enumerate(files.values()):
        (tmp_path / f"{number}.dcm").write_bytes(data)
    program = (
        "import sys\n"
        "absent = ('jpeg_ls', '_openjpeg', 'openjpeg', 'pylibjpeg', 'imagecodecs')\n"
        "for name in list(sys.modules):\n"
        "    if name.partition('.')[0] in ('pydicom', *absent):\n"
        "        del sys.modules[name]\n"
        "sys.modules.update(dict.fromkeys(absent))\n"
        "from cxrignite.data.reading import read_image\n"
        "for path in sys.argv[1:]:\n"
        "    try:\n"
        "        read_image(path)\n"
        "        print('read')\n"
        "    except Exception as error:\n"
        "        print(type(error).__name__, error)\n"
    )
    paths = [str(tmp_path / f"{number}.dcm") for number in range(len(files))]
    done = python("-c", program, *paths)
    lines = done.stdout.splitlines()
    assert lines[3:] == ["read", "read"], done.stderr
    for name, path, line in zip(files, paths[:3], lines, strict=False):
        line_with(line, "UnreadableImageError", path, name, "pip install '.[dicom]'")


def test_a_decoders_failure_leaves_no_traceback_in_the_log(record, make_dicom, dicom_bytes, caplog):
    data = bytearray(dicom_bytes(make_dicom(record), JPEGLSLossless))
    start = data.rindex(b"\xff\xda") + 20
    data[start : start + 200] = bytes([0x55]) * 200
    with caplog.at_level("DEBUG"):
        refuse(bytes(data), "damaged")
    assert caplog.records == []
