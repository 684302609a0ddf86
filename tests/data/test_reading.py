import io
import os
import pickle
import struct
import tracemalloc
import zlib
from errno import EISDIR, ENOENT
from pathlib import Path

import numpy as np
import pytest
from messages import missing, refused
from PIL import Image, ImageOps

from cxrignite.data.reading import MAX_PIXELS, read_bytes, read_image
from cxrignite.errors import UnreadableImageError


@pytest.fixture
def ramp() -> np.ndarray:
    """A smooth image that no rotation or mirroring leaves as it is."""
    rows, columns = np.mgrid[0:20, 0:30]
    return (rows * 4 + columns * 5).astype(np.uint8)


def encoded(image: Image.Image, file_format: str, **options) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, file_format, **options)
    return buffer.getvalue()


def png_chunk(kind: bytes, content: bytes) -> bytes:
    checksum = zlib.crc32(kind + content)
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", checksum)


def png_that_claims(width: int, height: int) -> bytes:
    header = png_chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + header + png_chunk(b"IDAT", zlib.compress(bytes(100_000)))


def difference(image: np.ndarray, expected: np.ndarray) -> int:
    assert image.shape == expected.shape
    return int(np.abs(image.astype(int) - expected.astype(int)).max())


def test_a_grey_png_is_read_rows_by_columns(tmp_path, ramp):
    Image.fromarray(ramp).save(tmp_path / "a.png")
    image = read_image(tmp_path / "a.png")
    assert image.dtype == np.uint8
    assert image.flags.c_contiguous
    assert image.flags.writeable
    np.testing.assert_array_equal(image, ramp)


def test_a_grey_jpeg_is_read(tmp_path, ramp):
    Image.fromarray(ramp).save(tmp_path / "a.jpeg", quality=95)
    assert difference(read_image(str(tmp_path / "a.jpeg")), ramp) <= 4


@pytest.mark.parametrize("mode", ["RGB", "RGBA", "LA"])
def test_a_grey_image_saved_in_colour_keeps_its_greys(tmp_path, ramp, mode):
    Image.fromarray(ramp).convert(mode).save(tmp_path / "a.png")
    np.testing.assert_array_equal(read_image(tmp_path / "a.png"), ramp)


def test_colours_become_luma(tmp_path):
    Image.new("RGB", (3, 2), (200, 100, 50)).save(tmp_path / "a.png")
    luma = 0.299 * 200 + 0.587 * 100 + 0.114 * 50
    assert difference(read_image(tmp_path / "a.png"), np.full((2, 3), luma)) <= 1


def test_transparency_is_ignored(tmp_path, ramp):
    image = Image.fromarray(ramp).convert("RGBA")
    image.putalpha(Image.fromarray(ramp[::-1]))
    image.save(tmp_path / "a.png")
    np.testing.assert_array_equal(read_image(tmp_path / "a.png"), ramp)


@pytest.mark.parametrize("transparency", [None, bytes(range(256))])
def test_a_palette_is_looked_up(tmp_path, ramp, transparency):
    image = Image.fromarray(255 - ramp)
    image.putpalette([255 - value for value in range(256) for _ in range(3)])
    options = {} if transparency is None else {"transparency": transparency}
    image.save(tmp_path / "a.png", **options)
    with Image.open(tmp_path / "a.png") as saved:
        assert saved.mode == "P"
    np.testing.assert_array_equal(read_image(tmp_path / "a.png"), ramp)


def test_cmyk_becomes_grey(tmp_path, ramp):
    Image.fromarray(ramp).convert("RGB").convert("CMYK").save(tmp_path / "a.jpeg", quality=95)
    assert difference(read_image(tmp_path / "a.jpeg"), ramp) <= 6


def test_one_bit_becomes_black_and_white(tmp_path):
    bits = np.array([[0, 255, 0], [255, 255, 0]], dtype=np.uint8)
    Image.fromarray(bits).convert("1").save(tmp_path / "a.png")
    np.testing.assert_array_equal(read_image(tmp_path / "a.png"), bits)


def test_sixteen_bits_are_rescaled_and_not_clipped(tmp_path):
    values = np.array([[0, 1, 128, 129, 255], [256, 2000, 2048, 4000, 4095]], dtype=np.uint16)
    for largest, scaling in ((65_535, "stored"), (4095, "file"), (4095, "minmax")):
        Image.fromarray(values).save(tmp_path / "a.png")
        expected = np.round(values.astype(np.float64) * 255 / largest).astype(np.uint8)
        np.testing.assert_array_equal(read_image(tmp_path / "a.png", None, scaling), expected)


