"""Baseline: a small convolutional network, trained from scratch."""

from __future__ import annotations

from typing import Literal, get_args

from torch import nn

from cxrignite.nn.classifiers import BinaryClassifier, check_dropout, check_num_findings
from cxrignite.nn.normalizer import ImageNormalizer, Standardize

# Approximate mean and deviation of grey X-rays in [0, 1]; the first batch norm corrects the rest.
_MEAN, _STD = 0.5, 0.25

Stride = Literal[8, 16, 32]
"""Pixels of the image per position of the last feature map, along each side."""


class LightCNN(BinaryClassifier):
    """Five convolution blocks, global average pooling and a linear layer.

    The blocks are `backbone.0` to `backbone.4`; class activation maps use the last one. The minimum
    image size is 32 pixels. The network is designed for 128 to 224 pixels on two CPU cores (0.21
    billion multiplications per image at 224 with a stride of 32).

    Args:
        width: Number of channels of the first block; the others have 2, 4, 8 and 8 times as many.
        dropout: Share of features dropped before the linear layer in training, in `[0, 1)`.
        standardize: `fixed`, or `per_image` (mean and deviation of each image).
        stride: Pixels of the image per position of the last feature map, along each side: 8, 16 or
            32. A smaller stride gives class activation maps that locate a finding better, at a
            higher cost: 1.4 times with 16, 3.9 times with 8.
        num_findings: Number of findings, with one logit each. `fit` sets it from the data.

    Raises:
        ValueError: If `width` or `num_findings` is below 1, `dropout` outside `[0, 1)` or `stride`
            not 8, 16 or 32.
    """

    def __init__(
        self,
        width: int = 32,
        dropout: float = 0.3,
        standardize: Standardize = "fixed",
        stride: Stride = 32,
        num_findings: int = 1,
    ) -> None:
        if width < 1:
            raise ValueError(f"width must be at least 1, got {width}")
        if stride not in get_args(Stride):
            raise ValueError(f"stride must be 8, 16 or 32, got {stride}")
        check_dropout(dropout)
        check_num_findings(num_findings)
        backbone = nn.Sequential(
            _block(1, width, kernel_size=5, stride=2),
            _block(width, 2 * width),
            _block(2 * width, 4 * width, pool=stride >= 16),
            _block(4 * width, 8 * width, pool=stride >= 32),
            _block(8 * width, 8 * width, pool=False),
            nn.AdaptiveAvgPool2d(1),
            nn.Flatten(),
        )
        super().__init__(
            ImageNormalizer([_MEAN], [_STD], num_channels=1, standardize=standardize),
            backbone,
            nn.Sequential(nn.Dropout(dropout), nn.Linear(8 * width, num_findings)),
            num_findings=num_findings,
        )


def _block(
    num_inputs: int, num_outputs: int, kernel_size: int = 3, stride: int = 1, pool: bool = True
) -> nn.Sequential:
    convolution = nn.Conv2d(
        num_inputs,
        num_outputs,
        kernel_size,
        stride=stride,
        padding=kernel_size // 2,
        bias=False,
    )
    nn.init.kaiming_normal_(convolution.weight, mode="fan_out", nonlinearity="relu")
    layers: list[nn.Module] = [convolution, nn.BatchNorm2d(num_outputs), nn.ReLU(inplace=True)]
    if pool:
        layers.append(nn.MaxPool2d(2))
    return nn.Sequential(*layers)
