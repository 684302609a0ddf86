"""Measure training steps of several networks with and without `channels_last`.

    python benchmarks/figure_layouts.py

Both layouts alternate, on random images of 224 x 224, in the precision that `auto` chooses.
"""

from __future__ import annotations

import argparse
import copy
import statistics
from collections.abc import Callable

import torch
from torch import nn

from cxrignite.engines import choose_precision
from cxrignite.nn import BinaryClassifier, LightCNN, TimmClassifier, TransferClassifier
from cxrignite.workflows.benchmark.plain_loop import train_steps

NETWORKS: dict[str, Callable[[], BinaryClassifier]] = {
    "LightCNN": LightCNN,
    "tf_efficientnet_lite0": lambda: TimmClassifier("tf_efficientnet_lite0", None),
    "resnet50": lambda: TransferClassifier("resnet50", None),
    "densenet121": lambda: TransferClassifier("densenet121", None),
    "efficientnet_b0": lambda: TransferClassifier("efficientnet_b0", None),
    "convnext_tiny": lambda: TransferClassifier("convnext_tiny", None),
}
LAYOUTS = (torch.contiguous_format, torch.channels_last)


def measure_layouts(name: str, device: torch.device, batch_size: int, repeats: int) -> None:
    """Print images per second in both layouts, and their ratio."""
    torch.manual_seed(0)
    model, precision = NETWORKS[name]().to(device), choose_precision("auto", device)
    batch = (
        torch.randint(0, 256, (batch_size, 1, 224, 224), dtype=torch.uint8),
        torch.arange(batch_size) % 2,
    )
    rates: dict[torch.memory_format, list[float]] = {layout: [] for layout in LAYOUTS}
    for _ in range(repeats):
        for layout in LAYOUTS:
            trained = copy.deepcopy(model).to(memory_format=layout)
            optimizer = torch.optim.SGD(trained.parameters(), lr=1e-3)
            for num_steps in (1, 2):  # the first is the warm-up
                steps = train_steps(
                    trained,
                    optimizer,
                    nn.BCEWithLogitsLoss(),
                    [batch] * num_steps,
                    num_steps=num_steps,
                    device=device,
                    precision=precision,
                    channels_last=layout is torch.channels_last,
                )
            rates[layout].append(steps.num_images / steps.seconds)
    plain, last = (statistics.median(rates[layout]) for layout in LAYOUTS)
    print(f"| {name} | {plain:.1f} | {last:.1f} | {last / plain:.2f} x |")


def main() -> None:
    """Run the measurements."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--batch_size", type=int, default=8)
    parser.add_argument("--repeats", type=int, default=3)
    options = parser.parse_args()
    print("| network | images/s | with `channels_last` | |\n| --- | --- | --- | --- |")
    for name in NETWORKS:
        measure_layouts(name, torch.device(options.device), options.batch_size, options.repeats)


if __name__ == "__main__":
    main()
