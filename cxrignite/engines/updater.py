"""Training step, and the trainer that runs it.

Ignite's `create_supervised_trainer(amp_mode="amp")` (0.5.5) is not used: it hard-codes
`autocast("cuda")` without a dtype, cannot clip gradients and drops the last incomplete
accumulation group of an epoch.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from ignite.engine import Engine
from torch import Tensor, nn
from torch.optim import Optimizer

from cxrignite.engines.batches import Batch, check_logits, move_batch
from cxrignite.engines.metrics import EpochMeanLoss
from cxrignite.engines.model_mode import ModelMode
from cxrignite.engines.precision import FP32, Precision
from cxrignite.errors import RecipeError

LossFunction = Callable[[Tensor, Tensor], Tensor]

Augment = Callable[[Tensor, Tensor], Tensor]
"""Function from images on the device and their seeds, int64 `(N,)` from the loader, to images."""

ExtraLoss = Callable[[Tensor, Batch], Tensor | None]
"""Function from the logits of a batch and the batch to a term of the loss, 0-d; null adds none."""


def amp_updater(
    model: nn.Module,
    optimizer: Optimizer,
    loss_fn: LossFunction,
    *,
    device: torch.device | str,
    precision: Precision = FP32,
    scaler: torch.amp.GradScaler | None = None,
    max_grad_norm: float | None = None,
    accumulation_steps: int = 1,
    channels_last: bool = False,
    augment: Augment | None = None,
    extra_loss: ExtraLoss | None = None,
) -> Callable[[Engine, Batch], Tensor]:
    """Return the function that a trainer `Engine` runs on each batch.

    Gradients of `accumulation_steps` batches are averaged for one optimizer step. The last group of
    an epoch may be smaller and is averaged over its own number of batches. The length of the epoch
    must then be known (a loader with a length, or `trainer.run(epoch_length=...)`).

    Args:
        model: Images in, logits out, `(N,)` or of several findings `(N, K)`; on `device`.
        optimizer: Optimizer of the model's parameters.
        loss_fn: Function from logits and labels, both float32 `(N,)` or `(N, K)`, to a mean loss;
            its buffers on `device`.
        device: Device of the model.
        precision: Number format of the forward pass; the loss is always float32.
        scaler: Gradient scaler, given if it is to be saved with a checkpoint; null creates one. It
            is active for fp16 only.
        max_grad_norm: Maximum norm to which gradients are clipped after unscaling; above 0.
        accumulation_steps: Number of batches per optimizer step, at least 1.
        channels_last: True to use the channels-last layout for images of more than one channel.
        augment: Augmentation on the device, before the forward pass, without gradients and in the
            precision of the images. The seeds are the fourth part of the batch. Null for none.
        extra_loss: Further term of the loss, from the logits and the whole batch. Null for none.

    Returns:
        A function from engine and batch to the loss of the batch, a detached 0-d tensor on
        `device`. It does not wait for the device.

    Raises:
        ValueError: If `max_grad_norm` or `accumulation_steps` is out of range; during the run if
            there is an `augment` and a batch has no seeds.
    """
    if max_grad_norm is not None and not max_grad_norm > 0:
        raise ValueError(f"max_grad_norm must be above 0, got {max_grad_norm}")
    if accumulation_steps < 1:
        raise ValueError(f"accumulation_steps must be at least 1, got {accumulation_steps}")
    device = torch.device(device)
    if scaler is None:
        # A disabled scaler has no effect, so the same code serves all formats.
        scaler = torch.amp.GradScaler(device.type, enabled=precision.use_scaler)

    mode = ModelMode(model, is_training=True)

    def update(engine: Engine, batch: Batch) -> Tensor:
        mode.enter()
        position, group_size = _place_in_group(engine, accumulation_steps)
        if position == 0:
            optimizer.zero_grad(set_to_none=True)
        images, labels = move_batch(batch, device, channels_last)
        if augment is not None:
            with torch.no_grad():
                images = augment(images, _seeds(batch))
        with precision.autocast(device):
            logits = model(images)
        check_logits(logits, labels)
        loss = loss_fn(logits.float(), labels)
        if loss.ndim:
            raise RecipeError(f"a loss must be one number per batch, got shape {tuple(loss.shape)}")
        if extra_loss is not None and (term := extra_loss(logits, batch)) is not None:
            loss = loss + term
        scaled: Tensor = scaler.scale(loss if group_size == 1 else loss / group_size)
        scaled.backward()  # type: ignore[no-untyped-call]
        if position == group_size - 1:
            if max_grad_norm is not None:
                scaler.unscale_(optimizer)
                nn.utils.clip_grad_norm_(model.parameters(), max_grad_norm)
            scaler.step(optimizer)
            scaler.update()
        return loss.detach()

    return update


def create_trainer(
    model: nn.Module,
    optimizer: Optimizer,
    loss_fn: LossFunction,
    *,
    device: torch.device | str,
    precision: Precision = FP32,
    scaler: torch.amp.GradScaler | None = None,
    max_grad_norm: float | None = None,
    accumulation_steps: int = 1,
    channels_last: bool = False,
    augment: Augment | None = None,
    extra_loss: ExtraLoss | None = None,
) -> Engine:
    """Return a trainer that runs `amp_updater`.

    `trainer.state.output` is the loss of the batch. At the end of each epoch
    `trainer.state.metrics["loss"]` is the mean over its images, on all processes.

    Args:
        model: Images in, logits out, `(N,)` or of several findings `(N, K)`; on `device`.
        optimizer: Optimizer of the model's parameters.
        loss_fn: Function from logits and labels, both float32 `(N,)` or `(N, K)`, to a mean loss;
            its buffers on `device`.
        device: Device of the model.
        precision: Number format of the forward pass.
        scaler: Gradient scaler, given if it is to be saved with a checkpoint; null creates one.
        max_grad_norm: Maximum norm to which gradients are clipped; above 0.
        accumulation_steps: Number of batches per optimizer step, at least 1.
        channels_last: True to use the channels-last layout for images and weights.
        augment: Augmentation on the device, by the seeds in the fourth part of the batch.
        extra_loss: Further term of the loss, from the logits and the whole batch. Null for none.

    Returns:
        The trainer.

    Raises:
        ValueError: If `max_grad_norm` or `accumulation_steps` is out of range.
    """
    if channels_last:
        model.to(memory_format=torch.channels_last)
    trainer = Engine(
        amp_updater(
            model,
            optimizer,
            loss_fn,
            device=device,
            precision=precision,
            scaler=scaler,
            max_grad_norm=max_grad_norm,
            accumulation_steps=accumulation_steps,
            channels_last=channels_last,
            augment=augment,
            extra_loss=extra_loss,
        )
    )
    EpochMeanLoss().attach(trainer)
    return trainer


def _seeds(batch: Batch) -> Tensor:
    if len(batch) < 4:
        raise ValueError(
            "augment needs the seeds of the images as the fourth part of the batch, "
            f"got {len(batch)} parts"
        )
    return batch[3]


def _place_in_group(engine: Engine, accumulation_steps: int) -> tuple[int, int]:
    """Return the batch's place in its accumulation group, from 0, and the group's size."""
    if accumulation_steps == 1:
        return 0, 1
    epoch_length = engine.state.epoch_length
    if epoch_length is None:
        raise ValueError(
            "accumulation_steps above 1 needs the length of the epoch: "
            "use a loader with a length, or trainer.run(epoch_length=...)"
        )
    step = (engine.state.iteration - 1) % epoch_length
    position = step % accumulation_steps
    return position, min(accumulation_steps, epoch_length - (step - position))
