"""Class activation maps: regions of an image that raise or lower the logit of a finding.

A map weights the activations `A` of a layer with the gradients `g` of the logit with respect to
them, sums over the channels and keeps positive values. The methods differ in the weights:

- `grad_cam`: mean gradient of the channel (Selvaraju 2017, arXiv 1610.02391).
- `grad_cam_pp`: sum of the channel's positive gradients, each times `1 / (2 + g * sum(A))`
  (Chattopadhay 2018, arXiv 1710.11063, equation 19 divided by the squared gradient). The
  exponential of the logit is omitted, since it is constant over a map.
- `hires_cam`: gradient of each position (Draelos and Carin 2020, arXiv 2011.08891).
- `layer_cam`: gradient of each position if it is positive (Jiang 2021, doi
  10.1109/TIP.2021.3089943); also suitable for earlier layers with a higher resolution.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, Literal, NamedTuple, get_args

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from cxrignite.errors import NonFiniteError, RecipeError
from cxrignite.functional.findings import finding_logit
from cxrignite.functional.model_access import evaluation_mode, find_layer
from cxrignite.functional.token_grid import feature_map

CamMethod = Literal["grad_cam", "grad_cam_pp", "hires_cam", "layer_cam"]
"""Method that weights the activations."""

CamTarget = Literal["positive", "negative"]
"""Class that a map explains: `positive` shows evidence for the positive class, `negative` evidence
against it."""


class CamMaps(NamedTuple):
    """Class activation maps of a batch.

    Attributes:
        maps: Maps at the size of the images, shape `(N, H, W)`, float32 in `[0, 1]`. The most
            important pixel is 1; an empty map is 0 everywhere.
        raw_max: Maximum of each map before scaling, shape `(N,)`, float32, at least 0; in logits
            for `hires_cam`. It is 0 for an empty map, which has no evidence for the target.
        logits: Logits of the explained output, shape `(N,)`, float32, for either target; of an
            exclusive class the log odds of its score.
        grid: Rows and columns of the layer's output, which limit the resolution of the maps.
    """

    maps: Tensor
    raw_max: Tensor
    logits: Tensor
    grid: tuple[int, int]


def grad_cam(
    model: nn.Module,
    images: Tensor,
    target_layer: str | nn.Module,
    *,
    method: CamMethod = "grad_cam",
    target: CamTarget = "positive",
    output: int = 0,
    exclusive: bool = False,
) -> CamMaps:
    """Compute class activation maps, in one forward pass and a partial backward pass.

    The pass runs in evaluation mode and float32, regardless of the caller's mode and autocast. Only
    the gradient of the layer's output is computed: there is no graph before the layer, and no
    weight gets a gradient. The model is unchanged afterwards: no hooks, no `.grad`, the same modes.

    The layer's output is copied before the model can change it in place, so a map does not depend
    on the ReLU being in place. If a ReLU follows the layer, `grad_cam` may show regions that the
    ReLU sets to 0; choose the ReLU as the layer instead.

    The map of an ensemble, which has its models in a `ModuleList` named `members`, is the mean of
    the maps of its members. `target_layer` is then a name, in each of them.

    Args:
        model: Images in, logits out, shape `(N,)` or `(N, K)`.
        images: Shape `(N, C, H, W)`, as the model takes them, on its device.
        target_layer: A layer that the model calls once, or its dotted name. Its output has the
            shape `(N, C', H', W')`; or that of tokens, `(N, H', W', C')` or `(N, L, C')`, which are
            arranged as in the image (see `feature_map`).
        method: Method that weights the activations.
        target: `positive` shows what raises the logit, `negative` what lowers it.
        output: Index of the explained logit among the K of an image, such as the number of a
            finding.
        exclusive: True if the K logits are of exclusive classes: the map then explains the log odds
            of the class's softmax score, which the logits of the other classes lower.

    Returns:
        The maps, upsampled bilinearly to the size of the images, on their device.

    Raises:
        RecipeError: If the model has no such layer, or the layer has no spatial output or is not
            called exactly once.
        ValueError: If `images` or the logits have another shape, the logit does not depend on the
            layer, there is no such `output`, or `method` or `target` is unknown.
        NonFiniteError: If a map or logit is NaN or infinite.

    Examples:
        >>> pool, linear = nn.AdaptiveAvgPool2d(1), nn.Linear(1, 1, bias=False)
        >>> model = nn.Sequential(nn.Identity(), pool, nn.Flatten(), linear)
        >>> _ = nn.init.constant_(linear.weight, 2.0)
        >>> found = grad_cam(model, torch.tensor([[[[0.0, 1.0], [2.0, 4.0]]]]), "0")
        >>> found.maps.tolist(), found.raw_max.tolist(), found.logits.tolist()
        ([[[0.0, 0.25], [0.5, 1.0]]], [2.0], [3.5])
    """
    for setting, value, known in (("method", method, CamMethod), ("target", target, CamTarget)):
        if value not in get_args(known):
            names = " or ".join(get_args(known))
            raise ValueError(f"{setting} must be {names}, got {value!r}")
    if images.ndim != 4 or 0 in images.shape:
        raise ValueError(f"images must have shape (N, C, H, W), got {tuple(images.shape)}")
    # A compiled model ignores hooks that are registered after compilation.
    model = getattr(model, "_orig_mod", model)
    if isinstance(members := getattr(model, "members", None), nn.ModuleList):
        settings: dict[str, Any] = {
            "method": method,
            "target": target,
            "output": output,
            "exclusive": exclusive,
        }
        found = [grad_cam(each, images, target_layer, **settings) for each in members]
        with evaluation_mode(model), torch.no_grad():
            logits = _checked_logits(model(images), len(images), output, exclusive)
        maps = _scaled(torch.stack([each.maps for each in found]).mean(dim=0))
        raw_max = torch.stack([each.raw_max for each in found]).mean(dim=0)
        return CamMaps(maps, raw_max, logits, found[0].grid)
    name, layer = find_layer(model, target_layer)
    with (
        torch.inference_mode(False),
        torch.no_grad(),
        torch.autocast(images.device.type, enabled=False),
    ):
        # Tensors created in inference mode cannot be part of a graph.
        images = images.clone() if images.is_inference() else images
        explained = partial(
            _checked_logits, num_images=len(images), output=output, exclusive=exclusive
        )
        activation, gradient, logits = _activation_and_gradient(
            model, images, name, layer, explained
        )
        if target == "negative":
            gradient = -gradient
        coarse = _combine(activation, gradient, method).clamp_min(0)
        _check_finite(coarse, logits, name)
        maps = F.interpolate(
            coarse[:, None], images.shape[-2:], mode="bilinear", align_corners=False
        )[:, 0]
        # Scaled after upsampling, since no upsampled pixel may reach the maximum of the coarse map.
        maps = _scaled(maps)
    rows, columns = coarse.shape[1:]
    return CamMaps(maps, coarse.amax(dim=(1, 2)), logits, (rows, columns))


def _scaled(maps: Tensor) -> Tensor:
    """Scale each map, `(N, H, W)`, to a maximum of 1; an empty map stays 0."""
    peak = maps.amax(dim=(1, 2), keepdim=True)
    return torch.where(peak > 0, maps / peak, 0.0)


def _activation_and_gradient(
    model: nn.Module,
    images: Tensor,
    name: str,
    layer: nn.Module,
    explained: Callable[[object], Tensor],
) -> tuple[Tensor, Tensor, Tensor]:
    """Return the layer's output, the gradient of the logit with respect to it, and the logits."""
    outputs: list[Tensor] = []

    def open_graph(_layer: nn.Module, _inputs: object, output: object) -> Tensor:
        # Copy, so that a later operation in place does not change the result. The model continues
        # with a second copy, since a leaf of the graph must not be changed in place.
        leaf = _checked_output(output, name, images).detach().clone().requires_grad_()
        outputs.append(leaf)
        # The graph starts here and ends with the pass.
        torch.set_grad_enabled(True)
        return leaf.clone()

    hook = layer.register_forward_hook(open_graph)
    try:
        with evaluation_mode(model), torch.no_grad():
            logits = explained(model(images))
        if len(outputs) != 1:
            raise RecipeError(
                f"target_layer {name} must be called once in a pass, got {len(outputs)} calls"
            )
        gradient = None
        if logits.requires_grad:
            (gradient,) = torch.autograd.grad(
                logits, outputs[0], torch.ones_like(logits), allow_unused=True
            )
    finally:
        hook.remove()
    if gradient is None:
        raise ValueError(
            f"the logit must depend on target_layer {name}, got no gradient of its output"
        )
    size = (images.shape[2], images.shape[3])
    activation, weights = (feature_map(each, size) for each in (outputs[0].detach(), gradient))
    assert activation is not None, "checked in the pass"
    assert weights is not None, "of the same shape"
    return activation.float(), weights.float(), logits.detach()


