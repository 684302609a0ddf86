"""Damaged files of every format: at most one in a hundred is served with other pixels."""

import io
import random
import warnings
from collections import Counter
from pathlib import Path

import numpy as np
import pydicom
import pytest
from PIL import Image

from cxrignite.data.reading import decode_image
from cxrignite.errors import UnreadableImageError

NUM_FILES = 500
DICOM = Path(pydicom.__path__[0]) / "data" / "test_files"
ENDS = {"jpeg": b"\xff\xd9", "png": b"\0\0\0\0IEND\xaeB`\x82", "dcm": b"\xfe\xff\xdd\xe0\0\0\0\0"}


def photograph():
    rows, columns = np.mgrid[:240, :320]
    noise = np.random.default_rng(0).normal(0, 4, (240, 320))
    grey = 128 + 80 * np.sin(columns / 37) * np.cos(rows / 29) + noise
    return Image.fromarray(grey.clip(0, 255).astype(np.uint8))


def encoded(image, form, **settings):
    buffer = io.BytesIO()
    image.save(buffer, form, **settings)
    return buffer.getvalue()


def wholes():
    """Whole files by name, whose ending is the format."""
    grey = photograph()
    deep = Image.fromarray(np.asarray(grey).astype(np.uint16) * 257)
    files = {
        "baseline.jpeg": encoded(grey, "JPEG", quality=85),
        "fine.jpeg": encoded(grey, "JPEG", quality=97),
        "progressive.jpeg": encoded(grey, "JPEG", progressive=True),
        "colours.jpeg": encoded(grey.convert("RGB"), "JPEG"),
        "grey.png": encoded(grey, "PNG"),
        "colours.png": encoded(grey.convert("RGB"), "PNG"),
        "sixteen bits.png": encoded(deep, "PNG"),
    }
    names = ("MR_small_jpeg_ls_lossless.dcm", "MR_small_RLE.dcm", "MR_small_jp2klossless.dcm")
    return files | {name: (DICOM / name).read_bytes() for name in names}


def damaged(whole, kind, end, start, moments):
    """A file that lost a part of its pixels, or has other bytes there."""
    at = moments.randrange(start, len(whole) - 64)
    length = moments.choice([64, 512, 4096])
    return {
        "cut": lambda: whole[:at],
        "cut, with its end": lambda: whole[:at] + end,
        "a part lost": lambda: whole[:at] + whole[at + length :].removesuffix(end) + end,
        "zeroed": lambda: whole[:at] + bytes(length) + whole[at + length :],
        "spliced": lambda: whole[:at] + whole[max(start, at - length) :],
    }[kind]()


@pytest.mark.slow
def test_at_most_one_damaged_file_in_a_hundred_is_served_with_other_pixels():
    moments, served, refused = random.Random(16), Counter(), 0
    files = wholes()
    expected = {name: decode_image(data, name).astype(int) for name, data in files.items()}
    for number in range(NUM_FILES):
        name = [*files][number % len(files)]
        kind = ("cut", "cut, with its end", "a part lost", "zeroed", "spliced")[
            number // len(files) % 5
        ]
        whole = files[name]
        start = whole.rindex(b"\xe0\x7f\x10\0") + 40 if name.endswith(".dcm") else len(whole) // 10
        data = damaged(whole, kind, ENDS[name.rpartition(".")[2]], start, moments)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            try:
                image = decode_image(data, name)
            except UnreadableImageError:
                refused += 1
                continue
        if np.abs(image - expected[name]).mean() > 2:
            served[name, kind] += 1
    assert refused > NUM_FILES / 2
    assert served.total() <= NUM_FILES / 100, served
