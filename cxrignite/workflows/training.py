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
    AveragedWeights,
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
from cxrignite.nn.model_parts import parameter_groups
from cxrignite.recipe import (
    FineTuningRecipe,
    MonitorRecipe,
    TrainerRecipe,
    ValidatorRecipe,
    build_scheduler,
)
from cxrignite.reporting.console import EpochLines
from cxrignite.runs.checkpoints import Stateful, TrainingState, load_state, load_weights
from cxrignite.runs.run_folder import RunFolder
from cxrignite.workflows.map_supervision import MapTerm
from cxrignite.workflows.parts import Computing
from cxrignite.write_guard import part_runs

_logger = logging.getLogger(__name__)


class Learner(NamedTuple):
    """Classifier with its loss, optimizer and schedule.

    Attributes:
        model: The classifier, on its device.
        forward: The same model, compiled if the recipe says so.
        loss: The loss of logits and labels.
        optimizer: The optimizer of its parameters.
        scheduler: The recipe's factory of the learning-rate schedule; null keeps the rate constant.
        tuning: Frozen parts and learning rates by part.
        map_term: The loss of the maps; null trains without it.
    """

    model: BinaryClassifier
    forward: nn.Module
    loss: nn.Module
    optimizer: torch.optim.Optimizer
    scheduler: Callable[[torch.optim.Optimizer], LRScheduler] | None = None
    tuning: FineTuningRecipe = FineTuningRecipe()
    map_term: MapTerm | None = None