def _checked_output(output: object, name: str, images: Tensor) -> Tensor:
    if not isinstance(output, Tensor):
        raise RecipeError(
            f"target_layer {name} must give one tensor, got a {type(output).__name__}"
        )
    size = (images.shape[2], images.shape[3])
    if feature_map(output, size) is None or len(output) != len(images):
        raise RecipeError(
            f"target_layer {name} must give a map of more than one position per image, "
            f"shape ({len(images)}, C, H, W), got {tuple(output.shape)}"
        )
    return output


def _checked_logits(logits: object, num_images: int, output: int, exclusive: bool) -> Tensor:
    if not isinstance(logits, Tensor):
        raise ValueError(f"the model must give one tensor of logits, got a {type(logits).__name__}")
    if logits.ndim not in (1, 2) or len(logits) != num_images:
        raise ValueError(
            f"the model must give one logit per image, shape ({num_images},), or ({num_images}, K) "
            f"for K findings, got {tuple(logits.shape)}"
        )
    columns = logits.reshape(num_images, -1)
    if not 0 <= output < columns.shape[1]:
        raise ValueError(
            f"output must be in [0, {columns.shape[1]}), the logits of an image, got {output}"
        )
    return finding_logit(columns.float(), output, exclusive)


def _combine(activation: Tensor, gradient: Tensor, method: CamMethod) -> Tensor:
    """Sum the weighted activations over the channels: from `(N, C, H, W)` to `(N, H, W)`."""
    if method == "hires_cam":
        return (activation * gradient).sum(dim=1)
    if method == "layer_cam":
        return (activation * gradient.clamp_min(0)).sum(dim=1)
    if method == "grad_cam":
        weights = gradient.mean(dim=(2, 3))
    else:
        divisor = 2 + gradient * activation.sum(dim=(2, 3), keepdim=True)
        # Negative activations, which the derivation excludes, could make it zero.
        divisor = torch.where(divisor == 0, 1.0, divisor)
        weights = (gradient.clamp_min(0) / divisor).sum(dim=(2, 3))
    return torch.einsum("nc,nchw->nhw", weights, activation)


def _check_finite(coarse: Tensor, logits: Tensor, name: str) -> None:
    finite = coarse.isfinite().all(dim=2).all(dim=1) & logits.isfinite()
    if not finite.all():
        first = int((~finite).nonzero()[0])
        raise NonFiniteError(
            f"the map of target_layer {name} must be finite, got NaN or infinite values in "
            f"{int((~finite).sum())} of {len(finite)} images (first: {first}); "
            "check that the images and the weights are finite"
        )
