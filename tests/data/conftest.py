from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from cxrignite.data.sources import ClassFolders, Film


@pytest.fixture
def write_image() -> Callable[..., Path]:
    """Writes a grey image of smooth noise, so that JPEG keeps it well."""

    def write(path: Path, *, height: int = 24, width: int = 32, seed: int = 0) -> Path:
        path.parent.mkdir(parents=True, exist_ok=True)
        coarse = np.random.default_rng(seed).integers(0, 256, (4, 4), dtype=np.uint8)
        Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC).save(path)
        return path

    return write


@pytest.fixture
def make_films(tmp_path: Path, write_image: Callable[..., Path]) -> Callable[..., list[Film]]:
    """Makes a data set in the manner of ChestXRay2017, one film a patient."""

    def make(num_normal: int = 10, num_pneumonia: int = 16, num_test: int = 0) -> list[Film]:
        for number in range(num_normal):
            write_image(tmp_path / f"train/NORMAL/IM-{number:04}-0001.png", seed=number)
        for number in range(num_pneumonia):
            path = tmp_path / f"train/PNEUMONIA/person{number}_virus_{number}.png"
            write_image(path, seed=1000 + number)
        for number in range(num_test):
            write_image(tmp_path / f"test/NORMAL/IM-9{number:03}-0001.png", seed=2000 + number)
            path = tmp_path / f"test/PNEUMONIA/person9{number:03}_bacteria_1.png"
            write_image(path, seed=3000 + number)
        return ClassFolders(tmp_path).films()

    return make


@pytest.fixture
def varied_films() -> list[Film]:
    """About 300 normal and 600 pneumonia films of patients with one to nine films each."""
    rng = np.random.default_rng(5)
    names = [
        (f"train/{label}/{number}-{view}.png", label, f"{label}-{number}", "train")
        for label, num_patients in ((0, 100), (1, 200))
        for number in range(num_patients)
        for view in range(min(9, rng.geometric(0.33)))
    ]
    names += [(f"test/{label}/{n}.png", label, f"t{n}", "test") for label in (0, 1) for n in "ab"]
    return [Film(Path("root") / name, name, *others) for name, *others in names]
