"""Suggest a learning rate: a short training in which it rises after each batch."""

from __future__ import annotations

import math
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import torch
from ignite.engine import Engine, Events
from ignite.handlers import FastaiLRFinder

from cxrignite.csv_text import csv_bytes
from cxrignite.data import XrayData
from cxrignite.durable_write import write_durably
from cxrignite.engines import create_trainer
from cxrignite.engines.session import Session, open_session, seed_everything
from cxrignite.errors import CxrIgniteError, RecipeError
from cxrignite.handlers import GracefulStop
from cxrignite.handlers.map_picture import as_png
from cxrignite.output_marker import mark_output
from cxrignite.recipe import DataRecipe, Recipe, TrainerRecipe
from cxrignite.reporting.console import print_learning_rate
from cxrignite.reporting.plots.charting import draw
from cxrignite.reporting.plots.run_figures import learning_rate_curve
from cxrignite.runs.run_folder import RunFolder
from cxrignite.workflows.fine_tuning import check_parts, start_from
from cxrignite.workflows.map_supervision import build_map_term
from cxrignite.workflows.parts import (
    Computing,
    build_data,
    build_loss,
    build_model,
    check_image_size,
    choose_computing,
)
from cxrignite.workflows.records import (
    check_has_train,
    check_no_second_test,
    read_records,
    split_records,
)
from cxrignite.workflows.training import Learner, build_learner
from cxrignite.write_guard import parts_limited

LOWEST, HIGHEST = 1e-7, 10.0
"""Learning rates between which the search rises, those of fastai."""

_LEAST_FALL = 0.02  # share of the loss; below, a fall may be chance


def find_lr(recipe: Recipe, output: Path, num_steps: int) -> None:
    """Print a learning rate for a recipe, and write the curve of losses as a table and a figure.

    No run, cache or weight is written or changed.

    Raises:
        RecipeError: There are too few steps, several processes were started, or `output` is in a
            run folder.
        DataError: There are no training images, or one cannot be read.
        CxrIgniteError: The loss does not fall at any learning rate.
    """
    if num_steps < 10:
        raise RecipeError(f"--num_steps must be at least 10, got {num_steps}")
    _check_outside_of_runs(output)
    settings = recipe.trainer
    with (
        open_session(settings.device, settings.profile) as session,
        parts_limited(recipe.run_dir),
    ):
        if session.world_size > 1:
            raise RecipeError(
                f"find_lr needs one process, got {session.world_size}; start it without torchrun"
            )
        computing = choose_computing(settings, session)
        data = _train_data(recipe.data, recipe.seed, session)
        try:
            seed_everything(recipe.seed)
            model = build_model(recipe.model, computing, num_findings=len(data.findings))
            tuning = recipe.fine_tuning
            if tuning.start_from is not None:
                start_from(model, tuning.start_from)
            check_parts(model, tuning)
            check_image_size(model, data.image_size)
            root, device = recipe.data.source.root, session.device
            learner = build_learner(
                model,
                build_loss(recipe.loss, data, device),
                recipe.optimizer,
                tuning=tuning,
                map_term=build_map_term(recipe.map_loss, model, data, root, device),
            )
            model.freeze(tuning.frozen)
            search = LearningRateSearch(learner, data, computing, settings, recipe.seed)
            search.run(num_steps)
        finally:
            data.close()
    mark_output(output)
    rows = zip(search.lr, search.loss, search.smoothed, strict=True)
    table = [("step", "lr", "loss", "smoothed_loss"), *((n, *row) for n, row in enumerate(rows, 1))]
    write_durably(output / "find_lr.csv", csv_bytes(table))
    figure = learning_rate_curve(
        *(search.lr, search.loss, search.smoothed), suggestion=search.suggestion, own=search.own
    )
    write_durably(output / "find_lr.png", as_png(draw(figure)))
    if search.suggestion is None:
        raise CxrIgniteError(
            f"no learning rate is suggested: {search.failure}; the losses are in {output}"
        )
    print_learning_rate(search.suggestion, search.own, output)


def _check_outside_of_runs(output: Path) -> None:
    place = output.resolve()
    for folder in (place, *place.parents):
        if RunFolder(folder).environment_path.is_file():
            raise RecipeError(f"--output must be outside of run folders, got {output}")
    if output.exists() and not output.is_dir():
        raise RecipeError(f"--output must be a folder, got the file {output}")


def _train_data(data: DataRecipe, seed: int, session: Session) -> XrayData:
    """Return the training images that `fit` would use, without a cache."""
    listed = data.source.records()
    check_has_train(data, listed)
    check_no_second_test(data, listed)
    # Otherwise an image is read when it is drawn, and most may not be.
    records = read_records(data, listed) if data.on_unreadable == "skip" else listed
    train = [each for each in split_records(data, records, seed) if each.split == "train"]
    return build_data(data, train, seed, device=session.device)