def build_learner(
    model: BinaryClassifier,
    loss: nn.Module,
    optimizer: Callable[[Iterable[nn.Parameter]], torch.optim.Optimizer],
    scheduler: Callable[[torch.optim.Optimizer], LRScheduler] | None = None,
    tuning: FineTuningRecipe | None = None,
    *,
    is_compiled: bool = False,
    map_term: MapTerm | None = None,
) -> Learner:
    """Build the optimizer of a classifier.

    Args:
        model: The classifier, on its device.
        loss: The loss of logits and labels.
        optimizer: The recipe's `optimizer`, a factory.
        scheduler: The recipe's `lr_scheduler`, a factory.
        tuning: The recipe's `fine_tuning`.
        is_compiled: Compile the model.
        map_term: The loss of the maps.

    Raises:
        RecipeError: A part of `fine_tuning` is unknown, or the optimizer has no rate for each.
    """
    forward, tuning = compile_model(model) if is_compiled else model, tuning or FineTuningRecipe()
    if not tuning.lr_factors and tuning.layer_decay is None:
        built = optimizer(model.parameters())
    else:
        groups: Any = parameter_groups(model, tuning.lr_factors, tuning.layer_decay)
        try:
            built = optimizer(groups)
            for group in built.param_groups:
                group["lr"] *= group["factor"]
        except (ValueError, KeyError) as error:
            rule = "optimizer must have a learning rate for each part, as fine_tuning needs"
            raise RecipeError(f"{rule}, got {error}") from error
    return Learner(model, forward, loss, built, scheduler, tuning, map_term)


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
        self.optimizer, self.tuning = learner.optimizer, learner.tuning
        self.settings, self.monitor, self.validation = settings, monitor, validation
        self.seed = seed
        self.averaged = self._averaged_weights()
        # The weights that are validated and kept, and their forward pass.
        self.kept: Any = self.model if self.averaged is None else self.averaged.module
        validated = learner.forward
        if self.averaged is not None:
            validated = compile_model(self.kept) if settings.compile else self.kept
        # DDP counts the gradients of the parameters that are trained when it is built.
        thaws = self.tuning.unfreeze_epoch is not None
        if self.tuning.frozen and not thaws:
            self.model.freeze(self.tuning.frozen)
        device, use_scaler = computing.device, computing.precision.use_scaler
        # Not `idist.auto_model`, which moves the model to CUDA if a GPU is present.
        is_parallel = session.world_size > 1
        trained = learner.forward
        if is_parallel:
            trained = DistributedDataParallel(trained, find_unused_parameters=thaws)
        self.scaler = torch.amp.GradScaler(device.type) if use_scaler else None
        self.loader = data.train_loader()
        if (settings.epoch_length or 0) > len(self.loader):
            _logger.warning(
                "trainer.epoch_length must be at most the %d batches of an epoch, got %d; using %d",
                *(len(self.loader), settings.epoch_length, len(self.loader)),
            )
        self.scheduler: LRScheduler | None = None
        if learner.scheduler is not None:
            self.scheduler = build_scheduler(
                learner.scheduler, self.optimizer, self._num_schedule_steps
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
            validated,
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
            *({"model": self.kept}, folder.checkpoints_dir, metric, monitor.mode, "best"),
            tie="val_loss",
            mean_of=monitor.mean_of,
        )
        self.stop = GracefulStop()
        self.stopper = self._early_stopping()
        self.saver = SafeSaver(folder.checkpoints_dir)
        self._lines = EpochLines(settings.max_epochs, metric)
        self._attach()

    @property
    def epoch_length(self) -> int:
        """Batches per epoch; at most the loader's length."""
        length = len(self.loader)
        return min(self.settings.epoch_length or length, length)

    @property
    def _num_schedule_steps(self) -> int:
        """Steps of the learning-rate scheduler in the run."""
        by_iteration = self.settings.lr_step == "iteration"
        return self.settings.max_epochs * (self.epoch_length if by_iteration else 1)

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
            "averaged": self.averaged,
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
            RecipeError: Its schedule ends before the last epoch.
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
        self._check_schedule()
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
        if self.tuning.unfreeze_epoch is not None:
            if epoch < self.tuning.unfreeze_epoch:
                self.model.freeze(self.tuning.frozen)
            else:
                self.model.unfreeze()

    def _start_pass(self, trainer: Engine) -> None:
        # A new pass over the loader: with a short `epoch_length` the old one would continue.
        trainer.set_data(self.loader)

    def _validate(self, trainer: Engine) -> None:
        averaged = self.averaged
        if averaged is not None and not averaged.n_averaged:
            # Before the first average, the weights are validated as they are.
            averaged.update_parameters(self.model)
            averaged.n_averaged.zero_()
        self._share_buffers()
        self.validator.run(self.data.eval_loader("val"))
        metrics = {f"val_{name}": value for name, value in self.validator.state.metrics.items()}
        trainer.state.metrics.update(metrics, lr=self.optimizer.param_groups[0]["lr"])

    def _share_buffers(self) -> None:
        """Copy the batch statistics of rank 0, whose weights are saved, to every process."""
        if self.session.world_size > 1:
            averaged = () if self.averaged is None else self.kept.buffers()
            for buffer in (*self.model.buffers(), *averaged):
                torch.distributed.broadcast(buffer, 0)

    def _step_schedule(self, scheduler: LRScheduler) -> None:
        if isinstance(scheduler, ReduceLROnPlateau):
            scheduler.step(self.trainer.state.metrics[self.best.metric])
        else:
            scheduler.step()

    def _averaged_weights(self) -> AveragedWeights | None:
        """Return the average of the weights, which each optimizer step updates."""
        settings = self.settings
        if settings.averaging is None:
            return None
        is_ema = settings.averaging == "ema"
        averaged = AveragedWeights(self.model, settings.ema_decay if is_ema else None)

        def average(*_: object) -> None:
            if is_ema or self.trainer.state.epoch >= (settings.swa_start or 1):
                averaged.update_parameters(self.model)

        # Torch calls it after a step, but not after one that the gradient scaler skips.
        self.optimizer.register_step_post_hook(average)
        return averaged

    def _early_stopping(self) -> EarlyStopping | None:
        if self.monitor.patience is None:
            return None

        def score(trainer: Engine) -> float:
            # It rises with each better epoch, so that both count alike.
            epoch: int = trainer.state.epoch
            return epoch if epoch < self.monitor.mean_of else self.best.best_epoch or 0

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
        first, *others = self.optimizer.param_groups
        for group in others:
            base = group.get("factor", 1.0) * first.get("initial_lr", 0.0)
            if not math.isclose(group.get("initial_lr", 0.0), base):
                raise RecipeError(
                    f"lr_scheduler must keep the learning rates of fine_tuning, but "
                    f"{type(self.scheduler).__name__} sets its own; use WarmupCosine"
                )
        steps = getattr(self.scheduler, "total_steps", None)
        needed = self._num_schedule_steps
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
