"""Check that the parts of a recipe write only below its run folder.

A recipe may come from another person or from an old file. It must not be able to overwrite files of
its user. Handlers and transforms write to paths in their settings, so these paths must lie in the
run folder, which is checked before any object is made. Only the environment can allow more folders.
What no setting shows, `write_guard.py` refuses when it happens.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from cxrignite.errors import RecipeError
from cxrignite.write_guard import resolved, rule_of_writes, writable_folders

_PLACES = (
    *("trainer.handlers", "validator.handlers"),
    *("data.preprocess", "data.augment", "data.batch_augment"),
)
# Endings of settings that hold a path: `path`, `log_dir`, `output_folder`.
_NAMES_PLACE = re.compile(
    r"(^|_)(paths?|dirs?|directory|directories|dirname|folder|files?|filename|fname|logdir)$"
)


def check_written_paths(settings: Mapping[str, Any]) -> None:
    """Refuse a handler or a transform that would write outside of the run folder.

    The settings are plain mappings and lists; no object has been made.

    Raises:
        RecipeError: A path in a setting lies elsewhere.
    """
    run_dir = settings["run_dir"]
    allowed = writable_folders(run_dir)
    for place in _PLACES:
        group, _, name = place.partition(".")
        for key, value in _places_of(settings[group][name], place):
            if not any(resolved(value).is_relative_to(folder) for folder in allowed):
                raise RecipeError(f"{key} {rule_of_writes(run_dir)}, got {value}")


def _places_of(value: Any, key: str) -> Iterator[tuple[str, str]]:
    """Yield the paths in settings, with their dotted keys without `init_args`."""
    if isinstance(value, list | tuple):
        for number, each in enumerate(value):
            yield from _places_of(each, f"{key}[{number}]")
    elif isinstance(value, Mapping):
        folder = any(map(_NAMES_PLACE.search, value.keys() - {"filename", "fname"}))
        for name, each in value.items():
            inner = key if name == "init_args" else f"{key}.{name}"
            if not isinstance(each, str | Path):
                yield from _places_of(each, inner)
            elif str(each) and _is_place(name, each) and not (folder and _is_bare(name, each)):
                yield inner, str(each)


def _is_place(name: str, value: str | Path) -> bool:
    return name != "class_path" and bool(isinstance(value, Path) or _NAMES_PLACE.search(name))


def _is_bare(name: str, value: str | Path) -> bool:
    """True if a bare file name belongs to a folder in the same settings."""
    return name in ("filename", "fname") and os.path.basename(value) == str(value) != ".."
