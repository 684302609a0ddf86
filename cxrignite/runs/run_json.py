"""The JSON files of a run folder, read strictly: another form is damage, told in one line."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from cxrignite.errors import DamagedRunError


def read_object(path: Path) -> dict[str, Any]:
    """A JSON file that holds an object.

    Args:
        path: The file.

    Raises:
        DamagedRunError: It is missing or damaged.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise DamagedRunError(f"{path} is damaged: {error}") from error
    if not isinstance(content, dict):
        raise DamagedRunError(f"{path} is damaged: it must be a JSON object")
    return content


def read_starts(path: Path) -> list[dict[str, Any]]:
    """Read the starts of a run from `environment.json`.

    Args:
        path: The file; nothing if it does not exist.

    Raises:
        DamagedRunError: It is damaged.
    """
    if not path.exists():
        return []
    starts = read_object(path).get("starts")
    if not isinstance(starts, list) or not all(isinstance(start, dict) for start in starts):
        raise DamagedRunError(f"{path} is damaged: it has no list of starts")
    return starts


def read_counts(path: Path) -> dict[str, int]:
    """Read how often each film was scored, by the start of its digest.

    Args:
        path: The file; nothing if it does not exist.

    Raises:
        DamagedRunError: It is damaged.
    """
    counts = read_object(path) if path.exists() else {}
    if not all(type(count) is int and count > 0 for count in counts.values()):
        raise DamagedRunError(f"{path} is damaged: a count must be a whole number above 0")
    return counts
