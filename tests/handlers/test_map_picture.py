import io

import numpy as np
import pytest
import torch
from messages import refused
from PIL import Image

from cxrignite.functional import overlay
from cxrignite.handlers.map_picture import map_picture

MARGIN = 8
IMAGE = torch.randint(0, 256, (1, 3, 5), generator=torch.Generator().manual_seed(1)).byte()
IMPORTANCE = torch.rand(3, 5, generator=torch.Generator().manual_seed(2))


def text_below(picture, panel_height):
    """Where there is ink below the panels, in their width and margins."""
    return (picture[panel_height + 2 * MARGIN :] < 200).any(axis=2)


def test_the_image_and_its_map_lie_side_by_side_enlarged_by_a_whole_number():
    picture = map_picture(IMAGE, IMPORTANCE, ["caption"])
    assert picture.dtype == np.uint8
    height, width = 3 * 64, 5 * 64  # 320 pixels or more
    assert picture.shape[1] == 2 * width + 3 * MARGIN
    enlarge = np.ones((64, 64, 1), dtype=np.uint8)
    left = picture[MARGIN : MARGIN + height, MARGIN : MARGIN + width]
    assert np.array_equal(left, np.kron(IMAGE[0].numpy()[..., None], enlarge).repeat(3, axis=2))
    right = picture[MARGIN : MARGIN + height, 2 * MARGIN + width : 2 * MARGIN + 2 * width]
    mapped = overlay(IMAGE[None], IMPORTANCE[None])[0].permute(1, 2, 0).numpy()
    assert np.array_equal(right, np.kron(mapped, enlarge))
    assert (picture[:MARGIN] == 255).all()
    assert (picture[:, width + MARGIN : width + 2 * MARGIN][: height + 2 * MARGIN] == 255).all()


def test_a_large_image_keeps_its_size():
    picture = map_picture(torch.rand(1, 200, 330), torch.rand(200, 330), [])
    assert picture.shape == (200 + 3 * MARGIN, 2 * 330 + 3 * MARGIN, 3)


@pytest.mark.parametrize(
    "line",
    [
        "one two three " * 30,
        "x" * 400,
        "/a/very/long/path" * 30 + " and words",
        "Lungenentzündung, 肺炎 " * 20,
    ],
)
def test_a_line_that_is_too_long_goes_on_in_the_next(line):
    short, long = (map_picture(IMAGE, IMPORTANCE, [text]) for text in ("x", line))
    assert long.shape[0] > short.shape[0] + 20
    ink = text_below(long, 3 * 64)
    assert not ink[:, :MARGIN].any()
    assert not ink[:, -MARGIN + 1 :].any()
    # The last line is drawn in full, and not cut off by the picture's end.
    assert ink[-30:-MARGIN].any()
    assert not ink[-2:].any()


def test_every_line_is_drawn_below_the_one_before():
    heights = [map_picture(IMAGE, IMPORTANCE, ["text"] * n).shape[0] for n in (0, 1, 2, 3)]
    assert len(set(np.diff(heights))) == 1
    ink = text_below(map_picture(IMAGE, IMPORTANCE, ["HHH", "", "HHH"]), 3 * 64).any(axis=1)
    assert np.count_nonzero(np.diff(ink.astype(int)) == 1) == 2


@pytest.mark.parametrize("text", ["肺炎", "Röntgen", "photo\udcff.png", "a\x00b\nc\td", "", " "])
def test_any_text_can_be_drawn(text):
    picture = map_picture(IMAGE, IMPORTANCE, [text])
    assert text_below(picture, 3 * 64).any() == bool(text.strip())


def test_it_can_be_written_and_read_as_png():
    picture, file = map_picture(IMAGE, IMPORTANCE, ["caption"]), io.BytesIO()
    Image.fromarray(picture).save(file, "PNG")
    assert np.array_equal(np.asarray(Image.open(file)), picture)


def test_a_map_of_another_shape_is_refused():
    with refused(ValueError, "images", "maps"):
        map_picture(IMAGE, IMPORTANCE.T, [])


def test_a_name_that_is_not_utf_8_stands_in_the_caption_with_its_bytes_escaped():
    picture = map_picture(IMAGE, IMPORTANCE, ["r\udcf6ntgen.png"])
    assert np.array_equal(picture, map_picture(IMAGE, IMPORTANCE, [r"r\xf6ntgen.png"]))
