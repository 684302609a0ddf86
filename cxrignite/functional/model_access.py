"""Access to a model: find a layer by name, and switch to evaluation mode temporarily."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from torch import nn

from cxrignite.errors import RecipeError, suggestion


def find_layer(model: nn.Module, target_layer: str | nn.Module) -> tuple[str, nn.Module]:
    """Find a layer of a model.

    Args:
        model: The model.
        target_layer: A module inside the model, or its dotted name, such as `backbone.4`.

    Returns:
        The layer's dotted name, and the layer.

    Raises:
        RecipeError: If the model has no such layer; the message suggests similar names.

    Examples:
        >>> find_layer(nn.Sequential(nn.Conv2d(1, 2, 3), nn.ReLU()), "1")
        ('1', ReLU())
    """
    layers = {name: layer for name, layer in model.named_modules() if name}
    if isinstance(target_layer, str):
        if target_layer in layers:
            return target_layer, layers[target_layer]
        near = suggestion(target_layer, layers, lists=False)
        near = near or suggestion(target_layer, [name for name in layers if "." not in name])
        raise RecipeError(
            f"target_layer must be the name of a layer of the model, got {target_layer!r}{near}"
        )
    for name, layer in layers.items():
        if layer is target_layer:
            return name, layer
    raise RecipeError(
        "target_layer must be a layer inside the model, "
        f"got a {type(target_layer).__name__} that is not part of it"
    )


@contextmanager
def evaluation_mode(model: nn.Module) -> Iterator[None]:
    """Put all modules of a model into evaluation mode, and restore their modes at the end.

    The flags are set directly. `model.eval()` calls `train` of each module, and an overridden
    `train` may do more than set a flag (fuse or merge weights, for example).

    Args:
        model: The model.
    """
    modes = [(part, part.training) for part in model.modules()]
    try:
        for part, _ in modes:
            part.training = False
        yield
    finally:
        for part, is_training in modes:
            part.training = is_training
