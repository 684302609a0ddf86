"""Model-randomisation check of maps (Adebayo 2018, arXiv 1810.03292).

The check compares the maps of a model with those of a copy with random weights. If they are
similar, the maps show properties of the image, such as edges, and not what the model has learnt.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
import scipy
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from cxrignite.functional.model_access import evaluation_mode

Explain = Callable[[nn.Module, Tensor], Tensor]
"""Function from a model and images, shape `(N, C, H, W)`, to maps, shape `(N, h, w)`."""


class RandomizationCheck(NamedTuple):
    """Similarity of the maps of a model and of its randomised copies.

    Attributes:
        layers: The last layer that each stage has randomised, counted from the logit.
        rank_correlation: Spearman's correlation over the pixels of each map, shape `(S, N)` by
            stage and image, in `[-1, 1]`; NaN if a map is constant.
    """

    layers: tuple[str, ...]
    rank_correlation: NDArray[np.float64]


def randomization_check(
    model: nn.Module, images: Tensor, explain: Explain, *, num_stages: int = 1, seed: int = 0
) -> RandomizationCheck:
    """Compare the maps of a model with those of copies whose weights are random.

    Each weight tensor keeps its values in random order. This works for every kind of layer and
    keeps the scale. A batch norm with random weights computes its statistics from the images again,
    since a deep network would overflow otherwise. Both differ from the reference, which draws the
    weights as at the start of training.

    The maps of a single random model may by chance agree or disagree with the model's on all
    images: average over several seeds.

    Args:
        model: The model; it is not changed.
        images: Shape `(N, C, H, W)`, as the model takes them.
        explain: Function from a model and images to maps, such as
            `lambda model, images: grad_cam(model, images, "backbone.4").maps`.
        num_stages: Number of stages. With 1, all layers are randomised at once. With more, layers
            are randomised cumulatively from the logit to the image, about equally many per stage.
        seed: Seed of the random order; torch's global generator is not used.

    Returns:
        The rank correlations.

    Raises:
        ValueError: If `num_stages` is below 1 or above the number of layers that have weights, or
            `explain` gives maps of other shapes.
    """
    stages = _stages(model, num_stages)
    generator = torch.Generator().manual_seed(seed)
    correlations = []
    # A copy made in inference mode cannot have gradients.
    with torch.inference_mode(False):
        original = _checked_maps(explain(model, images), len(images))
        random_model = copy.deepcopy(model)
        norms: list[_BatchNorm] = []
        for stage in stages:
            norms += _randomize(random_model, stage, generator)
            # Batch norms before the random layers keep their statistics: their input is unchanged.
            _renew_statistics(random_model, norms, images)
            maps = _checked_maps(explain(random_model, images), len(images))
            correlations.append(rank_correlation(original, maps))
    return RandomizationCheck(tuple(stage[-1] for stage in stages), np.stack(correlations))


def randomized_copy(model: nn.Module, images: Tensor, *, seed: int = 0) -> nn.Module:
    """Return a copy of a model with random weights in every layer, as in `randomization_check`.

    Args:
        model: The model; it is not changed.
        images: Shape `(N, C, H, W)`, as the model takes them, for the statistics of batch norms.
        seed: Seed of the random order.

    Returns:
        The copy, on the same device and in the same mode.

    Raises:
        ValueError: If the model has no weights.
    """
    (layers,) = _stages(model, 1)
    with torch.inference_mode(False):
        random_model = copy.deepcopy(model)
        norms = _randomize(random_model, layers, torch.Generator().manual_seed(seed))
        _renew_statistics(random_model, norms, images)
    return random_model


def rank_correlation(maps: Tensor, other_maps: Tensor) -> NDArray[np.float64]:
    """Return Spearman's correlation of each map with another one; ties get their mean rank.

    Args:
        maps: Shape `(N, H, W)`.
        other_maps: Shape `(N, H, W)`.

    Returns:
        Correlations, shape `(N,)`, in `[-1, 1]`; NaN if a map is constant.

    Raises:
        ValueError: If the shapes differ.

    Examples:
        >>> maps = torch.tensor([[[1.0, 2.0], [3.0, 9.0]], [[0.0, 0.0], [0.0, 0.0]]])
        >>> rank_correlation(maps, -maps).tolist()
        [-1.0, nan]
    """
    if maps.ndim != 3 or maps.shape != other_maps.shape:
        raise ValueError(
            "maps and other_maps must both have shape (N, H, W), "
            f"got {tuple(maps.shape)} and {tuple(other_maps.shape)}"
        )
    first, second = (
        scipy.stats.rankdata(each.detach().flatten(1).cpu().double().numpy(), axis=1)
        for each in (maps, other_maps)
    )
    first -= first.mean(axis=1, keepdims=True)
    second -= second.mean(axis=1, keepdims=True)
    spread = np.sqrt((first**2).sum(axis=1) * (second**2).sum(axis=1))
    shared = (first * second).sum(axis=1)
    correlation = np.full(len(shared), np.nan)
    np.divide(shared, spread, out=correlation, where=spread > 0)
    return correlation


def _stages(model: nn.Module, num_stages: int) -> list[list[str]]:
    """Divide the layers that have weights into stages, from the logit to the image."""
    layers = [
        name
        for name, layer in model.named_modules()
        if any(True for _ in layer.parameters(recurse=False)) or isinstance(layer, _BatchNorm)
    ][::-1]
    if not 1 <= num_stages <= len(layers):
        raise ValueError(
            f"num_stages must be between 1 and the {len(layers)} layers with weights, "
            f"got {num_stages}"
        )
    return [part.tolist() for part in np.array_split(np.asarray(layers), num_stages)]


def _randomize(
    model: nn.Module, names: Sequence[str], generator: torch.Generator
) -> list[_BatchNorm]:
    """Put the weights of these layers in random order, and return the batch norms among them."""
    layers = [model.get_submodule(name) for name in names]
    for layer in layers:
        _shuffle(layer, generator)
    return [layer for layer in layers if isinstance(layer, _BatchNorm)]


def _shuffle(layer: nn.Module, generator: torch.Generator) -> None:
    with torch.no_grad():
        for weight in layer.parameters(recurse=False):
            order = torch.randperm(weight.numel(), generator=generator).to(weight.device)
            weight.copy_(weight.flatten()[order].view(weight.shape))


def _renew_statistics(model: nn.Module, norms: list[_BatchNorm], images: Tensor) -> None:
    """Set the statistics of batch norms to those of these images."""
    if not norms:
        return
    momenta = [norm.momentum for norm in norms]
    with evaluation_mode(model), torch.no_grad():
        for norm in norms:
            norm.training, norm.momentum = True, 1.0
        model(images)
    for norm, momentum in zip(norms, momenta, strict=True):
        norm.momentum = momentum


def _checked_maps(maps: Tensor, num_images: int) -> Tensor:
    if maps.ndim != 3 or len(maps) != num_images:
        raise ValueError(
            f"explain must give one map per image, shape ({num_images}, H, W), "
            f"got {tuple(maps.shape)}"
        )
    return maps
