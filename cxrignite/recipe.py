"""Recipe of one experiment: typed dataclasses that hold the content of a recipe file.

Reading a recipe builds nothing heavy. Keys whose object needs something that is known only later
are factories: `model()`, `optimizer(parameters)`, `lr_scheduler(optimizer)` and
`data.sampler(labels, seed=seed)`. A class is already such a factory, so a `Recipe` can also be
written in Python: `Recipe(model=LightCNN, ...)`.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from inspect import signature
from pathlib import Path
from typing import Literal, get_args

import torch
from torch import nn
from torch.optim.lr_scheduler import LRScheduler
from torch.utils.data import Sampler

from cxrignite.data import Source, View
from cxrignite.data.batch_augment import BatchAugment
from cxrignite.data.transforms import Transform
from cxrignite.engines import evaluation_metrics
from cxrignite.engines.session import DEVICE
from cxrignite.errors import RecipeError, suggestion
from cxrignite.functional import CamMethod, ImageKind
from cxrignite.handlers import Attachable, ThresholdSearch
from cxrignite.nn import BinaryClassifier, MapLoss
from cxrignite.nn.losses import fitted_loss


def _require(holds: bool, name: str, rule: str, value: object) -> None:
    if not holds:
        raise ValueError(f"{name} must be {rule}, got {value}")


@contextmanager
def _named(key: str) -> Iterator[None]:
    """Name the key in a library's error."""
    try:
        yield
    except RecipeError:
        raise
    except ValueError as error:
        raise ValueError(f"{key}: {error}") from error


def _class_of(make: Callable[..., object]) -> Callable[..., object]:
    """Return the class of a factory; that of a recipe file has it among its arguments."""
    arguments = reversed(getattr(make, "args", ()))
    return next(filter(callable, arguments), getattr(make, "func", make))


def build_scheduler(
    make: Callable[..., LRScheduler], optimizer: torch.optim.Optimizer, total_steps: int
) -> LRScheduler:
    """Build a recipe's scheduler, with the steps of the run if it takes them and has none.

    Args:
        make: The recipe's `lr_scheduler`.
        optimizer: The optimizer.
        total_steps: Steps of the scheduler in the run.

    Returns:
        The scheduler.
    """
    given = getattr(make, "keywords", {})
    takes_steps = "total_steps" in signature(_class_of(make)).parameters
    if takes_steps and given.get("total_steps") is None and given.get("epochs") is None:
        return make(optimizer, total_steps=total_steps)
    return make(optimizer)


def _check_model(make: Callable[[], BinaryClassifier], num_findings: int) -> None:
    """Check that the classifier can be built for the findings of the source."""
    given = getattr(make, "keywords", {}).get("num_findings", 1)
    if given not in (1, num_findings):
        raise ValueError(
            f"model.num_findings must be {num_findings}, as many as the findings of data.source, "
            f"got {given}; leave it out, since it is set from the source"
        )
    if num_findings == 1:
        return
    kind = _class_of(make)
    parameters = signature(kind).parameters.values()
    if not any(each.name == "num_findings" or each.kind is each.VAR_KEYWORD for each in parameters):
        raise ValueError(
            f"model must have a parameter num_findings, since data.source has {num_findings} "
            f"findings, got {getattr(kind, '__name__', kind)} without; add the parameter, and "
            "return as many logits for each image"
        )


@dataclass
class Fold:
    """One of several folds of the training patients.

    Attributes:
        index: Number of the fold, from 0.
        count: Number of folds, at least 2.
    """

    index: int
    count: int

    def __post_init__(self) -> None:
        _require(self.count >= 2, "data.fold.count", "at least 2", self.count)
        rule = f"in [0, {self.count})"
        _require(0 <= self.index < self.count, "data.fold.index", rule, self.index)


