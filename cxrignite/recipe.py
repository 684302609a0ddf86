"""One experiment as plain typed dataclasses: what a recipe file says, after parsing.

Keys whose object needs something that is known only later are factories, so that nothing heavy is
built while a recipe is read: `model()`, `optimizer(parameters)`, `lr_scheduler(optimizer)` and
`data.sampler(labels, seed=seed)`. A class is such a factory already, so a `Recipe` can be
written in Python too: `Recipe(model=LightCNN, ...)`.
"""

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, get_args

import torch
from torch import nn
from torch.optim.lr_scheduler import LRScheduler
from torch.utils.data import Sampler

from cxrignite.data import Source
from cxrignite.data.batch_augment import BatchAugment
from cxrignite.data.transforms import Transform
from cxrignite.engines import EVALUATION_METRICS
from cxrignite.errors import RecipeError
from cxrignite.functional import CamMethod, ImageKind
from cxrignite.handlers import Attachable
from cxrignite.nn import BinaryClassifier
from cxrignite.nn.losses import fitted_loss


def _require(holds: bool, name: str, rule: str, value: object) -> None:
    if not holds:
        raise ValueError(f"{name} must be {rule}, got {value}")


@contextmanager
def _named(key: str) -> Iterator[None]:
    """Say which key a library's complaint is about."""
    try:
        yield
    except RecipeError:
        raise
    except ValueError as error:
        raise ValueError(f"{key}: {error}") from error


@dataclass
class Fold:
    """One of several folds of the training patients.

    Attributes:
        index: Which, from 0.
        count: Of how many, at least 2.
    """

    index: int
    count: int

    def __post_init__(self) -> None:
        _require(self.count >= 2, "data.fold.count", "at least 2", self.count)
        rule = f"in [0, {self.count})"
        _require(0 <= self.index < self.count, "data.fold.index", rule, self.index)


@dataclass
class DataRecipe:
    """What is learnt from, and how it reaches the model.

    Attributes:
        source: Where the images come from.
        val_fraction: Share of the source's `train` images, by whole patients, kept for validation,
            in (0, 0.5].
        calibration_fraction: Another share of the same, kept to choose the threshold, in [0, 0.4];
            these images pick neither weights nor checkpoint, so it can be certified. 0 chooses it
            on the validation split.
        test_fraction: Share kept for the test, in [0, 0.5]; the source then has no test split.
        fold: In place of `val_fraction`, the fold validated on: `{index: 0, count: 5}`.
        allow_leakage: Train though a patient or a file is in several splits.
        on_unreadable: `raise` stops at an image that cannot be read, `skip` leaves it out.
        image_size: Rows and columns that each image is read at, a JPEG at a fraction of its size;
            null keeps the file's own.
        grey_scaling: Which values become black and white: of its window or VOI LUT (`file`; without
            one as `minmax`, if it has more than 8 bits), all that could be, or some of the pixels'.
        preprocess: MONAI transforms of every split, without randomness.
        cache: Keep the preprocessed images in a memory-mapped file, and read epochs from there: in
            this folder; `auto` takes `caches` beside the run folder, where there is room; `off`
            reads the images every epoch. The results do not depend on it.
        augment: MONAI transforms of the training split alone, image by image.
        batch_augment: Faster transforms of the training split alone, on whole batches, after
            `augment`; on the GPU where there is one.
        sampler: Draws the training images; null is a plain shuffle.
        batch_size: Images a training batch, of one process.
        eval_batch_size: Images a batch in evaluation; null takes twice `batch_size`.
        num_workers: Loader processes; 0 loads in the main process. The results do not depend on it.
        prefetch_factor: Batches each worker prepares ahead.
        worker_timeout: Seconds after which a worker that does not answer ends the run; null: never.
    """

    source: Source
    val_fraction: float = 0.15
    calibration_fraction: float = 0.0
    test_fraction: float = 0.0
    fold: Fold | None = None
    allow_leakage: bool = False
    on_unreadable: Literal["raise", "skip"] = "raise"
    image_size: tuple[int, int] | None = None
    grey_scaling: Literal["file", "stored", "minmax", "percentiles"] = "file"
    preprocess: list[Transform] = field(default_factory=list)
    cache: Literal["auto", "off", False] | Path = "auto"
    augment: list[Transform] = field(default_factory=list)
    batch_augment: list[BatchAugment] = field(default_factory=list)
    sampler: Callable[[list[int]], Sampler[int]] | None = None
    batch_size: int = 32
    eval_batch_size: int | None = None
    num_workers: int = 4
    prefetch_factor: int = 4
    worker_timeout: float | None = 600.0

    def __post_init__(self) -> None:
        self._check_shares()
        _require(self.batch_size >= 2, "data.batch_size", "at least 2", self.batch_size)
        if self.cache is False:
            self.cache = "off"  # which is what YAML takes it for
        size, images = self.image_size, self.eval_batch_size
        _require(size is None or min(size) >= 1, "data.image_size", "at least 1 x 1", size)
        _require(images is None or images >= 1, "data.eval_batch_size", "at least 1", images)
        _require(self.num_workers >= 0, "data.num_workers", "at least 0", self.num_workers)
        _require(
            self.prefetch_factor >= 1, "data.prefetch_factor", "at least 1", self.prefetch_factor
        )
        limit = self.worker_timeout
        _require(limit is None or limit > 0, "data.worker_timeout", "above 0", limit)

    def _check_shares(self) -> None:
        """Each is carved of what the one before left: never more than a half of that."""
        test, val, share = self.test_fraction, self.val_fraction, self.calibration_fraction
        _require(0 <= test <= 0.5, "data.test_fraction", "in [0, 0.5]", test)
        _require(0 < val <= 0.5, "data.val_fraction", "in (0, 0.5]", val)
        _require(0 <= share <= 0.4, "data.calibration_fraction", "in [0, 0.4]", share)
        name = "data.val_fraction"
        if self.fold is not None:
            name, val = "the share of data.fold", (1 - test) / self.fold.count
        rule = "at most a half of what data.test_fraction leaves"
        _require(round(val, 9) <= round((1 - test) / 2, 9), name, rule, val)
        taken = round(test + val + share, 9)
        names = [*(["data.test_fraction"] if test else []), name, "data.calibration_fraction"]
        _require(taken <= 0.6, " + ".join(names), "at most 0.6", taken)


