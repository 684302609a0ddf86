import numpy as np
import pytest
import torch
from messages import refused
from PIL import Image
from scipy import ndimage, stats

from cxrignite.data.batch_augment import NUM_UNIFORMS, seeded_uniforms
from cxrignite.data.batch_transforms import RandomBlur, RandomLowResolution
from cxrignite.errors import RecipeError

SHAPES = [(31, 44), (64, 64), (53, 9)]


def draw(number: float) -> np.ndarray:
    """Uniforms of one image that is chosen."""
    return np.array([[0.0, number, *[0.5] * (NUM_UNIFORMS - 2)]])


def grey(shape: tuple[int, int]) -> torch.Tensor:
    return torch.rand(1, 1, *shape, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("number", [0.0, 0.3, 0.99])
def test_blur_is_a_gaussian_over_the_breadth_of_pixels(shape, number):
    image, sigma = grey(shape), 0.4 + 2.6 * number
    radius = int(4 * sigma + 0.5)
    ends = stats.norm.cdf((np.arange(-radius, radius + 2) - 0.5) / sigma)
    weights = np.diff(ends) / np.diff(ends).sum()
    expected = image[0, 0].double().numpy()
    for axis in (0, 1):
        expected = ndimage.convolve1d(expected, weights, axis=axis, mode="nearest")
    found = RandomBlur(1.0, sigma=(0.4, 3.0))(image, draw(number))
    np.testing.assert_allclose(found[0, 0].numpy(), expected, atol=1e-6)


def test_a_wide_blur_is_the_gaussian_filter_of_scipy():
    image = grey((64, 50))
    found = RandomBlur(1.0, sigma=(3.0, 3.0))(image, draw(0.5))
    # The breadth of a pixel adds the variance of its own.
    sigma = np.sqrt(3.0**2 + 1 / 12)
    expected = ndimage.gaussian_filter(image[0, 0].double().numpy(), sigma, mode="nearest")
    np.testing.assert_allclose(found[0, 0].numpy(), expected, atol=3e-4)


def test_a_blur_of_no_width_gives_the_same_image():
    image = grey((20, 30))
    assert torch.equal(RandomBlur(1.0, sigma=(0.01, 0.01))(image, draw(0.5)), image)


def test_a_blur_may_be_wider_than_the_image():
    image = torch.zeros(1, 1, 3, 2)
    image[0, 0, 1] = 1.0
    found = RandomBlur(1.0, sigma=(500.0, 500.0))(image, draw(0.5))
    # Nearly all of what is looked at lies beyond the edges, where it is as they are.
    torch.testing.assert_close(found, torch.zeros_like(found), rtol=0, atol=2e-3)


def test_each_image_of_a_batch_is_blurred_by_its_own_width():
    random = seeded_uniforms(np.arange(30), 1)[0]
    images = torch.zeros(30, 1, 41, 41)
    images[..., 20, 20] = 1.0
    found = RandomBlur(1.0, sigma=(0.4, 1.6))(images, random)[:, 0].double().numpy()
    distances = np.arange(41) - 20
    for profile in (found.sum(axis=1), found.sum(axis=2)):
        np.testing.assert_allclose(profile.sum(axis=1), 1.0, atol=1e-6)
        variances = (profile * distances**2).sum(axis=1)
        widths = 0.4 + 1.2 * random[:, 1]
        wide = widths > 0.6  # Below, the pixels are too coarse for the rule.
        assert 20 < wide.sum() < 30
        np.testing.assert_allclose(variances[wide], widths[wide] ** 2 + 1 / 12, rtol=0.005)


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("number", [0.0, 0.4, 0.9])
def test_low_resolution_is_an_antialiased_resize_there_and_back(shape, number):
    image, zoom = grey(shape), 0.4 + 0.5 * number
    small = tuple(round(side * zoom) for side in shape)
    expected = Image.fromarray(image[0, 0].numpy())  # of floats
    for height, width in (small, shape):
        expected = expected.resize((width, height), Image.Resampling.BILINEAR)
    found = RandomLowResolution(1.0, zoom=(0.4, 0.9))(image, draw(number))
    np.testing.assert_allclose(found[0, 0].numpy(), np.asarray(expected), atol=2e-6)


@pytest.mark.parametrize("shape", [(1, 1), (1, 12), (20, 30)])
def test_full_resolution_gives_the_same_image(shape):
    image = grey(shape)
    found = RandomLowResolution(1.0, zoom=(1.0, 1.0))(image, draw(0.5))
    torch.testing.assert_close(found, image, rtol=0, atol=1e-6)


def test_the_lowest_resolution_is_one_pixel():
    image = grey((6, 8))
    found = RandomLowResolution(1.0, zoom=(0.001, 0.001))(image, draw(0.5))
    assert float(found.std()) < 1e-6
    assert float(image.min()) < float(found.mean()) < float(image.max())


@pytest.mark.parametrize(
    ("make", "facts"),
    [
        (lambda: RandomBlur(sigma=(0.0, 1.0)), ["sigma", "[0.0, 1.0]"]),
        (lambda: RandomBlur(sigma=(2.0, 1.0)), ["sigma", "[2.0, 1.0]"]),
        (lambda: RandomBlur(1.01), ["prob", "[0, 1]", "1.01"]),
        (lambda: RandomLowResolution(zoom=(0.5, 1.1)), ["zoom", "<= 1", "[0.5, 1.1]"]),
        (lambda: RandomLowResolution(zoom=(0.0, 1.0)), ["zoom", "[0.0, 1.0]"]),
    ],
)
def test_settings_out_of_range_are_refused(make, facts):
    with refused(RecipeError, *facts):
        make()
