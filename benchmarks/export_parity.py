"""Measure differences between five networks and their exports, on real X-rays.

python benchmarks/export_parity.py --images DIR [--lite0 FILE] [--only resnet50 convnext]

Each network is exported to ONNX and by `torch.export`, and both files score the same images as the
network, in batches of 1 and of 7. `DIR` is searched for images, `FILE` has the ImageNet weights of
EfficientNet-Lite0. The other weights are random, and the batch statistics are those of some of the
images. The threshold is the score of one image, the median. A file of `torch.export` calls the same
kernels as the network. So its differences are those between batches of 1 or 7 and of 32.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from pathlib import Path
from typing import get_args

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from cxrignite.data import Pipeline
from cxrignite.data.image_files import image_files
from cxrignite.engines import BatchScorer
from cxrignite.functional import PriorShift, select_operating_point
from cxrignite.nn import BinaryClassifier, LightCNN, TimmClassifier, TransferClassifier
from cxrignite.runs.decision_rule import DecisionRule
from cxrignite.workflows.export.chosen_images import graph_limits
from cxrignite.workflows.export.description import describe_findings
from cxrignite.workflows.export.graphs import Kind, make_graph
from cxrignite.workflows.export.half_weights import HalfWeights
from cxrignite.workflows.export.parity import compare, scored
from cxrignite.workflows.export.scoring_model import ScoringModel

SIZE = (224, 224)
NUM_FOR_STATISTICS = 32


def networks(lite0: Path | None) -> dict[str, Callable[[], BinaryClassifier]]:
    """Return the networks by name."""
    weights = None if lite0 is None else str(lite0)
    return {
        "LightCNN": lambda: LightCNN(width=32),
        "ResNet-50": lambda: TransferClassifier("resnet50", weights=None),
        "DenseNet-121": lambda: TransferClassifier("densenet121", weights=None),
        "EfficientNet-Lite0": lambda: TimmClassifier("tf_efficientnet_lite0", weights=weights),
        "ConvNeXt-Tiny": lambda: TransferClassifier("convnext_tiny", weights=None),
    }


def take_statistics(model: BinaryClassifier, images: NDArray[np.uint8]) -> None:
    """Give a network with random weights the batch statistics of some images."""
    norms = [each for each in model.modules() if isinstance(each, nn.BatchNorm2d)]
    for norm in norms:
        norm.momentum = None  # the mean over all batches
        norm.reset_running_stats()
    model.train()
    step = max(1, len(images) // NUM_FOR_STATISTICS)
    with torch.no_grad():
        for batch in torch.from_numpy(images[::step][:NUM_FOR_STATISTICS]).split(16):
            model(batch)


def measure(
    name: str, model: BinaryClassifier, images: list[NDArray[np.uint8]], dtype: str
) -> None:
    """Export one network in both formats, and print the differences."""
    scorer = BatchScorer(model, device="cpu", batch_size=32)
    shift = PriorShift(1341, 3875, 0.5, 1.0)
    without = DecisionRule("PNEUMONIA", None, "val", shift, "")
    samples = scored(scorer, images, [without], 0)
    scores = samples.score[:, 0]
    threshold = float(np.sort(scores)[len(scores) // 2])
    point = select_operating_point(
        *(scores, scores >= threshold), min_tnr=0.9, min_threshold=threshold
    )
    rule = DecisionRule("PNEUMONIA", point, "val", shift, "")
    stored = {"val": {str(number): each for number, each in enumerate(scores[:, None])}}
    samples = samples._replace(
        decision=np.array([[rule.decide(each) or ""] for each in scores.tolist()])
    )
    limits = graph_limits([rule], stored)
    findings = describe_findings([rule], limits, ("NORMAL", "PNEUMONIA"))
    module: nn.Module = ScoringModel(model, limits, [shift])
    if dtype == "fp16":
        module = HalfWeights(module)
    for kind in get_args(Kind):
        start = time.perf_counter()
        graph = make_graph(module, torch.from_numpy(images[0]), kind)
        seconds = time.perf_counter() - start
        parity = compare(graph, samples, findings)
        print(
            f"{name:<19} {kind:<6} {len(graph.content) / 1e6:6.1f} MB {seconds:5.0f} s  "
            f"{parity.score_difference[0]:9.1e} {parity.num_decisions_different[0]:10d}   "
            f"{scores.min():.4f} to {scores.max():.4f}",
            flush=True,
        )


def main() -> None:
    """Measure the requested networks."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--images", type=Path, required=True)
    parser.add_argument("--num_images", type=int, default=200)
    parser.add_argument("--lite0", type=Path)
    parser.add_argument("--only", nargs="+")
    parser.add_argument("--dtype", choices=["fp32", "fp16"], default="fp32")
    settings = parser.parse_args()
    paths = image_files([settings.images])
    chosen = np.linspace(0, len(paths) - 1, settings.num_images).round().astype(int)
    pipeline = Pipeline(image_size=SIZE)
    images = [pipeline.read(paths[each]).numpy() for each in chosen]
    print(f"{len(images)} images, weights in {settings.dtype}, batches of 1 and 7")
    print(f"{'':26} {'size':>9} {'export':>7} {'score':>10} {'decisions':>10}   scores")
    for name, make in networks(settings.lite0).items():
        if settings.only and not any(each.lower() in name.lower() for each in settings.only):
            continue
        torch.manual_seed(0)
        model = make()
        if not (settings.lite0 and "Lite0" in name):
            take_statistics(model, np.stack(images))
        measure(name, model, images, settings.dtype)


if __name__ == "__main__":
    main()
