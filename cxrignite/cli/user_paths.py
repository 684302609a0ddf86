"""Paths with `~` and environment variables, as users write them."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

# Settings that take a path or a keyword, so that their type does not show which.
_PATHS_OR_WORDS = frozenset({"weights", "resume"})


def user_path(text: Path | str) -> Path:
    """Return a path with `~` and `$NAME` replaced, as in a shell.

    Args:
        text: The path. It is unchanged if a file of this name exists. An unknown variable stays as
            it is, because a file name may hold a dollar sign.
    """
    return Path(_expanded_text(str(text)))


def expand_paths(config: Any) -> None:
    """Replace `~` and variables in every path of a parsed command line, in place.

    Its paths are `Path` objects, its keys are dotted.
    """
    for key, value in list(config.items()):
        config[key] = _expanded(key, value)


def _expanded(key: str, value: Any) -> Any:
    if isinstance(value, Path):
        return user_path(value)
    if isinstance(value, str) and key.rpartition(".")[2] in _PATHS_OR_WORDS:
        return _expanded_text(value)
    if isinstance(value, list):
        return [_expanded(key, each) for each in value]
    if hasattr(value, "items"):
        expand_paths(value)
    return value


def _expanded_text(text: str) -> str:
    return text if os.path.exists(text) else os.path.expandvars(os.path.expanduser(text))
