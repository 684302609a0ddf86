"""The parts of the input pipeline, each alone: images a second, the plain way and ours."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from statistics import median
from time import perf_counter

import torch
from torch.utils.data import DataLoader

from cxrignite.data import Film, LoaderSettings, XrayData
from cxrignite.data.packing import Pack
from cxrignite.data.pipeline import Pipeline
from cxrignite.runs.benchmark_result import Stage
from cxrignite.workflows.benchmark.plain_loop import PlainFilms

# Long enough that a pass of milliseconds is measured over many.
_SECONDS = 0.3


def measure_stages(
    data: XrayData, films: Sequence[Film], pack: Pack, *, repeats: int, build_rate: float
) -> list[Stage]:
    """Measure decoding, packing and loading; both ways take turns.

    Args:
        data: The pipeline and the settings of the loaders, with the pack.
        films: Some training films.
        pack: Of these films.
        repeats: Times that each is measured; the median counts.
        build_rate: Images a second at which it was built.
    """
    pipeline, size = data.pipeline, data.loader.batch_size
    bare = Pipeline(
        pipeline.preprocess, image_size=pipeline.image_size, grey_scaling=pipeline.grey_scaling
    )
    plain, reading = PlainFilms(films, bare), [film.path for film in films]
    workers = data.num_workers

    def decode_plain() -> int:
        return len([plain[index] for index in range(len(plain))])

    def decode_ours() -> int:
        return len([bare.read(path) for path in reading])

    def loads(pipeline: Pipeline, workers: int, pack: Pack | None) -> Callable[[], int]:
        settings = LoaderSettings(size, workers)
        each = XrayData(films, data.classes, pipeline=pipeline, pack=pack, loader=settings)
        loader = each.train_loader()
        return lambda: _count(loader)

    def loads_plainly(pipeline: Pipeline, workers: int) -> Callable[[], int]:
        loader = DataLoader(
            PlainFilms(films, pipeline),
            size,
            shuffle=True,
            num_workers=workers,
            persistent_workers=workers > 0,
        )
        return lambda: _count(loader)

    with _one_thread():
        decoded = _take_turns(decode_plain, decode_ours, repeats)
        epoch = _take_turns(loads_plainly(bare, 0), loads(bare, 0, pack), repeats)
    stages = [
        Stage("read a film, first pass", *decoded, "one core"),
        Stage("build the pack", decoded[0], build_rate, f"{workers} workers"),
        Stage("a later epoch", *epoch, "one core, in process, not augmented"),
    ]
    if pipeline.augment or pipeline.batch_augment:
        with _one_thread():
            augmented = _take_turns(loads_plainly(pipeline, 0), loads(pipeline, 0, pack), repeats)
        stages.append(Stage("a later epoch, augmented", *augmented, "one core, in process"))
        if workers:
            both = _take_turns(
                loads_plainly(pipeline, workers), loads(pipeline, workers, pack), repeats
            )
            stages.append(Stage("a later epoch, augmented", *both, f"{workers} workers"))
    return stages


def _take_turns(
    plain: Callable[[], int], ours: Callable[[], int], repeats: int
) -> tuple[float, float]:
    """Images a second of two ways: the machine's moods meet both."""
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


def _count(loader: Iterable[Sequence[torch.Tensor]]) -> int:
    return sum(len(batch[0]) for batch in loader)


@contextmanager
def _one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)