@dataclass
class TrainerRecipe:
    """How the model is trained.

    Attributes:
        max_epochs: Epochs in all; the one key that may grow when a run is resumed.
        epoch_length: Batches an epoch; null takes the whole split.
        device: `auto` takes CUDA where there is one.
        precision: `auto` takes the fastest sound one of this device and says why in the log.
        channels_last: Keep images and weights in the memory order that convolutions prefer.
        compile: Compile the model for this machine; the first steps take minutes then.
        profile: `fast` lets cuDNN choose kernels by trial, and on a CPU keeps the memory that steps
            free; `reproducible` gives the same bits again.
        max_grad_norm: Clip the gradient's norm to this; null does not clip.
        accumulation_steps: Batches that make one optimizer step.
        lr_step: When the learning-rate scheduler steps.
        handlers: Attached to the trainer.
    """

    max_epochs: int = 10
    epoch_length: int | None = None
    device: Literal["auto", "cpu", "cuda"] = "auto"
    precision: Literal["auto", "fp32", "bf16", "fp16"] = "auto"
    channels_last: bool = True
    compile: bool = False
    profile: Literal["fast", "reproducible"] = "fast"
    max_grad_norm: float | None = None
    accumulation_steps: int = 1
    lr_step: Literal["epoch", "iteration"] = "epoch"
    handlers: list[Attachable] = field(default_factory=list)

    def __post_init__(self) -> None:
        _require(self.max_epochs >= 1, "trainer.max_epochs", "at least 1", self.max_epochs)
        length, norm, steps = self.epoch_length, self.max_grad_norm, self.accumulation_steps
        _require(length is None or length >= 1, "trainer.epoch_length", "at least 1", length)
        _require(norm is None or norm > 0, "trainer.max_grad_norm", "above 0", norm)
        _require(steps >= 1, "trainer.accumulation_steps", "at least 1", steps)


@dataclass
class ValidatorRecipe:
    """What happens on the validation split after each epoch.

    Attributes:
        handlers: Attached to the validator; a `ThresholdSearch` here chooses the operating point.
    """

    handlers: list[Attachable] = field(default_factory=list)


