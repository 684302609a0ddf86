"""The trainer of a recipe with all handlers attached, and its state in a checkpoint.

The order at the end of an epoch matters: validate, publish the metrics, write them, save the best
weights, step the schedule, save the state. Writing and saving need the metrics. The state comes
last, because it must contain everything above: a resumed run then repeats none of it.
"""

from __future__ import annotations

import logging
import math
import sys
from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

import ignite.distributed as idist
import torch
from ignite.engine import Engine, Events
from ignite.handlers import EarlyStopping
from torch import nn
from torch.nn.parallel import DistributedDataParallel
from torch.optim.lr_scheduler import LRScheduler, ReduceLROnPlateau

from cxrignite.data import XrayData
from cxrignite.engines import (
    compile_model,
    compiler_errors_in_one_line,
    create_evaluator,
    create_trainer,
)
from cxrignite.engines.session import Session, seed_everything
from cxrignite.errors import CheckpointError, RecipeError
from cxrignite.handlers import (
    BestCheckpoint,
    FiniteGuard,
    GracefulStop,
    HistoryWriter,
    ProgressLine,
    SafeSaver,
    TensorBoardWriter,
    ThresholdSearch,
)
from cxrignite.nn import BinaryClassifier
from cxrignite.recipe import MonitorRecipe, TrainerRecipe, ValidatorRecipe
from cxrignite.reporting.console import EpochLines
from cxrignite.runs.checkpoints import Stateful, TrainingState, load_state, load_weights
from cxrignite.runs.run_folder import RunFolder
from cxrignite.workflows.map_supervision import MapTerm
from cxrignite.workflows.parts import Computing
from cxrignite.write_guard import part_runs

_logger = logging.getLogger(__name__)


class Learner(NamedTuple):
    """Classifier with its loss, optimizer and scheduler.

    Attributes:
        model: The classifier, on its device.
        forward: The same model, compiled if the recipe says so.
        loss: The loss of logits and labels.
        optimizer: The optimizer of its parameters.
        scheduler: The learning rate schedule; null keeps the rate constant.
        map_term: The loss of the maps; null trains without it.
    """

    model: BinaryClassifier
    forward: nn.Module
    loss: nn.Module
    optimizer: torch.optim.Optimizer
    scheduler: LRScheduler | None = None
    map_term: MapTerm | None = None


def build_learner(
    model: BinaryClassifier,
    loss: nn.Module,
    optimizer: Callable[[Iterable[nn.Parameter]], torch.optim.Optimizer],
    scheduler: Callable[[torch.optim.Optimizer], LRScheduler] | None = None,
    *,
    is_compiled: bool = False,
    map_term: MapTerm | None = None,
) -> Learner:
    """Build the optimizer and the scheduler of a classifier.

    Args:
        model: The classifier, on its device.
        loss: The loss of logits and labels.
        optimizer: The recipe's `optimizer`, a factory.
        scheduler: The recipe's `lr_scheduler`, a factory.
        is_compiled: Compile the model.
        map_term: The loss of the maps.
    """
    forward = compile_model(model) if is_compiled else model
    built = optimizer(model.parameters())
    stepping = scheduler(built) if scheduler else None
    return Learner(model, forward, loss, built, stepping, map_term)


