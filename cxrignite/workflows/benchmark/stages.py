"""Images per second of each part of the input pipeline, compared with plain PyTorch."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from statistics import median
from time import perf_counter

import torch
from torch import Tensor
from torch.utils.data import DataLoader

from cxrignite.data import LoaderSettings, XrayData
from cxrignite.data.pipeline import Pipeline
from cxrignite.runs.benchmark_result import Stage
from cxrignite.workflows.benchmark.plain_loop import PlainImages

# Long enough to repeat a pass of milliseconds many times.
_SECONDS = 0.3


def measure_stages(data: XrayData, *, repeats: int, build_rate: float) -> list[Stage]:
    """Measure decoding, caching and loading, alternating between plain PyTorch and ours.

    Medians of `repeats` measurements are reported; `build_rate` was measured while the cache was
    built.
    """
    records, pipeline, size = data.records("train"), data.pipeline, data.loader.batch_size
    bare = Pipeline(
        pipeline.preprocess, image_size=pipeline.image_size, grey_scaling=pipeline.grey_scaling
    )
    plain, workers = PlainImages(records, bare), data.num_workers

    def load(pipeline: Pipeline, workers: int) -> tuple[float, float]:
        plain_loader: DataLoader[tuple[Tensor, Tensor]] = DataLoader(
            PlainImages(records, pipeline),
            size,
            shuffle=True,
            num_workers=workers,
            persistent_workers=workers > 0,
        )
        settings = LoaderSettings(size, workers)
        each = XrayData(records, data.classes, pipeline=pipeline, cache=data.cache, loader=settings)
        ours = each.train_loader()
        return _alternate(lambda: _count(plain_loader), lambda: _count(ours), repeats)

    with _one_thread():
        decoded = _alternate(
            lambda: len([plain[index] for index in range(len(plain))]),
            lambda: len([bare.read(record.path) for record in records]),
            repeats,
        )
        epoch = load(bare, 0)
    stages = [
        Stage("read an image, first pass", *decoded, "one core"),
        Stage("build the cache", decoded[0], build_rate, f"{workers} workers"),
        Stage("a later epoch", *epoch, "one core, in process, not augmented"),
    ]
    if pipeline.augment or pipeline.batch_augment:
        with _one_thread():
            epoch = load(pipeline, 0)
        stages.append(Stage("a later epoch, augmented", *epoch, "one core, in process"))
        if workers:
            epoch = load(pipeline, workers)
            stages.append(Stage("a later epoch, augmented", *epoch, f"{workers} workers"))
    return stages


def _alternate(
    plain: Callable[[], int], ours: Callable[[], int], repeats: int
) -> tuple[float, float]:
    """Return the images per second of both ways; alternating shares any disturbance."""
    rates: tuple[list[float], list[float]] = ([], [])
    for _ in range(repeats):
        for way, found in zip((plain, ours), rates, strict=True):
            found.append(_rate(way))
    return median(rates[0]), median(rates[1])


def _rate(way: Callable[[], int]) -> float:
    num_images, start = 0, perf_counter()
    while (seconds := perf_counter() - start) < _SECONDS or num_images == 0:
        num_images += way()
    return num_images / seconds


def _count(loader: Iterable[Sequence[Tensor]]) -> int:
    return sum(len(batch[0]) for batch in loader)


@contextmanager
def _one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)
