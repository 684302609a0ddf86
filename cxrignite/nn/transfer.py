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
    """A torchvision network with a new head, `Linear -> ReLU -> Dropout -> Linear(hidden, 1)`.

    `backbone` is torchvision's network without its classifier layer, so its parts keep their
    names: `backbone.layer4` is the last stage of a ResNet. A DenseNet's last ReLU, which
    torchvision calls as a function, is the layer `backbone.relu`.

    Args:
        arch: A name of `torchvision.models.list_models(module=torchvision.models)`.
        weights: A name that torchvision knows for this `arch` (`IMAGENET1K_V2`, `DEFAULT`), the
            path of a state dict, or null for random weights. A state dict's classifier layer may
            be missing or of any size.
        hidden: Units between the head's two layers.
        dropout: Share of these dropped in training, in `[0, 1)`.
        standardize: `fixed` normalises with the mean and deviation that the weights were trained
            with, `per_image` with each image's own.

    Raises:
        RecipeError: If `arch` or `weights` is no name that torchvision knows.
        WeightsError: If the weights cannot be had or do not fit.
        ValueError: If `hidden` or `dropout` is out of range.
    """

    def __init__(
        self,
        arch: str,
        weights: str | None = None,
        hidden: int = 256,
        dropout: float = 0.5,
        standardize: Standardize = "fixed",
    ) -> None:
        import torchvision  # here, since it takes a second and 150 MB, and other networks need none

        _check_name("arch", arch, torchvision.models.list_models(module=torchvision.models))
        published = torchvision.models.get_model_weights(arch)
        file = weights if weights is not None and names_a_file(weights) else None
        named = None
        if weights is not None and file is None:
            _check_name(f"weights of {arch}", weights, published.__members__)
            named = published[weights]
        # Before a network of a hundred million weights is built, or downloaded.
        dense_head(1, hidden, dropout)

        backbone = _build(arch, named, pretrained=weights is not None)
        num_features, classifier = _take_classifier_off(backbone)
        if file is not None:
            load_weights_file(backbone, file, arch, ignored=(classifier, *_AUXILIARY))
        image_size = _fixed_size(arch, backbone)
        if arch.startswith("densenet"):
            backbone = _with_relu_as_layer(backbone)
        normalization = (named or published["DEFAULT"]).transforms()
        super().__init__(
            ImageNormalizer(normalization.mean, normalization.std, standardize=standardize),
            backbone,
            dense_head(num_features, hidden, dropout),
            image_size=image_size,
        )


def _check_name(setting: str, value: str, known: Collection[str]) -> None:
    if value not in known:
        near = suggestion(value, known)
        raise RecipeError(f"{setting} must be a name that torchvision knows, got {value!r}{near}")


def _build(arch: str, named: Any, pretrained: bool) -> nn.Module:
    """Build a network, with published weights where `named` says which."""
    import torchvision

    if named is not None:
        return _load_published(arch, named)
    options: dict[str, Any] = {}
    if arch in _INCEPTIONS:
        # Left out, they warn; and published weights expect their input transformed.
        options = {"init_weights": not pretrained, "transform_input": pretrained}
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
    advice = f"lay {file_name} there, or set weights to the path of a local file or to null"
    try:
        # torch.hub announces a download on stdout, which belongs to results.
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
    # torchvision checks what it downloads, and trusts what already lies in the cache.
    promised = re.search(r"-([a-f0-9]{8,})\.", cached.name)
    if promised is None:
        return
    with cached.open("rb") as stream:
        found = hashlib.file_digest(stream, "sha256").hexdigest()
    if not found.startswith(promised[1]):
        _logger.warning(
            "%s is not the file its name promises: its sha256 starts with %s",
            cached,
            found[: len(promised[1])],
        )


def _take_classifier_off(backbone: Any) -> tuple[int, str]:
    """Replace the classifier layer, and return how many features reach it, and its name."""
    if hasattr(backbone, "aux_logits"):
        backbone.aux_logits = False
        for name in _AUXILIARY:
            if hasattr(backbone, name):
                setattr(backbone, name, None)
    # In every torchvision classifier the last layer that is registered is the classifier.
    name, layer = [
        (name, module)
        for name, module in backbone.named_modules()
        if isinstance(module, nn.Linear | nn.Conv2d)
    ][-1]
    if isinstance(layer, nn.Conv2d):
        # SqueezeNet scores every place of its map and averages after: average its features.
        name = name.split(".")[0]
        backbone.set_submodule(name, nn.AdaptiveAvgPool2d(1))
        return layer.in_channels, name
    backbone.set_submodule(name, nn.Identity())
    return layer.in_features, name


def _with_relu_as_layer(densenet: nn.Module) -> nn.Sequential:
    """Say torchvision's forward pass of a DenseNet in layers; weights keep their names.

    Activation maps could else be taken only in front of the last ReLU, where places that it shuts
    still count.
    """
    layers = {
        "features": densenet.get_submodule("features"),
        "relu": nn.ReLU(inplace=True),
        "avgpool": nn.AdaptiveAvgPool2d(1),
        "flatten": nn.Flatten(),
    }
    return nn.Sequential(OrderedDict(layers))


def _fixed_size(arch: str, backbone: nn.Module) -> tuple[int, int] | None:
    size = getattr(backbone, "image_size", 224 if arch.startswith("maxvit") else None)
    return None if size is None else (int(size), int(size))
