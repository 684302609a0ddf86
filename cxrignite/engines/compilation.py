"""`torch.compile` for the forward pass of a model, and its failures in one line."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import nn

from cxrignite.errors import RecipeError

_COMPILER = ("torch._dynamo.", "torch._functorch.", "torch._inductor.")


def compile_model(model: nn.Module) -> nn.Module:
    """Wrap a model so that its forward pass is compiled, at the first call.

    The model itself stays as it is, for checkpoints and for whoever hangs hooks on its layers: a
    compiled pass calls no hook that is put on later. Each mode and batch size gets kernels of its
    own. With kernels for any size, those of a step would depend on the batches before it, and a
    resumed run would not repeat the bits.

    Args:
        model: On its device, and not wrapped for several processes yet.

    Returns:
        The same parameters under a compiled forward pass; its own state has other keys.
    """
    compiled: nn.Module = torch.compile(model, dynamic=False)  # type: ignore[assignment]
    return compiled


@contextmanager
def compiler_errors_in_one_line() -> Iterator[None]:
    """Turn a failure of the compiler into one line that says how to do without it.

    Yields:
        Nothing, for the block that runs the compiled model.

    Raises:
        RecipeError: The compiler failed in the block; other exceptions pass as they are.
    """
    try:
        yield
    except Exception as error:
        # By name: the classes lie in private modules that take a second to import.
        if not any(kind.__module__.startswith(_COMPILER) for kind in type(error).__mro__):
            raise
        lines = [line.strip() for line in str(error).splitlines() if line.strip()]
        reason = lines[0] if lines else type(error).__name__
        raise RecipeError(f"trainer.compile: {reason}; set it to false") from error
