"""The keys of a written recipe, and which of them belong to the run that it began."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path

import yaml

from cxrignite.errors import DamagedRunError, RunFolderError

Leaves = Mapping[str, object]
"""The values of a recipe, as YAML gives them, by their dotted keys."""

PLACES = ("data.source.init_args.root", "data.source.init_args.path")
"""Keys for the place of the images of a run; `split.csv` identifies them by their digests."""

_MAY_CHANGE = (
    "trainer.max_epochs",  # to go on for longer
    *("run_dir", "data.cache", *PLACES),  # folders and files, which may have moved
    # On which no result depends.
    *("data.num_workers", "data.prefetch_factor", "data.worker_timeout"),
    "explain",  # which happens afterwards
)


def may_change(key: str) -> bool:
    """Whether a key may differ between a run and its resumption.

    Args:
        key: Dotted, such as `trainer.max_epochs`.
    """
    return any(key == each or key.startswith(f"{each}.") for each in _MAY_CHANGE)


def flatten_recipe(value: object, prefix: str = "") -> Leaves:
    """Every leaf of a recipe by its dotted key; list elements by their number.

    Args:
        value: A recipe as YAML gives it, or a part of one.
        prefix: The part's own key.

    Examples:
        >>> flatten_recipe({"seed": 1, "trainer": {"handlers": ["EpochTimer"]}})
        {'seed': 1, 'trainer.handlers.0': 'EpochTimer'}
    """
    if isinstance(value, dict):
        pairs = value.items()
    elif isinstance(value, list):
        pairs = dict(enumerate(value)).items()
    else:
        return {prefix: value}
    if not pairs:
        return {prefix: value}
    leaves: dict[str, object] = {}
    for key, child in pairs:
        leaves |= flatten_recipe(child, f"{prefix}.{key}" if prefix else str(key))
    return leaves


def read_recipe(path: Path) -> Leaves:
    """Every leaf of a run's recipe by its dotted key.

    Args:
        path: The file in the run folder.

    Raises:
        DamagedRunError: It is missing or damaged.
    """
    try:
        leaves = flatten_recipe(yaml.safe_load(path.read_text(encoding="utf-8")))
    except (OSError, ValueError, RecursionError, yaml.YAMLError) as error:
        reason = " ".join(str(error).split())  # of YAML it is several lines
        raise DamagedRunError(f"{path} is damaged: {reason}") from error
    if not isinstance(leaves.get("trainer.max_epochs"), int):
        raise DamagedRunError(f"{path} is damaged: trainer.max_epochs must be a whole number")
    return leaves


def changed_keys(ours: Leaves, theirs: Leaves) -> list[str]:
    """The keys in which two recipes differ, other than those that may change.

    Args:
        ours: Leaves by their dotted keys.
        theirs: Of the other recipe.
    """
    missing = object()
    return [
        key
        for key in sorted(ours.keys() | theirs.keys())
        if not may_change(key) and ours.get(key, missing) != theirs.get(key, missing)
    ]


def check_epochs(root: Path, ours: Leaves, theirs: Leaves) -> None:
    """Refuse to resume a run for fewer epochs than it was begun for.

    Args:
        root: The run folder.
        ours: Leaves of its recipe by their dotted keys.
        theirs: Of the recipe to resume it with.

    Raises:
        RunFolderError: `trainer.max_epochs` would shrink.
    """
    key = "trainer.max_epochs"
    before, now = ours[key], theirs[key]
    if isinstance(before, int) and isinstance(now, int) and now < before:
        raise RunFolderError(
            f"{root}: {key} may grow when a run is resumed, not shrink from {before} to {now}"
        )


def recipe_hash(leaves: Leaves) -> str:
    """A digest of a recipe, without the keys that may change.

    Args:
        leaves: By their dotted keys.
    """
    fixed = {key: leaf for key, leaf in sorted(leaves.items()) if not may_change(key)}
    return hashlib.sha256(json.dumps(fixed, default=str).encode()).hexdigest()
