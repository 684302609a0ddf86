import copy
import pickle

import numpy as np
import pytest
import torch
from messages import refused

from cxrignite.data.batch_augment import BatchAugment, augment_batch, seeded_uniforms
from cxrignite.data.batch_transforms import (
    RandomAffine,
    RandomBlur,
    RandomErase,
    RandomIntensity,
    RandomLowResolution,
    RandomNoise,
)
from cxrignite.errors import DataError

KINDS = [
    RandomIntensity,
    RandomAffine,
    RandomBlur,
    RandomLowResolution,
    RandomNoise,
    RandomErase,
]
SEEDS = [3, 0, 2**32 - 1, 17, 18, 19, 12_345]


def chain(prob: float = 0.6) -> list[BatchAugment]:
    return [kind(prob) for kind in KINDS]


def bytes_of(shape: tuple[int, int], count: int = len(SEEDS)) -> torch.Tensor:
    generator = torch.Generator().manual_seed(0)
    coarse = torch.rand(count, 1, 7, 5, generator=generator)
    smooth = torch.nn.functional.interpolate(coarse, size=shape, mode="bilinear")
    return (smooth * 255).round().to(torch.uint8)


def as_type(images: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    return images if dtype == torch.uint8 else images.float() / 255


@pytest.mark.parametrize("dtype", [torch.uint8, torch.float32])
@pytest.mark.parametrize("shape", [(32, 32), (33, 47), (225, 223)])
@pytest.mark.parametrize("order", [1, -1])
def test_an_image_depends_on_its_seed_alone_to_the_last_bit(shape, dtype, order):
    images, seeds = as_type(bytes_of(shape), dtype), torch.tensor(SEEDS)
    transforms = chain()[::order]
    batch = augment_batch(transforms, images, seeds)
    places = torch.tensor([4, 2, 0, 6, 2])
    assert torch.equal(augment_batch(transforms, images[places], seeds[places]), batch[places])
    for place in range(len(seeds)):
        part = slice(place, place + 1)
        assert torch.equal(augment_batch(transforms, images[part], seeds[part]), batch[part])


@pytest.mark.parametrize("dtype", [torch.uint8, torch.float32])
@pytest.mark.parametrize("kind", KINDS)
def test_the_number_of_threads_changes_no_bit(kind, dtype):
    # Large enough for torch to share out, and of no even number of pixels.
    images, seeds = as_type(bytes_of((331, 219)), dtype), torch.tensor(SEEDS)
    before = torch.get_num_threads()
    results = []
    try:
        for num_threads in (1, 2, 3, 7):
            torch.set_num_threads(num_threads)
            results.append(augment_batch([kind(1.0)], images, seeds))
    finally:
        torch.set_num_threads(before)
    for result in results[1:]:
        assert torch.equal(result, results[0])


def test_global_random_state_is_neither_read_nor_changed():
    images, seeds = bytes_of((40, 30)), torch.tensor(SEEDS)
    torch.manual_seed(1)
    first = augment_batch(chain(), images, seeds)
    torch.manual_seed(2)
    numpy_state, torch_state = np.random.get_state()[1].copy(), torch.get_rng_state()  # noqa: NPY002
    assert torch.equal(augment_batch(chain(), images, seeds), first)
    np.testing.assert_array_equal(np.random.get_state()[1], numpy_state)  # noqa: NPY002
    assert torch.equal(torch.get_rng_state(), torch_state)


def test_other_seeds_give_other_images():
    images = bytes_of((24, 24), 1).expand(200, -1, -1, -1)
    changed = augment_batch(chain(0.9), images, torch.arange(200))
    assert len({image.numpy().tobytes() for image in changed}) == 200


def test_two_of_a_kind_draw_each_its_own():
    images = torch.zeros(1, 1, 100, 100)
    erase = RandomErase(1.0, size=(0.1, 0.1), value=1.0)
    once, twice = (augment_batch([erase] * number, images, torch.tensor([5])) for number in (1, 2))
    assert float(once.sum()) == 100
    assert float(twice.sum()) > 100
    assert bool((twice >= once).all())


@pytest.mark.parametrize("dtype", [torch.uint8, torch.float32])
@pytest.mark.parametrize("transforms", [[], chain(0.0), chain(1.0)], ids=["empty", "0", "1"])
def test_the_result_is_float_with_its_own_memory_and_leaves_the_images_alone(transforms, dtype):
    images = as_type(bytes_of((29, 31)), dtype)
    given = images.clone()
    changed = augment_batch(transforms, images, torch.tensor(SEEDS))
    assert changed.dtype == torch.float32
    assert changed.shape == images.shape
    assert changed.is_contiguous()
    assert changed.untyped_storage().nbytes() == changed.numel() * 4
    changed.fill_(0.5)
    assert torch.equal(images, given)


@pytest.mark.parametrize("transforms", [[], chain(0.0)], ids=["empty", "never"])
def test_where_nothing_is_drawn_images_are_only_scaled(transforms):
    images = bytes_of((29, 31))
    expected = images.float() / 255
    assert torch.equal(augment_batch(transforms, images, torch.tensor(SEEDS)), expected)
    assert torch.equal(augment_batch(transforms, expected, torch.tensor(SEEDS)), expected)


@pytest.mark.parametrize("kind", KINDS)
def test_where_all_are_drawn_every_image_changes(kind):
    images = bytes_of((29, 31), 200)
    changed = augment_batch([kind(1.0)], images, torch.arange(200))
    differences = (changed - images.float() / 255).abs().amax(dim=(1, 2, 3))
    assert float(differences.min()) > 1e-4


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind is not RandomIntensity])
def test_the_share_asked_for_is_drawn(kind):
    random = seeded_uniforms(np.arange(20_000), 1)[0]
    assert kind(0.3).plan(random, (20, 20)).chosen.mean() == pytest.approx(0.3, abs=0.015)


