import importlib.metadata
import inspect
import os
import subprocess
import sys
from collections.abc import Callable
from errno import ENOENT
from pathlib import Path

import numpy as np
import pytest
import torch
from messages import refused
from monai.data import MetaTensor
from monai.data.meta_obj import get_track_meta
from monai.transforms import (
    CenterSpatialCrop,
    Compose,
    EnsureChannelFirst,
    GaussianSmooth,
    Lambda,
    NormalizeIntensity,
    RandAdjustContrast,
    RandAffine,
    RandGaussianNoise,
    RandShiftIntensity,
    RandSpatialCropSamples,
    Resize,
)

from cxrignite.data.pipeline import Pipeline
from cxrignite.data.reading import read_image
from cxrignite.data.transforms import named_transform
from cxrignite.errors import DataError, RecipeError, UnreadableImageError


@pytest.fixture
def path(tmp_path, write_image):
    return write_image(tmp_path / "a.png", height=40, width=56, seed=4)


def augmentation() -> list:
    return [
        RandAffine(prob=0.8, rotate_range=0.3, scale_range=0.2, translate_range=5),
        Compose([RandAdjustContrast(prob=0.8, gamma=(0.5, 2.0)), RandGaussianNoise(prob=0.8)]),
    ]


def test_without_transforms_the_image_is_the_file(path):
    image = Pipeline()(path)
    assert image.shape == (1, 40, 56)
    assert image.dtype == torch.uint8
    np.testing.assert_array_equal(image[0].numpy(), read_image(path))


def test_an_image_of_a_batch_is_augmented_by_its_own_seed_alone(path):
    pipeline = Pipeline(augment=augmentation())
    images, seeds = pipeline.read(path).expand(3, -1, -1, -1), [5, 6, 7]
    together = pipeline.augmented(images, seeds, [path] * 3, as_batch=False)
    alone = [pipeline.augmented(images[:1], [seed], [path], as_batch=False) for seed in seeds]
    assert torch.equal(together, torch.cat(alone))
    assert not torch.equal(together[0], together[1])


def test_preprocessing_gives_rounded_eight_bit_images(path):
    image = Pipeline([Resize([20, 28])])(path)
    assert image.shape == (1, 20, 28)
    assert image.dtype == torch.uint8
    # MONAI's default mode is the mean over each area.
    blocks = read_image(path).reshape(20, 2, 28, 2).mean(axis=(1, 3))
    assert np.abs(image[0].numpy() - blocks).max() <= 0.5 + 1e-3


def test_without_a_seed_nothing_is_augmented(path):
    pipeline = Pipeline([Resize([20, 28])], augmentation())
    torch.testing.assert_close(pipeline(path), Pipeline([Resize([20, 28])])(path), rtol=0, atol=0)


def test_an_augmented_image_is_float_in_the_unit_interval(path):
    image = Pipeline(augment=[RandShiftIntensity(offsets=(0.5, 0.6), prob=1.0)])(path, seed=1)
    assert image.dtype == torch.float32
    expected = torch.from_numpy(read_image(path)).float()[None] / 255
    assert float(image.min()) >= 0.5
    assert float(image.max()) == 1.0
    assert bool((image >= expected).all())


@pytest.mark.parametrize("seed", [None, 3])
def test_the_result_is_a_plain_tensor_with_its_own_memory(path, seed):
    image = Pipeline([CenterSpatialCrop([10, 12])], [*augmentation(), Lambda(lambda x: x[:, ::2])])(
        path, seed
    )
    assert type(image) is torch.Tensor
    assert not isinstance(image, MetaTensor)
    assert image.is_contiguous()
    assert image.untyped_storage().nbytes() == image.numel() * image.element_size()


def test_the_same_seed_gives_the_same_image_whatever_came_before(path):
    pipeline = Pipeline(augment=augmentation())
    first = pipeline(path, seed=7)
    for seed in range(5):
        pipeline(path, seed)
    np.random.seed(0)  # noqa: NPY002
    torch.manual_seed(0)
    assert torch.equal(pipeline(path, seed=7), first)
    assert torch.equal(Pipeline(augment=augmentation())(path, seed=7), first)


def test_other_seeds_give_other_images(path):
    pipeline = Pipeline(augment=augmentation())
    images = {pipeline(path, seed).numpy().tobytes() for seed in range(20)}
    assert len(images) >= 19


def test_transforms_of_one_kind_do_not_move_together(path):
    shifts = [RandShiftIntensity(offsets=0.1, prob=1.0) for _ in range(2)]
    Pipeline(augment=shifts)(path, seed=5)
    assert shifts[0]._offset != shifts[1]._offset


def test_the_largest_seed_is_taken(path):
    assert Pipeline(augment=augmentation())(path, seed=2**32 - 1).shape == (1, 40, 56)


def test_global_random_and_monai_state_are_left_alone(path):
    torch.manual_seed(2)
    numpy_state, torch_state = np.random.get_state()[1].copy(), torch.get_rng_state()  # noqa: NPY002
    Pipeline([Resize([20, 28])], augmentation())(path, seed=7)
    np.testing.assert_array_equal(np.random.get_state()[1], numpy_state)  # noqa: NPY002
    assert torch.equal(torch.get_rng_state(), torch_state)
    assert get_track_meta() is True


