"""Measure reading and cached epochs, compared with Pillow and torchvision.

    python benchmarks/figure_input.py --images DIR      # full-size X-rays

Both alternate, so that the machine's load affects both equally. Run nothing else meanwhile.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import DataLoader, Dataset
from torchvision import transforms

from cxrignite.cli.parsing import parse_recipe
from cxrignite.data import (
    ClassFolders,
    ImageRecord,
    LoaderSettings,
    Pipeline,
    RandomAffine,
    XrayData,
    open_cache,
    read_image,
)
from cxrignite.data.inspection import inspect_images
from cxrignite.workflows.benchmark.plain_loop import PlainImages
from cxrignite.workflows.parts import build_pipeline

SIZE = (224, 224)
RECIPES = Path(__file__).resolve().parent.parent / "recipes"


class AffineImages(Dataset[tuple[Tensor, float]]):
    """Dataset with Pillow and torchvision and one random affine, as it is usually written."""

    def __init__(self, records: Sequence[ImageRecord]) -> None:
        self.records = records
        self.transform = transforms.Compose(
            [
                transforms.Resize(SIZE),
                transforms.RandomAffine(7, translate=(0.05, 0.05), scale=(0.9, 1.1)),
                transforms.ToTensor(),
            ]
        )

    def __len__(self) -> int:
        return len(self.records)

    def __getitem__(self, index: int) -> tuple[Tensor, float]:
        with Image.open(self.records[index].path) as image:
            return self.transform(image.convert("RGB")), float(self.records[index].label)


def rate(run: Callable[[], int]) -> float:
    """Return images per second, measured over at least half a second."""
    count, start = 0, time.perf_counter()
    while time.perf_counter() - start < 0.5:
        count += run()
    return count / (time.perf_counter() - start)


def compare(name: str, target: float, plain: Callable[[], int], ours: Callable[[], int]) -> None:
    """Print the ratio of two alternatives, measured alternately five times."""
    plain(), ours()  # starts workers and fills the page cache
    pairs = [(rate(plain), rate(ours)) for _ in range(5)]
    before, after = (statistics.median(each) for each in zip(*pairs, strict=True))
    print(
        f"{name}: plain {before:,.0f}, ours {after:,.0f} images/s, {after / before:.1f} x "
        f"(target >= {target})"
    )


def passes(loader: Iterable[Sequence[Any]]) -> Callable[[], int]:
    """Return a function that runs one epoch and returns the number of images."""
    return lambda: sum(len(batch[0]) for batch in loader)


def plain_loader(dataset: Dataset[Any], workers: int = 0) -> DataLoader[Any]:
    """Return a `DataLoader` as it is usually set up."""
    alive = workers > 0
    return DataLoader(dataset, 32, shuffle=True, num_workers=workers, persistent_workers=alive)


def measure_input(root: Path) -> None:
    """Measure reading and cached epochs, on one core and with two workers."""
    torch.set_num_threads(1)
    records = inspect_images(ClassFolders(root).records()).records
    records = [record.moved("train") for record in records]
    bare = Pipeline(image_size=SIZE)
    plain = PlainImages(records, bare)
    compare(
        "first pass, one core",
        3.5,
        lambda: len([plain[index] for index in range(len(plain))]),
        lambda: len([read_image(record.path, SIZE) for record in records]),
    )
    with tempfile.TemporaryDirectory() as folder:
        cache = open_cache(Path(folder), records, bare)

        def cached(pipeline: Pipeline, workers: int = 0) -> Callable[[], int]:
            settings = LoaderSettings(32, workers)
            data = XrayData(records, ("A", "B"), pipeline=pipeline, cache=cache, loader=settings)
            return passes(data.train_loader())

        compare("cached, in process", 500, passes(plain_loader(plain)), cached(bare))
        affine = [RandomAffine(prob=1.0, rotate=0.12, scale=(0.9, 1.1), shift=0.05)]
        compare(
            "cached, one affine, in process",
            10,
            passes(plain_loader(AffineImages(records))),
            cached(Pipeline(image_size=SIZE, batch_augment=affine)),
        )
        recipe, _, _ = parse_recipe("fit", ["--config", f"{RECIPES}/efficientnet_lite0.yaml"])
        whole = build_pipeline(recipe.data)
        compare(
            "cached, Lite0's augmentation, two workers",
            6,
            passes(plain_loader(PlainImages(records, whole), 2)),
            cached(whole, 2),
        )


def main() -> None:
    """Run the measurements."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "--images", type=Path, required=True, help="folder with the layout of ChestXRay2017"
    )
    options = parser.parse_args()
    measure_input(options.images)


if __name__ == "__main__":
    main()
