import numpy as np
import pytest
import torch
from messages import refused

from cxrignite.data import View
from cxrignite.errors import RecipeError

IMAGES = torch.randint(0, 256, (5, 1, 32, 24), generator=torch.Generator().manual_seed(0)).byte()


def test_a_shift_moves_down_and_to_the_right_and_what_comes_in_is_black():
    shifted = View(shift=(0.25, 0.5))(IMAGES)
    assert torch.allclose(shifted[:, :, 8:, 12:], IMAGES[:, :, :24, :12] / 255, atol=1e-5)
    assert shifted[:, :, :7].abs().max() == 0
    assert shifted[:, :, :, :11].abs().max() == 0
    back = View(shift=(-0.25, 0.0))(IMAGES)
    assert torch.allclose(back[:, :, :24], IMAGES[:, :, 8:] / 255, atol=1e-5)


def test_a_scale_magnifies_about_the_centre():
    ramp = torch.linspace(0, 1, 64).expand(1, 1, 64, 64)
    steps = {scale: View(scale=scale)(ramp)[0, 0, 32, 30:35].diff().mean() for scale in (1.25, 0.8)}
    step = 1 / 63
    np.testing.assert_allclose([*steps.values()], [step / 1.25, step / 0.8], rtol=1e-4)
    middle = View(scale=1.25)(ramp)[0, 0, 32, 31:33].mean()
    assert abs(middle - 0.5) < 1e-5


def test_gamma_is_a_power_of_each_grey_level():
    expected = (IMAGES.numpy() / 255) ** 1.2
    np.testing.assert_allclose(View(gamma=1.2)(IMAGES), expected, atol=1e-6)


@pytest.mark.parametrize("view", [View(gamma=0.9), View((0.02, -0.03), 1.07, 1.1)])
def test_a_view_depends_on_its_image_only_to_the_last_bit(view):
    before, whole = IMAGES.clone(), view(IMAGES)
    assert (whole.dtype, whole.shape) == (torch.float32, IMAGES.shape)
    assert torch.equal(whole[3:], view(IMAGES[3:]))
    assert torch.equal(whole.flip(0), view(IMAGES.flip(0)))
    assert torch.equal(IMAGES, before)
    assert 0 <= whole.min() <= whole.max() <= 1 + 1e-6


@pytest.mark.parametrize(
    ("settings", "facts"),
    [
        ({}, ["data.views"]),
        ({"shift": (0.6, 0.0)}, ["shift", 0.6]),
        ({"scale": 0.4}, ["scale", 0.4]),
        ({"gamma": 5.0}, ["gamma", 5.0]),
    ],
)
def test_a_view_that_is_none_or_too_large_is_refused(settings, facts):
    with refused(RecipeError, *facts):
        View(**settings)
