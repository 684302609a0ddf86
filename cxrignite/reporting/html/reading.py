"""A run folder as a report reads it: whatever is there is taken, whatever is not is left out.

Older runs lack keys, unfinished runs lack files, and a file may be damaged: a page that shows the
rest and says so is worth more than none.
"""

from __future__ import annotations

import csv
import json
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import yaml

from cxrignite.csv_text import CsvReader
from cxrignite.data import Film
from cxrignite.data.splits import read_split
from cxrignite.errors import CheckpointError, DamagedRunError, DataError
from cxrignite.handlers import read_history
from cxrignite.handlers.checkpoint_loading import manifest_path, read_manifest
from cxrignite.runs.run_folder import RunFolder
from cxrignite.terminal import counted


@dataclass(frozen=True)
class Record:
    """A tree of JSON or YAML whose leaves are asked for by kind.

    Keys are joined by dots. What is missing, or of another kind, is None or empty.

    Args:
        content: The tree.
    """

    content: Mapping[str, Any] = field(default_factory=dict)

    def __bool__(self) -> bool:
        return bool(self.content)

    def get(self, key: str) -> Any:
        """The value under `key`, whatever it is; None where there is none."""
        value: Any = self.content
        for part in key.split("."):
            if not isinstance(value, Mapping) or part not in value:
                return None
            value = value[part]
        return value

    def number(self, key: str) -> float | None:
        """A finite number."""
        return _number(self.get(key))

    def count(self, key: str) -> int | None:
        """A whole number of at least 0."""
        number = self.number(key)
        return int(number) if number is not None and number >= 0 and number % 1 == 0 else None

    def interval(self, key: str) -> tuple[float, float] | None:
        """A lower and an upper end."""
        value = self.get(key)
        if not isinstance(value, list) or len(value) != 2:
            return None
        low, high = _number(value[0]), _number(value[1])
        return None if low is None or high is None else (low, high)

    def text(self, key: str) -> str:
        """A string; empty where there is none."""
        value = self.get(key)
        return value if isinstance(value, str) else ""

    def texts(self, key: str) -> list[str]:
        """The strings of a list."""
        value = self.get(key)
        return [item for item in value if isinstance(item, str)] if isinstance(value, list) else []

    def flag(self, key: str) -> bool:
        """Whether the value is true."""
        return self.get(key) is True

    def child(self, key: str) -> Record:
        """A tree below this one."""
        value = self.get(key)
        return Record(value if isinstance(value, Mapping) else {})

    def children(self, key: str) -> list[Record]:
        """The trees of a list."""
        value = self.get(key)
        rows = value if isinstance(value, list) else []
        return [Record(row) for row in rows if isinstance(row, Mapping)]


def _number(value: object) -> float | None:
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    try:
        return float(value) if math.isfinite(value) else None
    except OverflowError:  # a whole number of 400 digits
        return None


class ScoredFilm(NamedTuple):
    """A row of `predictions/*.csv`: one film and what became of it."""

    name: str
    patient: str
    label: int
    score: float


