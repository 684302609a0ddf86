"""Validation of a checkpoint's content before it is used.

A digest shows that the bytes are those that were saved, but not that they fit: the model may have
changed since, and the file may come from elsewhere.
"""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import torch
from torch import Tensor, nn

from cxrignite.errors import CheckpointError, is_resource_error
from cxrignite.handlers import BestCheckpoint, load_checkpoint

_NUM_NAMED = 3
_NO_FIT = "the weights of the checkpoint do not fit the model"
_WAY_OUT = "use the code that trained them, or train again"
# State of torch's optimizers with the shape of the parameter; other state has other shapes.
_LIKE_PARAMETER = frozenset(
    {
        *("exp_avg", "exp_avg_sq", "max_exp_avg_sq", "exp_inf", "momentum_buffer"),
        *("square_avg", "grad_avg", "acc_delta", "sum", "prev", "step_size", "mu", "eta_", "ax"),
    }
)


@runtime_checkable
class Stateful(Protocol):
    """Part of a training whose state is in a checkpoint."""

    def state_dict(self) -> Any:
        """Return the state."""

    def load_state_dict(self, state: Any, /) -> object:
        """Load a state."""


@dataclass(frozen=True)
class Best:
    """Weights of the best epoch.

    Attributes:
        epoch: Number of the epoch, from 1.
    """

    epoch: int
    weights: Mapping[str, Tensor]


@dataclass(frozen=True)
class TrainingState:
    """State from which a run is resumed.

    Attributes:
        epoch: Last complete epoch.
        epoch_length: Steps in an epoch.
        num_not_better: Epochs since the last better one, for early stopping.
        best_epoch: Best epoch; None if there is none yet.
        parts: State of each part of the training, by its name.
    """

    recipe_hash: str
    weights: Mapping[str, Tensor]
    epoch: int
    epoch_length: int
    num_not_better: int
    best_epoch: int | None
    parts: Mapping[str, object]


def load_best(path: Path) -> Best:
    """Load the best weights of a run.

    Raises:
        CheckpointError: It is missing, damaged, or holds something else.
    """
    checkpoint = load_checkpoint(path)
    if type(checkpoint.get("epoch")) is not int:
        raise CheckpointError(f"{path} must have an integer as epoch")
    return Best(checkpoint["epoch"], _weights(checkpoint, path))


def load_training_state(path: Path) -> TrainingState:
    """Load the state that `fit` resumes from.

    Raises:
        CheckpointError: It is missing, damaged, or not a training state.
    """
    checkpoint = load_checkpoint(path)
    if "trainer" not in checkpoint:
        raise CheckpointError(
            f"{path} holds no training state to resume from; use a checkpoint such as last.pt"
        )
    weights = _weights(checkpoint, path)
    iteration = _count(checkpoint, "trainer", "iteration", 0, path)
    epoch_length = _count(checkpoint, "trainer", "epoch_length", 1, path)
    num_not_better = 0
    if "early_stopping" in checkpoint:
        num_not_better = _count(checkpoint, "early_stopping", "counter", 0, path)
    best = checkpoint.get("best")
    if not isinstance(best, Mapping) or type(best.get("best_epoch", "")) not in (int, type(None)):
        raise CheckpointError(f"{path} must have an integer or null as best.best_epoch")
    return TrainingState(
        recipe_hash=str(checkpoint.get("recipe_hash")),
        weights=weights,
        epoch=iteration // epoch_length,
        epoch_length=epoch_length,
        num_not_better=num_not_better,
        best_epoch=best["best_epoch"],
        parts=checkpoint,
    )


def _weights(checkpoint: Mapping[str, object], path: Path) -> Mapping[str, Tensor]:
    weights = checkpoint.get("model")
    if not isinstance(weights, Mapping) or not all(isinstance(name, str) for name in weights):
        rule = "must have a mapping of weights by name as model"
        raise CheckpointError(f"{path} {rule}, got {type(weights).__name__}")
    return weights


def _count(checkpoint: Mapping[str, object], name: str, key: str, least: int, path: Path) -> int:
    part = checkpoint.get(name)
    count = part.get(key) if isinstance(part, Mapping) else None
    if type(count) is not int or count < least:
        raise CheckpointError(
            f"{path} must have an integer of at least {least} as {name}.{key}, got {count!r}"
        )
    return count


def load_weights(model: nn.Module, weights: Mapping[str, Tensor]) -> None:
    """Load the weights of a checkpoint into a model.

    Raises:
        CheckpointError: They do not fit.
    """
    check_weights(model, weights)
    try:
        model.load_state_dict(weights)
    except Exception as error:  # a model of the user may load weights in its own way
        raise CheckpointError(f"{_NO_FIT}: {_one_line(error)}; {_WAY_OUT}") from error


def statistics_bytes(statistics: Mapping[str, Tensor]) -> bytes:
    """Return batch statistics as the content of a file."""
    content = io.BytesIO()
    torch.save(dict(statistics), content)
    return content.getvalue()


def load_statistics(model: nn.Module, content: bytes, path: Path) -> None:
    """Replace the batch statistics of a model by those of a file.

    Args:
        model: The model.
        content: What `statistics_bytes` returned.
        path: The file, for messages.

    Raises:
        CheckpointError: They are not batch statistics of this model.
    """
    try:
        statistics = torch.load(io.BytesIO(content), weights_only=True)
    except Exception as error:
        if is_resource_error(error):
            raise
        raise CheckpointError(f"{path} is refused: it must hold only tensors") from error
    own = model.state_dict()
    for name, value in statistics.items():
        if name not in own or _form(value) != _form(own[name]):
            raise CheckpointError(
                f"{path} must hold batch statistics of the model, and {name} is not; {_WAY_OUT}"
            )
    model.load_state_dict(statistics, strict=False)


