"""The files of an output, and whether what is there may be gone on with."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

from cxrignite.data.reading import Size
from cxrignite.errors import RecipeError

_OTHER = "choose another --output"
ANEW = "choose another --output, or begin anew with --overwrite true"

# These may differ from one command to the next: the scores do not depend on them.
_INFORMATION = frozenset({"run", "version"})
_OF_PREDICT = frozenset({"run", "weights_sha256"})
_SUFFIX = ".csv"
_RUN_FILES = ("recipe.yaml", "environment.json", "split.csv", "history.csv")
_RUN_FOLDERS = frozenset(
    {
        *("audit", "checkpoints", "explain", "figures", "metrics", "operating_points"),
        *("predictions", "tensorboard"),
    }
)


@dataclass(frozen=True)
class OutputSettings:
    """What scores and decisions depend on, to the last bit; kept beside the table.

    Attributes:
        run: The run folder.
        version: Of cxrignite.
        weights_sha256: Digest of the best weights.
        operating_point: The site; None is the run's own rule.
        chosen_on: The split, or the site's images, that chose the threshold.
        threshold: None if the run has none.
        status: Status of the rule; None if the run has no threshold.
        image_size: Rows and columns.
        batch_size: Of a forward pass.
        precision: Its name.
        device: Its kind.
        maps: Method and layer; None if no maps are drawn.
    """

    run: str
    version: str
    weights_sha256: str
    operating_point: str | None
    chosen_on: str
    threshold: float | None
    status: str | None
    image_size: Size | None
    batch_size: int
    precision: str
    device: str
    maps: Mapping[str, str] | None = None

    def to_json(self) -> str:
        """Write them as JSON."""
        return json.dumps(asdict(self), indent=2)


class OutputPaths:
    """The files of one output.

    Args:
        table: The scores; the others are named after it.

    Raises:
        RecipeError: It is no CSV file, or would lie among a run's own files.
    """

    def __init__(self, table: Path) -> None:
        if table.suffix != _SUFFIX:
            raise RecipeError(f"--output must end in {_SUFFIX}, got {table}")
        _check_outside_of_runs(table)
        self.table = table
        file = table.resolve()  # a link may lead there
        self.lock = file.with_name(f".{file.name}.lock")
        self.settings = table.with_suffix(".json")
        self.unreadable = table.with_suffix(".unreadable.csv")
        self.maps_dir = table.with_name(f"{table.stem}_maps")

    def check_own(self) -> None:
        """Refuse to touch what `predict` has not written.

        Raises:
            RecipeError: A file is there, and no settings beside it tell that it is of `predict`.
        """
        files = (self.table, self.settings, self.unreadable)
        taken = [path for path in files if path.exists() and path.stat().st_size]
        if self.maps_dir.is_dir() and any(self.maps_dir.iterdir()):
            taken.append(self.maps_dir)
        if not taken:
            return
        if not self.settings.exists():
            raise RecipeError(
                f"{taken[0]} is not of predict, it has no {self.settings.name} beside it: {_OTHER}"
            )
        try:
            stored = json.loads(self.settings.read_text(encoding="utf-8"))
        except ValueError:
            stored = None  # `predict` writes it whole or not at all
        if not isinstance(stored, dict) or not stored.keys() >= _OF_PREDICT:
            raise RecipeError(f"{self.settings} is not of predict: {_OTHER}")


def _check_outside_of_runs(table: Path) -> None:
    """A folder of its own inside of a run is allowed; what the run's files lie in is not."""
    # A link may lead there.
    folder = table.resolve().parent
    below = ""
    for each in (folder, *folder.parents):
        # One such name may be anybody's.
        is_run = sum((each / name).is_file() for name in _RUN_FILES) > 1
        if is_run and (not below or below in _RUN_FOLDERS):
            raise RecipeError(
                f"--output must lie outside of a run's own files, as in a new folder, got {table}"
            )
        below = each.name


def check_settings(paths: OutputPaths, settings: OutputSettings) -> None:
    """Refuse to go on with scores that would not be of one kind, in an output of `predict`.

    Raises:
        RecipeError: Naming what differs.
    """
    stored = json.loads(paths.settings.read_text(encoding="utf-8"))
    wanted = json.loads(settings.to_json())
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
