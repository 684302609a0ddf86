"""Class activation maps: which places of an image spoke for, or against, the positive class.

A map weighs a layer's activations `A` with the gradients `g` of the logit by them, sums over the
channels and keeps what is above zero. How it weighs is the method:

- `grad_cam`, each channel by the mean of its gradients (Selvaraju 2017, arXiv 1610.02391);
- `grad_cam_pp`, by the sum of its positive gradients, each times `1 / (2 + g * sum(A))`
  (Chattopadhay 2018, arXiv 1710.11063, equation 19 divided by the squared gradient). The
  exponential of the logit there is one factor for a whole map, and left out;
- `hires_cam`, each place by its own gradient (Draelos and Carin 2020, arXiv 2011.08891);
- `layer_cam`, each place by its own gradient where that is positive (Jiang 2021, doi
  10.1109/TIP.2021.3089943); made for earlier layers of a higher resolution too.
"""

from __future__ import annotations

from typing import Literal, NamedTuple, get_args

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from cxrignite.errors import NonFiniteError, RecipeError
from cxrignite.functional.model_access import evaluation_mode, find_layer

CamMethod = Literal["grad_cam", "grad_cam_pp", "hires_cam", "layer_cam"]
"""How a map weighs activations and gradients."""

CamTarget = Literal["positive", "negative"]
"""What a map speaks for: the positive class, or against it."""


class CamMaps(NamedTuple):
    """The maps of a batch.

    Attributes:
        maps: Shape `(N, H, W)` of the images, float32 in `[0, 1]`. The most important pixel is 1,
            and an empty map is 0 everywhere.
        raw_max: The largest value of each map before scaling, shape `(N,)`, float32, at least 0; in
            logits for `hires_cam`. It is 0 for an empty map: no place spoke for the target.
        logits: Of the positive class, shape `(N,)`, float32, whatever the target.
        grid: Rows and columns of the layer's own map: how much a map can resolve.
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
) -> CamMaps:
    """Map which places of each image spoke for a class, in one forward and a short backward pass.

    The pass is in evaluation mode and float32, whatever the caller's mode or autocast. Gradients
    are of the layer's output only: no graph is kept in front of the layer, and no weight gets a
    gradient, frozen or not. The model is left as it was: no hook, no `.grad`, each part's mode.

    The layer's output is taken as the layer gives it, also where the model changes it in place
    afterwards; a map does not depend on whether a ReLU is in place. Behind a layer whose output has
    still to pass a ReLU, `grad_cam` may show places that the ReLU shuts: name the ReLU.

    Args:
        model: Images in, one logit an image out, shape `(N,)` or `(N, 1)`.
        images: Shape `(N, C, H, W)`, as the model takes them, on its device.
        target_layer: A layer with an output of shape `(N, C', H', W')` that the model calls once,
            or its dotted name.
        method: How a map weighs activations and gradients.
        target: `positive` maps what raises the logit, `negative` what lowers it.

    Returns:
        The maps, upsampled bilinearly to the images' size, on their device.

    Raises:
        RecipeError: If the model has no such layer, or the layer has no spatial output or is not
            called exactly once.
        ValueError: If `images` have another shape, the model gives not one logit an image that
            depends on the layer, or `method` or `target` is unknown.
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
    # What `torch.compile` returns calls no hook that is put on later.
    model = getattr(model, "_orig_mod", model)
    name, layer = find_layer(model, target_layer)
    with (
        torch.inference_mode(False),
        torch.no_grad(),
        torch.autocast(images.device.type, enabled=False),
    ):
        # Tensors made in inference mode can be part of no graph.
        images = images.clone() if images.is_inference() else images
        activation, gradient, logits = _activation_and_gradient(model, images, name, layer)
        if target == "negative":
            gradient = -gradient
        coarse = _combine(activation, gradient, method).clamp_min(0)
        _check_finite(coarse, logits, name)
        maps = F.interpolate(
            coarse[:, None], images.shape[-2:], mode="bilinear", align_corners=False
        )[:, 0]
        # After upsampling: between the centres of the coarse places no pixel reaches their value.
        peak = maps.amax(dim=(1, 2), keepdim=True)
        maps = torch.where(peak > 0, maps / peak, 0.0)
    rows, columns = coarse.shape[1:]
    return CamMaps(maps, coarse.amax(dim=(1, 2)), logits, (rows, columns))


def _activation_and_gradient(
    model: nn.Module, images: Tensor, name: str, layer: nn.Module
) -> tuple[Tensor, Tensor, Tensor]:
    """Return the layer's output, the gradient of the logit by it, and the logits."""
    outputs: list[Tensor] = []

    def open_graph(_layer: nn.Module, _inputs: object, output: object) -> Tensor:
        # A copy, for a later operation in place would change what has been taken; and the model
        # goes on with a copy of it, since none may change a leaf of the graph.
        leaf = _checked_output(output, name, len(images)).detach().clone().requires_grad_()
        outputs.append(leaf)
        # The graph begins here, and ends with the pass.
        torch.set_grad_enabled(True)
        return leaf.clone()

    hook = layer.register_forward_hook(open_graph)
    try:
        with evaluation_mode(model), torch.no_grad():
            logits = _checked_logits(model(images), len(images))
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
    return outputs[0].detach().float(), gradient.float(), logits.detach()


def _checked_output(output: object, name: str, num_images: int) -> Tensor:
    if not isinstance(output, Tensor):
        raise RecipeError(
            f"target_layer {name} must give one tensor, got a {type(output).__name__}"
        )
    shape = tuple(output.shape)
    if output.ndim != 4 or shape[0] != num_images or shape[2] * shape[3] < 2:
        raise RecipeError(
            f"target_layer {name} must give a map of more than one place an image, "
            f"shape ({num_images}, C, H, W), got {shape}"
        )
    return output


def _checked_logits(output: object, num_images: int) -> Tensor:
    if not isinstance(output, Tensor):
        raise ValueError(f"the model must give one tensor of logits, got a {type(output).__name__}")
    if output.shape not in ((num_images,), (num_images, 1)):
        raise ValueError(
            f"the model must give one logit an image, shape ({num_images},), "
            f"got {tuple(output.shape)}"
        )
    return output.flatten().float()


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
        # Activations below zero, which the derivation does not know, could make it zero.
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
            "are the images and the weights finite?"
        )
