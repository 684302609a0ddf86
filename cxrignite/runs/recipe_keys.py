"""Keys of a stored recipe, and the ones that must not change when a run is resumed."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path

import yaml

from cxrignite.errors import DamagedRunError, RunFolderError

Leaves = Mapping[str, object]
"""Values of a recipe, as YAML gives them, by their dotted keys."""

PLACES = ("data.source.init_args.root", "data.source.init_args.path")
"""Keys for the place of the images; `split.csv` identifies the images by their digests."""

_MAY_CHANGE = (
    "trainer.max_epochs",  # to train longer
    *("run_dir", "data.cache", *PLACES),  # folders and files, which may have moved
    # No result depends on these.
    *("data.num_workers", "data.prefetch_factor", "data.worker_timeout"),
    "explain",  # used after training only
)


def may_change(key: str) -> bool:
    """True if a key may change when a run is resumed.

    The key is dotted, such as `trainer.max_epochs`.
    """
    return any(key == each or key.startswith(f"{each}.") for each in _MAY_CHANGE)


def flatten_recipe(value: object, prefix: str = "") -> Leaves:
    """Return every leaf of a recipe by its dotted key; list elements by their index.

    `prefix` is the key of `value`, if that is a part of a recipe.

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


def read_recipe(path: Path) -> Mapping[str, object]:
    """Read the recipe of a run, as YAML gives it.

    Raises:
        DamagedRunError: It is missing or damaged.
    """
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError, yaml.YAMLError) as error:
        reason = " ".join(str(error).split())  # YAML errors have several lines
        reason = "nested too deeply" if isinstance(error, RecursionError) else reason
        raise DamagedRunError(f"{path} is damaged: {reason}") from error
    if not isinstance(content, Mapping):
        raise DamagedRunError(f"{path} is damaged: it must be a mapping")
    return content


def changed_keys(ours: Leaves, theirs: Leaves) -> list[str]:
    """Return the keys in which two recipes differ, except those that may change."""
    missing = object()
    return [
        key
        for key in sorted(ours.keys() | theirs.keys())
        if not may_change(key) and ours.get(key, missing) != theirs.get(key, missing)
    ]


def check_epochs(root: Path, ours: Leaves, theirs: Leaves) -> None:
    """Refuse to resume a run with fewer epochs than it was started with.

    Raises:
        RunFolderError: `trainer.max_epochs` is smaller.
    """
    key = "trainer.max_epochs"
    before, now = ours[key], theirs[key]
    if isinstance(before, int) and isinstance(now, int) and now < before:
        raise RunFolderError(f"{root}: {key} of a resumed run must be at least {before}, got {now}")


def recipe_hash(leaves: Leaves) -> str:
    """Return a digest of a recipe, without the keys that may change."""
    fixed = {key: leaf for key, leaf in sorted(leaves.items()) if not may_change(key)}
    return hashlib.sha256(json.dumps(fixed, default=str).encode()).hexdigest()
