"""Plain PyTorch loop: Pillow, torchvision's transforms, a `DataLoader`, a training loop.

It is the baseline of the benchmark, so it is written in the usual way and not slow on purpose.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from itertools import islice
from time import perf_counter
from typing import Any

import torch
from PIL import Image
from torch import Tensor, nn
from torch.utils.data import Dataset
from torchvision import transforms

from cxrignite.data import ImageRecord
from cxrignite.data.pipeline import Pipeline
from cxrignite.data.sources import UNKNOWN
from cxrignite.data.transforms import apply_transforms
from cxrignite.engines import Precision
from cxrignite.runs.benchmark_result import Steps


class PlainImages(Dataset[tuple[Tensor, Tensor]]):
    """Data set of images read by Pillow: RGB, `Resize`, `ToTensor`, the recipe's transforms.

    Args:
        records: The images.
        pipeline: Source of the size, preprocessing and augmentation, applied image by image.
        augments: Apply the augmentation.
    """

    def __init__(
        self, records: Sequence[ImageRecord], pipeline: Pipeline, augments: bool = True
    ) -> None:
        self.records, self.pipeline, self.augments = records, pipeline, augments
        size = pipeline.image_size
        resize = [] if size is None else [transforms.Resize(list(size))]
        self.transform = transforms.Compose([*resize, transforms.ToTensor()])

    def __len__(self) -> int:
        return len(self.records)

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        record, pipeline = self.records[index], self.pipeline
        with Image.open(record.path) as image:
            tensor: Tensor = self.transform(image.convert("RGB"))
        if pipeline.preprocess:
            grey = apply_transforms(pipeline.preprocess, tensor[:1].mul(255).byte(), record.path)
            tensor = grey.expand(3, -1, -1)
        if self.augments and (pipeline.augment or pipeline.batch_augment):
            seed = int(torch.randint(2**31, ()))
            grey = pipeline.augmented(tensor[:1].mul(255).byte()[None], [seed], [record.path])[0]
            tensor = grey.expand(3, -1, -1)
        label = torch.tensor(record.label, dtype=torch.float32)
        return tensor, label.where(label != UNKNOWN, torch.nan)


def train_steps(
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    loss_fn: nn.Module,
    batches: Iterable[Any],
    *,
    num_steps: int,
    device: torch.device,
    precision: Precision,
    channels_last: bool = False,
    augment: Callable[[Tensor, Tensor], Tensor] | None = None,
) -> Steps:
    """Train some steps in a plain loop, with the same work per step as `fit`.

    Args:
        model: The model, on `device`.
        optimizer: The optimizer of its parameters.
        loss_fn: The loss of logits and labels.
        batches: Batches of a `DataLoader`, which begin with images and labels.
        num_steps: Maximum number of steps.
        device: The device of the model.
        precision: Precision of the arithmetic.
        channels_last: Use the channels-last memory order.
        augment: Augmentation of images on the device and their seeds, as
            `XrayData.device_augment`.
    """
    model.train()
    scaler = torch.amp.GradScaler(device.type, enabled=precision.use_scaler)
    memory = torch.channels_last if channels_last else torch.contiguous_format
    num_images, wait_seconds = 0, 0.0
    _synchronize(device)
    start = before = perf_counter()
    for batch in islice(batches, num_steps):
        wait_seconds += perf_counter() - before
        images = batch[0].to(device, non_blocking=True)
        labels = batch[1].to(device, dtype=torch.float32, non_blocking=True)
        if augment is not None:
            images = augment(images, batch[3])
        # The images are grey: the three channels from Pillow are equal.
        images = images[:, :1].contiguous(memory_format=memory)
        optimizer.zero_grad(set_to_none=True)
        with precision.autocast(device):
            logits = model(images)
        loss = loss_fn(logits.float(), labels)
        scaler.scale(loss).backward()
        scaler.step(optimizer)
        scaler.update()
        num_images += len(labels)
        before = perf_counter()
    _synchronize(device)
    return Steps(num_images, perf_counter() - start, wait_seconds)


def _synchronize(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