def failing(image: torch.Tensor) -> torch.Tensor:
    raise RuntimeError("this cannot be")


def test_monai_state_is_restored_after_a_failure_which_names_transform_and_file(path):
    with refused(DataError, "Lambda", path, "this cannot be"):
        Pipeline([Lambda(failing)])(path)
    assert get_track_meta() is True


def out_of_memory(image: torch.Tensor) -> torch.Tensor:
    raise MemoryError


def test_memory_that_runs_out_in_a_transform_is_no_fault_of_the_image(path):
    with pytest.raises(MemoryError):
        Pipeline([Lambda(out_of_memory)])(path)


@pytest.mark.parametrize(
    ("random", "name"),
    [(RandAffine(prob=0.5), "RandAffine"), (Compose([RandGaussianNoise()]), "RandGaussianNoise")],
)
def test_a_random_transform_in_preprocess_is_refused(random, name):
    with refused(RecipeError, "preprocess", name):
        Pipeline([Resize([8, 8]), random])


@pytest.mark.parametrize(
    ("transform", "facts"),
    [
        (EnsureChannelFirst(channel_dim="no_channel"), ["(1, 1, 40, 56)"]),
        (NormalizeIntensity(subtrahend=0.5, divisor=0.1), ["[0, 1]", "-3.98"]),
        (Lambda(lambda image: image * 255), ["[0, 1]", "255"]),
        (Lambda(lambda image: image * float("nan")), ["[0, 1]", "[nan, nan]"]),
    ],
)
def test_another_shape_or_scale_is_refused_by_transform_and_file(path, transform, facts):
    facts = [*facts, type(transform).__name__, path]
    with refused(DataError, *facts):
        Pipeline([transform])(path)
    with refused(DataError, *facts):
        Pipeline(augment=[transform])(path, seed=1)


def test_samples_and_nothing_are_refused(path):
    with refused(DataError, "(1, 0, 0)", "Lambda", path):
        Pipeline([Lambda(lambda image: image[:, :0, :0])])(path)
    with refused(DataError, "list", "RandSpatialCropSamples", path):
        Pipeline(augment=[RandSpatialCropSamples([8, 8], num_samples=2)])(path, seed=1)


def test_an_unreadable_file_is_named(tmp_path):
    with refused(UnreadableImageError, tmp_path / "absent.png", os.strerror(ENOENT)):
        Pipeline([Resize([8, 8])])(tmp_path / "absent.png")


def test_one_pixel_and_one_column_can_be_resized(tmp_path, write_image: Callable):
    for height, width in ((1, 1), (50, 1), (1, 50)):
        path = write_image(tmp_path / "small.png", height=height, width=width)
        assert Pipeline([Resize([16, 16])], augmentation())(path, seed=1).shape == (1, 16, 16)


def test_a_transform_that_draws_from_global_random_state_is_refused():
    from monai.transforms import RandTorchVision

    transform = RandTorchVision(name="ColorJitter", brightness=0.5)
    for setting in ("augment", "preprocess"):
        with refused(RecipeError, setting, "RandTorchVision"):
            Pipeline(**{setting: [transform]})


def test_the_fingerprint_knows_all_code_that_reads_a_dicom(monkeypatch):
    before = Pipeline().fingerprint()
    data_room = Path(inspect.getfile(Pipeline)).parent
    names = {f"cxrignite.data.{path.stem}" for path in data_room.glob("dicom*.py")}
    assert "cxrignite.data.dicom_values" in names
    source = inspect.getsource
    for name in names:
        with monkeypatch.context() as patch:
            patch.setattr(inspect, "getsource", lambda it: source(it) + "#" * (it.__name__ == name))  # noqa: B023
            assert Pipeline().fingerprint() != before, name
    with monkeypatch.context() as patch:
        patch.setattr(importlib.metadata, "version", lambda name: "4.0")
        assert Pipeline().fingerprint() != before
    assert Pipeline().fingerprint() == before


@pytest.mark.integration
def test_the_data_room_imports_no_monai_and_no_pydicom_for_images_that_are_no_dicom(path):
    code = (
        "import sys, cxrignite.data; print('monai' in sys.modules)\n"
        "pipeline = cxrignite.data.Pipeline(); pipeline.fingerprint(); pipeline.read(sys.argv[1])\n"
        "print('pydicom' in sys.modules)"
    )
    # A forked process has both.
    done = subprocess.run(
        [sys.executable, "-c", code, path], capture_output=True, text=True, check=True
    )
    assert done.stdout.split() == ["False", "False"]


def test_a_transform_is_made_by_its_name_and_settings(path):
    named = named_transform("monai.transforms.GaussianSmooth", {"sigma": 1.0})
    assert torch.equal(Pipeline([named])(path), Pipeline([GaussianSmooth(sigma=1.0)])(path))


@pytest.mark.parametrize(
    ("class_path", "settings"),
    [
        ("os.system", {}),
        ("monai.transforms.NoSuch", {}),
        ("monai.transforms.Path", {}),
        ("monai.transforms.io.array.SaveImage", {}),
        ("monai.transforms.GaussianSmooth", {"sigm": 1}),
    ],
)
def test_no_other_class_is_made(class_path, settings):
    with refused(RecipeError, class_path):
        named_transform(class_path, settings)