class LearningRateSearch:
    """Training with a rising learning rate; the weights are as before when it ends.

    The rate rises in all groups of parameters together, in the ratio that the optimizer gives them.
    The learning-rate scheduler is not used.

    Args:
        learner: The classifier with its loss and optimizer.
        data: The training images.
        computing: Settings of the forward passes.
        settings: The recipe's `trainer`.
        seed: Seed of the order and the augmentation.

    Attributes:
        own: The learning rate of the recipe.
        lr: The learning rate of each batch.
        loss: The loss of each batch; the last one may be NaN or infinite.
        smoothed: The running mean of the losses.
        suggestion: The learning rate at which the smoothed loss falls fastest, but at most a tenth
            of that at which it is lowest; None if it does not fall. In a noisy curve the first may
            be close to divergence.
        failure: The reason why there is no suggestion; else empty.

    Raises:
        RecipeError: If a learning rate of the optimizer is 0, which cannot rise in a ratio.
    """

    def __init__(
        self,
        learner: Learner,
        data: XrayData,
        computing: Computing,
        settings: TrainerRecipe,
        seed: int,
    ) -> None:
        self._learner, self._data, self._settings, self._seed = learner, data, settings, seed
        self._loader = data.train_loader()
        use_scaler = computing.precision.use_scaler
        self._scaler = torch.amp.GradScaler(computing.device.type) if use_scaler else None
        self._trainer = create_trainer(
            learner.forward,
            learner.optimizer,
            learner.loss,
            scaler=self._scaler,
            max_grad_norm=settings.max_grad_norm,
            accumulation_steps=settings.accumulation_steps,
            augment=data.device_augment,
            extra_loss=learner.map_term,
            **computing._asdict(),
        )
        self.own = float(learner.optimizer.defaults["lr"])
        lowest = min(self.own, *(group["lr"] for group in learner.optimizer.param_groups))
        if not lowest > 0:
            raise RecipeError(f"find_lr needs learning rates above 0, got {lowest:g}")
        self.lr: list[float] = []
        self.loss: list[float] = []
        self.smoothed: list[float] = []
        self.suggestion: float | None = None
        self.failure = ""

    def run(self, num_steps: int) -> None:
        """Train for a number of optimizer steps, or until the loss diverges."""
        trainer, optimizer = self._trainer, self._learner.optimizer
        GracefulStop().attach(trainer)
        trainer.add_event_handler(Events.EPOCH_STARTED, self._start_epoch)
        trainer.add_event_handler(Events.ITERATION_COMPLETED, self._record)
        length = len(self._loader)
        length = min(self._settings.epoch_length or length, length)
        num_batches = num_steps * self._settings.accumulation_steps
        ratios = [group["lr"] / self.own for group in optimizer.param_groups]
        kept = {"model": self._learner.model, "optimizer": optimizer}
        finder = FastaiLRFinder()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)  # a loss that does not diverge is no fault
            with finder.attach(
                trainer,
                kept | ({"scaler": self._scaler} if self._scaler else {}),
                num_iter=num_batches,
                start_lr=[LOWEST * ratio for ratio in ratios],
                end_lr=[HIGHEST * ratio for ratio in ratios],
            ):
                trainer.run(
                    self._loader,
                    max_epochs=math.ceil(num_batches / length),
                    epoch_length=length,
                )
        found = finder.get_results()
        self.lr = [_first(each) / ratios[0] for each in found["lr"]]
        self.smoothed = list(found["loss"])
        self._suggest(finder, ratios[0])

    def _suggest(self, finder: FastaiLRFinder, ratio: float) -> None:
        """Take the finder's suggestion, if the loss falls enough at all."""
        found = finder.get_results()
        num_finite = sum(map(math.isfinite, found["loss"]))  # the search ends at the first other
        for values in found.values():
            del values[num_finite:]
        first = float(np.median(self.loss[: max(3, len(self.loss) // 10)]))
        lowest = min(found["loss"], default=first)
        fell = 1 - lowest / first if first > 0 else 0.0
        try:
            steepest = _first(finder.lr_suggestion()) / ratio if num_finite else None
        except RuntimeError:  # fewer than three falling losses
            steepest = None
        if steepest is None:
            self.failure = f"the loss rises from the first of {len(self.loss)} batches on"
        elif fell < _LEAST_FALL:
            self.failure = (
                f"the loss never falls by {100 * _LEAST_FALL:g} % from {first:.3g}; check the "
                "labels and the loss"
            )
        else:
            self.suggestion = min(steepest, self.lr[found["loss"].index(lowest)] / 10)

    def _start_epoch(self, trainer: Engine) -> None:
        epoch = trainer.state.epoch
        seed_everything(self._seed, epoch)
        self._data.set_epoch(epoch)
        trainer.set_data(self._loader)

    def _record(self, trainer: Engine) -> None:
        output: Any = trainer.state.output
        loss = float(output)
        self.loss.append(loss)
        if not math.isfinite(loss):
            trainer.terminate()


def _first(rates: float | list[float]) -> float:
    """Return the rate of the first group; the finder has a list if there are several."""
    return rates[0] if isinstance(rates, list) else rates
