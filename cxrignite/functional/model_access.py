"""A layer of a model by its name, and a model lent for evaluation that comes back as it was."""

from __future__ import annotations

import difflib
from collections.abc import Iterator
from contextlib import contextmanager

from torch import nn

from cxrignite.errors import RecipeError

_NUM_NEAR = 3


def find_layer(model: nn.Module, target_layer: str | nn.Module) -> tuple[str, nn.Module]:
    """Find a layer of a model.

    Args:
        model: The model.
        target_layer: A module inside the model, or its dotted name, such as `backbone.4`.

    Returns:
        The layer's dotted name, and the layer.

    Raises:
        RecipeError: If the model has no such layer; the line says which names are near.

    Examples:
        >>> find_layer(nn.Sequential(nn.Conv2d(1, 2, 3), nn.ReLU()), "1")
        ('1', ReLU())
    """
    layers = {name: layer for name, layer in model.named_modules() if name}
    if isinstance(target_layer, str):
        if target_layer in layers:
            return target_layer, layers[target_layer]
        raise RecipeError(
            f"target_layer must be the name of a layer of the model, got {target_layer!r}"
            f"{_advice(target_layer, list(layers))}"
        )
    for name, layer in layers.items():
        if layer is target_layer:
            return name, layer
    raise RecipeError(
        "target_layer must be a layer inside the model, "
        f"got a {type(target_layer).__name__} that is not"
    )


@contextmanager
def evaluation_mode(model: nn.Module) -> Iterator[None]:
    """Put every part of a model into evaluation mode, and give each its own mode back at the end.

    The flags are set one by one: `model.eval()` would call what a part has made of `train`, which
    may be more than a flag (fused or merged weights).

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


def _advice(wrong: str, names: list[str]) -> str:
    # `layer4` for `backbone.layer4` is the likeliest slip, and not near by its letters.
    near = [name for name in names if name.endswith(f".{wrong}")]
    near += [name for name in difflib.get_close_matches(wrong, names) if name not in near]
    if near:
        return f"; did you mean {' or '.join(near[:_NUM_NEAR])}?"
    outer = [name for name in names if "." not in name]
    return f"; it has {', '.join(outer[:8])}" if outer else "; it has no layers"
