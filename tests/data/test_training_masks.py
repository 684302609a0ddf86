import numpy as np
import pytest
import torch
from messages import refused
from PIL import Image

from cxrignite.data import (
    BatchAugment,
    ImageRecord,
    Pipeline,
    RandomAffine,
    RandomBlur,
    RandomErase,
    RandomIntensity,
    RandomLowResolution,
    RandomNoise,
    augment_batch,
)
from cxrignite.data.batch_augment import augment_masks
from cxrignite.data.training_masks import TrainingMasks
from cxrignite.errors import DataError, RecipeError

SIDE, NUM_IMAGES = 48, 12
SIZE = (SIDE, SIDE)
AFFINE = RandomAffine(0.8, 0.4, (0.8, 1.25), 0.2)


@pytest.fixture
def folder(tmp_path):
    """Images with a bright rectangle, each of which is the mask of itself."""
    rng = np.random.default_rng(0)
    for number in range(NUM_IMAGES):
        row, column = rng.integers(8, 24, 2)
        pixels = np.zeros(SIZE, np.uint8)
        pixels[row : row + 14, column : column + 10] = 255
        Image.fromarray(pixels).save(tmp_path / f"{number}.png")
    return tmp_path


def records_of(folder, labels=None, kind="mask"):
    return [
        ImageRecord(
            str(folder / f"{number}.png"),
            f"{number}.png",
            1 if labels is None else labels[number],
            "p",
            "train",
            {kind: f"{number}.png"},
        )
        for number in range(NUM_IMAGES)
    ]


def masks_of(folder, records, augment=(), size=SIZE, findings=("Mass",), **options):
    pipeline = Pipeline(batch_augment=augment, **options)
    return TrainingMasks(records, findings, folder, pipeline, SIZE, size)


def test_a_mask_moves_as_its_image_moves_wherever_the_transform_stands(folder):
    # Transforms of grey values draw numbers as well, and must not shift those of the geometry.
    keep = RandomIntensity(0.0)
    augment = [keep, AFFINE, RandomNoise(0.0), RandomAffine(0.5)]
    pipeline, index = Pipeline(batch_augment=augment), torch.tensor([3, 0, 7, 7, 11])
    seeds = torch.tensor([5, 6, 7, 8, 2**31])
    images = torch.stack([pipeline.read(folder / f"{each}.png") for each in index.tolist()])
    moved = augment_batch(augment, images, seeds)[:, 0]
    found = masks_of(folder, records_of(folder), augment).of(index, seeds)
    assert found.rows.tolist() == [0, 1, 2, 3, 4]
    assert found.findings.tolist() == [0] * 5
    assert (moved != images[:, 0] / 255).any()
    torch.testing.assert_close(found.masks, moved, atol=1e-5, rtol=0)


def test_a_small_mask_moves_as_a_large_one(folder):
    large, small = (
        masks_of(folder, records_of(folder), [AFFINE], size).of(
            torch.arange(NUM_IMAGES), torch.arange(NUM_IMAGES)
        )
        for size in (SIZE, (SIDE // 2, SIDE // 2))
    )
    shrunk = torch.nn.functional.avg_pool2d(large.masks[:, None], 2)[:, 0]
    assert (shrunk - small.masks).abs().mean() < 0.02
    assert ((shrunk > 0.5) != (small.masks > 0.5)).float().mean() < 0.02


def test_only_known_positive_labels_with_a_mask_have_one(folder):
    labels = [(1, 0), (0, 1), (-1, -1), (1, 1), *[(0, 0)] * 8]
    records = records_of(folder, labels, kind="mask:Mass")
    masks = masks_of(folder, records, findings=("Mass", "Nodule"))
    assert len(masks) == 2
    found = masks.of(torch.tensor([3, 2, 1, 0]), torch.arange(4))
    assert (found.rows.tolist(), found.findings.tolist()) == ([0, 3], [0, 0])


def test_a_mask_without_a_pixel_and_one_moved_out_of_the_image_are_none(folder):
    Image.fromarray(np.zeros(SIZE, np.uint8)).save(folder / "0.png")
    masks = masks_of(folder, records_of(folder), [RandomAffine(1.0, 0.0, (1.0, 1.0), 1.0)])
    assert len(masks) == NUM_IMAGES - 1
    found = masks.of(torch.arange(NUM_IMAGES), torch.arange(NUM_IMAGES))
    assert 0 < len(found.rows) < NUM_IMAGES - 1
    assert (found.masks.amax(dim=(1, 2)) > 0).all()


def test_a_mask_of_another_size_than_the_images_is_refused(folder):
    with refused(DataError, "0.png", "24 x 24", "48 x 48"):
        TrainingMasks(records_of(folder), ["Mass"], folder, Pipeline(), (24, 24), (12, 12))


def test_a_transform_must_say_if_it_moves_pixels(folder):
    class Own(BatchAugment):
        settings = change = None

        def __init__(self):
            super().__init__(0.5)

    Own.__abstractmethods__ = frozenset()
    with refused(RecipeError, "Own", "is_geometric"):
        masks_of(folder, records_of(folder), [Own()])


def test_monai_s_transforms_of_grey_values_are_taken_and_others_refused(folder):
    from monai.transforms import Compose, RandAdjustContrast, RandAffine, RandGaussianNoise

    grey = [Compose([RandAdjustContrast(), RandGaussianNoise()])]
    TrainingMasks(records_of(folder), ["Mass"], folder, Pipeline([], grey), SIZE, SIZE)
    with refused(RecipeError, "RandAffine", "batch_augment"):
        pipeline = Pipeline([], [*grey, RandAffine(prob=0.5)])
        TrainingMasks(records_of(folder), ["Mass"], folder, pipeline, SIZE, SIZE)


@pytest.mark.parametrize(
    "kind", [RandomBlur, RandomErase, RandomIntensity, RandomLowResolution, RandomNoise]
)
def test_transforms_of_grey_values_leave_masks_alone(kind):
    masks = torch.rand(3, 8, 8)
    assert torch.equal(augment_masks([kind(1.0)], masks, torch.arange(3), (16, 16)), masks)
