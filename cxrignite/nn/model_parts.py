"""Parts of a model by name, its layers in order, and parameter groups by learning rate."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from fnmatch import fnmatchcase
from typing import Any

from torch import nn

from cxrignite.errors import RecipeError, suggestion


def find_parts(model: nn.Module, names: Iterable[str], setting: str) -> list[str]:
    """Find modules and parameters of a model by their dotted names.

    Args:
        model: The model.
        names: Dotted names, such as `backbone.layer4`, or patterns with `*`.
        setting: Name of the setting, for the error message.

    Returns:
        The dotted names of all that match, each once.

    Raises:
        RecipeError: If a name matches nothing that has weights or statistics.
    """
    known: dict[str, None] = {}
    for key in model.state_dict():
        parts = key.split(".")
        known |= dict.fromkeys(".".join(parts[: end + 1]) for end in range(len(parts)))
    found: dict[str, None] = {}
    for name in names:
        matches = [each for each in known if fnmatchcase(each, name)]
        if not matches:
            near = suggestion(name, known, lists=False)
            near = near or suggestion(name, [each for each in known if each.count(".") < 2])
            raise RecipeError(f"{setting} must name a part of the model, got '{name}'{near}")
        found |= dict.fromkeys(matches)
    return [*found]


def is_within(name: str, part: str) -> bool:
    """True if a parameter or module is a part of a model, or inside it; both by dotted name."""
    return name == part or name.startswith(f"{part}.")


def ordered_layers(backbone: nn.Module) -> list[list[str]]:
    """Divide a network into layers from the input to the output, by the order of its modules.

    A module that holds more than half of the parameters is divided into its children. A
    normalisation belongs to the layer before it.

    Args:
        backbone: The network.

    Returns:
        Dotted names of the modules of each layer.

    Examples:
        >>> ordered_layers(nn.Sequential(nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2), nn.Linear(2, 8)))
        [['0', '1'], ['2']]
    """
    layers = [("", backbone)]
    half = _size(backbone) / 2
    while layers:
        at, (name, largest) = max(enumerate(layers), key=lambda each: _size(each[1][1]))
        children = [each for each in largest.named_children() if _size(each[1])]
        if not children or _size(largest) <= half:
            break
        prefix = f"{name}." if name else ""
        layers[at : at + 1] = [(f"{prefix}{child}", module) for child, module in children]
    grouped: list[list[str]] = []
    for name, module in layers:
        is_norm = all(each.ndim == 1 for each in module.parameters())
        if is_norm and grouped:
            grouped[-1].append(name)
        else:
            grouped.append([name])
    return grouped


def _size(module: nn.Module) -> int:
    return sum(each.numel() for each in module.parameters())


def parameter_groups(
    model: nn.Module, lr_factors: Mapping[str, float], layer_decay: float | None = None
) -> list[dict[str, Any]]:
    """Divide the parameters of a classifier into optimizer groups of one learning rate each.

    Args:
        model: The classifier, with `backbone` if there is a `layer_decay`.
        lr_factors: Factor of the learning rate of each part, by its dotted name or a pattern. The
            longest name that matches a parameter counts.
        layer_decay: Factor for each layer of the backbone from the head to the input; null for 1.

    Returns:
        Groups with `params` and `factor`. The first has the factor 1, and may be empty.

    Raises:
        RecipeError: If a name matches nothing.
    """
    parts = {
        name: [*find_parts(model, [name], "fine_tuning.lr_factors")]
        for name in sorted(lr_factors, key=len)
    }
    depths: dict[str, int] = {}
    if layer_decay is not None:
        layers = ordered_layers(model.get_submodule("backbone"))
        # Weights outside of every layer, such as a class token, are next to the input.
        depths["backbone"] = len(layers)
        for depth, names in enumerate(reversed(layers), start=1):
            depths |= {f"backbone.{name}".rstrip("."): depth for name in names}
    groups: dict[float, list[nn.Parameter]] = {1.0: []}
    for name, parameter in model.named_parameters():
        factor = 1.0
        for key, matches in parts.items():
            if any(is_within(name, each) for each in matches):
                factor = lr_factors[key]
        inside = [part for part in depths if is_within(name, part)]
        if inside and layer_decay is not None:
            factor *= layer_decay ** depths[max(inside, key=len)]
        groups.setdefault(factor, []).append(parameter)
    return [{"params": params, "factor": factor} for factor, params in groups.items()]
