"""Measure a recipe's input and training on this machine, and write the benchmark."""

from __future__ import annotations

import logging
import os
import platform
import sys
import tempfile
from pathlib import Path
from time import perf_counter

import torch
from tqdm import tqdm

from cxrignite.data import Film
from cxrignite.data.pack_building import open_pack
from cxrignite.data.packing import Pack
from cxrignite.durable_write import write_durably
from cxrignite.engines import choose_precision
from cxrignite.engines.session import Session, open_session, seed_everything
from cxrignite.errors import DataError, RecipeError
from cxrignite.handlers.map_picture import as_png
from cxrignite.nn import BinaryClassifier
from cxrignite.output_marker import mark_output
from cxrignite.recipe import Recipe
from cxrignite.reporting.benchmark_tables import benchmark_csv, benchmark_markdown
from cxrignite.reporting.plots.benchmark_figure import benchmark_figure
from cxrignite.reporting.plots.charting import draw
from cxrignite.runs.benchmark_result import BenchmarkResult
from cxrignite.runs.run_folder import RunFolder
from cxrignite.workflows.benchmark.stages import measure_stages
from cxrignite.workflows.benchmark.variants import VariantRunner, plan_variants, quietly
from cxrignite.workflows.films import read_films
from cxrignite.workflows.parts import (
    build_data,
    build_model,
    build_pipeline,
    check_image_size,
    choose_computing,
)

_logger = logging.getLogger(__name__)

# What `fit` validates on here: a few films of each class.
_NUM_VAL = 32


def benchmark(recipe: Recipe, *, num_steps: int, repeats: int, with_compile: bool) -> None:
    """Measure this machine with a recipe and its data.

    Args:
        recipe: The experiment; its weights and its run are left alone.
        num_steps: Batches that a variant trains in each repeat.
        repeats: Times that everything is measured; medians count.
        with_compile: Measure `trainer.compile` although the recipe does not ask for it.

    Raises:
        RecipeError: A number is out of range, or several processes were started.
        DataError: There are too few films for two batches, or one cannot be read.
        RunFolderError: The run folder is in use.
    """
    if num_steps < 2 or repeats < 1:
        raise RecipeError(
            f"--num_steps must be at least 2 and --repeats at least 1, got {num_steps}, {repeats}"
        )
    with open_session(recipe.trainer.device, recipe.trainer.profile) as session:
        if session.world_size > 1:
            raise RecipeError(f"benchmark runs as one process, got {session.world_size}")
        folder = RunFolder(recipe.run_dir)
        with folder.lock():
            place = folder.root / "benchmark"
            mark_output(place)
            _write(place, _measure(recipe, session, place, num_steps, repeats, with_compile))


def _choose_films(recipe: Recipe, listed: list[Film], num_steps: int) -> list[Film]:
    """Training films for the steps, and a few to validate on."""
    batch = recipe.data.batch_size
    films = _with_val(read_films(recipe.data, _evenly(listed, num_steps * batch + _NUM_VAL)))
    num_train = sum(film.split == "train" for film in films)
    if num_train < 2 * batch:
        raise DataError(
            f"a benchmark needs films for two batches of {batch}, got {num_train} to train with"
        )
    return films


def _measure(
    recipe: Recipe, session: Session, place: Path, num_steps: int, repeats: int, with_compile: bool
) -> BenchmarkResult:
    """Measure the input pipeline, then training."""
    batch = recipe.data.batch_size
    listed = [film for film in recipe.data.source.films() if film.split == "train"]
    films = _choose_films(recipe, listed, num_steps)
    train = [film for film in films if film.split == "train"]
    num_steps = min(num_steps, len(train) // batch)
    pipeline = build_pipeline(recipe.data)
    seed_everything(recipe.seed)
    model = build_model(recipe.model, choose_computing(recipe.trainer, session))
    _logger.info("%d films, %d steps of %d, %d repeats", len(train), num_steps, batch, repeats)
    with tempfile.TemporaryDirectory(prefix="packs-", dir=place) as packs:
        start = perf_counter()
        pack = open_pack(Path(packs), films, pipeline, num_workers=recipe.data.num_workers)
        build_rate = len(films) / (perf_counter() - start)
        data = build_data(
            recipe.data, films, recipe.seed, device=session.device, pipeline=pipeline, pack=pack
        )
        check_image_size(model, data.image_size)
        # The log lines of many loaders and runs would repeat each other.
        with quietly():
            stages = measure_stages(data, train, pack, repeats=repeats, build_rate=build_rate)
        variants = plan_variants(recipe, session.device, with_compile)
        runner = VariantRunner(recipe, session, model, films, pipeline, pack, num_steps)
        # Each once, and all again: a disturbance of the machine meets every variant.
        with quietly():
            for variant in tqdm(variants * repeats, desc="training", disable=None):
                if not variant.failure:
                    runner.run(variant)
    facts = tuple(_facts(recipe, session, model, pack, data.num_workers))
    return BenchmarkResult(facts, len(listed), batch, tuple(stages), tuple(variants))


def _write(place: Path, result: BenchmarkResult) -> None:
    for variant in result.variants:
        if variant.failure:
            _logger.warning("%s was not measured: %s", variant.name, variant.failure)
    table = benchmark_markdown(result)
    write_durably(place / "benchmark.md", table.encode())
    write_durably(place / "benchmark.csv", benchmark_csv(result))
    write_durably(place / "benchmark.png", as_png(draw(benchmark_figure(result))))
    sys.stdout.write(table)
    _logger.info("written to %s", place)


def _evenly(films: list[Film], wanted: int) -> list[Film]:
    """Some of the films, from all over the list, and so of both classes."""
    step = max(1.0, len(films) / wanted)
    return [films[int(number * step)] for number in range(min(wanted, len(films)))]


def _with_val(films: list[Film]) -> list[Film]:
    """Sets a few films of each class aside, for the validation that belongs to `fit`."""
    aside: set[str] = set()
    for label in (0, 1):
        names = [film.name for film in films if film.label == label]
        aside.update(names[: min(_NUM_VAL // 2, len(names) // 4)])
    return [film.moved("val") if film.name in aside else film for film in films]


def _facts(
    recipe: Recipe, session: Session, model: BinaryClassifier, pack: Pack, num_workers: int
) -> list[str]:
    precision = choose_precision(recipe.trainer.precision, session.device)
    device = str(session.device)
    if session.device.type == "cuda":
        device = f"{device} ({torch.cuda.get_device_name(session.device)})"
    arch = getattr(recipe.model, "keywords", {}).get("arch")
    name = f"{type(model).__name__} {arch}" if arch else type(model).__name__
    return [
        f"device {device}, {os.cpu_count()} cores, {torch.get_num_threads()} threads",
        f"torch {torch.__version__}, Python {platform.python_version()}, {platform.platform()}",
        f"{precision.name}: {precision.reason}",
        f"{name}, images of {pack.image_size[0]} x {pack.image_size[1]}, "
        f"batches of {recipe.data.batch_size}, {num_workers} workers",
    ]
