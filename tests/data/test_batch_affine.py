import math

import numpy as np
import pytest
import torch
from messages import refused
from scipy import ndimage, stats

from cxrignite.data.batch_augment import NUM_UNIFORMS, seeded_uniforms
from cxrignite.data.batch_transforms import RandomAffine
from cxrignite.errors import RecipeError


def draws(*numbers: float) -> np.ndarray:
    """Uniforms of one image that is chosen."""
    return np.array([[0.0, *numbers, *[0.5] * (NUM_UNIFORMS - 1 - len(numbers))]])


def fixed(*, angle=0.0, scale=1.0, down=0.0, right=0.0) -> tuple[RandomAffine, np.ndarray]:
    """A transform whose draws are known; the signs are those of the numbers."""
    shift = max(abs(down), abs(right))
    sides = [0.5 + 0.5 * each / shift if shift else 0.5 for each in (down, right)]
    transform = RandomAffine(1.0, rotate=abs(angle), scale=(scale, scale), shift=shift)
    return transform, draws(float(angle > 0), 0.5, 0.5, *sides)


def dot(row: int, column: int, shape=(41, 61)) -> torch.Tensor:
    image = torch.zeros(1, 1, *shape)
    image[0, 0, row, column] = 1
    return image


def centre_of_mass(image: torch.Tensor) -> tuple[float, float]:
    return tuple(float(each) for each in ndimage.center_of_mass(image[0, 0].numpy()))


@pytest.mark.parametrize("shape", [(64, 64), (45, 60), (61, 38)])
@pytest.mark.parametrize("seed", range(6))
def test_it_is_the_affine_map_of_scipy(shape, seed):
    random = np.random.default_rng(seed)
    image = random.random(shape, dtype=np.float32)
    transform = RandomAffine(1.0, rotate=0.6, scale=(0.6, 1.7), shift=0.2)
    numbers = random.random(5)
    angle = -0.6 + 1.2 * numbers[0]
    scale = 1 / (1 / 1.7 + (1 / 0.6 - 1 / 1.7) * numbers[1:3])
    shift = (-0.2 + 0.4 * numbers[3:]) * shape
    # Rows point down: an anticlockwise turn, of the image that is magnified first.
    turn = np.array([[math.cos(angle), -math.sin(angle)], [math.sin(angle), math.cos(angle)]])
    back = np.linalg.inv(turn @ np.diag(scale))
    centre = (np.array(shape) - 1) / 2
    expected = ndimage.affine_transform(
        image.astype(np.float64),
        back,
        centre - back @ (centre + shift),
        order=1,
        mode="grid-constant",
    )
    found = transform(torch.from_numpy(image)[None, None], draws(*numbers))
    np.testing.assert_allclose(found[0, 0].numpy(), expected, atol=2e-5)


def test_a_positive_angle_turns_anticlockwise_in_pixels_of_any_aspect():
    transform, random = fixed(angle=math.pi / 2)
    turned = transform(dot(20, 40), random)
    assert centre_of_mass(turned) == pytest.approx((10, 30), abs=1e-3)


def test_scale_magnifies_about_the_centre():
    transform, random = fixed(scale=2.0)
    assert centre_of_mass(transform(dot(25, 36), random)) == pytest.approx((30, 42), abs=1e-3)
    transform, random = fixed(scale=0.5)
    small = transform(torch.ones(1, 1, 40, 60), random)
    assert float(small.sum()) == pytest.approx(20 * 30, rel=1e-4)


def test_shift_moves_by_a_share_of_each_side():
    transform, random = fixed(down=0.1, right=-0.2)
    moved = transform(dot(10, 40, (40, 60)), random)
    assert centre_of_mass(moved) == pytest.approx((14, 28), abs=1e-3)


def test_what_comes_from_outside_is_black():
    transform, random = fixed(down=0.25)
    moved = transform(torch.ones(1, 1, 8, 8), random)
    assert float(moved[..., :2, :].abs().max()) < 1e-5
    assert float(moved[..., 2:, :].min()) > 1 - 1e-5


@pytest.mark.parametrize("shape", [(1, 1), (1, 9), (224, 224), (37, 53)])
def test_without_rotation_scale_and_shift_the_image_stays(shape):
    images = torch.rand(3, 1, *shape, generator=torch.Generator().manual_seed(0))
    random = seeded_uniforms(np.arange(3), 1)[0]
    transform = RandomAffine(1.0, rotate=0.0, scale=(1.0, 1.0), shift=0.0)
    torch.testing.assert_close(transform(images, random), images, rtol=0, atol=2e-5)


def test_its_draws_are_even_over_their_ranges():
    transform = RandomAffine(1.0, rotate=0.15, scale=(0.8, 1.15), shift=0.07)
    plan = transform.plan(seeded_uniforms(np.arange(5_000), 1)[0], (50, 50))
    column, row = plan.settings.reshape(-1, 2, 3).transpose(1, 0, 2)
    angle = np.arctan2(-column[:, 0], column[:, 1])
    steps = [np.hypot(each[:, 0], each[:, 1]) for each in (column, row)]
    starts = np.stack([column[:, 2], row[:, 2]], axis=1)[..., None]
    matrices = np.stack([column[:, 1::-1], row[:, 1::-1]], axis=1)
    right, down = -np.linalg.solve(matrices, starts)[..., 0].T / 2
    low, high = 1 / 1.15, 1 / 0.8
    for values, bounds in (
        (angle, (-0.15, 0.15)),
        (steps[0], (low, high)),
        (steps[1], (low, high)),
        (down, (-0.07, 0.07)),
        (right, (-0.07, 0.07)),
    ):
        spread = stats.uniform(bounds[0], bounds[1] - bounds[0])
        assert stats.kstest(values, spread.cdf).pvalue > 1e-3
    drawn = np.stack([angle, *steps, down, right])
    assert np.abs(np.corrcoef(drawn) - np.eye(5)).max() < 5 / np.sqrt(5_000)


@pytest.mark.parametrize(
    ("settings", "facts"),
    [
        ({"prob": 2}, ["prob", "[0, 1]", "2"]),
        ({"prob": math.nan}, ["prob", "[0, 1]", "nan"]),
        ({"rotate": -0.1}, ["rotate", "[0, pi]", "-0.1"]),
        ({"rotate": 15}, ["rotate", "[0, pi]", "15"]),
        ({"scale": (1.2, 0.8)}, ["scale", "[1.2, 0.8]"]),
        ({"scale": (0.0, 1.0)}, ["scale", "[0.0, 1.0]"]),
        ({"scale": (0.5, math.inf)}, ["scale", "[0.5, inf]"]),
        ({"scale": (0.5, 1.0, 1.5)}, ["scale", "[0.5, 1.0, 1.5]"]),
        ({"shift": 16}, ["shift", "[0, 1]", "16"]),
    ],
)
def test_settings_out_of_range_are_refused(settings, facts):
    with refused(RecipeError, *facts):
        RandomAffine(**settings)
