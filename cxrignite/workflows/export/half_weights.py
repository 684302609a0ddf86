"""Weights stored in half precision, with all computation in float32."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from cxrignite.errors import CxrIgniteError

__all__ = ["HalfWeights"]


class HalfWeights(nn.Module):
    """Module with the weights of another one in float16, converted to float32 in each pass.

    A file with it has half the size. Only matrices and convolutions are rounded: biases and the
    statistics of normalisations are few, and some are too small for float16.

    Args:
        module: The module, which is not changed.

    Raises:
        CxrIgniteError: If a weight is too large for float16.
    """

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        # In a list, so that its weights are not weights of this module.
        self._modules_of = [module]
        self._names: dict[str, str] = {}
        for number, (name, weight) in enumerate(module.named_parameters()):
            if weight.ndim < 2 or weight.dtype != torch.float32:
                continue
            half = weight.detach().half()
            if not half.isfinite().all():
                raise CxrIgniteError(
                    f"--dtype fp16 needs weights below 65504, got {weight.abs().max():g} in "
                    f"{name}; use --dtype fp32"
                )
            self._names[name] = f"half_{number}"
            self.register_buffer(f"half_{number}", half)
        others = dict(module.named_parameters()) | dict(module.named_buffers())
        self.others = {name: each for name, each in others.items() if name not in self._names}

    def forward(self, image: Tensor) -> tuple[Tensor, ...]:
        """Run the module with rounded weights.

        Args:
            image: Its input.

        Returns:
            Its outputs.
        """
        weights = {name: getattr(self, half).float() for name, half in self._names.items()}
        result: tuple[Tensor, ...] = torch.func.functional_call(
            self._modules_of[0], weights | self.others, (image,)
        )
        return result
