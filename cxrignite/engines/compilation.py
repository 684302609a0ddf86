"""Compilation of a model's forward pass, and one-line errors of the compiler."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import nn

from cxrignite.errors import RecipeError

_COMPILER = ("torch._dynamo.", "torch._functorch.", "torch._inductor.")


def compile_model(model: nn.Module) -> nn.Module:
    """Wrap a model so that its forward pass is compiled at the first call.

    The model itself is unchanged. Use it for checkpoints and for hooks, since a compiled pass
    ignores hooks that are registered later.

    Each mode and batch size gets its own kernels. Kernels for dynamic sizes would depend on the
    batches before, and a resumed run would not be bit-identical.

    Args:
        model: The model, on its device and not yet wrapped for several processes.

    Returns:
        A module with the same parameters and a compiled forward pass; its state dict has other
        keys.
    """
    compiled: nn.Module = torch.compile(model, dynamic=False)  # type: ignore[assignment]
    return compiled


@contextmanager
def compiler_errors_in_one_line() -> Iterator[None]:
    """Turn a compiler error into one line that names the setting to change.

    Yields:
        Nothing, for the block that runs the compiled model.

    Raises:
        RecipeError: If the compiler fails in the block; other exceptions are not changed.
    """
    try:
        yield
    except Exception as error:
        # Compared by name, since importing the private modules of the classes takes a second.
        if not any(kind.__module__.startswith(_COMPILER) for kind in type(error).__mro__):
            raise
        lines = [line.strip() for line in str(error).splitlines() if line.strip()]
        reason = lines[0] if lines else type(error).__name__
        raise RecipeError(f"trainer.compile: {reason}; set it to false") from error