class Training:
    """Trainer and validator, attached to each other and to the run folder.

    Args:
        learner: The classifier to train.
        data: The images.
        folder: The run folder.
        session: The processes that train.
        computing: Settings of the forward passes.
        settings: The recipe's `trainer`.
        monitor: The recipe's `monitor`.
        validation: The recipe's `validator`.
        seed: Seed of the run.
    """

    def __init__(
        self,
        learner: Learner,
        data: XrayData,
        folder: RunFolder,
        session: Session,
        computing: Computing,
        settings: TrainerRecipe,
        monitor: MonitorRecipe,
        validation: ValidatorRecipe,
        seed: int,
    ) -> None:
        self.model, self.data, self.folder, self.session = learner.model, data, folder, session
        self.optimizer, self.scheduler = learner.optimizer, learner.scheduler
        self.settings, self.monitor, self.validation = settings, monitor, validation
        self.seed = seed
        device, use_scaler = computing.device, computing.precision.use_scaler
        # Not `idist.auto_model`, which moves the model to CUDA if a GPU is present.
        is_parallel = session.world_size > 1
        trained = DistributedDataParallel(learner.forward) if is_parallel else learner.forward
        self.scaler = torch.amp.GradScaler(device.type) if use_scaler else None
        self.loader = data.train_loader()
        if (settings.epoch_length or 0) > len(self.loader):
            _logger.warning(
                "trainer.epoch_length must be at most the %d batches of an epoch, got %d; using %d",
                *(len(self.loader), settings.epoch_length, len(self.loader)),
            )
        self._check_schedule()
        self.trainer = create_trainer(
            trained,
            self.optimizer,
            learner.loss,
            scaler=self.scaler,
            max_grad_norm=settings.max_grad_norm,
            accumulation_steps=settings.accumulation_steps,
            augment=data.device_augment,
            extra_loss=learner.map_term,
            **computing._asdict(),
        )
        self.validator = create_evaluator(
            learner.forward,
            learner.loss,
            batch_size=data.eval_batch_size("val"),
            exclusive=data.exclusive,
            findings=data.findings if len(data.findings) > 1 else (),
            **computing._asdict(),
        )
        self.board = TensorBoardWriter(folder.tensorboard_dir)
        metric = f"val_{monitor.metric}"
        self._recipe_hash = ""
        self.best = BestCheckpoint(
            {"model": self.model}, folder.checkpoints_dir, metric, mode=monitor.mode, name="best"
        )
        self.stop = GracefulStop()
        self.stopper = self._early_stopping(metric)
        self.saver = SafeSaver(folder.checkpoints_dir)
        self._lines = EpochLines(settings.max_epochs, metric)
        self._attach()

    @property
    def epoch_length(self) -> int:
        """Batches per epoch; at most the loader's length."""
        length = len(self.loader)
        return min(self.settings.epoch_length or length, length)

    @property
    def is_finished(self) -> bool:
        """True if no epoch is left: all are done, or training stopped early."""
        stopper = self.stopper
        stopped = stopper is not None and stopper.counter >= stopper.patience
        return stopped or self.trainer.state.epoch >= self.settings.max_epochs

    def run(self) -> None:
        """Train the remaining epochs.

        Raises:
            RecipeError: `trainer.compile` is set, and the compiler fails.
        """
        if not self.is_finished:
            epochs = self.settings.max_epochs
            with part_runs(), compiler_errors_in_one_line():
                self.trainer.run(self.loader, max_epochs=epochs, epoch_length=self.epoch_length)
        idist.barrier()  # until the first process has saved

    def state_objects(self) -> dict[str, Stateful]:
        """Return the objects whose state a resumed run needs, by name in the checkpoint."""
        objects: dict[str, Stateful | None] = {
            "model": self.model,
            "optimizer": self.optimizer,
            "lr_scheduler": self.scheduler,
            "scaler": self.scaler,
            "trainer": self.trainer,
            "best": self.best,
            "early_stopping": self.stopper,
        }
        for engine, group in (("trainer", self.settings), ("validator", self.validation)):
            for number, handler in enumerate(group.handlers):
                if isinstance(handler, Stateful):
                    objects[f"{engine}_handler_{number}"] = handler
        return {name: thing for name, thing in objects.items() if thing is not None}

    def restore(self, state: TrainingState) -> None:
        """Resume from a checkpoint's state.

        Raises:
            CheckpointError: It is not a training state of this trainer.
        """
        missing = sorted(self.state_objects().keys() - state.parts.keys())
        if missing:
            raise CheckpointError(
                f"the checkpoint must hold the state of {missing[0]} to resume, got none"
            )
        if state.epoch_length != self.epoch_length:
            raise CheckpointError(
                f"an epoch must have {state.epoch_length} steps as in the checkpoint, "
                f"got {self.epoch_length}"
            )
        for name, thing in self.state_objects().items():
            if name == "model":
                load_weights(self.model, state.weights)
            else:
                load_state(thing, state.parts[name], name)
        self.trainer.state.max_epochs = self.settings.max_epochs

    def save_last(self) -> None:
        """Save the state of the epoch just completed."""
        if self.session.is_main_process:
            objects = self.state_objects().items()
            state = {name: thing.state_dict() for name, thing in objects}
            state["recipe_hash"] = self._recipe_hash
            self.saver(state, "last.pt", {"epoch": self.trainer.state.epoch})

    def _attach(self) -> None:
        trainer, settings = self.trainer, self.settings
        trainer.add_event_handler(Events.STARTED, self._start)
        trainer.add_event_handler(Events.EPOCH_STARTED, self._start_epoch)
        steps = settings.accumulation_steps
        FiniteGuard(self.model, self._describe_batch, accumulation_steps=steps).attach(trainer)
        if self.scheduler is not None and settings.lr_step == "iteration":
            # Wrapped, because Ignite would pass the engine to `step` as its deprecated `epoch`.
            step = self.scheduler.step
            trainer.add_event_handler(Events.ITERATION_COMPLETED, lambda: step())
        self.stop.attach(trainer)
        self.stop.attach(self.validator)
        patients = [record.patient for record in self.data.records("val")]
        for handler in self.validation.handlers:
            if isinstance(handler, ThresholdSearch):
                handler.patients = patients
                handler.findings = self.data.findings
            with part_runs():
                handler.attach(self.validator)
        if self.session.is_main_process and sys.stderr.isatty():
            ProgressLine("train", shows_loss=True).attach(trainer)
            ProgressLine("validate").attach(self.validator)
        trainer.add_event_handler(Events.EPOCH_COMPLETED, self._validate)
        for handler in settings.handlers:
            with part_runs():
                handler.attach(trainer)
        # After the recipe's handlers, so that an `EpochTimer` counts the start of the workers.
        trainer.add_event_handler(Events.EPOCH_STARTED, self._start_pass)
        history = HistoryWriter(self.folder.history_path)
        history.write = self.folder.files.write
        history.attach(trainer)
        self.board.attach(trainer)
        self.best.attach(trainer)
        if self.stopper is not None:
            trainer.add_event_handler(Events.EPOCH_COMPLETED, self.stopper)
        if self.scheduler is not None and settings.lr_step == "epoch":
            trainer.add_event_handler(Events.EPOCH_COMPLETED, self._step_schedule, self.scheduler)
        trainer.add_event_handler(Events.EPOCH_COMPLETED, self._log)
        trainer.add_event_handler(Events.EPOCH_COMPLETED, self.save_last)

    def _start(self) -> None:
        # Read once, so that a later change of the file cannot stop the run.
        if self.session.is_main_process:
            self._recipe_hash = self.folder.recipe_hash()
        # So a run stopped in its first epoch can be resumed, and a full disk is found at once.
        if self.trainer.state.epoch == 0:
            self.save_last()

    def _start_epoch(self, trainer: Engine) -> None:
        epoch = trainer.state.epoch
        seed_everything(self.seed, epoch)
        self.data.set_epoch(epoch)

    def _start_pass(self, trainer: Engine) -> None:
        # A new pass over the loader: with a short `epoch_length` the old one would continue.
        trainer.set_data(self.loader)

    def _validate(self, trainer: Engine) -> None:
        self._share_buffers()
        self.validator.run(self.data.eval_loader("val"))
        metrics = {f"val_{name}": value for name, value in self.validator.state.metrics.items()}
        trainer.state.metrics.update(metrics, lr=self.optimizer.param_groups[0]["lr"])

    def _share_buffers(self) -> None:
        """Copy the batch statistics of rank 0, whose weights are saved, to every process."""
        if self.session.world_size > 1:
            for buffer in self.model.buffers():
                torch.distributed.broadcast(buffer, 0)

    def _step_schedule(self, scheduler: LRScheduler) -> None:
        if isinstance(scheduler, ReduceLROnPlateau):
            scheduler.step(self.trainer.state.metrics[self.best.metric])
        else:
            scheduler.step()

    def _early_stopping(self, metric: str) -> EarlyStopping | None:
        if self.monitor.patience is None:
            return None
        sign = 1.0 if self.monitor.mode == "max" else -1.0

        def score(trainer: Engine) -> float:
            value = sign * float(trainer.state.metrics[metric])
            return value if math.isfinite(value) else -math.inf

        stopper = EarlyStopping(self.monitor.patience, score, self.trainer)
        # Its log lines have another format; `_log` logs the same.
        stopper.logger.setLevel(logging.WARNING)
        return stopper

    def _check_schedule(self) -> None:
        """Refuse a schedule that is too short, or has another mode than the monitor."""
        if isinstance(self.scheduler, ReduceLROnPlateau):
            mode = self.monitor.mode
            if self.settings.lr_step == "iteration" or self.scheduler.mode != mode:
                raise RecipeError(
                    f"ReduceLROnPlateau must step by epoch, in the monitor's mode {mode}, got "
                    f"trainer.lr_step {self.settings.lr_step} and mode {self.scheduler.mode}"
                )
        steps = getattr(self.scheduler, "total_steps", None)
        by_iteration = self.settings.lr_step == "iteration"
        needed = self.settings.max_epochs * (self.epoch_length if by_iteration else 1)
        if steps is not None and steps < needed:
            raise RecipeError(
                f"lr_scheduler.total_steps must be at least {needed}, the steps of this run, "
                f"got {steps}"
            )

    def _describe_batch(self, batch: Any) -> str:
        records = self.data.records("train")
        return ", ".join(records[index].name for index in batch.index.tolist())

    def _log(self, trainer: Engine) -> None:
        epoch = trainer.state.epoch
        self._lines.log(epoch, trainer.state.metrics, is_best=self.best.best_epoch == epoch)
        if self.is_finished and epoch < self.settings.max_epochs:
            patience, metric = self.monitor.patience, self.monitor.metric
            _logger.info("stopped early: no better %s for %d epochs", metric, patience)
