"""Pretrained weights from a local file, checked against the network they are meant for."""

from __future__ import annotations

import pickle
import re
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor, nn

from cxrignite.errors import WeightsError, is_resource_error

_SUFFIXES = {".pt", ".pth", ".bin", ".ckpt", ".tar"}
# torchvision's published DenseNet files still say `norm.1`; its own loader renames them too.
_OLD_DENSENET_KEY = re.compile(r"(.*denselayer\d+\.(?:norm|relu|conv))\.([12]\..+)$")


def names_a_file(weights: str) -> bool:
    """Tell a path from the name of published weights.

    Args:
        weights: What a recipe says.

    Returns:
        True if it is a file, has a folder in it, or ends as a file of weights does.
    """
    path = Path(weights)
    return path.is_file() or len(path.parts) > 1 or path.suffix.lower() in _SUFFIXES


def load_weights_file(
    backbone: nn.Module, path: Path | str, arch: str, ignored: Sequence[str] = ()
) -> None:
    """Load a state dict into a backbone, all of it or nothing.

    Args:
        backbone: The network, its classifier layer already taken off.
        path: A state dict saved with `torch.save`, or a dict that holds one under `state_dict`.
        arch: The network's name, for the message.
        ignored: Modules that the file may hold and the network does not, such as the classifier
            layer (`fc`).

    Raises:
        WeightsError: If the file is missing, is no state dict, belongs to another architecture,
            or holds NaN.
    """
    path = Path(path)
    state = _read_state(path)
    for key in [key for key in state if key.startswith(tuple(f"{name}." for name in ignored))]:
        # In place: a copy would lose the versions that `load_state_dict` upgrades by.
        del state[key]
    for key in [key for key in state if _OLD_DENSENET_KEY.match(key)]:
        state[_OLD_DENSENET_KEY.sub(r"\1\2", key)] = state.pop(key)
    own = backbone.state_dict()
    # Files from before torch 0.4.1 lack this counter, and batch norm does without.
    missing = [key for key in own if key not in state and not key.endswith("num_batches_tracked")]
    unexpected = [key for key in state if key not in own]
    reshaped = [key for key in own if key in state and own[key].shape != state[key].shape]
    if missing or unexpected or reshaped:
        found = [
            f"{len(keys)} {word} (first: {keys[0]})"
            for word, keys in (
                ("missing", missing),
                ("unexpected", unexpected),
                ("of another shape", reshaped),
            )
            if keys
        ]
        raise WeightsError(f"weights {path} do not fit {arch}: of its keys {', '.join(found)}")
    backbone.load_state_dict(state)
    check_finite(backbone, str(path))


def check_finite(backbone: nn.Module, origin: str) -> None:
    """Check that no weight is NaN or infinite.

    Args:
        backbone: The network.
        origin: Where its weights came from, for the message.

    Raises:
        WeightsError: If one is.
    """
    for name, weight in backbone.named_parameters():
        if not torch.isfinite(weight).all():
            raise WeightsError(f"weights {origin} hold NaN or infinite values (first: {name})")


def first_line(error: BaseException) -> str:
    """Return the first line of an error's message, or its type where it has none."""
    lines = str(error).strip().splitlines() or [type(error).__name__]
    return lines[0]


def _read_state(path: Path) -> dict[str, Tensor]:
    if not path.is_file():
        raise WeightsError(f"weights {path}: there is no such file")
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except (OSError, RuntimeError, EOFError, KeyError, ValueError, pickle.UnpicklingError) as error:
        if is_resource_error(error):
            raise
        reason = "it was not saved by torch" if isinstance(error, KeyError) else first_line(error)
        raise WeightsError(f"weights {path} cannot be read as a state dict: {reason}") from error
    if isinstance(content, dict) and isinstance(content.get("state_dict"), dict):
        content = content["state_dict"]
    if not isinstance(content, dict) or not content:
        raise WeightsError(f"weights {path} hold no state dict but a {type(content).__name__}")
    for key, value in content.items():
        if not isinstance(key, str) or not isinstance(value, Tensor):
            raise WeightsError(f"weights {path} hold no state dict: {key!r} is no named tensor")
    return content
