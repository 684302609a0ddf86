"""Measure a recipe's input and training on this machine, and write the benchmark."""

from __future__ import annotations

import logging
import os
import tempfile
from pathlib import Path
from time import perf_counter

import torch
from tqdm import tqdm

from cxrignite.data import ImageRecord
from cxrignite.data.cache_building import open_cache
from cxrignite.data.sources import is_of_class
from cxrignite.durable_write import write_durably
from cxrignite.engines.session import Session, open_session, seed_everything
from cxrignite.errors import DataError, RecipeError
from cxrignite.handlers.map_picture import as_png
from cxrignite.output_marker import mark_output
from cxrignite.recipe import DataRecipe, Recipe
from cxrignite.reporting.benchmark_tables import benchmark_csv, benchmark_markdown
from cxrignite.reporting.plots.benchmark_figure import benchmark_figure
from cxrignite.reporting.plots.charting import draw
from cxrignite.runs.benchmark_result import BenchmarkResult
from cxrignite.runs.environment import describe_start
from cxrignite.runs.run_folder import RunFolder
from cxrignite.terminal import print_output
from cxrignite.workflows.benchmark.stages import measure_stages
from cxrignite.workflows.benchmark.variants import VariantRunner, plan_variants, quietly
from cxrignite.workflows.parts import (
    build_data,
    build_loss,
    build_model,
    build_pipeline,
    check_image_size,
    choose_computing,
)
from cxrignite.workflows.records import read_records
from cxrignite.write_guard import parts_limited

_logger = logging.getLogger(__name__)

# Validation images of the `fit` variant, about as many of each class.
_NUM_VAL = 32


def benchmark(recipe: Recipe, *, num_steps: int, repeats: int, with_compile: bool) -> None:
    """Measure the training speed of a recipe and its data on this machine.

    The weights and the run of the recipe are not changed. Each variant trains `num_steps` batches,
    `repeats` times; medians are reported. `with_compile` measures `trainer.compile` even if the
    recipe does not use it.

    Raises:
        RecipeError: A number is out of range, or several processes were started.
        DataError: There are too few images for two batches, or one cannot be read.
        RunFolderError: The run folder is in use.
    """
    if num_steps < 2 or repeats < 1:
        raise RecipeError(
            f"--num_steps must be at least 2 and --repeats at least 1, got {num_steps}, {repeats}"
        )
    with open_session(recipe.trainer.device, recipe.trainer.profile) as session:
        if session.world_size > 1:
            raise RecipeError(
                f"benchmark needs one process, got {session.world_size}; start it without torchrun"
            )
        folder = RunFolder(recipe.run_dir)
        with folder.lock(), parts_limited(folder.root):
            place = folder.root / "benchmark"
            mark_output(place)
            with tempfile.TemporaryDirectory(prefix="caches-", dir=place) as caches:
                result = _measure(recipe, session, Path(caches), num_steps, repeats, with_compile)
            _write(place, result)


def _measure(
    recipe: Recipe,
    session: Session,
    caches: Path,
    num_steps: int,
    repeats: int,
    with_compile: bool,
) -> BenchmarkResult:
    """Read and cache some of the images, then measure the input pipeline and the training."""
    device, batch = session.device, recipe.data.batch_size
    listed = [record for record in recipe.data.source.records() if record.split == "train"]
    records = _choose_records(recipe.data, listed, num_steps)
    pipeline, computing = build_pipeline(recipe.data), choose_computing(recipe.trainer, session)
    precision = computing.precision
    seed_everything(recipe.seed)
    model = build_model(recipe.model, computing, num_findings=len(recipe.data.source.findings))
    # A few of the images may lack a rare finding, so the loss gets the counts of all.
    loss = build_loss(
        recipe.loss, build_data(recipe.data, listed, recipe.seed, device=device), device
    )
    start = perf_counter()
    cache = open_cache(caches, records, pipeline, num_workers=recipe.data.num_workers)
    build_rate = len(records) / (perf_counter() - start)
    data = build_data(
        recipe.data, records, recipe.seed, device=device, pipeline=pipeline, cache=cache
    )
    check_image_size(model, data.image_size)
    variants = plan_variants(recipe.trainer, recipe.data.num_workers, device, with_compile)
    num_train = len(data.records("train"))
    num_steps = min(num_steps, num_train // batch)
    runner = VariantRunner(
        *(recipe, session, precision, model, loss, records, pipeline, cache, num_steps)
    )
    _logger.info("%d images, %d steps of %d, %d repeats", *(num_train, num_steps, batch, repeats))
    # The log lines of many loaders and runs would repeat each other.
    with quietly():
        stages = measure_stages(data, repeats=repeats, build_rate=build_rate)
        # One round over all variants after the other, so that a disturbance affects them all.
        for variant in tqdm(variants * repeats, desc="training", disable=None):
            if not variant.failure:
                runner.run(variant)
    name, arch = type(model).__name__, getattr(recipe.model, "keywords", {}).get("arch")
    return BenchmarkResult(
        describe_start([], device=str(device), precision=precision.name, num_processes=1),
        torch=torch.__version__,
        gpu=torch.cuda.get_device_name(device) if device.type == "cuda" else None,
        num_cores=os.cpu_count(),
        precision=precision,
        model=f"{name} {arch}" if arch else name,
        image_size=cache.image_size,
        num_workers=data.num_workers,
        num_images=len(listed),
        batch_size=batch,
        variants=tuple(variants),
        stages=tuple(stages),
    )


def _write(place: Path, result: BenchmarkResult) -> None:
    for variant in result.variants:
        if variant.failure:
            _logger.warning("%s was not measured: %s", variant.name, variant.failure)
    table = benchmark_markdown(result)
    write_durably(place / "benchmark.md", table.encode())
    write_durably(place / "benchmark.csv", benchmark_csv(result))
    write_durably(place / "benchmark.png", as_png(draw(benchmark_figure(result))))
    print_output(table)
    _logger.info("written to %s", place)


def _choose_records(
    data: DataRecipe, listed: list[ImageRecord], num_steps: int
) -> list[ImageRecord]:
    """Choose training images evenly from the list, and a few for validation."""
    batch = data.batch_size
    count = min(num_steps * batch + _NUM_VAL, len(listed))
    records = read_records(data, [listed[number * len(listed) // count] for number in range(count)])
    aside: set[str] = set()
    num_classes = len(data.source.classes)
    for number in range(num_classes):
        names = [record.name for record in records if is_of_class(record, number)]
        aside.update(names[: min(_NUM_VAL // num_classes, len(names) // 4)])
    num_train = len(records) - len(aside)
    if num_train < 2 * batch:
        raise DataError(
            f"benchmark needs training images for two batches of {batch}, got {num_train}; "
            "lower data.batch_size"
        )
    return [record.moved("val") if record.name in aside else record for record in records]
