"""Measure the time per step of `fit` with all its handlers, compared with a plain loop.

    python benchmarks/figure_steps.py

Both use synthetic images from a cache in one process, and alternate every few steps, since the
speed of a shared machine drifts. A terminal adds the progress line. Run nothing else meanwhile.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import torch
from torch import nn

from cxrignite.cli.parsing import parse_recipe
from cxrignite.data import Phantom, open_cache
from cxrignite.engines.session import open_session
from cxrignite.nn import BinaryClassifier, ImageNormalizer
from cxrignite.runs.benchmark_result import Settings, Variant
from cxrignite.workflows.benchmark.variants import VariantRunner
from cxrignite.workflows.parts import (
    build_data,
    build_loss,
    build_model,
    build_pipeline,
    choose_computing,
)
from cxrignite.workflows.records import read_records, split_records

RECIPE = """\
seed: 1
run_dir: {folder}/run
data:
  source:
    class_path: Phantom
    init_args: {{root: {folder}/images, num_train: 1200, num_test: 8, size: {size}}}
  sampler: BalancedSampler
  batch_size: {batch}
  num_workers: 0
model: {model}
loss: SoftPosWeightBCE
optimizer: {{class_path: SGD, init_args: {{lr: 1.0e-3}}}}
trainer: {{max_epochs: 2}}  # the measurement attaches an EpochTimer itself
validator:
  handlers: [{{class_path: ThresholdSearch, init_args: {{min_tnr: 0.9, min_threshold: 0.5}}}}]
"""

PLAIN = Settings(True, True, True, True, True, True)
"""Everything that `fit` does in a step, in a plain loop."""


class TinyCNN(BinaryClassifier):
    """Network with one convolution, for steps that consist of overhead mostly."""

    def __init__(self) -> None:
        backbone = nn.Sequential(
            nn.Conv2d(1, 4, 5, stride=4), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten()
        )
        super().__init__(ImageNormalizer([0.5], [0.25], num_channels=1), backbone, nn.Linear(4, 1))


class Case(NamedTuple):
    """Network, batch size and number of steps of a measurement, and the largest ratio allowed."""

    size: int
    model: str
    batch: int
    num_steps: int
    target: float


CASES = (
    Case(32, "figure_steps.TinyCNN", 4, 100, 1.20),
    Case(128, "{class_path: LightCNN, init_args: {width: 24}}", 8, 20, 1.03),
)


def measure_steps(case: Case, repeats: int, device: str = "cpu") -> tuple[float, float, float]:
    """Compare `fit` with the plain loop.

    Returns:
        Medians: milliseconds of a step of the plain loop, difference and ratio of the pairs.
    """
    with tempfile.TemporaryDirectory() as place, open_session(device, "fast") as session:
        folder = Path(place)
        Phantom(folder / "images", num_train=1200, num_test=8, size=case.size).records()
        path = folder / "recipe.yaml"
        path.write_text(
            RECIPE.format(folder=place, size=case.size, model=case.model, batch=case.batch)
        )
        recipe, _, _ = parse_recipe("fit", ["--config", str(path)])
        records = split_records(
            recipe.data, read_records(recipe.data, recipe.data.source.records()), recipe.seed
        )
        pipeline = build_pipeline(recipe.data)
        cache = open_cache(folder / "cache", records, pipeline)
        computing = choose_computing(recipe.trainer, session)
        model, precision = build_model(recipe.model, computing), computing.precision
        data = build_data(recipe.data, records, recipe.seed, device=session.device)
        loss = build_loss(recipe.loss, data, session.device)
        runner = VariantRunner(
            recipe, session, precision, model, loss, records, pipeline, cache, case.num_steps
        )
        plain = Variant("plain loop", PLAIN)
        fit = Variant("fit", replace(PLAIN, engine=True))
        for _ in range(repeats):
            runner.run(plain)
            runner.run(fit)
    rates = [[s.num_images / s.seconds for s in each.steps] for each in (plain, fit)]
    ratio = statistics.median(a / b for a, b in zip(*rates, strict=True))
    before, ours = ([1000 * case.batch / rate for rate in each] for each in rates)
    difference = statistics.median(b - a for a, b in zip(before, ours, strict=True))
    return statistics.median(before), difference, ratio


def main() -> None:
    """Run the measurements."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repeats", type=int, default=30)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    for case in CASES:
        plain, difference, ratio = measure_steps(case, options.repeats)
        print(
            f"step of the plain loop {plain:.2f} ms; of pairs: {difference:+.2f} ms, "
            f"{ratio:.3f} x (target <= {case.target})"
        )


if __name__ == "__main__":
    main()
