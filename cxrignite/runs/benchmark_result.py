"""Results of a benchmark: stages of the input pipeline, and training with more optimisations."""

from __future__ import annotations

from dataclasses import dataclass, field
from statistics import median
from typing import NamedTuple

from cxrignite.engines import Precision
from cxrignite.runs.environment import RunStart


class Steps(NamedTuple):
    """Duration of a few steps."""

    num_images: int
    seconds: float
    wait_seconds: float


@dataclass(frozen=True)
class Stage:
    """Stage of the input pipeline, in plain code and in this library."""

    name: str
    plain: float
    ours: float
    note: str

    @property
    def ratio(self) -> float:
        """Speed divided by that of the plain code."""
        return self.ours / self.plain


@dataclass(frozen=True)
class Settings:
    """Optimisations of a variant; the plain loop has none.

    Attributes:
        scaled_decode: Decode images at a fraction of their size, in whole batches.
        cache: Read images from a cache.
        workers: Use as many loader processes as the recipe.
        channels_last: Use the memory order of the recipe.
        precision: Use the precision of the recipe.
        allocator_tuning: On a CPU, keep freed memory in the process.
        compile: Compile the model.
        engine: Use Ignite's engine with the handlers of `fit`, in place of a plain loop.
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
    """Row of the table.

    Attributes:
        steps: Duration of each repeat.
        memory_bytes: Peak memory of this process and its workers, or of the GPU.
        failure: Reason why it was not measured; empty if it was.
    """

    name: str
    settings: Settings
    steps: list[Steps] = field(default_factory=list)
    memory_bytes: int = 0
    failure: str = ""

    @property
    def images_per_second(self) -> float:
        """Images a second, the median over the repeats; NaN if it was not measured."""
        rates = [steps.num_images / steps.seconds for steps in self.steps]
        return median(rates) if rates else float("nan")

    @property
    def wait_share(self) -> float:
        """Share of the time spent waiting for data, in `[0, 1]`."""
        shares = [steps.wait_seconds / steps.seconds for steps in self.steps]
        return median(shares) if shares else float("nan")


@dataclass(frozen=True)
class BenchmarkResult:
    """Result of a benchmark.

    Attributes:
        torch: Version of torch, with its build.
        gpu: Name of the GPU; None on another device.
        num_cores: Processor cores; None if unknown.
        model: Class of the classifier, with its backbone if the recipe names one.
        image_size: Rows and columns of the images.
        variants: The plain loop, then each optimisation.
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
        """Speed of each variant divided by that of the one before it; the first is 1.

        If the recipe does not use `compile`, the row after it is divided by the row before it.
        """
        shares, before = [1.0], self.variants[0]
        following = [*self.variants[2:], None]
        for variant, after in zip(self.variants[1:], following, strict=True):
            shares.append(variant.images_per_second / before.images_per_second)
            aside = after is not None and variant.settings.compile > after.settings.compile
            before = before if aside else variant
        return shares
