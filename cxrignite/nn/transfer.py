"""Transfer learning from any torchvision classification network."""

from __future__ import annotations

import contextlib
import hashlib
import io
import logging
import pickle
import re
from collections import OrderedDict
from collections.abc import Collection
from pathlib import Path
from typing import Any
from urllib.parse import urlparse

import torch
from torch import nn

from cxrignite.errors import RecipeError, WeightsError, suggestion
from cxrignite.nn.classifiers import BinaryClassifier, dense_head
from cxrignite.nn.normalizer import ImageNormalizer, Standardize
from cxrignite.nn.weights import check_finite, first_line, load_weights_file, names_a_file

_logger = logging.getLogger(__name__)

_AUXILIARY = ("AuxLogits", "aux1", "aux2")
_INCEPTIONS = ("googlenet", "inception_v3")


class TransferClassifier(BinaryClassifier):
    """Classifier with a torchvision network and a new head.

    The head is `Linear -> ReLU -> Dropout -> Linear(hidden, K)`. `backbone` is torchvision's
    network without its classifier layer, with the same layer names: `backbone.layer4` is the last
    stage of a ResNet. The last ReLU of a DenseNet, which torchvision calls as a function, is the
    layer `backbone.relu`.

    Args:
        arch: Name from `torchvision.models.list_models(module=torchvision.models)`.
        weights: Name of published weights of this `arch` (`IMAGENET1K_V2`, `DEFAULT`), the path of
            a state dict, or null for random weights. The classifier layer of a state dict may be
            missing or have any size.
        hidden: Number of units between the two layers of the head.
        dropout: Share of these units dropped in training, in `[0, 1)`.
        standardize: `fixed` normalises with the mean and deviation that the weights were trained
            with, `per_image` with those of each image.
        num_findings: Number of findings, K, with one logit each. `fit` sets it from the data.

    Raises:
        RecipeError: If torchvision does not know `arch` or `weights`.
        WeightsError: If the weights cannot be loaded or do not fit.
        ValueError: If `hidden`, `dropout` or `num_findings` is out of range.
    """

    def __init__(
        self,
        arch: str,
        weights: str | None = None,
        hidden: int = 256,
        dropout: float = 0.5,
        standardize: Standardize = "fixed",
        num_findings: int = 1,
    ) -> None:
        import torchvision  # here, since it takes a second and 150 MB, and only this class needs it

        _check_name("arch", arch, torchvision.models.list_models(module=torchvision.models))
        published = torchvision.models.get_model_weights(arch)
        file = weights if weights is not None and names_a_file(weights) else None
        named = None
        if weights is not None and file is None:
            _check_name(f"weights of {arch}", weights, published.__members__)
            named = published[weights]
        # Checks the settings before a large network is built or downloaded.
        dense_head(1, hidden, dropout, num_findings)

        backbone = _build(arch, named, pretrained=weights is not None)
        num_features, classifier = _take_classifier_off(backbone)
        if file is not None:
            load_weights_file(backbone, file, arch, ignored=(classifier, *_AUXILIARY))
        image_size = _fixed_size(arch, backbone)
        if arch.startswith("densenet"):
            backbone = _with_relu_as_layer(backbone)
        mean, std = _input_range(backbone, (named or published["DEFAULT"]).transforms())
        super().__init__(
            ImageNormalizer(mean, std, standardize=standardize),
            backbone,
            dense_head(num_features, hidden, dropout, num_findings),
            image_size=image_size,
            num_findings=num_findings,
        )


def _check_name(setting: str, value: str, known: Collection[str]) -> None:
    if value not in known:
        near = suggestion(value, known)
        raise RecipeError(f"{setting} must be a name that torchvision knows, got {value!r}{near}")


def _build(arch: str, named: Any, pretrained: bool) -> nn.Module:
    """Build a network, with the published weights `named` if given."""
    import torchvision

    if named is not None:
        return _load_published(arch, named)
    options: dict[str, Any] = {}
    if arch in _INCEPTIONS:
        options = {"init_weights": not pretrained}  # without it torchvision warns
    network: nn.Module = torchvision.models.get_model(arch, weights=None, **options)
    return network


