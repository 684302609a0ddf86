"""Networks and losses: grey images in, one logit per image and finding out.

This is the only package that imports torchvision and timm.
"""

from __future__ import annotations

from cxrignite.nn.classifiers import BinaryClassifier
from cxrignite.nn.ensemble import Ensemble
from cxrignite.nn.light_cnn import LightCNN
from cxrignite.nn.losses import NeedsClassCounts, SoftClassWeightCE, SoftPosWeightBCE
from cxrignite.nn.map_losses import MapEnergyLoss, MapLoss
from cxrignite.nn.normalizer import ImageNormalizer
from cxrignite.nn.timm_classifier import TimmClassifier
from cxrignite.nn.transfer import TransferClassifier
from cxrignite.nn.xray_vision import TorchXrayVisionClassifier

__all__ = [
    "BinaryClassifier",
    "Ensemble",
    "ImageNormalizer",
    "LightCNN",
    "MapEnergyLoss",
    "MapLoss",
    "NeedsClassCounts",
    "SoftClassWeightCE",
    "SoftPosWeightBCE",
    "TimmClassifier",
    "TorchXrayVisionClassifier",
    "TransferClassifier",
]
