import numpy as np
import pytest
import torch
from messages import refused

from cxrignite.functional import overlay
from cxrignite.functional.map_overlay import as_grey


def black(count=1, height=1, width=1):
    return torch.zeros(count, 1, height, width, dtype=torch.uint8)


def test_an_empty_map_leaves_the_grey_as_it_is():
    images = torch.arange(256, dtype=torch.uint8).reshape(1, 1, 16, 16)
    assert torch.equal(overlay(images, torch.zeros(1, 16, 16)), images.expand(-1, 3, -1, -1))


def test_colours_are_those_worked_out_by_hand():
    images = torch.tensor([[[[0, 0, 200]]]], dtype=torch.uint8)
    mixed = overlay(images, torch.tensor([[[1.0, 0.25, 0.25]]]), opacity=1.0)
    # A quarter has half the opacity.
    expected = [[255, 240, 120], [95, 10, 20], [195, 110, 120]]
    assert mixed[0, :, 0].T.tolist() == expected


def test_between_the_colours_of_the_ramp_there_are_no_steps():
    values = torch.linspace(0, 1, 1001).reshape(1, 1, -1)
    mixed = overlay(black(width=1001), values).int()
    # The square root is steep at the beginning.
    assert mixed.diff(dim=3)[..., 10:].abs().max() <= 1


@pytest.mark.parametrize("grey", [0, 60, 128, 200, 255])
def test_the_more_important_a_pixel_the_further_it_is_from_the_image_and_the_warmer(grey):
    images = black(width=33) + grey
    mixed = overlay(images, torch.linspace(0, 1, 33).reshape(1, 1, -1)).int()[0, :, 0]
    assert len(set(map(tuple, mixed.T.tolist()))) == 33
    warmth = mixed[0] - mixed[2]
    assert (warmth[1:] > 0).all()
    assert (warmth[:20].diff() >= 0).all()
    if grey == 0:
        assert (mixed[:2].diff(dim=1) >= 0).all()


def test_a_map_lies_upright_over_its_own_image():
    images, maps = black(2, 2, 3), torch.zeros(2, 2, 3)
    maps[0, 0, 2] = maps[1, 1, 0] = 1
    mixed = overlay(images, maps)
    assert mixed.shape == (2, 3, 2, 3)
    assert mixed.amax(dim=1).nonzero().tolist() == [[0, 0, 2], [1, 1, 0]]


def test_images_in_floating_point_look_as_their_bytes_do():
    torch.manual_seed(0)
    pixels = torch.randint(0, 256, (2, 1, 5, 7), dtype=torch.uint8)
    maps = torch.rand(2, 5, 7)
    expected = overlay(pixels, maps).int()
    for dtype in (torch.float32, torch.float64):
        assert (overlay(pixels.to(dtype) / 255, maps).int() - expected).abs().max() <= 1


def test_an_image_in_0_to_1_keeps_its_greys_and_one_beyond_is_stretched_by_itself():
    images = torch.tensor([[[[0.2, 0.6]]], [[[-1.0, 3.0]]], [[[0.0, 4.0]]], [[[2.0, 2.0]]]])
    grey = as_grey(images)[:, 0]
    assert grey[0].tolist() == pytest.approx([51, 153])
    assert grey[1:].tolist() == [[0, 255], [0, 255], [0, 0]]


def test_colours_are_rounded_to_the_nearest():
    assert overlay(torch.full((1, 1, 1, 1), 0.999), torch.zeros(1, 1, 1)).unique().tolist() == [255]


def test_several_channels_are_shown_as_their_mean():
    images = torch.tensor([10, 20, 60], dtype=torch.uint8).reshape(1, 3, 1, 1)
    assert overlay(images, torch.zeros(1, 1, 1)).flatten().tolist() == [30, 30, 30]


def test_the_arguments_are_left_as_they_are_and_may_carry_gradients():
    images = torch.linspace(-1, 1, 6).reshape(1, 1, 2, 3).requires_grad_()
    maps = torch.linspace(0, 1, 6).reshape(1, 2, 3).requires_grad_()
    before = images.detach().clone(), maps.detach().clone()
    mixed = overlay(images, maps)
    assert (mixed.dtype, mixed.requires_grad) == (torch.uint8, False)
    assert torch.equal(images, before[0])
    assert torch.equal(maps, before[1])


def test_no_images_give_no_pictures():
    assert overlay(black(0, 4, 4), torch.zeros(0, 4, 4)).shape == (0, 3, 4, 4)


@pytest.mark.parametrize(
    ("images", "maps", "facts"),
    [
        ((1, 4, 5), (1, 4, 5), ["(1, 4, 5)"]),
        ((1, 1, 4, 5), (1, 5, 4), ["(N, C, H, W)", "(N, H, W)"]),
        ((2, 1, 4, 5), (1, 4, 5), ["(2, 1, 4, 5)", "(1, 4, 5)"]),
        ((1, 1, 4, 5), (1, 1, 4, 5), ["(1, 1, 4, 5)"]),
    ],
)
def test_shapes_that_do_not_fit_are_refused(images, maps, facts):
    with refused(ValueError, *facts):
        overlay(torch.zeros(images), torch.zeros(maps))


@pytest.mark.parametrize("value", [-0.01, 1.01, np.nan, np.inf])
def test_a_map_beyond_0_to_1_is_refused(value):
    with refused(ValueError, "maps", "[0, 1]"):
        overlay(black(), torch.full((1, 1, 1), value))


@pytest.mark.parametrize("opacity", [0, -1, 1.5, np.nan])
def test_an_opacity_out_of_range_is_refused(opacity):
    with refused(ValueError, "opacity", "(0, 1]"):
        overlay(black(), torch.zeros(1, 1, 1), opacity=opacity)
