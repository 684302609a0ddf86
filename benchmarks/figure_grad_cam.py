"""Measure the speed of Grad-CAM, compared with the grad-cam package, and its memory.

    python benchmarks/figure_grad_cam.py

Both use the same batch, layer and random weights, and alternate, so that the machine's load affects
both equally. Memory is measured over 1,000 images. Needs the extra `test`.
"""

from __future__ import annotations

import argparse
import multiprocessing
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from pytorch_grad_cam import GradCAM
from pytorch_grad_cam.utils.model_targets import BinaryClassifierOutputTarget
from torch import Tensor, nn

from cxrignite.functional import grad_cam
from cxrignite.nn import BinaryClassifier, LightCNN, TransferClassifier

ARCHITECTURES = ("LightCNN", "resnet50", "densenet121", "efficientnet_b0", "convnext_tiny")


class Column(nn.Module):
    """Adapter that returns the logits as a column, since the package expects a row per image."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, images: Tensor) -> Tensor:
        """Return logits, shape `(N, 1)`."""
        logits: Tensor = self.model(images)[:, None]
        return logits


def build(arch: str) -> BinaryClassifier:
    """Build a classifier of the default size with random weights."""
    torch.manual_seed(0)
    return (LightCNN() if arch == "LightCNN" else TransferClassifier(arch)).eval()


def seconds(function: Callable[[], object]) -> float:
    """Return the seconds of one call."""
    start = time.perf_counter()
    function()
    return time.perf_counter() - start


def measure_speed(arch: str, batch_size: int, side: int, repeats: int) -> None:
    """Print images per second of both, measured alternately."""
    model = build(arch)
    layer = model.cam_layer
    images = torch.rand(batch_size, 1, side, side)
    targets = [BinaryClassifierOutputTarget(1)] * batch_size
    with GradCAM(Column(model), [model.get_submodule(layer)]) as package:

        def theirs() -> object:
            return package(images, targets)

        def ours() -> object:
            return grad_cam(model, images, layer)

        theirs(), ours()
        pairs = [(seconds(theirs), seconds(ours)) for _ in range(repeats)]
    before, after = (batch_size / statistics.median(each) for each in zip(*pairs, strict=True))
    ratios = sorted(before / after for before, after in pairs)
    print(
        f"{arch}, {layer}, batch {batch_size}, {side} px: package {before:.1f}, ours {after:.1f} "
        f"images/s, {after / before:.2f} x (target >= 1.5; range {ratios[0]:.2f} to "
        f"{ratios[-1]:.2f})"
    )


def resident() -> float:
    """Return the resident memory of this process in MB."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * 4096 / 2**20


def measure_memory(arch: str, batch_size: int, side: int, num_images: int) -> None:
    """Print the memory while maps of many images are computed and discarded."""
    torch.set_num_threads(1)
    model, grown = build(arch), []
    layer = model.cam_layer
    generator = torch.Generator().manual_seed(0)
    for _ in range(-(-num_images // batch_size)):
        images = torch.rand(batch_size, 1, side, side, generator=generator)
        maps = grad_cam(model, images, layer).maps
        assert np.isfinite(float(maps.sum()))
        grown.append(resident())
    tenth = len(grown) // 10
    print(
        f"memory, {arch}, batch {batch_size}, {side} px: {grown[tenth]:.0f} MB after "
        f"{tenth * batch_size} images, {grown[-1]:.0f} MB after {len(grown) * batch_size}, "
        f"peak {max(grown):.0f} MB"
    )


def main() -> None:
    """Run the measurements."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--archs", nargs="*", default=ARCHITECTURES, choices=ARCHITECTURES)
    parser.add_argument("--batch_size", type=int, default=8)
    parser.add_argument("--side", type=int, default=224)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--num_images", type=int, default=1000)
    options = parser.parse_args()
    torch.set_num_threads(1)
    for arch in options.archs:
        measure_speed(arch, options.batch_size, options.side, options.repeats)
    for arch in ("LightCNN", "efficientnet_b0"):
        # In a new process: memory freed by earlier measurements would hide a leak.
        arguments = (arch, options.batch_size, options.side, options.num_images)
        fresh = multiprocessing.get_context("spawn").Process(target=measure_memory, args=arguments)
        fresh.start()
        fresh.join()


if __name__ == "__main__":
    main()
