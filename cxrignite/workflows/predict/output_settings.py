"""The files of an output, and whether what is there may be gone on with."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from cxrignite.errors import RecipeError

ANEW = "choose another --output, or begin anew with --overwrite true"

# These may differ from one command to the next: the scores do not depend on them.
_INFORMATION = frozenset({"run", "version", "process"})
_SUFFIX = ".csv"


class OutputPaths:
    """The files of one output.

    Args:
        table: The scores; the others are named after it.

    Raises:
        RecipeError: It is no CSV file, or would lie among a run's own predictions.
    """

    def __init__(self, table: Path) -> None:
        if table.suffix != _SUFFIX:
            raise RecipeError(f"--output must end in {_SUFFIX}, got {table}")
        folder = table.absolute().parent
        if folder.name == "predictions" and (folder.parent / "split.csv").exists():
            raise RecipeError(
                f"--output must lie outside of a run's predictions, whose films have labels, "
                f"got {table}"
            )
        self.table = table
        self.settings = table.with_suffix(".json")
        self.unreadable = table.with_suffix(".unreadable.csv")
        self.maps_dir = table.with_name(f"{table.stem}_maps")


def stored_settings(paths: OutputPaths) -> dict[str, Any]:
    """What the table that is there depends on.

    Raises:
        RecipeError: Nothing tells, or it was not written here.
    """
    try:
        stored = json.loads(paths.settings.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise RecipeError(
            f"{paths.table} is not of predict, it has no {paths.settings.name} beside it: {ANEW}"
        ) from error
    except ValueError as error:
        raise RecipeError(f"{paths.settings} is damaged: {error}; {ANEW}") from error
    if not isinstance(stored, dict) or "weights_sha256" not in stored:
        raise RecipeError(f"{paths.settings} is not of predict: {ANEW}")
    return stored


def check_settings(paths: OutputPaths, settings: Mapping[str, Any]) -> None:
    """Refuse to go on with scores that would not be of one kind.

    Raises:
        RecipeError: Naming what differs.
    """
    stored = stored_settings(paths)
    wanted = json.loads(json.dumps(settings))
    keys = [key for key in {**wanted, **stored} if key not in _INFORMATION]
    differing = [
        f"{key} {_brief(stored.get(key))} there, {_brief(wanted.get(key))} now"
        for key in keys
        if stored.get(key) != wanted.get(key)
    ]
    if differing:
        raise RecipeError(
            f"{paths.table} was begun with the run {stored.get('run')} and other settings: "
            f"{'; '.join(differing)}; {ANEW}"
        )


def _brief(value: object) -> str:
    text = json.dumps(value)
    return text if len(text) <= 60 else f'{text[:12]}..."'
