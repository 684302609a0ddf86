"""Class activation maps of a training step, from the forward pass that the step makes anyway."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from cxrignite.errors import RecipeError
from cxrignite.functional.model_access import evaluation_mode, find_layer
from cxrignite.functional.token_grid import feature_map
from cxrignite.nn.classifiers import BinaryClassifier


class TrainingMaps:
    """Differentiable class activation maps of the last forward pass with gradients.

    A hook keeps the output of `model.cam_layer`. If the model averages this output over all
    positions and has one linear layer after that, a map is the sum of the channels times the
    weights of that layer. Else the weights are the mean gradients of the logit, with a graph.

    Args:
        model: The classifier, on its device.
        image_size: Rows and columns of the images.

    Attributes:
        grid: Rows and columns of the maps.

    Raises:
        RecipeError: If the model has no layer for maps, or no second derivative behind it.
    """

    def __init__(self, model: BinaryClassifier, image_size: tuple[int, int]) -> None:
        self._image_size = image_size
        self._model = model
        self._name, layer = find_layer(model, model.cam_layer)
        self._output: Tensor | None = None
        layer.register_forward_hook(self._keep)
        self._head: nn.Linear | None = None
        self.grid = self._try()

    def of(self, logits: Tensor, rows: Tensor, findings: Tensor) -> Tensor:
        """Return maps of the last forward pass, once.

        Args:
            logits: Its logits, shape `(N,)` or `(N, K)`.
            rows: Positions of the images in the batch, shape `(P,)`.
            findings: Positions of the findings, shape `(P,)`.

        Returns:
            Maps, not scaled and with negative values, shape `(P, H, W)`, float32.
        """
        output, self._output = self._output, None
        assert output is not None, "no forward pass with gradients"
        grid = feature_map(output, self._image_size)
        assert grid is not None, "checked before training"
        activation = grid.float()[rows]
        if self._head is not None:
            weights = self._head.weight.float()[findings]
        else:
            weights = self._gradients(logits, output, rows, findings)
        return torch.einsum("pc,pchw->phw", weights, activation)

    def forget(self) -> None:
        """Forget the last forward pass, and so free its graph."""
        self._output = None

    def _gradients(self, logits: Tensor, output: Tensor, rows: Tensor, findings: Tensor) -> Tensor:
        """Return the mean gradient of each channel, times the number of positions, `(P, C)`."""
        columns = logits.reshape(len(logits), -1)
        weights = []
        for finding in range(columns.shape[1]):
            (gradient,) = torch.autograd.grad(
                columns[:, finding].sum(), output, create_graph=True, allow_unused=True
            )
            if gradient is None:
                raise RecipeError(f"the logit must depend on layer {self._name}, and does not")
            grid = feature_map(gradient.float(), self._image_size)
            assert grid is not None, "the output has a grid"
            weights.append(grid.sum(dim=(2, 3)))
        return torch.stack(weights, dim=1)[rows, findings]

    def _keep(self, _layer: nn.Module, _inputs: object, output: Tensor) -> Tensor | None:
        if not torch.is_grad_enabled():
            return None
        if not output.requires_grad:  # all weights up to the layer are frozen
            output = output.detach().requires_grad_()
        self._output = output
        # A copy, because a later operation in place would change what was kept.
        return output.clone()

    def _try(self) -> tuple[int, int]:
        """Make a pass with random images, as in a step; return the grid of the maps."""
        model, device = self._model, next(self._model.parameters()).device
        generator = torch.Generator().manual_seed(0)
        images = torch.rand(2, 1, *self._image_size, generator=generator).to(device)
        with evaluation_mode(model), torch.enable_grad():
            logits = model(images)
            output = self._output
            grid = None if output is None else feature_map(output, self._image_size)
            if grid is None:
                raise RecipeError(
                    f"layer {self._name} must give a map of more than one position, to be taught "
                    f"by masks, got {None if output is None else list(output.shape)}"
                )
            linear = _only_linear(model.head)
            if linear is not None:
                mean = grid.float().mean(dim=(2, 3))
                expected = linear(mean).reshape(logits.shape)
                is_average = torch.allclose(expected, logits.float(), rtol=1e-3, atol=1e-4)
                self._head = linear if is_average else None
            if self._head is None:
                self._try_gradient(logits)
        self.forget()
        return grid.shape[2], grid.shape[3]

    def _try_gradient(self, logits: Tensor) -> None:
        device = logits.device
        both = torch.tensor([0, 1], device=device)
        weights = list(self._model.parameters())
        before = [each.grad for each in weights]
        try:
            maps = self.of(logits, both, torch.zeros_like(both))
            # Not `torch.autograd.grad`, which does not reach functions without a second derivative.
            maps.square().sum().backward()  # type: ignore[no-untyped-call]
        except RuntimeError as error:
            reason = str(error).splitlines()[0]
            raise RecipeError(
                f"map_loss needs a second derivative behind layer {self._name}, and the model has "
                f"none: {reason}; choose another model, or set map_loss to null"
            ) from error
        finally:
            for weight, gradient in zip(weights, before, strict=True):
                weight.grad = gradient


def _only_linear(head: nn.Module) -> nn.Linear | None:
    """Return the linear layer of a head that has only this one, and dropout before it."""
    parts = list(head) if isinstance(head, nn.Sequential) else [head]
    *before, last = parts
    is_plain = all(isinstance(each, nn.Dropout | nn.Identity | nn.Flatten) for each in before)
    return last if is_plain and isinstance(last, nn.Linear) else None
