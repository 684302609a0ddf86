"""Search for the layer of a network at which class activation maps are computed."""

from __future__ import annotations

import re
from typing import Any

import torch
from torch import Tensor, nn

from cxrignite.errors import RecipeError, is_resource_error
from cxrignite.functional.model_access import evaluation_mode

# Two sizes, to distinguish dimensions that grow with the image from others. The smaller size leaves
# 4 x 4 positions after the usual 32-fold reduction.
_SIZES = (128, 192)


def last_map_layer(
    backbone: nn.Module, num_channels: int, image_size: tuple[int, int] | None = None
) -> str:
    """Find the layer whose output is the last feature map before pooling.

    The backbone runs in evaluation mode on meta tensors, which have a shape but no data. This takes
    milliseconds for any network and changes no weights, buffers or modes. A feature map has the
    shape `(N, C, H, W)` with more than one position; `H` and `W` grow with the image, `C` does not.
    If several layers end with the same map, the outermost is returned.

    Networks that divide the image into tokens have the shape `(N, H, W, C)` at the end (Swin), or
    `(N, L, C)` (ViT). For the latter the last layer before the last attention is returned: after it
    many networks use the class token alone, and the logit does not depend on the others.

    Args:
        backbone: Network from images, shape `(N, num_channels, H, W)`, to features.
        num_channels: Number of channels of the images, at least 1.
        image_size: Height and width that the backbone requires, in pixels; null for any size.

    Returns:
        The dotted name of the layer, such as `layer4`.

    Raises:
        RecipeError: If there is no such layer.
    """
    sizes = [image_size] if image_size is not None else [(side, side) for side in _SIZES]
    shapes: dict[str, list[torch.Size]] = {}
    before_attention = ""
    try:
        for size in sizes:
            run, before_attention = _output_shapes(backbone, (1, num_channels, *size))
            # For a layer that is called several times, the last call counts.
            for name, shape in run.items():
                shapes.setdefault(name, []).append(shape)
    # A network of another library may raise anything if its input has no data.
    except Exception as error:
        if is_resource_error(error):
            raise
        raise _no_layer(backbone, f"{type(error).__name__} on an image without data") from error
    found = ""
    for name, seen in shapes.items():
        if _is_map(seen) or _is_grid_of_tokens(seen):
            found = name
        elif _is_row_of_tokens(seen):
            found = before_attention or name
    if not found:
        raise _no_layer(backbone, "none gives a map")
    return found


def _output_shapes(
    backbone: nn.Module, shape: tuple[int, ...]
) -> tuple[dict[str, torch.Size], str]:
    """Return the output shape of each layer, in the order in which the layers finish.

    Also return the last layer that gives tokens before the last attention starts, or nothing.
    """
    shapes: dict[str, torch.Size] = {}
    before_attention = ""

    def note_attention(_layer: nn.Module, _inputs: object) -> None:
        nonlocal before_attention
        finished = (name for name, each in reversed(shapes.items()) if _is_row_of_tokens([each]))
        before_attention = next(finished, before_attention)

    def note(name: str) -> Any:
        def hook(_layer: nn.Module, _inputs: object, output: object) -> None:
            shapes.pop(name, None)
            if isinstance(output, Tensor):
                shapes[name] = output.shape

        return hook

    weights = {
        name: tensor.detach().to("meta")
        for name, tensor in [*backbone.named_parameters(), *backbone.named_buffers()]
    }
    # Identities and dropouts are skipped: they only pass on the map of another layer.
    hooks = [
        layer.register_forward_hook(note(name))
        for name, layer in backbone.named_modules()
        if name and not isinstance(layer, nn.Identity | nn.modules.dropout._DropoutNd)
    ]
    hooks += [
        layer.register_forward_pre_hook(note_attention)
        for layer in backbone.modules()
        if re.search("attention", type(layer).__name__, re.IGNORECASE)
    ]
    try:
        with evaluation_mode(backbone), torch.no_grad():
            image = torch.empty(shape, device="meta")
            torch.func.functional_call(backbone, weights, (image,))
    finally:
        for hook in hooks:
            hook.remove()
    return shapes, before_attention


def _is_map(seen: list[torch.Size]) -> bool:
    first, last = seen[0], seen[-1]
    if len(first) != 4 or first[2] * first[3] < 2:
        return False
    if len(seen) == 1:
        # A map of a square image is square; in some networks the channels come last.
        return first[2] == first[3]
    return first[1] == last[1] and first[2] < last[2] and first[3] < last[3]


def _is_grid_of_tokens(seen: list[torch.Size]) -> bool:
    """True for channels in the last place, one row of them for each position."""
    return len(seen[0]) == 4 and seen[0][0] == 1 and seen[0][1] == seen[0][2] > 1


def _is_row_of_tokens(seen: list[torch.Size]) -> bool:
    # The first size is 1 for an image; windows of one image are several.
    return len(seen[0]) == 3 and seen[0][0] == 1 and seen[0][1] > 1


def _no_layer(backbone: nn.Module, reason: str) -> RecipeError:
    return RecipeError(
        f"{type(backbone).__name__} has no layer that is known to suit class activation maps "
        f"({reason}); set target_layer to the name of a layer"
    )
