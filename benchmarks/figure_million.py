"""Measure a source of a million rows: time to the first batch, and private memory of the workers.

python benchmarks/figure_million.py --images DIR
"""

from __future__ import annotations

import time

START = time.perf_counter()  # before the imports

import argparse
import itertools
import multiprocessing
import re
from pathlib import Path
from typing import Any

import torch

from cxrignite.cli.parsing import parse_recipe
from cxrignite.data import ClassFolders, ImageRecord, Source
from cxrignite.data.leakage import leaked_pairs
from cxrignite.reporting.console import split_lines
from cxrignite.workflows.parts import build_data, build_pipeline
from cxrignite.workflows.records import collector_paused, read_and_cache, split_records

RECIPES = Path(__file__).resolve().parent.parent / "recipes"


class RepeatedImages(Source):
    """Source that repeats real images, each row with its own name."""

    def __init__(self, root: Path, num_images: int) -> None:
        self.root, self.classes, self.num_images = root, ("NORMAL", "PNEUMONIA"), num_images

    def records(self) -> list[ImageRecord]:
        """Return the image records; nine consecutive rows share a patient per class."""
        real = ClassFolders(self.root).records()
        numbered = zip(range(self.num_images), itertools.cycle(real), strict=False)
        return [
            ImageRecord(
                record.file,
                f"{number}/{record.path.name}",
                record.label,
                f"{record.label}-{number // 9}",
                "train",
                record.attributes,
            )
            for number, record in numbered
        ]


def measure_million(root: Path, num_images: int) -> None:
    """Measure the time to the first batch without a cache, and the private memory of workers."""
    recipe, _, _ = parse_recipe("fit", ["--config", f"{RECIPES}/baseline_cnn.yaml"])
    recipe.data.source, recipe.data.cache = RepeatedImages(root, num_images), "off"
    pipeline = build_pipeline(recipe.data)
    with collector_paused():
        records, cache = read_and_cache(
            recipe.data, recipe.data.source.records(), pipeline, recipe.run_dir
        )
        # Different hashes, since identical files would all be put into the same split.
        records = [record.hashed(f"{number:064x}") for number, record in enumerate(records)]
        records = split_records(recipe.data, records, recipe.seed)
        leaked_pairs(records)
    cpu = torch.device("cpu")
    data = build_data(recipe.data, records, recipe.seed, device=cpu, pipeline=pipeline, cache=cache)
    batches = iter(data.train_loader())
    next(batches)
    seconds = time.perf_counter() - START
    print("\n".join(split_lines(data)))
    print(f"first batch of {num_images:,} rows: {seconds:.1f} s including imports (target < 10 s)")
    taken = 0
    for count in (1, 250, 500, 1000, 1500):
        while taken < count:
            next(batches)
            taken += 1
        private = [_private(process) for process in multiprocessing.active_children()]
        print(f"after {count} batches, private memory of each worker in MB: {private}")
    data.close()


def _private(process: Any) -> int:
    text = Path("/proc", str(process.pid), "smaps_rollup").read_text()
    return sum(int(each) for each in re.findall(r"^Private_\w+: +(\d+)", text, re.M)) // 1024


def main() -> None:
    """Run the measurements."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "--images", type=Path, required=True, help="folder with the layout of ChestXRay2017"
    )
    parser.add_argument("--num_images", type=int, default=1_000_000)
    options = parser.parse_args()
    measure_million(options.images, options.num_images)


if __name__ == "__main__":
    main()
