"""Paths as people write them, with `~` and variables of the environment."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

# Settings that take the path of a file or a word, so that their type does not tell.
_PATHS_OR_WORDS = frozenset({"weights", "resume"})


def user_path(text: Path | str) -> Path:
    """A path with its `~` and its `$NAME` replaced, as a shell would do it.

    Args:
        text: What was written. It stays where a file of this name exists, and an unknown variable
            stays as it is: a name may hold a dollar.
    """
    return Path(_expanded_text(str(text)))


def expand_paths(config: Any) -> None:
    """Replaces `~` and variables in every path of a parsed command line, in place.

    Args:
        config: A namespace or mapping with dotted keys, whose paths are `Path` objects.
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
