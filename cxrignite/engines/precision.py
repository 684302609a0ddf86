"""Choice of the number format for a device."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Literal, get_args

import torch

from cxrignite.errors import RecipeError

PrecisionName = Literal["fp32", "bf16", "fp16"]


@dataclass(frozen=True)
class Precision:
    """Number format of the forward pass.

    Args:
        name: `fp32`, `bf16` or `fp16`.
        dtype: Dtype of autocast; null for float32, which needs no autocast.
        use_scaler: True if gradients need a `torch.amp.GradScaler`, as those of float16 do.
        reason: Reason of the choice, for the log.
    """

    name: PrecisionName
    dtype: torch.dtype | None
    use_scaler: bool
    reason: str

    def autocast(self, device: torch.device | str) -> AbstractContextManager[object]:
        """Return the context for a forward pass.

        Args:
            device: Device of the model.

        Returns:
            `torch.autocast` for the type of the device; for float32 a context without effect.
        """
        if self.dtype is None:
            return nullcontext()
        return torch.autocast(torch.device(device).type, dtype=self.dtype)


FP32 = Precision("fp32", None, False, "the default")


def choose_precision(
    name: Literal["auto", "fp32", "bf16", "fp16"], device: torch.device | str
) -> Precision:
    """Choose the number format for a device.

    `auto` chooses bf16 on a CUDA device that supports it natively (compute capability 8.0), and
    fp16 with a scaler on an older one. It chooses bf16 on a CPU with AMX or AVX512-BF16, and fp32
    elsewhere. Without such instructions a CPU emulates bf16, and ran ResNet-50 12 times slower than
    in fp32.

    Args:
        name: `auto`, `fp32`, `bf16` or `fp16`.
        device: Device of the model.

    Returns:
        The number format, with the reason of the choice.

    Raises:
        ValueError: If `name` is unknown.
        RecipeError: If `name` is `fp16` and `device` is not a CUDA device.
    """
    device = torch.device(device)
    if name == "auto":
        return _best(device)
    if name not in get_args(PrecisionName):
        raise ValueError(f"precision must be auto, fp32, bf16 or fp16, got {name!r}")
    if name == "fp16" and device.type != "cuda":
        raise RecipeError(f"precision fp16 needs a CUDA device, got {device.type}")
    return _make(name, "requested")


def _best(device: torch.device) -> Precision:
    if device.type == "cuda":
        major, minor = torch.cuda.get_device_capability(device)
        capability = f"CUDA compute capability {major}.{minor}"
        if (major, minor) >= (8, 0):
            return _make("bf16", f"{capability} computes bf16 natively")
        return _make("fp16", f"{capability} has no native bf16, but computes fp16")
    if device.type == "cpu":
        for feature, is_supported in (
            ("AMX", "_is_amx_tile_supported"),
            ("AVX512-BF16", "_is_avx512_bf16_supported"),
        ):
            # Private functions of torch 2.14; if one is missing, fall back to fp32.
            if getattr(torch.cpu, is_supported, bool)():
                return _make("bf16", f"this CPU computes bf16 natively ({feature})")
        return _make("fp32", "this CPU has no native bf16, and emulation is slow")
    return _make("fp32", f"no faster format is tested on {device.type}")


def _make(name: PrecisionName, reason: str) -> Precision:
    dtype = {"fp32": None, "bf16": torch.bfloat16, "fp16": torch.float16}[name]
    return Precision(name, dtype, name == "fp16", reason)