@dataclass
class MonitorRecipe:
    """The one validation metric that picks the best checkpoint and stops early.

    Attributes:
        metric: A metric of the validator, such as `roc_auc` or `loss`.
        mode: Whether more or less of it is better.
        patience: Epochs without a better value before training stops; null never stops.
    """

    metric: str = "roc_auc"
    mode: Literal["max", "min"] = "max"
    patience: int | None = None

    def __post_init__(self) -> None:
        patience = self.patience
        _require(patience is None or patience >= 1, "monitor.patience", "at least 1", patience)
        _require(
            self.metric != "loss" or self.mode == "min",
            "monitor.mode",
            "min where monitor.metric is loss",
            self.mode,
        )


@dataclass
class ExplainRecipe:
    """Which images the command `explain` draws maps of, and how.

    Attributes:
        target_layer: A layer's name; null is the last before pooling.
        method: How a map weighs activations and gradients.
        select: Kinds of images.
        max_images: Images of each kind at most.
        num_measured: Images measured, or 0.
    """

    target_layer: str | None = None
    method: CamMethod = "grad_cam"
    select: list[ImageKind] = field(default_factory=lambda: list(get_args(ImageKind)))
    max_images: int = 16
    num_measured: int = 32

    def __post_init__(self) -> None:
        _require(bool(self.select), "explain.select", "at least one kind", self.select)
        _require(self.max_images >= 1, "explain.max_images", "at least 1", self.max_images)
        _require(self.num_measured >= 0, "explain.num_measured", "at least 0", self.num_measured)


@dataclass
class Recipe:
    """One experiment.

    Attributes:
        data: What is learnt from.
        model: The classifier, as a factory.
        loss: Of logits and labels, both `(N,)`; one that `NeedsClassCounts` is told those of the
            training split.
        optimizer: From the model's parameters to an optimizer.
        lr_scheduler: From the optimizer to a scheduler; null keeps the learning rate.
        seed: Decides the split, the first weights, every draw and every augmentation.
        run_dir: The folder this run leaves behind.
        trainer: How the model is trained.
        validator: What happens after each epoch.
        monitor: What picks the best checkpoint.
        explain: What the command `explain` shows.
    """

    data: DataRecipe
    model: Callable[[], BinaryClassifier]
    optimizer: Callable[[Iterable[nn.Parameter]], torch.optim.Optimizer]
    loss: nn.modules.loss._Loss = field(default_factory=nn.BCEWithLogitsLoss)
    lr_scheduler: Callable[[torch.optim.Optimizer], LRScheduler] | None = None
    seed: int = 42
    run_dir: Path = Path("runs/run")
    trainer: TrainerRecipe = field(default_factory=TrainerRecipe)
    validator: ValidatorRecipe = field(default_factory=ValidatorRecipe)
    monitor: MonitorRecipe = field(default_factory=MonitorRecipe)
    explain: ExplainRecipe = field(default_factory=ExplainRecipe)

    def __post_init__(self) -> None:
        _require(0 <= self.seed < 2**31, "seed", "in [0, 2**31)", self.seed)
        self.loss = fitted_loss(self.loss)  # type: ignore[assignment]  # one, or a column of it
        self._try_factories()
        handlers = self.validator.handlers
        # Somebody's own handler may publish anything; ours say what they do.
        if all(type(handler).__module__.startswith("cxrignite.") for handler in handlers):
            published = [name for handler in handlers for name in getattr(handler, "publishes", ())]
            known = [*EVALUATION_METRICS, *published]
            rule = f"one of {', '.join(known)}"
            _require(self.monitor.metric in known, "monitor.metric", rule, self.monitor.metric)

    def _try_factories(self) -> None:
        """Use each light factory once on a stand-in: a wrong setting is found right away."""
        with _named("optimizer"):
            optimizer = self.optimizer([nn.Parameter(torch.zeros(2, 2))])
        if self.lr_scheduler is not None:
            with _named("lr_scheduler"):
                self.lr_scheduler(optimizer)
        if self.data.sampler is not None:
            self.data.sampler([0, 1], seed=self.seed)  # type: ignore[call-arg]  # see the module
