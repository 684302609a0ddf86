"""Batch statistics of a network, estimated again on other images, without labels."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import torch
from ignite.engine import Engine
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from cxrignite.engines.batches import Batch, move_images
from cxrignite.engines.precision import FP32, Precision


def batch_norms(model: nn.Module) -> dict[str, _BatchNorm]:
    """Return the batch-norm layers that store statistics.

    Args:
        model: The model.

    Returns:
        The layers by their dotted names.
    """
    return {
        name: layer
        for name, layer in model.named_modules()
        if isinstance(layer, _BatchNorm) and layer.running_mean is not None
    }


def adapt_batch_norm(
    model: nn.Module,
    loader: Iterable[Batch],
    *,
    device: torch.device | str,
    precision: Precision = FP32,
    channels_last: bool = False,
    handlers: Sequence[Any] = (),
) -> dict[str, Tensor]:
    """Replace the batch statistics of a model by those of other images.

    The mean and the variance of a layer are means over all images. Each batch is normalised by its
    own statistics, so the batches must be random samples of the images. Weights are not changed,
    and the model is left in evaluation mode.

    Args:
        model: The model, on `device`.
        loader: Batches, of which only the images are used, shape `(N, C, H, W)`.
        device: Device of the model.
        precision: Number format of the forward passes.
        channels_last: True to use the channels-last layout for images of more than one channel.
        handlers: Handlers attached to the engine that runs the batches.

    Returns:
        The new statistics, on the CPU, by their names in the state of the model: mean and variance
        of shape `(C,)`, and the number of batches of shape `()`.

    Raises:
        ValueError: If the model has no batch statistics.
    """
    device, layers = torch.device(device), batch_norms(model)
    if not layers:
        raise ValueError(f"the model must have batch statistics, got {type(model).__name__}")
    momenta = {layer: layer.momentum for layer in layers.values()}
    # Not torch's `update_bn`, which puts the whole model into training mode: dropout would change
    # the statistics. It also gives a small last batch the weight of a full one.
    model.eval()
    for layer in momenta:
        layer.reset_running_stats()
        layer.training = True  # not `train()`, which a frozen layer may ignore
    num_images = 0

    def step(engine: Engine, batch: Batch) -> None:
        nonlocal num_images
        num_images += len(batch[0])
        for layer in momenta:
            layer.momentum = len(batch[0]) / num_images
        with torch.no_grad(), precision.autocast(device):
            model(move_images(batch[0], device, channels_last))

    engine = Engine(step)
    for handler in handlers:
        handler.attach(engine)
    try:
        engine.run(loader, max_epochs=1)
    finally:
        for layer, momentum in momenta.items():
            layer.momentum = momentum
        model.eval()
    return {
        f"{name}.{key}" if name else key: buffer.detach().cpu().clone()
        for name, layer in layers.items()
        for key, buffer in layer.named_buffers(recurse=False)
    }
