"""The plain loop with one optimisation after the other, up to `fit` itself."""

from __future__ import annotations

import copy
import logging
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch.utils.data import DataLoader

from cxrignite.data import Film, XrayData
from cxrignite.data.packing import Pack
from cxrignite.data.pipeline import Pipeline
from cxrignite.engines import choose_precision
from cxrignite.engines.compilation import compiler_errors_in_one_line
from cxrignite.engines.precision import FP32
from cxrignite.engines.session import Session
from cxrignite.errors import RecipeError
from cxrignite.handlers import EpochTimer
from cxrignite.nn import BinaryClassifier
from cxrignite.recipe import Recipe
from cxrignite.runs.benchmark_result import Settings, Steps, Variant
from cxrignite.runs.environment import describe_start
from cxrignite.runs.run_folder import RunFolder
from cxrignite.workflows.benchmark.memory import PeakMemory
from cxrignite.workflows.benchmark.plain_loop import PlainFilms, train_steps
from cxrignite.workflows.kept_memory import kept_memory
from cxrignite.workflows.parts import build_data, build_loss, choose_computing
from cxrignite.workflows.training import Learner, Training, build_learner

_WARMUP_STEPS = 2


def plan_variants(
    recipe: Recipe, device: torch.device, with_compile: bool = False
) -> list[Variant]:
    """The rows, from the plain loop to what the recipe does.

    Args:
        recipe: Its `channels_last`, precision and workers are what the rows switch on.
        device: Where it trains; a CPU has a row of its own.
        with_compile: Whether to measure `compile` where the recipe does not ask for it.
    """
    keeps_memory = device.type == "cpu" and recipe.trainer.profile == "fast"
    settings = Settings()
    variants = [Variant("plain loop, Pillow", settings)]
    for name, switch, wanted in (
        ("scaled decode", "scaled_decode", True),
        ("pack", "pack", True),
        ("workers", "workers", recipe.data.num_workers > 0),
        ("channels_last", "channels_last", recipe.trainer.channels_last),
        ("precision", "precision", recipe.trainer.precision != "fp32"),
        ("kept memory", "kept_memory", keeps_memory),
    ):
        if wanted:
            settings = replace(settings, **{switch: True})
            variants.append(Variant(name, settings))
    compiled = replace(settings, compile=True)
    if recipe.trainer.compile:
        settings = compiled
    if recipe.trainer.compile or with_compile:
        variants.append(Variant("compile", compiled))
    variants.append(Variant("fit (engine, handlers)", replace(settings, engine=True)))
    return variants


class VariantRunner:
    """Trains a few steps of a variant.

    Args:
        recipe: The recipe.
        session: Where to compute.
        model: The classifier, copied for each variant.
        films: Training films.
        pipeline: The recipe's.
        pack: Of these films.
        num_steps: Batches a repeat.
    """

    def __init__(
        self,
        recipe: Recipe,
        session: Session,
        model: BinaryClassifier,
        films: list[Film],
        pipeline: Pipeline,
        pack: Pack,
        num_steps: int,
    ) -> None:
        self._recipe, self._session, self._model = recipe, session, model
        self._films, self._pipeline, self._pack = films, pipeline, pack
        self._num_steps = num_steps

    def run(self, variant: Variant) -> None:
        """Measure a variant once more, after a few steps that do not count.

        Args:
            variant: Gets the result, or the reason why it cannot be measured.
        """
        device = self._session.device
        with PeakMemory(device) as memory:
            try:
                run = self._through_engine if variant.settings.engine else self._by_hand
                with kept_memory(device) if variant.settings.kept_memory else nullcontext():
                    variant.steps.append(run(variant.settings))
            except RecipeError as error:
                variant.failure = str(error)
        variant.memory_bytes = max(variant.memory_bytes, memory.num_bytes)

    def _by_hand(self, settings: Settings) -> Steps:
        trainer, device = self._recipe.trainer, self._session.device
        data = self._data(settings)
        # The model comes as the recipe has it, which may be channels last already.
        memory = torch.channels_last if settings.channels_last else torch.contiguous_format
        model = copy.deepcopy(self._model).to(memory_format=memory)
        learner = self._learner(model, data, is_compiled=settings.compile)
        loader = data.train_loader() if settings.scaled_decode else self._plain_loader()
        precision = choose_precision(trainer.precision, device) if settings.precision else FP32

        def train(num_steps: int) -> Steps:
            return train_steps(
                learner.forward,
                learner.optimizer,
                learner.loss,
                loader,
                num_steps=num_steps,
                device=device,
                precision=precision,
                channels_last=settings.channels_last,
                augment=data.device_augment if settings.scaled_decode else None,
            )

        try:
            with compiler_errors_in_one_line():
                train(_WARMUP_STEPS)
                return train(self._num_steps)
        finally:
            data.close()

    def _through_engine(self, settings: Settings) -> Steps:
        trainer = replace(
            self._recipe.trainer,
            max_epochs=2,
            epoch_length=self._num_steps,
            compile=settings.compile,
        )
        timer, data = EpochTimer(), self._data(settings)
        with tempfile.TemporaryDirectory() as place:
            folder = RunFolder(Path(place) / "run")
            start = describe_start([], device="", precision="", num_processes=1)
            folder.begin("trainer: {max_epochs: 1}\n", start)
            model = copy.deepcopy(self._model)
            training = Training(
                self._learner(model, data, is_compiled=settings.compile),
                *(data, folder, self._session, choose_computing(trainer, self._session), trainer),
                *(self._recipe.monitor, self._recipe.validator, self._recipe.seed),
            )
            timer.attach(training.trainer)
            try:
                training.run()
            finally:
                training.board.close()
                data.close()
        # The first epoch is the warm-up.
        last = timer.epochs[-1]
        return Steps(last.num_images, last.seconds, last.data_wait_seconds)

    def _learner(self, model: BinaryClassifier, data: XrayData, *, is_compiled: bool) -> Learner:
        recipe = self._recipe
        # A copy, since a loss keeps the class counts of its data.
        loss = build_loss(copy.deepcopy(recipe.loss), data, self._session.device)
        return build_learner(
            model, loss, recipe.optimizer, recipe.lr_scheduler, is_compiled=is_compiled
        )

    def _data(self, settings: Settings) -> XrayData:
        workers = self._recipe.data.num_workers if settings.workers else 0
        recipe = replace(self._recipe, data=replace(self._recipe.data, num_workers=workers))
        return build_data(
            recipe.data,
            self._films,
            recipe.seed,
            device=self._session.device,
            pipeline=self._pipeline,
            pack=self._pack if settings.pack else None,
        )

    def _plain_loader(self) -> Iterable[Any]:
        films = [film for film in self._films if film.split == "train"]
        plain = PlainFilms(films, self._pipeline)
        return DataLoader(plain, self._recipe.data.batch_size, shuffle=True)


@contextmanager
def quietly() -> Iterator[None]:
    """Keep what `fit` says of its epochs to itself."""
    logger = logging.getLogger("cxrignite")
    before = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(before)
