import math

import numpy as np
import pytest
import torch
from messages import refused
from scipy import ndimage, stats

from cxrignite.data.batch_augment import augment_batch, seeded_uniforms
from cxrignite.data.batch_transforms import RandomErase, RandomIntensity, RandomNoise
from cxrignite.errors import RecipeError


@pytest.fixture
def records() -> torch.Tensor:
    generator = torch.Generator().manual_seed(0)
    return torch.randint(0, 256, (40, 1, 30, 23), dtype=torch.uint8, generator=generator)


def uniforms(count: int) -> np.ndarray:
    return seeded_uniforms(np.arange(count), 1)[0]


@pytest.mark.parametrize("scale", [1, 255])
def test_intensity_is_gamma_then_contrast_about_the_mean_then_an_offset(records, scale):
    transform = RandomIntensity(0.7, gamma=(0.5, 2.0), contrast=0.4, brightness=0.15)
    plan = transform.plan(uniforms(len(records)), (30, 23))
    given = records if scale == 255 else records.float() / 255
    found = augment_batch([transform], given, torch.arange(len(records)))
    for image, (gamma, factor, offset), changed in zip(
        records.double().numpy() / 255, plan.settings, found, strict=True
    ):
        powers = image**gamma
        expected = np.clip((powers - powers.mean()) * factor + powers.mean() + offset, 0, 1)
        np.testing.assert_allclose(changed.numpy(), expected, atol=2e-6)
    # The comparison says little where nothing, or everything, is drawn.
    assert len({tuple(settings == [1, 1, 0]) for settings in plan.settings}) >= 6


def test_intensity_draws_each_part_and_its_probability_on_its_own():
    count = 20_000
    transform = RandomIntensity(0.3, gamma=(0.5, 2.0), contrast=0.4, brightness=0.15)
    plan = transform.plan(uniforms(count), (8, 8))
    drawn = plan.settings != [1, 1, 0]
    np.testing.assert_allclose(drawn.mean(axis=0), 0.3, atol=0.015)
    assert np.abs(np.corrcoef(drawn.T) - np.eye(3)).max() < 5 / np.sqrt(count)
    np.testing.assert_array_equal(plan.chosen, drawn.any(axis=1))
    for values, which, (low, high) in zip(
        plan.settings.T, drawn.T, [(0.5, 2.0), (0.6, 1.4), (-0.15, 0.15)], strict=True
    ):
        spread = stats.uniform(low, high - low)
        assert stats.kstest(values[which], spread.cdf).pvalue > 1e-3


def test_neutral_intensity_gives_the_very_same_image(records):
    transform = RandomIntensity(1.0, gamma=(1.0, 1.0), contrast=0.0, brightness=0.0)
    found = augment_batch([transform], records, torch.arange(len(records)))
    assert torch.equal(found, records.float() / 255)
    assert torch.equal(transform(found, uniforms(len(records))), found)


def test_a_blank_image_stays_blank():
    for level in (0, 255):
        blank = torch.full((4, 1, 9, 9), level, dtype=torch.uint8)
        transform = RandomIntensity(1.0, gamma=(0.5, 2.0), contrast=0.4, brightness=0.0)
        found = augment_batch([transform], blank, torch.arange(4))
        torch.testing.assert_close(found, blank.float() / 255)


def test_noise_is_gaussian_with_a_deviation_of_its_own_for_each_image():
    grey = torch.full((60, 1, 64, 64), 0.5)
    transform = RandomNoise(1.0, std=0.05)
    noise = transform(grey, uniforms(60)).double() - 0.5
    drawn = transform.settings(uniforms(60)[:, 1:], (64, 64))[:, 0]
    np.testing.assert_allclose(noise.std(dim=(1, 2, 3)).numpy(), drawn, rtol=0.06)
    assert stats.kstest(drawn, stats.uniform(0, 0.05).cdf).pvalue > 1e-3
    flat = (noise.flatten(1) / torch.from_numpy(drawn)[:, None]).numpy()
    assert stats.kstest(flat.ravel()[::7], "norm").pvalue > 1e-3
    assert np.abs(np.corrcoef(flat) - np.eye(60)).max() < 5 / 64


def test_noise_keeps_to_the_unit_interval():
    for level in (0.0, 1.0):
        found = RandomNoise(1.0, std=0.5)(torch.full((5, 1, 32, 32), level), uniforms(5))
        assert 0.0 <= float(found.min()) < float(found.max()) <= 1.0


def test_noise_of_deviation_0_gives_the_same_image(records):
    found = augment_batch([RandomNoise(1.0, std=0.0)], records, torch.arange(len(records)))
    assert torch.equal(found, records.float() / 255)


def test_a_rectangle_of_the_size_asked_is_painted_inside_the_image():
    images = torch.zeros(2_000, 1, 40, 60)
    found = RandomErase(1.0, size=(0.1, 0.5), value=0.75)(images, uniforms(2_000))
    heights, widths, tops, lefts = [], [], [], []
    for image in found[:, 0].numpy():
        labelled, number = ndimage.label(image)
        assert number == 1
        rows, columns = ndimage.find_objects(labelled)[0]
        assert (image[rows, columns] == 0.75).all()
        heights.append(rows.stop - rows.start)
        widths.append(columns.stop - columns.start)
        tops.append(rows.start / (40 - heights[-1]))
        lefts.append(columns.start / (60 - widths[-1]))
    assert (min(heights), max(heights)) == (4, 20)
    assert (min(widths), max(widths)) == (6, 30)
    for places in (tops, lefts):  # every place alike, both edges among them
        assert (min(places), max(places)) == (0, 1)
        assert np.mean(places) == pytest.approx(0.5, abs=0.03)
        assert np.std(places) == pytest.approx(1 / math.sqrt(12), abs=0.02)
    assert abs(np.corrcoef(heights, widths)[0, 1]) < 5 / math.sqrt(2_000)


@pytest.mark.parametrize("shape", [(1, 1), (1, 20), (7, 3)])
def test_a_rectangle_covers_a_pixel_at_least_and_the_image_at_most(shape):
    images = torch.zeros(50, 1, *shape)
    small = RandomErase(1.0, size=(0.01, 0.02), value=1.0)(images, uniforms(50))
    assert small.sum(dim=(1, 2, 3)).tolist() == [1.0] * 50
    whole = RandomErase(1.0, size=(1.0, 1.0), value=1.0)(images, uniforms(50))
    assert bool((whole == 1.0).all())


@pytest.mark.parametrize(
    ("make", "facts"),
    [
        (lambda: RandomIntensity(gamma=(0.0, 2.0)), ["gamma", "[0.0, 2.0]"]),
        (lambda: RandomIntensity(gamma=(2.0, 0.5)), ["gamma", "[2.0, 0.5]"]),
        (lambda: RandomIntensity(contrast=1.5), ["contrast", "[0, 1]", "1.5"]),
        (lambda: RandomIntensity(brightness=-0.1), ["brightness", "[0, 1]", "-0.1"]),
        (lambda: RandomIntensity(-1), ["prob", "[0, 1]", "-1"]),
        (lambda: RandomNoise(std=12), ["std", "[0, 1]", "12"]),
        (lambda: RandomErase(size=(0.2, 1.5)), ["size", "<= 1", "[0.2, 1.5]"]),
        (lambda: RandomErase(size=(0.0, 0.5)), ["size", "[0.0, 0.5]"]),
        (lambda: RandomErase(value=128), ["value", "[0, 1]", "128"]),
    ],
)
def test_settings_out_of_range_are_refused(make, facts):
    with refused(RecipeError, *facts):
        make()
