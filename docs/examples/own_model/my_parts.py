"""Your own model and loss, which a recipe names `my_parts.TwoScaleNet` and `my_parts.FocalLoss`."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from cxrignite.nn import BinaryClassifier, ImageNormalizer


class TwoScales(nn.Module):
    """Convolution of the image with small and with large kernels at once.

    Args:
        width: Channels of each scale.
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        self.small = nn.Conv2d(1, width, 3, stride=2, padding=1)
        self.large = nn.Conv2d(1, width, 9, stride=2, padding=4)

    def forward(self, pixels: Tensor) -> Tensor:
        """Map shape `(N, 1, H, W)` to `(N, 2 * width, H / 2, W / 2)`."""
        return torch.cat([self.small(pixels), self.large(pixels)], dim=1)


class TwoScaleNet(BinaryClassifier):
    """Classifier of a normaliser, a backbone and a head, as every classifier of a recipe.

    The arguments of the constructor are the keys that a recipe may set under `init_args`.

    Args:
        width: Channels of each of the two scales, at least 1.
        dropout: Share of features dropped in training.
    """

    def __init__(self, width: int = 8, dropout: float = 0.2) -> None:
        if width < 1:
            raise ValueError(f"width must be at least 1, got {width}")
        backbone = nn.Sequential(
            *(TwoScales(width), nn.BatchNorm2d(2 * width), nn.ReLU()),
            *(nn.Conv2d(2 * width, 4 * width, 3, padding=1), nn.BatchNorm2d(4 * width), nn.ReLU()),
            nn.MaxPool2d(2),
            *(nn.Conv2d(4 * width, 4 * width, 3, padding=1), nn.BatchNorm2d(4 * width), nn.ReLU()),
            *(nn.AdaptiveAvgPool2d(1), nn.Flatten()),
        )
        super().__init__(
            ImageNormalizer([0.5], [0.25], num_channels=1),  # grey pixels, about 0.5 on average
            backbone,
            nn.Sequential(nn.Dropout(dropout), nn.Linear(4 * width, 1)),
        )


class FocalLoss(nn.modules.loss._Loss):
    """Binary cross-entropy that counts easy images less (Lin et al. 2017, arXiv:1708.02002).

    Args:
        gamma: 0 is the plain cross-entropy; with a higher value easy images count less.
    """

    def __init__(self, gamma: float = 2.0) -> None:
        super().__init__()
        self.gamma = gamma

    def forward(self, logits: Tensor, labels: Tensor) -> Tensor:
        """Return the mean loss of logits and labels, both of shape `(N,)`."""
        loss = F.binary_cross_entropy_with_logits(logits, labels, reduction="none")
        return (loss * (1 - torch.exp(-loss)) ** self.gamma).mean()
