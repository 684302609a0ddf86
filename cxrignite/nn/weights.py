"""Pretrained weights from a local file, checked against the network."""

from __future__ import annotations

import pickle
import re
from collections.abc import Iterator, Mapping, Sequence
from itertools import chain
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor, nn

from cxrignite.errors import WeightsError, is_resource_error

_SUFFIXES = {".pt", ".pth", ".bin", ".ckpt", ".tar"}
# torchvision's published DenseNet files still use `norm.1`; its own loader renames such keys too.
_OLD_DENSENET_KEY = re.compile(r"(.*denselayer\d+\.(?:norm|relu|conv))\.([12]\..+)$")
# Keys of a checkpoint that hold its state dict, and prefixes of the names in it.
_STATE_KEYS = ("state_dict", "model_state_dict", "model")
_PREFIXES = ("module.", "model.", "_orig_mod.", "backbone.")


class TakenWeights(NamedTuple):
    """Weights of a file, sorted by their use for a model.

    Attributes:
        taken: Names in the model that were loaded.
        reshaped: Names in the model whose weights in the file have another shape.
        missing: Names in the model without weights in the file.
        unknown: Names in the file that the model does not have.
    """

    taken: list[str]
    reshaped: list[str]
    missing: list[str]
    unknown: list[str]


def names_a_file(weights: str) -> bool:
    """Check if `weights` is a path rather than the name of published weights.

    Args:
        weights: The setting of a recipe.

    Returns:
        True if it is a file, contains a folder, or has the suffix of a weights file.
    """
    path = Path(weights)
    return path.is_file() or len(path.parts) > 1 or path.suffix.lower() in _SUFFIXES


def load_weights_file(
    backbone: nn.Module, path: Path | str, arch: str, ignored: Sequence[str] = ()
) -> None:
    """Load a state dict into a backbone, completely or not at all.

    Args:
        backbone: The network without its classifier layer.
        path: A state dict saved with `torch.save`, or a dict that holds one under `state_dict`,
            `model_state_dict` or `model`.
        arch: Name of the network, for error messages.
        ignored: Modules that the file may hold although the network does not, such as the
            classifier layer (`fc`).

    Raises:
        WeightsError: If the file is missing, is not a state dict, belongs to another architecture,
            or holds NaN or infinite values.
    """
    path = Path(path)
    state = read_state(path)
    for key in [key for key in state if key.startswith(tuple(f"{name}." for name in ignored))]:
        # In place, since a copy would lose the version numbers that `load_state_dict` reads.
        del state[key]
    for key in [key for key in state if _OLD_DENSENET_KEY.match(key)]:
        state[_OLD_DENSENET_KEY.sub(r"\1\2", key)] = state.pop(key)
    own = backbone.state_dict()
    # Files from before torch 0.4.1 lack this counter, which batch norm does not need.
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
        raise WeightsError(
            f"weights {path} do not fit {arch} (keys: {', '.join(found)}); "
            "use weights of this architecture"
        )
    backbone.load_state_dict(state)
    check_finite(backbone, str(path))


def take_weights(model: nn.Module, state: Mapping[str, Tensor], origin: str) -> TakenWeights:
    """Load the weights of another training into a classifier, as far as names and shapes agree.

    Args:
        model: The classifier.
        state: The weights by name; the names may lack `backbone.`, or begin with `module.`,
            `model.` or `backbone.`.
        origin: Their file, for the error message.

    Returns:
        The names that were loaded, and the others.

    Raises:
        WeightsError: If no weight of the backbone was loaded, or one is NaN or infinite.
    """
    own = model.state_dict()
    found: dict[str, Tensor] = {}
    unknown: list[str] = []
    for key, value in state.items():
        name = next((each for each in _possible_names(key) if each in own), None)
        if name is None:
            unknown.append(key)
        else:
            found[name] = value
    taken = {name: value for name, value in found.items() if value.shape == own[name].shape}
    if not any(name.startswith("backbone.") for name in taken):
        first = f"; the file has {unknown[0]}, the model {next(iter(own))}" if unknown else ""
        raise WeightsError(f"{origin} must hold weights of this model's backbone, got none{first}")
    model.load_state_dict(taken, strict=False)
    check_finite(model, origin)
    return TakenWeights(
        taken=[*taken],
        reshaped=[name for name in found if name not in taken],
        # The classifier itself knows the input range; batch norm needs no count.
        missing=[
            name
            for name in own
            if name not in found and not name.startswith("normalizer.")
            if not name.endswith("num_batches_tracked")
        ],
        unknown=unknown,
    )


def _possible_names(key: str) -> Iterator[str]:
    """Yield the names in a classifier that a name in a file may stand for, the nearest first."""
    key = _OLD_DENSENET_KEY.sub(r"\1\2", key)
    while True:
        yield key
        yield f"backbone.{key}"
        prefix = next((each for each in _PREFIXES if key.startswith(each)), None)
        if prefix is None:
            return
        key = key.removeprefix(prefix)


def check_finite(backbone: nn.Module, origin: str) -> None:
    """Check that no weight and no batch statistic is NaN or infinite.

    Args:
        backbone: The network.
        origin: Origin of the weights, for the error message.

    Raises:
        WeightsError: If one is NaN or infinite.
    """
    # A mask among the buffers may hold infinite values.
    statistics = (each for each in backbone.named_buffers() if "running_" in each[0])
    for name, weight in chain(backbone.named_parameters(), statistics):
        if not torch.isfinite(weight).all():
            raise WeightsError(f"weights {origin} hold NaN or infinite values (first: {name})")


def first_line(error: BaseException) -> str:
    """Return the first line of an error's message, or its type if the message is empty."""
    lines = str(error).strip().splitlines() or [type(error).__name__]
    return lines[0]


def read_state(path: Path) -> dict[str, Tensor]:
    """Read a state dict from a file, without running code that the file may hold.

    Args:
        path: A state dict saved with `torch.save`, or a dict that holds one under `state_dict`,
            `model_state_dict` or `model`.

    Raises:
        WeightsError: If the file is missing, or holds no state dict.
    """
    if not path.is_file():
        raise WeightsError(f"weights file {path} does not exist")
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except (OSError, RuntimeError, EOFError, KeyError, ValueError, pickle.UnpicklingError) as error:
        if is_resource_error(error):
            raise
        reason = "it was not saved by torch" if isinstance(error, KeyError) else first_line(error)
        raise WeightsError(f"weights {path} cannot be read as a state dict: {reason}") from error
    if isinstance(content, dict):
        inner = (content[key] for key in _STATE_KEYS if isinstance(content.get(key), dict))
        content = next(inner, content)
    if not isinstance(content, dict) or not content:
        raise WeightsError(
            f"weights {path} must be a state dict, got a {type(content).__name__} without one"
        )
    for key, value in content.items():
        if not isinstance(key, str) or not isinstance(value, Tensor):
            raise WeightsError(f"weights {path} must be a state dict: {key!r} is not a tensor")
    return content
