import numpy as np
import pytest
import torch
from messages import refused
from PIL import Image

from cxrignite.data import ImageRecord, Pipeline
from cxrignite.data.masks import (
    check_mask_size,
    draw_boxes,
    file_sides,
    format_boxes,
    has_mask,
    parse_boxes,
    read_mask,
)
from cxrignite.errors import DataError

BOXES = [(10.0, 20.0, 30.0, 8.0), (50.0, 4.0, 6.0, 40.5)]


def record_of(path, **attributes):
    return ImageRecord(str(path), path.name, 1, "p", "train", attributes)


def save(path, rows, columns, **options):
    pixels = np.random.default_rng(0).integers(0, 255, (rows, columns), dtype=np.uint8)
    Image.fromarray(pixels).save(path, **options)
    return path


def test_boxes_are_written_and_read_back_as_they_are():
    assert parse_boxes(format_boxes(BOXES), "a.png") == BOXES


@pytest.mark.parametrize("text", ["1 2 3", "1 2 3 4 5", "a b c d", "1 2 0 4", "1 2 3 nan", ";"])
def test_a_text_that_is_no_box_is_refused_with_the_image(text):
    with refused(DataError, "a.png", text):
        parse_boxes(text, "a.png")


def test_boxes_cover_the_same_share_of_pixels_as_a_mask_that_is_shrunk():
    drawn = draw_boxes([(8, 16, 20, 12), (30, 2, 10, 30)], (64, 48), (16, 12))
    mask = torch.zeros(64, 48)
    mask[16:28, 8:28] = mask[2:32, 30:40] = 1
    expected = torch.nn.functional.avg_pool2d(mask[None], 4)[0]
    assert drawn.shape == (16, 12)
    # Where the two boxes share a pixel of the result, the larger share counts.
    assert np.abs(drawn / 255 - expected.numpy()).max() < 0.26
    assert (np.abs(drawn / 255 - expected.numpy()) > 0.01).sum() <= 3


def test_a_box_beyond_the_edge_is_cut_off():
    assert draw_boxes([(-5, -5, 8, 100)], (10, 10), (10, 10)).sum() == 255 * 3 * 10


@pytest.mark.parametrize("name", ["a.png", "a.jpg", "a.tif"])
def test_the_sides_of_a_file_are_those_of_the_image(tmp_path, name):
    assert file_sides(save(tmp_path / name, 40, 60)) == (40, 60)


@pytest.mark.parametrize("name", ["a.png", "a.jpg"])
def test_the_sides_of_a_turned_file_are_those_of_the_upright_image(tmp_path, name):
    exif = Image.Exif()
    exif[0x0112] = 6
    path = save(tmp_path / name, 40, 60, exif=exif)
    assert file_sides(path) == tuple(Pipeline().read(path).shape[1:]) == (60, 40)


def test_the_sides_of_a_dicom_file_come_from_its_header(tmp_path):
    from pydicom.data import get_testdata_file

    path = get_testdata_file("MR_small.dcm")
    assert file_sides(path) == tuple(Pipeline().read(path).shape[1:])


def test_boxes_are_the_mask_that_they_draw(tmp_path):
    path = save(tmp_path / "a.png", 96, 128)
    mask = np.zeros((96, 128), np.uint8)
    for x, y, width, height in [(16, 24, 40, 16), (96, 8, 16, 64)]:
        mask[y : y + height, x : x + width] = 255
    Image.fromarray(mask).save(tmp_path / "mask.png")
    pipeline = Pipeline(image_size=(48, 64))
    drawn = read_mask(record_of(path, boxes="16 24 40 16; 96 8 16 64"), tmp_path, pipeline)
    read = read_mask(record_of(path, mask="mask.png"), tmp_path, pipeline)
    assert drawn.shape == read.shape == (1, 48, 64)
    assert torch.equal(drawn > 127, read > 127)


def test_each_finding_has_its_own_mask_and_an_image_may_have_none(tmp_path):
    path = save(tmp_path / "a.png", 20, 30)
    record = record_of(path, **{"boxes:Mass": "0 0 10 10", "boxes:Nodule": "20 10 10 10"})
    found = [read_mask(record, tmp_path, Pipeline(), name) for name in ("Mass", "Nodule")]
    assert [int((each > 127).sum()) for each in found] == [100, 100]
    assert not (found[0] & found[1]).any()
    assert read_mask(record, tmp_path, Pipeline(), "Edema") is None
    assert [has_mask(record, name) for name in ("Mass", "Edema", "")] == [True, False, False]


def test_masks_are_preprocessed_as_their_image(tmp_path):
    from monai.transforms import Flip

    path = save(tmp_path / "a.png", 20, 30)
    pipeline = Pipeline([Flip(spatial_axis=1)])
    mask = read_mask(record_of(path, boxes="0 0 10 20"), tmp_path, pipeline)
    assert (mask[0, :, 20:] > 127).all()
    assert not (mask[0, :, :20] > 127).any()


def test_a_small_mask_is_read_by_its_own_grey_values(tmp_path):
    path = save(tmp_path / "a.png", 100, 100)
    mask = np.zeros((100, 100), np.uint8)
    mask[:5, :5] = 255  # less than one per cent
    Image.fromarray(mask).save(tmp_path / "mask.png")
    pipeline = Pipeline(grey_scaling="percentiles")
    assert (read_mask(record_of(path, mask="mask.png"), tmp_path, pipeline) > 127).sum() == 25


def test_a_mask_of_another_size_is_named(tmp_path):
    record = record_of(tmp_path / "a.png", mask="masks/a.png")
    with refused(DataError, "masks/a.png", "a.png", "20 x 30", "20 x 20"):
        check_mask_size(torch.zeros(1, 20, 20), (20, 30), record)
