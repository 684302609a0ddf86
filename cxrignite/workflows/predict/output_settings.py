"""Files and settings of an output, and the checks before it is resumed."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from cxrignite.data.reading import Size
from cxrignite.errors import RecipeError

_OTHER = "choose another --output"
START_AGAIN = "choose another --output, or start again with --overwrite true"

# These may differ between commands, because the scores do not depend on them.
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
    """Settings that determine every cell to the last bit; stored beside the table.

    Attributes:
        run: The run folder.
        version: Version of cxrignite.
        weights_sha256: Digest of the best weights.
        operating_point: The site of the operating point; None is the run's own rule.
        chosen_on: The split, or the site's images, that chose the threshold.
        threshold: The threshold; None if the run has none. With several findings it is a list, as
            are the next two.
        lower_threshold: Score below which an image is negative; None if there is one threshold.
        status: Status of the rule; None if the run has no threshold.
        image_size: Rows and columns of the preprocessed images.
        batch_size: Batch size of a forward pass.
        precision: Name of the precision.
        device: Kind of the device.
        prevalence: Share of positives for the probabilities; None is that of the training images.
        maps: Method and layer of the maps; None if none are drawn.
    """

    run: str
    version: str
    weights_sha256: str
    operating_point: str | None
    chosen_on: str
    threshold: float | Sequence[float | None] | None
    lower_threshold: float | Sequence[float | None] | None
    status: str | Sequence[str | None] | None
    image_size: Size | None
    batch_size: int
    precision: str
    device: str
    prevalence: float | None = None
    maps: Mapping[str, str] | None = None

    def to_json(self) -> str:
        """Return the settings as JSON."""
        return json.dumps(asdict(self), indent=2)


class OutputPaths:
    """Paths of the files of one output.

    Args:
        table: The CSV table of the scores; the other files are named after it.

    Raises:
        RecipeError: It is not a CSV file, or would lie among a run's own files.
    """

    def __init__(self, table: Path) -> None:
        if table.suffix != _SUFFIX:
            raise RecipeError(f"--output must end in {_SUFFIX}, got {table}")
        _check_outside_of_runs(table)
        self.table = table
        file = table.resolve()  # so that a link and its target share one lock
        self.lock = file.with_name(f".{file.name}.lock")
        self.settings = table.with_suffix(".json")
        self.unreadable = table.with_suffix(".unreadable.csv")
        self.maps_dir = table.with_name(f"{table.stem}_maps")

    def check_own(self) -> None:
        """Refuse to change files that `predict` has not written.

        Raises:
            RecipeError: A file exists, and no settings beside it show that `predict` wrote it.
        """
        files = (self.table, self.settings, self.unreadable)
        taken = [path for path in files if path.exists() and path.stat().st_size]
        if self.maps_dir.is_dir() and any(self.maps_dir.iterdir()):
            taken.append(self.maps_dir)
        if not taken:
            return
        if not self.settings.exists():
            raise RecipeError(
                f"{taken[0]} was not written by predict, which would have written "
                f"{self.settings.name} beside it; {_OTHER}"
            )
        try:
            stored = json.loads(self.settings.read_text(encoding="utf-8"))
        except ValueError:
            stored = None  # not of `predict`, which writes it completely or not at all
        if not isinstance(stored, dict) or not stored.keys() >= _OF_PREDICT:
            raise RecipeError(f"{self.settings} was not written by predict; {_OTHER}")


def _check_outside_of_runs(table: Path) -> None:
    """Refuse the folders of a run's own files; a new folder inside a run is allowed."""
    # Resolved, because a link may lead there.
    folder = table.resolve().parent
    below = ""
    for each in (folder, *folder.parents):
        # A single file of such a name may have another origin.
        is_run = sum((each / name).is_file() for name in _RUN_FILES) > 1
        if is_run and (not below or below in _RUN_FOLDERS):
            raise RecipeError(
                f"--output must be outside of a run's own folders, got {table}; choose a new folder"
            )
        below = each.name


def check_settings(paths: OutputPaths, settings: OutputSettings) -> None:
    """Refuse to resume an output with other settings.

    Raises:
        RecipeError: A setting differs; with its name and both values.
    """
    stored = json.loads(paths.settings.read_text(encoding="utf-8"))
    current = json.loads(settings.to_json())
    keys = [key for key in {**current, **stored} if key not in _INFORMATION]
    differing = [
        f"{key} was {_brief(stored.get(key))}, is {_brief(current.get(key))}"
        for key in keys
        if stored.get(key) != current.get(key)
    ]
    if differing:
        raise RecipeError(
            f"{paths.table} was started with the run {stored.get('run')} and other settings: "
            f"{'; '.join(differing)}; {START_AGAIN}"
        )


def _brief(value: object) -> str:
    text = json.dumps(value)
    return text if len(text) <= 60 else f'{text[:12]}..."'
