"""Benchmark variants: the plain loop with one optimisation after the other, up to `fit`."""

from __future__ import annotations

import copy
import logging
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from ignite.engine import Events
from torch import nn
from torch.utils.data import DataLoader

from cxrignite.data import ImageRecord, XrayData
from cxrignite.data.image_cache import ImageCache
from cxrignite.data.pipeline import Pipeline
from cxrignite.engines import Precision
from cxrignite.engines.compilation import compiler_errors_in_one_line
from cxrignite.engines.precision import FP32
from cxrignite.engines.session import Session
from cxrignite.errors import RecipeError
from cxrignite.handlers import EpochTimer
from cxrignite.nn import BinaryClassifier
from cxrignite.recipe import Recipe, TrainerRecipe
from cxrignite.runs.benchmark_result import Settings, Steps, Variant
from cxrignite.runs.environment import describe_start
from cxrignite.runs.run_folder import RunFolder
from cxrignite.workflows.allocator_tuning import allocator_tuning
from cxrignite.workflows.benchmark.memory import PeakMemory
from cxrignite.workflows.benchmark.plain_loop import PlainImages, train_steps
from cxrignite.workflows.parts import build_data, choose_computing
from cxrignite.workflows.training import Learner, Training, build_learner

_WARMUP_STEPS = 5


def plan_variants(
    trainer: TrainerRecipe, num_workers: int, device: torch.device, with_compile: bool
) -> list[Variant]:
    """List the variants to measure, from the plain loop to the whole recipe.

    Workers are a variant if there are any, allocator tuning on a CPU, and `compile` if the recipe
    uses it or `with_compile` is true.
    """
    keeps_memory = device.type == "cpu" and trainer.profile == "fast"
    settings = Settings()
    variants = [Variant("plain loop, Pillow", settings)]
    for name, switch, is_used in (
        ("scaled decode", "scaled_decode", True),
        ("cache", "cache", True),
        ("workers", "workers", num_workers > 0),
        ("channels_last", "channels_last", trainer.channels_last),
        ("precision", "precision", trainer.precision != "fp32"),
        ("allocator tuning", "allocator_tuning", keeps_memory),
    ):
        if is_used:
            settings = replace(settings, **{switch: True})
            variants.append(Variant(name, settings))
    compiled = replace(settings, compile=True)
    if trainer.compile:
        settings = compiled
    if trainer.compile or with_compile:
        variants.append(Variant("compile", compiled))
    variants.append(Variant("fit (engine, handlers)", replace(settings, engine=True)))
    return variants


@dataclass(frozen=True)
class VariantRunner:
    """Runner that trains a few steps of a variant.

    Attributes:
        model: The classifier, copied for each variant.
        loss: The loss, with the class counts of all training images.
    """

    recipe: Recipe
    session: Session
    precision: Precision
    model: BinaryClassifier
    loss: nn.Module
    records: list[ImageRecord]
    pipeline: Pipeline
    cache: ImageCache
    num_steps: int

    def run(self, variant: Variant) -> None:
        """Measure a variant once, after warm-up steps, whose memory is measured.

        The variant receives the result, or the reason why it cannot be measured.
        """
        device = self.session.device
        with PeakMemory(device) as memory:
            try:
                run = self._through_engine if variant.settings.engine else self._in_plain_loop
                with (
                    allocator_tuning(device) if variant.settings.allocator_tuning else nullcontext()
                ):
                    variant.steps.append(run(variant.settings, memory))
            except RecipeError as error:
                variant.failure = str(error)
        variant.memory_bytes = max(variant.memory_bytes, memory.num_bytes)

    def _in_plain_loop(self, settings: Settings, memory: PeakMemory) -> Steps:
        device, data = self.session.device, self._data(settings)
        # The model may be channels last already, if the recipe says so.
        layout = torch.channels_last if settings.channels_last else torch.contiguous_format
        model = copy.deepcopy(self.model).to(memory_format=layout)
        learner = self._learner(model, is_compiled=settings.compile)
        plain = PlainImages(data.records("train"), self.pipeline)
        loader: Iterable[Any] = DataLoader(plain, self.recipe.data.batch_size, shuffle=True)
        if settings.scaled_decode:
            loader = data.train_loader()
        precision = self.precision if settings.precision else FP32
        train = partial(
            train_steps,
            *(learner.forward, learner.optimizer, learner.loss, loader),
            device=device,
            precision=precision,
            channels_last=settings.channels_last,
            augment=data.device_augment if settings.scaled_decode else None,
        )
        try:
            with compiler_errors_in_one_line():
                train(num_steps=_WARMUP_STEPS)
                memory.stop()
                return train(num_steps=self.num_steps)
        finally:
            data.close()

    def _through_engine(self, settings: Settings, memory: PeakMemory) -> Steps:
        trainer = replace(
            self.recipe.trainer,
            max_epochs=2,
            epoch_length=self.num_steps,
            compile=settings.compile,
        )
        timer, data = EpochTimer(), self._data(settings)
        with tempfile.TemporaryDirectory() as place:
            folder = RunFolder(Path(place) / "run")
            start = describe_start([], device="", precision="", num_processes=1)
            folder.begin("trainer: {max_epochs: 1}\n", start)
            model = copy.deepcopy(self.model)
            training = Training(
                self._learner(model, is_compiled=settings.compile),
                *(data, folder, self.session, choose_computing(trainer, self.session), trainer),
                *(self.recipe.monitor, self.recipe.validator, self.recipe.seed),
            )
            timer.attach(training.trainer)
            # The first epoch is the warm-up.
            training.trainer.add_event_handler(Events.EPOCH_COMPLETED(once=1), memory.stop)
            try:
                training.run()
            finally:
                training.board.close()
                data.close()
        last = timer.epochs[-1]
        return Steps(last.num_images, last.seconds, last.data_wait_seconds)

    def _learner(self, model: BinaryClassifier, *, is_compiled: bool) -> Learner:
        recipe = self.recipe
        return build_learner(
            *(model, self.loss, recipe.optimizer, recipe.lr_scheduler, recipe.fine_tuning),
            is_compiled=is_compiled,
        )

    def _data(self, settings: Settings) -> XrayData:
        recipe = self.recipe.data
        return build_data(
            recipe if settings.workers else replace(recipe, num_workers=0),
            self.records,
            self.recipe.seed,
            device=self.session.device,
            pipeline=self.pipeline,
            cache=self.cache if settings.cache else None,
        )


@contextmanager
def quietly() -> Iterator[None]:
    """Suppress the log lines of `fit`."""
    logger = logging.getLogger("cxrignite")
    before = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(before)