def _load_published(arch: str, named: Any) -> nn.Module:
    import torchvision

    file_name = Path(urlparse(named.url).path).name
    cached = Path(torch.hub.get_dir()) / "checkpoints" / file_name
    if cached.is_file():
        _check_hash(cached)
    else:
        _logger.info("downloading %s to %s", named.url, cached)
    advice = f"put {file_name} there, or set weights to the path of a local file or to null"
    try:
        # torch.hub prints to stdout, which is reserved for results.
        with contextlib.redirect_stdout(io.StringIO()):
            network: nn.Module = torchvision.models.get_model(arch, weights=named, progress=False)
    except OSError as error:
        raise WeightsError(
            f"cannot get the weights {named.name} of {arch}: {file_name} is not in "
            f"{cached.parent}, and the download failed ({first_line(error)}); {advice}"
        ) from error
    except (RuntimeError, EOFError, KeyError, pickle.UnpicklingError) as error:
        raise WeightsError(
            f"cannot use {cached} as the weights {named.name} of {arch} "
            f"({first_line(error)}); delete it, {advice}"
        ) from error
    check_finite(network, f"{named.name} of {arch}")
    return network


def _check_hash(cached: Path) -> None:
    # torchvision checks its downloads, but not files that are already in the cache.
    expected = re.search(r"-([a-f0-9]{8,})\.", cached.name)
    if expected is None:
        return
    with cached.open("rb") as stream:
        found = hashlib.file_digest(stream, "sha256").hexdigest()
    if not found.startswith(expected[1]):
        _logger.warning(
            "%s may be damaged: its sha256 must start with %s, as in its name, but starts with %s; "
            "delete the file to download it again",
            cached,
            expected[1],
            found[: len(expected[1])],
        )


def _take_classifier_off(backbone: Any) -> tuple[int, str]:
    """Remove the classifier layer, and return its number of input features and its name."""
    if hasattr(backbone, "aux_logits"):
        backbone.aux_logits = False
        for name in _AUXILIARY:
            if hasattr(backbone, name):
                setattr(backbone, name, None)
    # In every torchvision network the last registered layer is the classifier.
    name, layer = [
        (name, module)
        for name, module in backbone.named_modules()
        if isinstance(module, nn.Linear | nn.Conv2d)
    ][-1]
    if isinstance(layer, nn.Conv2d):
        # SqueezeNet classifies every position and then averages; average its features instead.
        name = name.split(".")[0]
        backbone.set_submodule(name, nn.AdaptiveAvgPool2d(1))
        return layer.in_channels, name
    backbone.set_submodule(name, nn.Identity())
    return layer.in_features, name


def densenet_features(arch: str) -> nn.Sequential:
    """Return a DenseNet of torchvision with random weights, without its classifier layer.

    Args:
        arch: Name of the network, such as `densenet121`.
    """
    return _with_relu_as_layer(_build(arch, None, pretrained=False))


def _with_relu_as_layer(densenet: nn.Module) -> nn.Sequential:
    """Return a DenseNet with its last ReLU as a layer; the names of the weights do not change.

    Otherwise class activation maps could only use the output before the last ReLU, including the
    regions that it sets to 0.
    """
    layers = {
        "features": densenet.get_submodule("features"),
        "relu": nn.ReLU(inplace=True),
        "avgpool": nn.AdaptiveAvgPool2d(1),
        "flatten": nn.Flatten(),
    }
    return nn.Sequential(OrderedDict(layers))


def _input_range(backbone: Any, published: Any) -> tuple[list[float], list[float]]:
    """Return mean and deviation of the images that the backbone takes.

    The inceptions transform normalised images to [-1, 1], but only if torchvision loads their
    weights: a model that is built again from a checkpoint would not. The normaliser does it
    instead.
    """
    if hasattr(backbone, "transform_input"):
        backbone.transform_input = False
        return [0.5] * 3, [0.5] * 3
    return published.mean, published.std


def _fixed_size(arch: str, backbone: nn.Module) -> tuple[int, int] | None:
    size = getattr(backbone, "image_size", 224 if arch.startswith("maxvit") else None)
    return None if size is None else (int(size), int(size))
