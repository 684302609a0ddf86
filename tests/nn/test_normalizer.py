import pytest
import torch
from messages import refused

from cxrignite.nn.normalizer import ImageNormalizer

IMAGENET = ([0.485, 0.456, 0.406], [0.229, 0.224, 0.225])


def test_bytes_become_what_torchvision_would_hand_to_the_network():
    from torchvision.transforms.v2.functional import normalize

    images = torch.randint(0, 256, (2, 1, 5, 7), dtype=torch.uint8)
    expected = normalize((images / 255).expand(-1, 3, -1, -1), *IMAGENET)
    torch.testing.assert_close(ImageNormalizer(*IMAGENET)(images), expected)


def test_bytes_and_their_floats_are_the_same_image():
    images = torch.randint(0, 256, (2, 1, 5, 7), dtype=torch.uint8)
    for standardize in ("fixed", "per_image"):
        normalizer = ImageNormalizer(*IMAGENET, standardize=standardize)
        assert torch.equal(normalizer(images), normalizer(images / 255))


def test_per_image_every_channel_has_mean_0_and_deviation_1():
    images = torch.rand(3, 1, 40, 30) * torch.tensor([0.2, 0.5, 1.0]).view(3, 1, 1, 1)
    pixels = ImageNormalizer(*IMAGENET, standardize="per_image")(images)
    assert pixels.shape == (3, 3, 40, 30)
    torch.testing.assert_close(pixels.mean((2, 3)), torch.zeros(3, 3), atol=1e-5, rtol=0)
    torch.testing.assert_close(pixels.var((2, 3), correction=0), torch.ones(3, 3))


def test_per_image_exposure_and_contrast_do_not_matter():
    normalizer = ImageNormalizer(*IMAGENET, standardize="per_image")
    images = torch.rand(2, 1, 16, 16)
    torch.testing.assert_close(normalizer(images), normalizer(0.3 * images + 0.5))


def test_a_blank_image_becomes_zero_and_its_noise_is_not_blown_up():
    normalizer = ImageNormalizer(*IMAGENET, standardize="per_image")
    blank = torch.full((1, 1, 8, 8), 128, dtype=torch.uint8)
    assert normalizer(blank).abs().max() < 1e-3
    blank[0, 0, 0, 0] = 129
    assert normalizer(blank).abs().max() <= 1.0


def test_it_stays_in_float32_under_autocast():
    images = torch.rand(2, 1, 8, 8)
    for standardize in ("fixed", "per_image"):
        normalizer = ImageNormalizer(*IMAGENET, standardize=standardize)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            pixels = normalizer(images)
        assert pixels.dtype == torch.float32
        assert torch.equal(pixels, normalizer(images))


def test_one_channel_stays_one():
    normalizer = ImageNormalizer([0.5], [0.25], num_channels=1)
    assert torch.equal(normalizer(torch.full((1, 1, 2, 2), 0.75)), torch.ones(1, 1, 2, 2))


def test_mean_and_deviation_travel_with_the_weights():
    assert set(ImageNormalizer(*IMAGENET).state_dict()) == {"mean", "std"}


@pytest.mark.parametrize(
    ("images", "facts"),
    [
        (torch.rand(1, 3, 4, 5), ["images", "(N, 1, H, W)", "(1, 3, 4, 5)"]),
        (torch.rand(1, 4, 5), ["images", "(N, 1, H, W)", "(1, 4, 5)"]),
        (torch.ones(1, 1, 4, 5).long(), ["uint8", "torch.int64"]),
    ],
)
def test_what_is_no_grey_image_is_refused(images, facts):
    with refused(ValueError, *facts):
        ImageNormalizer(*IMAGENET)(images)


@pytest.mark.parametrize(
    ("arguments", "settings", "facts"),
    [
        (([0.5], [0.5]), {}, ["mean", "3", "[0.5]"]),
        (([0.5] * 3, [0.5]), {}, ["std", "3", "[0.5]"]),
        (([0.5] * 3, [0.5, 0.5, 0.0]), {}, ["std", "0"]),
        (([], []), {"num_channels": 0}, ["num_channels", "1", "0"]),
        (IMAGENET, {"standardize": "batch"}, ["fixed", "per_image", "'batch'"]),
    ],
)
def test_settings_out_of_range_are_refused(arguments, settings, facts):
    with refused(ValueError, *facts):
        ImageNormalizer(*arguments, **settings)
