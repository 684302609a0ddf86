"""Results of a benchmark: parts of the input two ways, and training with more and more."""

from __future__ import annotations

from dataclasses import dataclass, field
from statistics import median
from typing import NamedTuple

from cxrignite.engines import Precision
from cxrignite.runs.environment import RunStart


class Steps(NamedTuple):
    """Duration of a few steps.

    Attributes:
        num_images: Images in all.
        seconds: In all.
        wait_seconds: Of those, waiting for batches.
    """

    num_images: int
    seconds: float
    wait_seconds: float


@dataclass(frozen=True)
class Stage:
    """One part, two ways.

    Attributes:
        name: What is done.
        plain: Images a second the plain way.
        ours: Images a second of this library's.
        note: Under which settings.
    """

    name: str
    plain: float
    ours: float
    note: str

    @property
    def ratio(self) -> float:
        """Images a second by those of the plain way."""
        return self.ours / self.plain


@dataclass(frozen=True)
class Settings:
    """Switches of a variant; the plain loop has none of it.

    Attributes:
        scaled_decode: Images are read at a fraction of their size, as whole batches.
        cache: They are read from a cache.
        workers: Loader processes, as many as the recipe has.
        channels_last: The recipe's memory order.
        precision: The recipe's arithmetic.
        allocator_tuning: On a CPU, what a step frees stays with the process.
        compile: The model is compiled.
        engine: Ignite's engine with the handlers of `fit`, instead of the loop by hand.
    """

    scaled_decode: bool = False
    cache: bool = False
    workers: bool = False
    channels_last: bool = False
    precision: bool = False
    allocator_tuning: bool = False
    compile: bool = False
    engine: bool = False


@dataclass
class Variant:
    """One row of the table.

    Attributes:
        name: The optimisation that it adds.
        settings: Those that are on.
        steps: What each repeat took.
        memory_bytes: The most memory of this process and its workers, or of the GPU.
        failure: Why it was not measured, or empty.
    """

    name: str
    settings: Settings
    steps: list[Steps] = field(default_factory=list)
    memory_bytes: int = 0
    failure: str = ""

    @property
    def images_per_second(self) -> float:
        """The median over the repeats; NaN where it was not measured."""
        rates = [steps.num_images / steps.seconds for steps in self.steps]
        return median(rates) if rates else float("nan")

    @property
    def wait_share(self) -> float:
        """Share of the time that waits for data, in `[0, 1]`."""
        shares = [steps.wait_seconds / steps.seconds for steps in self.steps]
        return median(shares) if shares else float("nan")


@dataclass(frozen=True)
class BenchmarkResult:
    """A whole benchmark.

    Attributes:
        start: Device, threads and versions.
        torch: Version of torch, with its build.
        gpu: Name of the GPU; None on another device.
        num_cores: Processor cores; None if the system does not say.
        precision: The recipe's arithmetic.
        model: Class of the classifier, with its backbone if the recipe names one.
        image_size: Rows and columns of the images.
        num_workers: Loader processes.
        num_images: Images of a whole training epoch.
        batch_size: Images a step.
        variants: The plain loop and its optimisations.
        stages: Parts of the input pipeline.
    """

    start: RunStart
    torch: str
    gpu: str | None
    num_cores: int | None
    precision: Precision
    model: str
    image_size: tuple[int, int]
    num_workers: int
    num_images: int
    batch_size: int
    variants: tuple[Variant, ...]
    stages: tuple[Stage, ...] = ()

    @property
    def own_shares(self) -> list[float]:
        """Compute the speed of each variant by that of the one before it; the first is 1.

        `compile` that the recipe does not ask for is not what the next row builds on.
        """
        shares, before = [1.0], self.variants[0]
        following = [*self.variants[2:], None]
        for variant, after in zip(self.variants[1:], following, strict=True):
            shares.append(variant.images_per_second / before.images_per_second)
            aside = after is not None and variant.settings.compile > after.settings.compile
            before = before if aside else variant
        return shares