class RunRecords:
    """Everything a report reads of a run folder.

    Args:
        folder: The run.

    Attributes:
        recipe: The resolved recipe.
        starts: Versions and device of every start, the first one first.
        environment: Versions and device of the last start.
        best: What is known of the best weights.
        point: The operating point; empty where none was chosen.
        sites: The operating points of sites, by name.
        metrics: The figures of every set of films that was scored, by name.
        history: A row an epoch.
        films: The films of every split.
        complaints: What could not be read, a line each; no line names a folder of this machine.
    """

    def __init__(self, folder: RunFolder) -> None:
        self.folder = folder
        self.complaints: list[str] = []
        self.recipe = self.tree(folder.recipe_path)
        self.starts = self.tree(folder.environment_path).children("starts")
        self.environment = self.starts[-1] if self.starts else Record()
        self.best = self._manifest(folder.best_path)
        self.point = self.tree(folder.operating_point_path)
        self.sites = self._trees(folder.site_path("any").parent)
        self.metrics = self._trees(folder.metrics_path("any").parent)
        self.history = self._history()
        self.films = self._films()

    @property
    def split_names(self) -> list[str]:
        """The splits that have films, in the order of their use."""
        present = {film.split for film in self.films}
        usual = [name for name in ("train", "val", "calibration", "test") if name in present]
        return usual + sorted(present - set(usual))

    @property
    def classes(self) -> tuple[str, str]:
        """Names of the negative and the positive class, as the recipe or the folders say."""
        names = self.recipe.texts("data.source.init_args.classes")
        if len(names) == 2:
            return names[0], names[1]
        folders = [
            {Path(film.name).parent.name for film in self.films if film.label == label}
            for label in (0, 1)
        ]
        if all(len(each) == 1 and each != {""} for each in folders):
            return folders[0].pop(), folders[1].pop()
        return "negative", "positive"

    def has_metrics(self, name: str) -> bool:
        """Whether these films were scored, even where the figures cannot be read any more."""
        return self.folder.metrics_path(name).is_file()

    def scored_films(self, name: str) -> list[ScoredFilm]:
        """The rows of `predictions/<name>.csv` that can be read; the others are complained of."""
        path = self.folder.predictions_path(name)
        rows, num_bad = [], 0
        for row in self.rows(path):
            try:
                label, score = int(row["label"]), float(row["score"])
                sound = label in (0, 1) and math.isfinite(score) and row["path"]
            except (KeyError, TypeError, ValueError):
                sound = ""
            if sound:
                rows.append(ScoredFilm(row["path"], row.get("patient") or "", label, score))
            else:
                num_bad += 1
        if num_bad:
            self.complain(path, f"has {counted(num_bad, 'row')} that cannot be read, left out")
        return rows

    def _trees(self, folder: Path) -> dict[str, Record]:
        paths = self.folder.files.written_in(folder)
        trees = {path.stem: self.tree(path) for path in paths if path.suffix == ".json"}
        return {name: tree for name, tree in trees.items() if tree}

    def _manifest(self, checkpoint: Path) -> Record:
        """Read a checkpoint's manifest, which is not among the files with a digest."""
        path = manifest_path(checkpoint)
        if not path.exists():
            return Record()
        try:
            return Record(read_manifest(checkpoint))
        except CheckpointError as error:
            if self.folder.files.path.exists():
                raise DamagedRunError(str(error)) from error
            self.complain(path, "cannot be read; what it says is left out")
            return Record()

    def tree(self, path: Path) -> Record:
        """A file's tree; empty where it is missing, damaged, or says null.

        Raises:
            DamagedRunError: It is not as it was written, as far as that can be known.
        """
        self.folder.files.check(path)
        try:
            text = path.read_text(encoding="utf-8")
            content = yaml.safe_load(text) if path.suffix == ".yaml" else json.loads(text)
        except FileNotFoundError:
            return Record()
        except (OSError, ValueError, RecursionError, yaml.YAMLError):
            self.complain(path, "cannot be read; what it says is left out")
            return Record()
        if content is not None and not isinstance(content, Mapping):
            self.complain(path, "is not what it should be; what it says is left out")
            return Record()
        return Record(content or {})

    def rows(self, path: Path) -> Iterator[dict[str, Any]]:
        """The rows of a CSV file, as far as it can be read; a cell that is missing is None.

        Raises:
            DamagedRunError: It is not as it was written, as far as that can be known.
        """
        self.folder.files.check(path)
        try:
            # Names that are not UTF-8 pass through as `read_split` lets them.
            with path.open(encoding="utf-8", errors="surrogateescape", newline="") as file:
                yield from CsvReader(file)
        except FileNotFoundError:
            return
        except (OSError, csv.Error):
            self.complain(path, "cannot be read to its end")

    def _history(self) -> list[dict[str, float]]:
        path = self.folder.history_path
        self.folder.files.check(path)
        try:
            return read_history(path) if path.is_file() else []
        except (OSError, ValueError):
            self.complain(path, "cannot be read; it is left out")
            return []

    def _films(self) -> list[Film]:
        self.folder.files.check(self.folder.split_path)
        try:
            return read_split(self.folder.split_path, "")
        except DataError:
            self.complain(self.folder.split_path, "is missing or cannot be read")
            return []

    def complain(self, path: Path, what: str) -> None:
        """Add a line to the complaints.

        Args:
            path: The file in question, inside the run folder.
            what: What is wrong with it, as the rest of a sentence that begins with its name.
        """
        self.complaints.append(f"{path.relative_to(self.folder.root).as_posix()} {what}.")
