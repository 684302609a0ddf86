import math

import pytest
import torch
from messages import refused

from cxrignite.functional import deletion_curve, insertion_curve, paired_difference, random_maps

# Importance 4, 3, 2, 1 by rows; the image is 1 where it matters most and 0 elsewhere.
IMPORTANCE = torch.tensor([[[4.0, 3.0], [2.0, 1.0]]])
IMAGE = torch.tensor([[[[0.8, 0.4], [0.0, 0.0]]]])


def total(images):
    return images.sum(dim=(1, 2, 3))


def recorder():
    seen = []

    def score(images):
        seen.append(images.clone())
        return total(images)

    return score, seen


def test_a_deletion_curve_is_the_one_worked_out_by_hand():
    # The mean grey is .3: of the sum 1.2 go .5 and .1, then come .3 and .3.
    found = deletion_curve(total, IMAGE, IMPORTANCE, num_steps=4)
    assert found.fraction.tolist() == [0.0, 0.25, 0.5, 0.75, 1.0]
    assert found.score[0].tolist() == pytest.approx([1.2, 0.7, 0.6, 0.9, 1.2])
    assert found.area.tolist() == pytest.approx([(0.6 + 0.7 + 0.6 + 0.9 + 0.6) / 4])


def test_an_insertion_curve_is_the_one_worked_out_by_hand():
    found = insertion_curve(total, IMAGE, IMPORTANCE, num_steps=4, baseline="mean")
    assert found.score[0].tolist() == pytest.approx([1.2, 1.7, 1.8, 1.5, 1.2])
    assert found.area.tolist() == pytest.approx([(0.6 + 1.7 + 1.8 + 1.5 + 0.6) / 4])


def test_pixels_go_in_the_order_of_their_importance():
    score, seen = recorder()
    deletion_curve(score, IMAGE, torch.tensor([[[1.0, 5.0], [7.0, 3.0]]]), num_steps=4)
    gone = [(images != IMAGE).flatten().tolist() for images in seen]
    assert gone == [
        [False, False, False, False],
        [False, False, True, False],
        [False, True, True, False],
        [False, True, True, True],
        [True, True, True, True],
    ]


@pytest.mark.parametrize("num_steps", [1, 3, 4, 7])
def test_a_curve_begins_with_one_image_and_ends_with_the_other(num_steps):
    score, seen = recorder()
    found = insertion_curve(score, IMAGE, IMPORTANCE, num_steps=num_steps, baseline="mean")
    assert len(seen) == num_steps + 1 == found.score.shape[1]
    assert not (seen[0] == IMAGE).any()
    assert torch.equal(seen[-1], IMAGE)
    assert found.fraction[0] == 0.0
    assert found.fraction[-1] == 1.0


def test_the_better_map_has_the_smaller_deletion_and_the_larger_insertion_area():
    generator = torch.Generator().manual_seed(0)
    images = torch.rand(5, 1, 16, 16, generator=generator)
    truth = torch.zeros(5, 16, 16)
    truth[:, 4:8, 4:8] = 1 + torch.rand(5, 4, 4, generator=generator)

    def score(pixels):
        # One where the square is as it was.
        distance = ((pixels - images)[:, 0] * (truth > 0)).abs().mean(dim=(1, 2))
        return (-100 * distance).exp()

    chance = random_maps(5, (16, 16), grid=(4, 4))
    deleted = [deletion_curve(score, images, each).area for each in (truth, chance, -truth)]
    inserted = [insertion_curve(score, images, each).area for each in (truth, chance, -truth)]
    assert (deleted[0] < deleted[1]).all()
    assert (deleted[1] < deleted[2]).all()
    assert (inserted[0] > inserted[1]).all()
    assert (inserted[1] > inserted[2]).all()


def test_equally_important_pixels_go_at_random_and_not_from_above():
    score, seen = recorder()
    image = torch.zeros(1, 1, 20, 20)
    image[0, 0, 0, 0] = 1.0  # so that its mean shows
    deletion_curve(score, image, torch.zeros(1, 20, 20), num_steps=2)
    gone = (seen[1] != image)[0, 0]
    assert gone.sum() == 200
    assert 60 < gone[:10].sum() < 140  # by halves 100, five standard deviations 25 of which
    other, same = (
        deletion_curve(total, image, torch.zeros(1, 20, 20), num_steps=40, seed=seed).score
        for seed in (1, 0)
    )
    assert torch.equal(
        same, deletion_curve(total, image, torch.zeros(1, 20, 20), num_steps=40).score
    )
    assert not torch.equal(other, same)


def test_an_image_has_the_same_curve_alone_and_in_a_batch():
    images, maps = torch.rand(3, 1, 8, 8), torch.rand(3, 8, 8).round(decimals=1)
    for curve in (deletion_curve, insertion_curve):
        together = curve(total, images, maps)
        alone = curve(total, images[1:2], maps[1:2])
        torch.testing.assert_close(together.score[1:2], alone.score)


def test_bytes_and_their_floats_have_one_curve():
    pixels = torch.randint(0, 256, (2, 1, 8, 8), dtype=torch.uint8)
    maps = torch.rand(2, 8, 8)
    expected = insertion_curve(total, pixels.float() / 255, maps)
    assert torch.equal(insertion_curve(total, pixels, maps).score, expected.score)


