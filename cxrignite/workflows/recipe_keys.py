"""The keys of a written recipe, and which of them belong to the run that it began."""

from __future__ import annotations

from typing import Any

_MAY_CHANGE = (
    "trainer.max_epochs",  # to go on for longer
    *("run_dir", "data.pack"),  # folders, which may have moved
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


def flatten_recipe(value: object, prefix: str = "") -> dict[str, Any]:
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
    leaves: dict[str, Any] = {}
    for key, child in pairs:
        leaves |= flatten_recipe(child, f"{prefix}.{key}" if prefix else str(key))
    return leaves