def check_weights(model: nn.Module, weights: Mapping[str, Tensor]) -> None:
    """Refuse weights that do not fit a model, whose code or packages have changed.

    Raises:
        CheckpointError: They do not fit.
    """
    own = model.state_dict()
    misfits = {
        "missing": sorted(own.keys() - weights.keys()),
        "unknown to the model": sorted(weights.keys() - own.keys()),
        "of another shape": [
            f"{name} ({_form(weights[name])} in the checkpoint, {_form(own[name])} in the model)"
            for name in own
            if name in weights and _form(weights[name]) != _form(own[name])
        ],
    }
    text = [f"{kind} {_few(names)}" for kind, names in misfits.items() if names]
    if text:
        raise CheckpointError(f"{_NO_FIT}: {'; '.join(text)}; {_WAY_OUT}")


def does_not_run(model: nn.Module, error: Exception) -> CheckpointError:
    """Return the error of a model that takes the weights of a checkpoint but fails on an image."""
    name = type(model).__name__
    return CheckpointError(f"{name} fails on an image: {_one_line(error)}; {_WAY_OUT}")


def load_state(thing: Stateful, state: object, name: str) -> None:
    """Load the state of a part of a training from a checkpoint.

    Raises:
        CheckpointError: It does not fit.
    """
    misfit = f"{name} of the checkpoint does not fit"
    try:
        own = thing.state_dict()
        problem = _misfit(thing, own, state)
        if not problem:
            thing.load_state_dict(state)
            problem = _misfit_of_optimizer(thing, own)
    except Exception as error:  # from torch, Ignite or a handler of the user
        raise CheckpointError(f"{misfit}: {_one_line(error)}") from error
    if problem:
        raise CheckpointError(f"{misfit}: {problem}")


def _misfit(thing: Any, own: Any, state: Any) -> str:
    """Describe how a state differs in form from that of a new object; empty if it fits."""
    if isinstance(own, Mapping) and not isinstance(state, Mapping):
        return f"it must be a mapping, got {type(state).__name__}"
    # The state of a handler or of a user's schedule may grow; torch's and Ignite's keep their form.
    module = type(thing).__module__.partition(".")[0]
    keeps = module in ("torch", "ignite") or isinstance(thing, BestCheckpoint)
    if not keeps or isinstance(thing, torch.optim.Optimizer):
        return ""
    hiding = [key for key in state.keys() - own.keys() if hasattr(type(thing), str(key))]
    return f"it must not have {hiding[0]}" if hiding else _difference(own, state, "")


def _difference(own: Any, state: Any, key: str) -> str:
    """Describe the first difference in form from a new state; empty if there is none."""
    prefix = f"{key} " if key else ""
    if isinstance(own, Mapping):
        if not isinstance(state, Mapping):
            return f"{prefix}must be a mapping, got {type(state).__name__}"
        pairs = [
            (f"{key}.{name}" if key else str(name), own[name], state[name])
            for name in own
            if name in state  # otherwise it keeps its default, or its loading fails
        ]
    elif isinstance(own, list | tuple):
        if not isinstance(state, list | tuple) or len(state) != len(own):
            return f"{prefix}must be a list of {len(own)}"
        pairs = [(f"{key}.{at}", *pair) for at, pair in enumerate(zip(own, state, strict=True))]
    else:
        is_number = isinstance(state, int | float)
        # A value that starts as null can only become a number.
        if own is None:
            fits, rule = state is None or is_number, "a number or null"
        else:
            fits, rule = _form(own) == _form(state), _form(own)
        return "" if fits else f"{prefix}must be {rule}, got {_form(state)}"
    return next((found for part in pairs if (found := _difference(part[1], part[2], part[0]))), "")


def _misfit_of_optimizer(thing: Any, own: Any) -> str:
    """Describe how a loaded optimizer differs from its new groups and its parameters."""
    if not isinstance(thing, torch.optim.Optimizer):
        return ""
    for fresh, group in zip(own["param_groups"], thing.param_groups, strict=True):
        if missing := fresh.keys() - group.keys():
            return f"a group has no {min(missing)}"
        settings = {key: value for key, value in fresh.items() if key != "params"}
        if found := _difference(settings, group, ""):
            return found
    for parameter, kept in thing.state.items():
        if not isinstance(kept, Mapping):
            return f"the state of a parameter must be a mapping, got {type(kept).__name__}"
        for key, value in kept.items():
            is_like = key in _LIKE_PARAMETER and isinstance(value, Tensor) and value.ndim
            if is_like and value.shape != parameter.shape:
                return f"{key} must be of shape {list(parameter.shape)}, got {_form(value)}"
    return ""


def _form(value: Any) -> str:
    """Return the shape of a tensor, or the type of another value."""
    if isinstance(value, Tensor):
        kind = "" if value.is_floating_point() else f" of {str(value.dtype).removeprefix('torch.')}"
        return f"{list(value.shape)}{kind}"
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    return "a number" if is_number else type(value).__name__


def _few(names: Sequence[str]) -> str:
    more = len(names) - _NUM_NAMED
    return ", ".join(names[:_NUM_NAMED]) + (f" and {more} more" if more > 0 else "")


def _one_line(error: Exception) -> str:
    return " ".join(f"{type(error).__name__}: {error}".split())