@pytest.mark.parametrize("kind", KINDS)
def test_bytes_and_floats_give_the_same_image(kind):
    images, seeds = bytes_of((37, 41)), torch.tensor(SEEDS)
    found = augment_batch([kind(0.7)], images, seeds)
    expected = augment_batch([kind(0.7)], images.float() / 255, seeds)
    torch.testing.assert_close(found, expected, rtol=0, atol=2e-6)


@pytest.mark.parametrize("shape", [(1, 1), (1, 17), (16, 2), (33, 47)])
@pytest.mark.parametrize("prob", [0.5, 1.0])
def test_shape_and_range_are_kept(shape, prob):
    images = torch.randint(0, 256, (40, 1, *shape), dtype=torch.uint8)
    changed = augment_batch(chain(prob), images, torch.arange(40))
    assert changed.shape == images.shape
    assert float(changed.min()) >= 0.0
    assert float(changed.max()) <= 1.0


def test_floats_out_of_range_are_clamped():
    images = torch.tensor([-0.5, 0.25, 1.5]).view(1, 1, 1, 3)
    assert augment_batch([], images, torch.tensor([1])).flatten().tolist() == [0.0, 0.25, 1.0]
    changed = augment_batch([RandomIntensity(1.0)], images, torch.tensor([1]))
    assert bool(torch.isfinite(changed).all())


def test_no_image_gives_none():
    for dtype in (torch.uint8, torch.float32):
        empty = torch.empty(0, 1, 8, 8, dtype=dtype)
        changed = augment_batch(chain(), empty, torch.empty(0, dtype=torch.int64))
        assert changed.shape == (0, 1, 8, 8)
        assert changed.dtype == torch.float32


@pytest.mark.parametrize("kind", KINDS)
def test_images_that_lie_otherwise_in_memory_give_the_same(kind):
    images, seeds = bytes_of((225, 223)), torch.tensor(SEEDS)
    for dtype in (torch.uint8, torch.float32):
        given = as_type(images, dtype)
        turned = given.transpose(2, 3).contiguous().transpose(2, 3)
        expected = augment_batch([kind(1.0)], given, seeds)
        assert torch.equal(augment_batch([kind(1.0)], turned, seeds), expected)