@pytest.mark.parametrize(
    ("orientation", "turned"),
    [
        (1, lambda stored: stored),
        (2, np.fliplr),
        (3, lambda stored: np.rot90(stored, 2)),
        (4, np.flipud),
        (5, np.transpose),
        (6, lambda stored: np.rot90(stored, -1)),
        (7, lambda stored: np.transpose(np.rot90(stored, 2))),
        (8, np.rot90),
    ],
)
@pytest.mark.parametrize("suffix", ["jpeg", "png"])
def test_exif_orientation_is_honoured(tmp_path, ramp, orientation, turned, suffix):
    exif = Image.Exif()
    exif[0x0112] = orientation
    Image.fromarray(ramp).save(tmp_path / f"a.{suffix}", exif=exif, quality=95)
    assert difference(read_image(tmp_path / f"a.{suffix}"), turned(ramp)) <= 4


def test_one_pixel_is_an_image(tmp_path):
    Image.new("L", (1, 1), 77).save(tmp_path / "a.png")
    np.testing.assert_array_equal(read_image(tmp_path / "a.png"), [[77]])


def test_the_content_counts_and_not_the_suffix(tmp_path, ramp):
    Image.fromarray(ramp).save(tmp_path / "a.jpeg", "PNG")
    np.testing.assert_array_equal(read_image(tmp_path / "a.jpeg"), ramp)


@pytest.mark.parametrize("file_format", ["PPM", "ICO", "TGA", "PCX"])
def test_other_formats_are_refused(tmp_path, ramp, file_format):
    (tmp_path / "a.png").write_bytes(encoded(Image.fromarray(ramp), file_format))
    with refused(UnreadableImageError, tmp_path / "a.png", "JPEG", "PNG", "DICOM"):
        read_image(tmp_path / "a.png")


@pytest.mark.parametrize(
    ("content", "facts"),
    [
        (b"", ["empty"]),
        (b"<!DOCTYPE html><html><body>404</body></html>", ["JPEG", "PNG", "DICOM"]),
        (b"\xff\xd8\xff", []),
        (b"\x89PNG\r\n\x1a\n", []),
        (bytes(1000), ["JPEG", "PNG", "DICOM"]),
    ],
)
def test_what_is_no_image_is_refused_by_path(tmp_path, content, facts):
    path = tmp_path / "a.jpeg"
    path.write_bytes(content)
    with refused(UnreadableImageError, path, *facts) as caught:
        read_image(path)
    assert caught.value.path == path
    assert caught.value.reason


