"""Which number format a device should train in, and why."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Literal, get_args

import torch

from cxrignite.errors import RecipeError

PrecisionName = Literal["fp32", "bf16", "fp16"]


@dataclass(frozen=True)
class Precision:
    """A number format for the forward pass.

    Args:
        name: `fp32`, `bf16` or `fp16`.
        dtype: What autocast computes in; null for float32, without autocast.
        use_scaler: True if gradients need a `torch.amp.GradScaler`, as float16's do.
        reason: Why this one, for a log.
    """

    name: PrecisionName
    dtype: torch.dtype | None
    use_scaler: bool
    reason: str

    def autocast(self, device: torch.device | str) -> AbstractContextManager[object]:
        """Return the context to run a forward pass in.

        Args:
            device: Where the model runs.

        Returns:
            `torch.autocast` for the device's type, or a context that does nothing for float32.
        """
        if self.dtype is None:
            return nullcontext()
        return torch.autocast(torch.device(device).type, dtype=self.dtype)


FP32 = Precision("fp32", None, False, "the default")


def choose_precision(
    name: Literal["auto", "fp32", "bf16", "fp16"], device: torch.device | str
) -> Precision:
    """Choose the number format for a device.

    `auto` takes bf16 on a CUDA device that has it natively (compute capability 8.0), fp16 with a
    scaler on an older one, bf16 on a CPU with AMX or AVX512-BF16, and fp32 elsewhere: without
    such instructions a CPU emulates bf16, and ran ResNet-50 12 times slower than in fp32. Any
    other name is honoured.

    Args:
        name: `auto`, `fp32`, `bf16` or `fp16`.
        device: Where the model runs.

    Returns:
        The format, with its reason.

    Raises:
        ValueError: If `name` is unknown; a `RecipeError` if it is `fp16` on a device without CUDA.
    """
    device = torch.device(device)
    if name == "auto":
        return _best(device)
    if name not in get_args(PrecisionName):
        raise ValueError(f"precision must be auto, fp32, bf16 or fp16, got {name!r}")
    if name == "fp16" and device.type != "cuda":
        raise RecipeError(f"precision fp16 needs a CUDA device, got {device.type}")
    return _make(name, "asked for")


def _best(device: torch.device) -> Precision:
    if device.type == "cuda":
        major, minor = torch.cuda.get_device_capability(device)
        capability = f"CUDA compute capability {major}.{minor}"
        if (major, minor) >= (8, 0):
            return _make("bf16", f"{capability} computes bf16 natively")
        return _make("fp16", f"{capability} is older than bf16 and computes fp16")
    if device.type == "cpu":
        for feature, is_supported in (
            ("AMX", "_is_amx_tile_supported"),
            ("AVX512-BF16", "_is_avx512_bf16_supported"),
        ):
            # Private in torch 2.14: where one is gone, the safe answer is fp32.
            if getattr(torch.cpu, is_supported, bool)():
                return _make("bf16", f"this CPU computes bf16 natively ({feature})")
        return _make("fp32", "this CPU has no native bf16, and emulates it slowly")
    return _make("fp32", f"nothing faster is proven on {device.type}")


def _make(name: PrecisionName, reason: str) -> Precision:
    dtype = {"fp32": None, "bf16": torch.bfloat16, "fp16": torch.float16}[name]
    return Precision(name, dtype, name == "fp16", reason)