@dataclass
class DataRecipe:
    """Data, and how they are loaded.

    Attributes:
        source: Source of the images and their labels.
        val_fraction: Share of the source's `train` images used for validation, in (0, 0.5]. A
            patient is never divided.
        calibration_fraction: Share of the `train` images that only choose the threshold, in
            [0, 0.4]. Such a threshold can be certified. 0 chooses it on the validation split.
        test_fraction: Share of the images used for the test, in [0, 0.5]; only for a source without
            a test split.
        fold: Fold to validate on, in place of `val_fraction`, as `{index: 0, count: 5}`.
        allow_leakage: Train even if a patient or a file is in several splits.
        on_unreadable: `raise` stops at an image that cannot be read; `skip` leaves it out.
        image_size: Rows and columns of each image, as `[224, 224]`; null keeps the file's own size.
            A JPEG is decoded at a fraction of its size, which is faster.
        grey_scaling: Values that become black and white. `file`: by the file's window or VOI LUT;
            without one as `minmax`, if it has more than 8 bits. `stored`: all that can be stored.
            `minmax`: the least and the greatest pixel. `percentiles`: the 1st and the 99th.
        preprocess: MONAI transforms of all splits, without randomness.
        cache: Folder of the preprocessed images, for faster epochs. `auto`: `cache` beside the run
            folder, if the disk has room. `off`: none.
        augment: MONAI transforms of the training images, one image at a time.
        batch_augment: Faster transforms of the training images, on whole batches, after `augment`;
            on the GPU if there is one.
        views: Changes of each image after training, as `[{shift: [0.02, 0]}, {gamma: 0.9}]`; its
            score is the mean over it and its views.
        sampler: Sampler of the training images; null shuffles them.
        batch_size: Images in a training batch of one process.
        eval_batch_size: Images in a batch of an evaluation; null is twice `batch_size`.
        num_workers: Loader processes; 0 loads in the main process. The results do not depend on it.
        prefetch_factor: Batches that each worker prepares ahead.
        worker_timeout: Seconds to wait for a worker before the run ends with an error; null waits
            forever.
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
    views: list[View] = field(default_factory=list)
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
            self.cache = "off"  # YAML reads `off` as false
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
        """Check that each split takes at most half of what the splits before it left."""
        test, val, share = self.test_fraction, self.val_fraction, self.calibration_fraction
        _require(0 <= test <= 0.5, "data.test_fraction", "in [0, 0.5]", test)
        _require(0 < val <= 0.5, "data.val_fraction", "in (0, 0.5]", val)
        _require(0 <= share <= 0.4, "data.calibration_fraction", "in [0, 0.4]", share)
        name = "data.val_fraction"
        if self.fold is not None:
            name, val = "the share of data.fold", (1 - test - share) / self.fold.count
        rule = "at most a half of what data.test_fraction leaves"
        _require(round(val, 9) <= round((1 - test) / 2, 9), name, rule, val)
        taken = round(test + val + share, 9)
        names = [*(["data.test_fraction"] if test else []), name, "data.calibration_fraction"]
        _require(taken <= 0.6, " + ".join(names), "at most 0.6", taken)


# For the JSON schema.
_DEVICE = {
    "pattern": f"^({DEVICE.pattern})$",
    "examples": ["auto", "cpu", "cuda", "cuda:1", "mps"],
}


@dataclass
class TrainerRecipe:
    """Training.

    Attributes:
        max_epochs: Number of epochs. A resumed run may have more, but not fewer.
        epoch_length: Batches in an epoch; null is the whole training split.
        device: `cpu`, `cuda`, one GPU as `cuda:1`, or `mps`; `auto` uses CUDA if there is a GPU.
        precision: `auto` chooses the fastest one that is safe on this device, and logs the reason.
        channels_last: Store images and weights in the memory order that is fastest for
            convolutions.
        compile: Compile the model for this machine; the first steps then take minutes.
        profile: `fast` lets cuDNN choose kernels by trial and keeps freed memory on a CPU.
            `reproducible` gives bit-identical results.
        max_grad_norm: Norm that gradients are clipped to; null does not clip.
        accumulation_steps: Batches in one optimizer step.
        lr_step: Step the learning-rate scheduler once an epoch or once an iteration.
        averaging: Validate and keep averaged weights: exponentially (`ema_decay`), or their mean
            from epoch `swa_start` on.
        ema_decay: Share of the average that a step keeps, in (0, 1).
        swa_start: Epoch from which `swa` averages.
        handlers: Handlers attached to the trainer.
    """

    max_epochs: int = 10
    epoch_length: int | None = None
    device: str = field(default="auto", metadata=_DEVICE)
    precision: Literal["auto", "fp32", "bf16", "fp16"] = "auto"
    channels_last: bool = True
    compile: bool = False
    profile: Literal["fast", "reproducible"] = "fast"
    max_grad_norm: float | None = None
    accumulation_steps: int = 1
    lr_step: Literal["epoch", "iteration"] = "epoch"
    averaging: Literal["ema", "swa"] | None = None
    ema_decay: float = 0.995
    swa_start: int | None = None
    handlers: list[Attachable] = field(default_factory=list)

    def __post_init__(self) -> None:
        _require(self.max_epochs >= 1, "trainer.max_epochs", "at least 1", self.max_epochs)
        _require(
            DEVICE.fullmatch(self.device) is not None,
            "trainer.device",
            "auto, cpu, cuda, cuda:NUMBER or mps",
            repr(self.device),
        )
        length, norm, steps = self.epoch_length, self.max_grad_norm, self.accumulation_steps
        _require(length is None or length >= 1, "trainer.epoch_length", "at least 1", length)
        _require(norm is None or norm > 0, "trainer.max_grad_norm", "above 0", norm)
        _require(steps >= 1, "trainer.accumulation_steps", "at least 1", steps)
        _require(0 < self.ema_decay < 1, "trainer.ema_decay", "in (0, 1)", self.ema_decay)


@dataclass
class ValidatorRecipe:
    """Validation after each epoch.

    Attributes:
        handlers: Handlers attached to the validator; `ThresholdSearch` chooses the operating point.
    """

    handlers: list[Attachable] = field(default_factory=list)


@dataclass
class MonitorRecipe:
    """Validation metric that selects the best checkpoint and stops training early.

    Attributes:
        metric: A metric of the validator, such as `roc_auc`, `loss` or `roc_auc/FINDING`.
        mode: `max` if a higher value is better, `min` if a lower one is.
        patience: Stop after this many epochs without a better value; null: never.
        mean_of: Number of the last epochs whose mean is compared.
    """

    metric: str = "roc_auc"
    mode: Literal["max", "min"] = "max"
    patience: int | None = None
    mean_of: int = 1

    def __post_init__(self) -> None:
        patience = self.patience
        _require(patience is None or patience >= 1, "monitor.patience", "at least 1", patience)
        _require(self.mean_of >= 1, "monitor.mean_of", "at least 1", self.mean_of)
        _require(
            self.metric != "loss" or self.mode == "min",
            "monitor.mode",
            "min if monitor.metric is loss",
            self.mode,
        )


@dataclass
class FineTuningRecipe:
    """Training from other weights, with frozen parts and learning rates by part.

    Attributes:
        start_from: A run folder (its best weights), or a checkpoint file of any library. Weights of
            another name or shape are left out.
        frozen: Parts of the model that are not trained, by dotted name (`backbone.layer1`), or
            patterns with `*`. Their batch statistics stay, too.
        unfreeze_epoch: Epoch from which the frozen parts are trained, too; null: never.
        lr_factors: Factor of the optimizer's learning rate for parts, as `{backbone: 0.1}`. The
            longest name that matches counts.
        layer_decay: Factor of the learning rate for each layer from the head to the input, in
            (0, 1]; null: none.
    """

    start_from: Path | None = None
    frozen: list[str] = field(default_factory=list)
    unfreeze_epoch: int | None = None
    lr_factors: dict[str, float] = field(default_factory=dict)
    layer_decay: float | None = None

    def __post_init__(self) -> None:
        epoch, decay = self.unfreeze_epoch, self.layer_decay
        name = "fine_tuning.unfreeze_epoch"
        _require(epoch is None or epoch >= 2, name, "at least 2", epoch)
        _require(epoch is None or bool(self.frozen), name, "null without fine_tuning.frozen", epoch)
        for part, factor in self.lr_factors.items():
            _require(factor > 0, f"fine_tuning.lr_factors of {part}", "above 0", factor)
        _require(decay is None or 0 < decay <= 1, "fine_tuning.layer_decay", "in (0, 1]", decay)


@dataclass
class ExplainRecipe:
    """Class activation maps of the command `explain`.

    Attributes:
        target_layer: Name of the layer to explain; null is the last one before the pooling.
        method: Method that computes the maps.
        select: Kinds of images to draw.
        max_images: Largest number of images of each kind.
        num_measured: Number of images on which the maps are checked; 0 skips the checks.
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
        data: Data and loading.
        model: Class of the classifier.
        loss: Loss of logits and labels, both `(N,)`.
        map_loss: Class of the loss that draws the maps of positive images into their masks or
            boxes; null trains without it.
        optimizer: Class of the optimizer.
        lr_scheduler: Class of the learning-rate scheduler; null keeps the learning rate.
        seed: Seed of the split, the initial weights, the sampler and the augmentation.
        run_dir: Folder for the results of this run.
        fine_tuning: Training from other weights, with frozen parts and learning rates by part.
        trainer: Training.
        validator: Validation after each epoch.
        monitor: Selection of the best checkpoint.
        explain: Class activation maps.
    """

    data: DataRecipe
    model: Callable[[], BinaryClassifier]
    optimizer: Callable[[Iterable[nn.Parameter]], torch.optim.Optimizer]
    loss: nn.modules.loss._Loss = field(default_factory=nn.BCEWithLogitsLoss)
    map_loss: MapLoss | None = None
    lr_scheduler: Callable[[torch.optim.Optimizer], LRScheduler] | None = None
    seed: int = 42
    run_dir: Path = Path("runs/run")
    fine_tuning: FineTuningRecipe = field(default_factory=FineTuningRecipe)
    trainer: TrainerRecipe = field(default_factory=TrainerRecipe)
    validator: ValidatorRecipe = field(default_factory=ValidatorRecipe)
    monitor: MonitorRecipe = field(default_factory=MonitorRecipe)
    explain: ExplainRecipe = field(default_factory=ExplainRecipe)

    def __post_init__(self) -> None:
        _require(0 <= self.seed < 2**31, "seed", "in [0, 2**31)", self.seed)
        source = self.data.source
        findings = getattr(source, "findings", ("",))
        _check_model(self.model, len(findings))
        self.loss = fitted_loss(  # type: ignore[assignment]  # the loss, or an adapter of it
            self.loss,
            len(findings),
            getattr(source, "exclusive", False),
        )
        self._try_factories()
        handlers = self.validator.handlers
        for handler in handlers:
            if isinstance(handler, ThresholdSearch):
                with _named("validator.handlers: ThresholdSearch"):
                    handler.findings = findings
        self._check_metric(findings)
        self._check_epochs()
        # A compiled model does not call the hook that keeps the activations.
        is_taught = self.map_loss is not None
        _require(not (is_taught and self.trainer.compile), "trainer.compile", "false", True)

    def _check_epochs(self) -> None:
        """Check the settings that count epochs of the run."""
        trainer, mean_of = self.trainer, self.monitor.mean_of
        last = trainer.max_epochs
        _require(mean_of <= last, "monitor.mean_of", f"at most trainer.max_epochs, {last}", mean_of)
        start = trainer.swa_start
        if trainer.averaging == "swa":
            rule = f"an epoch from 1 to {last} for swa"
            _require(start is not None and 1 <= start <= last, "trainer.swa_start", rule, start)

    def _check_metric(self, findings: Sequence[str]) -> None:
        """Check that the validator publishes the metric that selects the checkpoint."""
        handlers, metric = self.validator.handlers, self.monitor.metric
        # A user's own handler may publish anything; ours list what they publish.
        if all(type(handler).__module__.startswith("cxrignite.") for handler in handlers):
            published = [name for handler in handlers for name in getattr(handler, "publishes", ())]
            if len(findings) > 1:
                published = [f"{name}/{finding}" for name in published for finding in findings]
            known = [*evaluation_metrics(findings), *published]
            if len(findings) == 1:
                _require(metric in known, "monitor.metric", f"one of {', '.join(known)}", metric)
            elif metric not in known:  # too many to list
                near = suggestion(metric, known)
                raise ValueError(
                    f"monitor.metric must be a metric of the validator, got {metric}{near}"
                )

    def _try_factories(self) -> None:
        """Call each light factory once on dummy input, so that a wrong setting fails at once."""
        with _named("optimizer"):
            optimizer = self.optimizer([nn.Parameter(torch.zeros(2, 2))])
        if self.lr_scheduler is not None:
            with _named("lr_scheduler"):
                build_scheduler(self.lr_scheduler, optimizer, 10)
        if self.data.sampler is not None:
            self.data.sampler([0, 1], seed=self.seed)  # type: ignore[call-arg]  # see the module