@pytest.mark.parametrize("dtype", [torch.uint8, torch.float32])
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("prob", [0.5, 1.0])
def test_a_batch_changed_as_a_whole_is_as_its_images_one_by_one(kind, dtype, prob):
    # As on a GPU.
    images, transform = as_type(bytes_of((37, 41), 20), dtype), kind(prob)
    given = images.clone()
    random = seeded_uniforms(np.arange(20), 1)[0]
    whole = transform.apply(images, transform.plan(random, (37, 41)))
    if dtype == torch.float32:
        assert torch.equal(transform(images, random), whole)
    expected = augment_batch([transform], images, torch.arange(20))
    torch.testing.assert_close(whole, expected, rtol=0, atol=2e-6)
    assert torch.equal(images, given)


def test_transforms_travel_to_workers():
    images, seeds = bytes_of((20, 20)), torch.tensor(SEEDS)
    expected = augment_batch(chain(), images, seeds)
    for travelled in (pickle.loads(pickle.dumps(chain())), copy.deepcopy(chain())):
        assert torch.equal(augment_batch(travelled, images, seeds), expected)


def test_a_run_that_must_be_deterministic_may_use_them():
    images, seeds = bytes_of((20, 20)), torch.tensor(SEEDS)
    expected = augment_batch(chain(), images, seeds)
    torch.use_deterministic_algorithms(True)
    try:
        assert torch.equal(augment_batch(chain(), images, seeds), expected)
    finally:
        torch.use_deterministic_algorithms(False)


@pytest.mark.parametrize(
    ("images", "seeds", "facts"),
    [
        (torch.zeros(2, 3, 8, 8), torch.tensor([1, 2]), ["(N, 1, H, W)", "(2, 3, 8, 8)"]),
        (torch.zeros(2, 8, 8), torch.tensor([1, 2]), ["(N, 1, H, W)", "(2, 8, 8)"]),
        (torch.zeros(2, 1, 0, 8), torch.tensor([1, 2]), ["(N, 1, H, W)", "(2, 1, 0, 8)"]),
        (
            torch.zeros(2, 1, 8, 8).double(),
            torch.tensor([1, 2]),
            ["uint8", "float32", "torch.float64"],
        ),
        (torch.zeros(2, 1, 8, 8), torch.tensor([1]), ["(2,)", "torch.int64", "(1,)"]),
        (torch.zeros(2, 1, 8, 8), torch.tensor([1.0, 2.0]), ["int64", "(2,)", "torch.float32"]),
        (torch.zeros(2, 1, 8, 8), torch.tensor([5, -1]), ["[0, 2**32)", "-1", "5"]),
        (torch.zeros(1, 1, 8, 8), torch.tensor([2**32]), ["[0, 2**32)", "4294967296"]),
    ],
)
def test_wrong_images_and_seeds_are_refused(images, seeds, facts):
    with refused(DataError, *facts):
        augment_batch(chain(), images, seeds)


@pytest.mark.cuda
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("dtype", [torch.uint8, torch.float32])
def test_a_gpu_gives_the_same_but_for_rounding_and_noise(kind, dtype):
    images, seeds = as_type(bytes_of((225, 223), 40), dtype), torch.arange(40)
    expected = augment_batch([kind(0.6)], images, seeds)
    for their_seeds in (seeds, seeds.cuda()):
        found = augment_batch([kind(0.6)], images.cuda(), their_seeds)
        assert found.is_cuda
        if kind is RandomNoise:
            plain = augment_batch([], images, seeds)
            deviations = [(each.cpu() - plain).std(dim=(1, 2, 3)) for each in (found, expected)]
            torch.testing.assert_close(*deviations, rtol=0.05, atol=1e-3)
        else:
            torch.testing.assert_close(found.cpu(), expected, rtol=0, atol=1e-4)


@pytest.mark.cuda
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_a_gpu_is_not_waited_for():
    images, seeds = bytes_of((64, 64)).cuda(), torch.tensor(SEEDS)
    augment_batch(chain(), images, seeds)
    torch.cuda.set_sync_debug_mode("error")
    try:
        augment_batch(chain(), images, seeds)
    finally:
        torch.cuda.set_sync_debug_mode("default")