def test_the_blur_is_that_of_scipy():
    from scipy.ndimage import gaussian_filter

    image = torch.rand(1, 2, 60, 80)
    score, seen = recorder()
    insertion_curve(score, image, torch.rand(1, 60, 80), num_steps=1)
    for channel in (0, 1):
        expected = gaussian_filter(image[0, channel].numpy(), 0.05 * 60, mode="mirror", radius=9)
        torch.testing.assert_close(
            seen[0][0, channel], torch.from_numpy(expected), atol=1e-5, rtol=1e-4
        )


def test_the_blur_of_a_tiny_image_needs_no_more_pixels_than_there_are():
    found = insertion_curve(total, torch.rand(1, 1, 1, 40), torch.rand(1, 1, 40), num_steps=1)
    assert found.score.isfinite().all()


def test_gradients_and_the_images_are_left_alone():
    images, maps = torch.rand(2, 1, 8, 8), torch.rand(2, 8, 8)
    weight = torch.ones(1, requires_grad=True)
    before = images.clone(), maps.clone(), torch.get_rng_state()
    found = deletion_curve(lambda pixels: total(pixels) * weight, images, maps)
    assert not found.score.requires_grad
    assert torch.equal(images, before[0])
    assert torch.equal(maps, before[1])
    assert torch.equal(torch.get_rng_state(), before[2])


@pytest.mark.parametrize("curve", [deletion_curve, insertion_curve])
@pytest.mark.parametrize(
    ("changes", "facts"),
    [
        ({"images": IMAGE[0]}, ["images", "(N, C, H, W)", "(1, 2, 2)"]),
        ({"maps": IMPORTANCE[:, :1]}, ["maps", "(N, H, W)"]),
        ({"maps": IMPORTANCE / 0}, ["maps"]),
        ({"num_steps": 0}, ["num_steps", "1", "0"]),
        ({"baseline": "black"}, ["baseline", "'black'"]),
        ({"score": lambda images: images}, ["(1,)", "1", "2"]),
    ],
)
def test_what_makes_no_curve_is_refused_in_one_line(curve, changes, facts):
    settings = {"score": total, "images": IMAGE, "maps": IMPORTANCE} | changes
    with refused(ValueError, *facts):
        curve(**settings)


def test_random_maps_are_smooth_repeatable_and_leave_the_generator_alone():
    state = torch.get_rng_state()
    maps = random_maps(4, (32, 48), grid=(4, 6), seed=3)
    assert torch.equal(torch.get_rng_state(), state)
    assert maps.shape == (4, 32, 48)
    assert maps.min() >= 0
    assert maps.max() <= 1
    assert maps.diff(dim=2).abs().max() <= 1 / 8  # a place is 8 pixels wide
    assert torch.equal(maps, random_maps(4, (32, 48), grid=(4, 6), seed=3))
    assert not torch.equal(maps, random_maps(4, (32, 48), grid=(4, 6), seed=4))
    with refused(ValueError, "1", "0", "(2, 2)", "(7, 7)"):
        random_maps(0, (2, 2))


def test_a_paired_difference_covers_the_truth_as_often_as_it_says():
    generator = torch.Generator().manual_seed(0)
    covered = 0
    for _ in range(200):
        images = torch.randn(60, generator=generator)  # the same for both, ten times the noise
        figures = 10 * images + 0.3 + torch.randn(60, generator=generator)
        found = paired_difference(figures, 10 * images, num_resamples=500)
        assert found.interval.low < found.mean < found.interval.high
        covered += found.interval.low <= 0.3 <= found.interval.high
    assert 180 <= covered <= 199  # five standard deviations of 95 % in 200


def test_images_of_one_patient_are_not_counted_as_many():
    generator = torch.Generator().manual_seed(0)
    of_patients = torch.randn(12, generator=generator).repeat_interleave(10)
    names = [str(number // 10) for number in range(120)]
    alone = paired_difference(of_patients, torch.zeros(120))
    by_patient = paired_difference(of_patients, torch.zeros(120), names)
    assert alone.mean == by_patient.mean
    widths = [high - low for _, (low, high) in (alone, by_patient)]
    assert widths[1] > 2.5 * widths[0]  # the square root of ten is 3.2


@pytest.mark.parametrize(
    ("figures", "baseline", "patients", "facts"),
    [
        ([1.0, 2.0], [1.0], None, ["(N,)", "(2,)", "(1,)"]),
        ([1.0, float("nan")], [1.0, 1.0], None, ["1"]),
        ([1.0, 2.0], [1.0, 1.0], ["a"], ["patients", "1", "2"]),
    ],
)
def test_figures_that_make_no_pairs_are_refused(figures, baseline, patients, facts):
    with refused(ValueError, *facts):
        paired_difference(figures, baseline, patients)


def test_one_patient_gives_a_mean_difference_and_no_interval():
    found = paired_difference([0.5, 0.75], [0.25, 0.5], ["a", "a"], num_resamples=50)
    assert found.mean == 0.25
    assert all(math.isnan(end) for end in found.interval)
