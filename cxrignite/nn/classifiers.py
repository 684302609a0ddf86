"""Base class of the classifiers: grey images in, one logit per image and finding out."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Self

import torch
from torch import Tensor, nn

from cxrignite.errors import RecipeError
from cxrignite.nn.cam_layer import last_map_layer
from cxrignite.nn.model_parts import find_parts, is_within
from cxrignite.nn.normalizer import ImageNormalizer


class BinaryClassifier(nn.Module):
    """Classifier made of a normaliser, a backbone and a head, with one logit for each finding.

    Args:
        normalizer: Module from grey images to the input of the backbone.
        backbone: Module from normalised images to features, shape `(N, F)`.
        head: Module from features to logits, shape `(N, num_findings)`.
        image_size: Height and width that the backbone requires, in pixels; null for any size.
        num_findings: Number of findings, K, at least 1.

    Raises:
        ValueError: If `num_findings` is below 1.
    """

    _frozen: tuple[str, ...] = ()  # modules
    _frozen_parameters: tuple[str, ...] = ()

    def __init__(
        self,
        normalizer: ImageNormalizer,
        backbone: nn.Module,
        head: nn.Module,
        image_size: tuple[int, int] | None = None,
        num_findings: int = 1,
    ) -> None:
        check_num_findings(num_findings)
        super().__init__()
        self.normalizer = normalizer
        self.backbone = backbone
        self.head = head
        self.image_size = image_size
        self.num_findings = num_findings

    @property
    def cam_layer(self) -> str:
        """Dotted name of the layer for class activation maps, such as `backbone.4`.

        It is computed from the network at each call, in milliseconds (see `last_map_layer`).

        Raises:
            RecipeError: If the network has no feature map before its head.
        """
        layer = last_map_layer(self.backbone, self.normalizer.num_channels, self.image_size)
        return f"backbone.{layer}"

    def freeze(self, parts: Iterable[str]) -> None:
        """Freeze parts of the model: their weights and batch statistics no longer change.

        They compute as in evaluation, without dropout, also in training mode.

        Args:
            parts: Dotted names, such as `backbone.layer1`, or patterns with `*`.

        Raises:
            RecipeError: If a name matches no part, or no weight would be trained.
        """
        self.unfreeze()
        found = find_parts(self, parts, "fine_tuning.frozen")
        parameters = dict(self.named_parameters())
        frozen = [
            name
            for name, parameter in parameters.items()
            if parameter.requires_grad and any(is_within(name, part) for part in found)
        ]
        trained = [name for name, each in parameters.items() if each.requires_grad]
        if frozen and frozen == trained:
            raise RecipeError(
                "fine_tuning.frozen must leave a part of the model to train, got all of it"
            )
        for name in frozen:
            parameters[name].requires_grad_(False)
        modules = dict(self.named_modules())
        self._frozen = tuple(part for part in found if part in modules)
        self._frozen_parameters = tuple(frozen)
        self.train(self.training)

    def unfreeze(self) -> None:
        """Train the frozen parts again."""
        parameters = dict(self.named_parameters())
        for name in self._frozen_parameters:
            parameters[name].requires_grad_(True)
        self._frozen = self._frozen_parameters = ()
        self.train(self.training)

    def train(self, mode: bool = True) -> Self:
        """Switch to training or evaluation mode; frozen parts stay in evaluation mode.

        Args:
            mode: True for training mode.

        Returns:
            The model.
        """
        super().train(mode)
        for name in self._frozen:
            self.get_submodule(name).train(False)
        return self

    def forward(self, images: Tensor) -> Tensor:
        """Score a batch.

        Args:
            images: Shape `(N, 1, H, W)`, uint8 in `[0, 255]` or floating point in `[0, 1]`.

        Returns:
            Logits, shape `(N,)` for one finding, else `(N, K)`. Exclusive classes have a logit for
            each class but the first, whose logit is 0 (see `scores_from_logits`).

        Raises:
            ValueError: If the shape or dtype is wrong.
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
        # In float32: the eight significant bits of bf16 give about a hundred different scores, too
        # few to choose a threshold among.
        with torch.autocast(images.device.type, enabled=False):
            logits: Tensor = self.head(features.float())
        # `squeeze` alone would keep several findings too, but an ONNX model would refuse it.
        return logits.squeeze(1) if logits.shape[1] == 1 else logits


def dense_head(
    num_features: int, hidden: int, dropout: float, num_findings: int = 1
) -> nn.Sequential:
    """Return the head for transfer learning, `Linear -> ReLU -> Dropout -> Linear(hidden, K)`.

    Args:
        num_features: Number of features of the backbone.
        hidden: Number of units between the two layers, at least 1.
        dropout: Share of units dropped in training, in `[0, 1)`.
        num_findings: Number of findings, K, at least 1.

    Returns:
        A module from shape `(N, num_features)` to `(N, K)`.

    Raises:
        ValueError: If `hidden`, `dropout` or `num_findings` is out of range.
    """
    if hidden < 1:
        raise ValueError(f"hidden must be at least 1, got {hidden}")
    check_dropout(dropout)
    check_num_findings(num_findings)
    return nn.Sequential(
        nn.Linear(num_features, hidden),
        nn.ReLU(),
        nn.Dropout(dropout),
        nn.Linear(hidden, num_findings),
    )


def check_num_findings(num_findings: int) -> None:
    """Check the number of findings of a classifier.

    Args:
        num_findings: Number of findings, at least 1.

    Raises:
        ValueError: If it is below 1.
    """
    if num_findings < 1:
        raise ValueError(f"num_findings must be at least 1, got {num_findings}")


def check_dropout(dropout: float) -> None:
    """Check the range of a dropout share.

    Args:
        dropout: Share of dropped units, in `[0, 1)`.

    Raises:
        ValueError: If `dropout` is out of range.
    """
    if not 0 <= dropout < 1:
        raise ValueError(f"dropout must be in [0, 1), got {dropout}")


def _is_channels_last(module: nn.Module) -> bool:
    for weight in module.parameters():
        if weight.ndim == 4:
            is_last = weight.is_contiguous(memory_format=torch.channels_last)
            # Weights with one input channel or a 1 x 1 kernel are contiguous in both layouts.
            if is_last != weight.is_contiguous():
                return is_last
    return False
