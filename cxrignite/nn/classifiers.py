"""What every classifier of this library is: grey images in, one logit per image out."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from cxrignite.nn.cam_layer import last_map_layer
from cxrignite.nn.normalizer import ImageNormalizer


class BinaryClassifier(nn.Module):
    """A normaliser, a backbone and a head.

    Args:
        normalizer: From grey images to what the backbone was trained on.
        backbone: From normalised images to features, shape `(N, F)`.
        head: From features to a logit, shape `(N, 1)`.
        image_size: Height and width the backbone is bound to, in pixels; null if any will do.
    """

    def __init__(
        self,
        normalizer: ImageNormalizer,
        backbone: nn.Module,
        head: nn.Module,
        image_size: tuple[int, int] | None = None,
    ) -> None:
        super().__init__()
        self.normalizer = normalizer
        self.backbone = backbone
        self.head = head
        self.image_size = image_size

    @property
    def cam_layer(self) -> str:
        """The dotted name of the layer where class activation maps are taken, `backbone.4` say.

        It is worked out from the network each time, in milliseconds (see `last_map_layer`).

        Raises:
            RecipeError: If the network has no map of the image before its head, as a vision
                transformer.
        """
        layer = last_map_layer(self.backbone, self.normalizer.num_channels, self.image_size)
        return f"backbone.{layer}"

    def forward(self, images: Tensor) -> Tensor:
        """Score a batch.

        Args:
            images: Shape `(N, 1, H, W)`, uint8 in `[0, 255]` or floating point in `[0, 1]`.

        Returns:
            Logits of the positive class, shape `(N,)`.

        Raises:
            ValueError: If the shape or dtype is another one.
        """
        if self.image_size is not None and tuple(images.shape[-2:]) != self.image_size:
            height, width = self.image_size
            raise ValueError(
                f"images must be {height} x {width} for this backbone, "
                f"got shape {tuple(images.shape)}"
            )
        pixels = self.normalizer(images)
        if _is_channels_last(self.backbone):
            pixels = pixels.contiguous(memory_format=torch.channels_last)
        features = self.backbone(pixels)
        # Eight bits of mantissa leave a hundred different scores in all, and no threshold between.
        with torch.autocast(images.device.type, enabled=False):
            logits: Tensor = self.head(features.float())
        return logits.squeeze(1)


def dense_head(num_features: int, hidden: int, dropout: float) -> nn.Sequential:
    """Return the transfer learner's head, `Linear -> ReLU -> Dropout -> Linear(hidden, 1)`.

    Args:
        num_features: Features the backbone gives.
        hidden: Units between the two layers, at least 1.
        dropout: Share of units dropped in training, in `[0, 1)`.

    Returns:
        From shape `(N, num_features)` to `(N, 1)`.

    Raises:
        ValueError: If `hidden` or `dropout` is out of range.
    """
    if hidden < 1:
        raise ValueError(f"hidden must be at least 1, got {hidden}")
    check_dropout(dropout)
    return nn.Sequential(
        nn.Linear(num_features, hidden),
        nn.ReLU(),
        nn.Dropout(dropout),
        nn.Linear(hidden, 1),
    )


def check_dropout(dropout: float) -> None:
    """Check a share of dropped units.

    Args:
        dropout: In `[0, 1)`.

    Raises:
        ValueError: If it is not.
    """
    if not 0 <= dropout < 1:
        raise ValueError(f"dropout must be in [0, 1), got {dropout}")


def _is_channels_last(module: nn.Module) -> bool:
    for weight in module.parameters():
        if weight.ndim == 4:
            is_last = weight.is_contiguous(memory_format=torch.channels_last)
            # One input channel or a 1 x 1 kernel is contiguous in both formats and tells nothing.
            if is_last != weight.is_contiguous():
                return is_last
    return False
