import sys

import numpy as np
import pytest
from messages import refused
from PIL import Image, ImageFilter

from cxrignite.functional.near_duplicates import (
    MIN_CORRELATION,
    MIN_DETAIL_CORRELATION,
    detail_correlation,
    near_duplicates,
)

SIDE = 32
# Its package has the function under the name of the module.
MODULE = sys.modules["cxrignite.functional.near_duplicates"]


@pytest.fixture
def images():
    """Smooth noise with fine noise over it: no two alike."""
    rng = np.random.default_rng(3)
    coarse = rng.uniform(40, 215, (60, 8, 8)).astype(np.uint8)
    smooth = [
        np.asarray(Image.fromarray(each).resize((SIDE, SIDE), Image.Resampling.BICUBIC))
        for each in coarse
    ]
    return np.clip(np.stack(smooth) + rng.normal(0, 3, (60, SIDE, SIDE)), 0, 255)


def likenesses(images):
    return {(pair.first, pair.second): pair.likeness for pair in near_duplicates(images)}


def test_images_of_different_scenes_are_no_pair(images):
    assert near_duplicates(images) == []


@pytest.mark.parametrize(
    ("change", "likeness"),
    [
        (lambda record: record, "same"),
        (lambda record: 0.5 * record + 60, "same"),
        (lambda record: 255 * (record / 255) ** 1.4, "same"),
        (lambda record: 255 - record, "inverted"),
        (lambda record: record[:, ::-1], "mirrored"),
    ],
)
def test_a_copy_is_found_with_its_change(images, change, likeness):
    images[41] = change(images[7])
    assert likenesses(images) == {(7, 41): likeness}


def test_of_many_copies_every_pair_is_found(images):
    images[[3, 30, 59]] = images[20]
    assert set(likenesses(images)) == {(3, 20), (3, 30), (3, 59), (20, 30), (20, 59), (30, 59)}


@pytest.mark.parametrize("min_correlation", [0.5, 0.8, 0.95])
def test_the_search_finds_exactly_what_comparing_each_with_each_finds(min_correlation, monkeypatch):
    monkeypatch.setattr(MODULE, "_MAX_PARTNERS", 300)
    rng = np.random.default_rng(1)
    few = rng.uniform(0, 255, (6, 8, 8))
    mixed = np.einsum("nk,khw->nhw", rng.dirichlet([0.3] * 6, 300), few)
    flat = mixed.reshape(300, -1)
    mirrored = mixed[:, :, ::-1].reshape(300, -1)
    upright = np.corrcoef(flat)
    crossed = np.corrcoef(flat, mirrored)[:300, 300:]
    best = np.triu(np.maximum(np.abs(upright), crossed), 1)
    expected = set(zip(*np.nonzero(best >= min_correlation), strict=True))
    found = {(pair.first, pair.second) for pair in near_duplicates(mixed, min_correlation)}
    # Single precision decides within this of the border.
    unsure = set(zip(*np.nonzero(np.abs(best - min_correlation) < 1e-5), strict=True))
    assert found - unsure == expected - unsure
    assert len(expected) > 20


def test_a_search_over_many_blocks_finds_every_pair(images, monkeypatch):
    images[[11, 48]] = images[[5, 33]]
    whole = near_duplicates(images)
    monkeypatch.setattr(MODULE, "_BLOCK", 7)
    assert near_duplicates(images) == whole
    assert [pair[:2] for pair in whole] == [(5, 11), (33, 48)]


def test_of_a_picture_that_is_there_very_often_each_copy_is_in_a_pair_but_not_in_all(images):
    copies = np.repeat(images[:1], 500, axis=0)
    copies = copies + np.random.default_rng(0).normal(0, 0.5, copies.shape)
    pairs = near_duplicates(np.concatenate([images[1:], copies]))
    seen = {index for pair in pairs for index in pair[:2]}
    assert seen == set(range(59, 559))
    assert len(pairs) <= 500 * 21


def test_blank_images_are_like_nothing():
    blank = np.full((5, SIDE, SIDE), 128.0)
    blank[3, 0, 0] = 130
    assert near_duplicates(blank) == []


def test_too_few_images_are_no_pair():
    assert near_duplicates(np.zeros((0, SIDE, SIDE))) == []
    assert near_duplicates(np.random.default_rng(0).uniform(0, 255, (1, SIDE, SIDE))) == []


@pytest.mark.parametrize("bad", [0, -0.5, 1.01])
def test_a_correlation_out_of_range_is_refused(bad, images):
    with refused(ValueError, "min_correlation", "(0, 1]"):
        near_duplicates(images, bad)


def test_other_shapes_are_refused(images):
    with refused(ValueError, "thumbnails", "(N, H, W)", "(32, 32)"):
        near_duplicates(images[0])


def textured(seed, side=128):
    """A smooth scene, the same for every seed, under fine texture of its own."""
    scene = Image.fromarray(np.random.default_rng(0).integers(0, 200, (6, 6), dtype=np.uint8))
    base = np.asarray(scene.resize((side, side), Image.Resampling.BICUBIC), dtype=float)
    grain = np.random.default_rng(seed).normal(0, 60, (side // 4, side // 4))
    fine = np.asarray(
        Image.fromarray(grain.astype(np.float32)).resize((side, side), Image.Resampling.BICUBIC)
    )
    return np.clip(base + 0.4 * fine, 0, 255).astype(np.uint8)


def test_detail_distinguishes_a_copy_from_another_image_of_one_anatomy():
    record, other = textured(1), textured(2)
    small = [np.asarray(Image.fromarray(each).resize((32, 32))) for each in (record, other)]
    assert np.corrcoef(small[0].ravel(), small[1].ravel())[0, 1] > 0.9
    blurred = np.asarray(Image.fromarray(record).filter(ImageFilter.GaussianBlur(1)))
    assert detail_correlation(record, blurred) > MIN_DETAIL_CORRELATION
    assert detail_correlation(record, other) < 0.2
    assert MIN_CORRELATION < 1


def test_detail_of_a_mirrored_or_inverted_copy_is_compared_upright():
    record = textured(1)
    assert detail_correlation(record, record[:, ::-1], "mirrored") == pytest.approx(1, abs=1e-5)
    assert detail_correlation(record, 255 - record, "inverted") == pytest.approx(1, abs=1e-5)
    assert abs(detail_correlation(record, record[:, ::-1])) < 0.3


def test_a_image_without_detail_is_no_copy_of_anything():
    assert detail_correlation(np.full((64, 64), 9), textured(1, 64)) == 0


def test_details_of_other_sizes_are_refused():
    with refused(ValueError, "images", "(H, W)"):
        detail_correlation(textured(1), textured(1, 64))