@pytest.mark.parametrize("file_format", ["JPEG", "PNG"])
def test_a_file_cut_anywhere_is_refused_or_whole(tmp_path, file_format):
    # Noise compresses badly, so that nearly every byte of the file is pixels.
    pixels = np.random.default_rng(3).integers(0, 256, (40, 40), dtype=np.uint8)
    whole = encoded(Image.fromarray(pixels), file_format)
    (tmp_path / "a").write_bytes(whole)
    expected = read_image(tmp_path / "a")
    num_refused = 0
    lengths = range(0, len(whole), max(1, len(whole) // 150))
    for length in lengths:
        (tmp_path / "a").write_bytes(whole[:length])
        try:
            image = read_image(tmp_path / "a")
        except UnreadableImageError:
            num_refused += 1
        else:
            np.testing.assert_array_equal(image, expected)
    assert num_refused >= len(lengths) - 2


def test_damaged_files_are_refused_by_path_and_never_crash(tmp_path, ramp):
    rng = np.random.default_rng(11)
    path = tmp_path / "a.jpeg"
    wholes = [
        encoded(Image.fromarray(ramp), "JPEG"),
        encoded(Image.fromarray(ramp), "PNG"),
        encoded(Image.fromarray(ramp).convert("CMYK"), "JPEG"),
        encoded(Image.fromarray(ramp.astype(np.uint16) * 257), "PNG"),
        encoded(Image.fromarray(ramp).convert("P"), "PNG"),
    ]
    refused_paths, num_read = [], 0
    for number in range(500):
        data = bytearray(wholes[number % len(wholes)])
        for position in rng.integers(0, len(data), rng.integers(1, 5)):
            data[position] = rng.integers(0, 256)
        path.write_bytes(data)
        try:
            image = read_image(path)
        except UnreadableImageError as error:
            refused_paths.append(error.path)
        else:
            assert image.dtype == np.uint8
            assert image.ndim == 2
            num_read += 1
    assert set(refused_paths) == {path}
    assert min(num_read, len(refused_paths)) > 20


@pytest.mark.parametrize(
    ("width", "height", "facts"),
    [
        (30_000, 30_000, [30_000, "80,000,000"]),
        (10_000, 9_000, [10_000, 9_000, "80,000,000"]),
        (10_000, 8_001, [10_000, 8_001, "80,000,000"]),
    ],
)
def test_a_header_that_claims_too_much_is_refused_before_decoding(tmp_path, width, height, facts):
    path = tmp_path / "bomb.png"
    path.write_bytes(png_that_claims(width, height))
    tracemalloc.start()
    with refused(UnreadableImageError, path, *facts):
        read_image(path)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 2_000_000 < MAX_PIXELS


def test_a_missing_file_and_a_folder_are_unreadable(tmp_path):
    with refused(UnreadableImageError, tmp_path / "absent.png", os.strerror(ENOENT)):
        read_image(tmp_path / "absent.png")
    with refused(UnreadableImageError, tmp_path, os.strerror(EISDIR)):
        read_image(tmp_path)


def test_the_error_survives_pickling(tmp_path):
    with pytest.raises(UnreadableImageError) as caught:
        read_image(tmp_path / "absent.png")
    copy = pickle.loads(pickle.dumps(caught.value))
    assert str(copy) == str(caught.value)
    assert copy.path == tmp_path / "absent.png"


def photograph(height: int, width: int, mode: str = "L") -> Image.Image:
    """Smooth shapes with fine texture, as images have; no two places are alike."""
    rows, columns = np.mgrid[0:height, 0:width]
    waves = np.sin(rows / 37) * np.cos(columns / 53) + (rows + 2 * columns) / (height + 2 * width)
    texture = np.random.default_rng(0).normal(0, 6, (height, width))
    return Image.fromarray(np.clip(110 + 70 * waves + texture, 0, 255).astype(np.uint8)).convert(
        mode
    )


@pytest.mark.parametrize("mode", ["L", "RGB"])
@pytest.mark.parametrize("shape", [(1545, 1642), (767, 1001), (225, 223), (224, 224), (90, 300)])
def test_a_jpeg_read_at_a_size_is_close_to_a_full_decode_and_resize(tmp_path, mode, shape):
    photograph(*shape, mode).save(tmp_path / "a.jpeg", quality=90)
    image = read_image(tmp_path / "a.jpeg", (224, 192))
    with Image.open(tmp_path / "a.jpeg") as full:
        expected = np.asarray(full.convert("L").resize((192, 224), Image.Resampling.BILINEAR))
    assert image.shape == (224, 192)
    assert image.flags.writeable
    assert image.flags.c_contiguous
    assert np.abs(image.astype(int) - expected.astype(int)).mean() < 1


def test_the_padding_of_a_scaled_decode_is_not_seen(tmp_path):
    # 209 rows are 26.1 eighths: the decoder gives 27, of which the last is nearly all padding.
    ramp = np.linspace(0, 255, 209)[:, None].repeat(209, 1)
    Image.fromarray(ramp.round().astype(np.uint8)).save(tmp_path / "a.jpeg", quality=95)
    rows = read_image(tmp_path / "a.jpeg", (25, 25)).mean(1)
    assert np.abs(rows - (np.arange(25) + 0.5) * 255 / 25)[1:-1].max() < 2


@pytest.mark.parametrize("suffix", ["png", "jpeg"])
def test_a_size_is_rows_by_columns_and_may_enlarge(tmp_path, ramp, suffix):
    Image.fromarray(ramp).save(tmp_path / f"a.{suffix}", quality=95)
    image = read_image(tmp_path / f"a.{suffix}", (40, 90))
    assert image.shape == (40, 90)
    expected = np.asarray(Image.fromarray(ramp).resize((90, 40), Image.Resampling.BILINEAR))
    assert difference(image, expected) <= 5


@pytest.mark.parametrize("orientation", range(1, 9))
def test_a_image_is_turned_as_its_exif_says_before_it_is_resized(tmp_path, orientation):
    exif = Image.Exif()
    exif[0x0112] = orientation
    photograph(300, 500).save(tmp_path / "a.jpeg", quality=95, exif=exif)
    image = read_image(tmp_path / "a.jpeg", (60, 80))
    with Image.open(tmp_path / "a.jpeg") as stored:
        upright = ImageOps.exif_transpose(stored)
        expected = np.asarray(upright.resize((80, 60), Image.Resampling.BILINEAR))
    assert np.abs(image.astype(int) - expected.astype(int)).mean() < 1


def test_a_cut_jpeg_is_refused_at_a_size_too(tmp_path):
    data = encoded(photograph(600, 800), "JPEG", quality=90)
    (tmp_path / "a.jpeg").write_bytes(data[: len(data) // 2])
    with refused(UnreadableImageError, tmp_path / "a.jpeg", "Premature"):
        read_image(tmp_path / "a.jpeg", (64, 64))


@pytest.mark.parametrize("size", [(224, 224), None])
def test_inverted_cmyk_is_read_as_pillow_reads_it(tmp_path, size):
    photograph(300, 400).convert("CMYK").save(tmp_path / "a.jpeg", quality=95)
    with Image.open(tmp_path / "a.jpeg") as stored:
        grey = stored.convert("RGB").convert("L")
    expected = np.asarray(grey.resize(size, Image.Resampling.BILINEAR) if size else grey)
    np.testing.assert_array_equal(read_image(tmp_path / "a.jpeg", size), expected)


def test_a_name_with_a_nul_cannot_be_read():
    for name in ("a\0b.png", Path("a\0b.png")):
        with pytest.raises(UnreadableImageError) as caught:
            read_bytes(name)
        assert missing(caught.value.reason, ["NUL"]) == []
