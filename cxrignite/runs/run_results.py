"""All results of a run, for a report."""

from __future__ import annotations

import csv
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from cxrignite.csv_text import CsvReader
from cxrignite.data import ImageRecord
from cxrignite.errors import CheckpointError, DamagedRunError
from cxrignite.handlers.checkpoint_loading import manifest_path, read_manifest
from cxrignite.runs.decision_rule import DecisionRule
from cxrignite.runs.environment import RunStart
from cxrignite.runs.evaluation import Evaluation
from cxrignite.runs.run_folder import RunFolder, how_to_evaluate

_PREDICTION_COLUMNS = ["path", "patient", "label", "score", "probability", "decision"]


@dataclass(frozen=True)
class Tree:
    """YAML of a recipe, with typed access to its values.

    Keys are dotted. A value that is missing or of another type is None or empty.
    """

    content: Mapping[str, object] = field(default_factory=dict)

    def __bool__(self) -> bool:
        return bool(self.content)

    def get(self, key: str) -> Any:
        """Return the value of `key`, of any type; None if there is none."""
        value: Any = self.content
        for part in key.split("."):
            if not isinstance(value, Mapping) or part not in value:
                return None
            value = value[part]
        return value

    def count(self, key: str) -> int | None:
        """Return an integer of at least 0."""
        value = self.get(key)
        return value if type(value) is int and value >= 0 else None

    def text(self, key: str) -> str:
        """Return a string; empty if there is none."""
        value = self.get(key)
        return value if isinstance(value, str) else ""

    def texts(self, key: str) -> list[str]:
        """Return the strings of a list."""
        value = self.get(key)
        return [item for item in value if isinstance(item, str)] if isinstance(value, list) else []

    def flag(self, key: str) -> bool:
        """True if the value is true."""
        return self.get(key) is True

    def child(self, key: str) -> Tree:
        """Return a subtree."""
        value = self.get(key)
        return Tree(value if isinstance(value, Mapping) else {})


class ScoredImage(NamedTuple):
    """Row of `predictions/*.csv`."""

    name: str
    patient: str
    label: int
    score: float
    probability: float | None


class BestWeights(NamedTuple):
    """Manifest of the best weights."""

    epoch: int
    metric: str
    score: float | None
    sha256: str


@dataclass(frozen=True)
class RunResults:
    """All results of a run; a result that no command has written yet is None or absent.

    Attributes:
        best: Manifest of the best weights.
    """

    folder: RunFolder
    recipe: Tree
    starts: tuple[RunStart, ...]
    best: BestWeights | None
    rule: DecisionRule | None
    sites: dict[str, DecisionRule]
    evaluations: dict[str, Evaluation]
    history: list[dict[str, float]]
    records: list[ImageRecord]

    @classmethod
    def read(cls, folder: RunFolder) -> RunResults:
        """Read all results.

        Raises:
            DamagedRunError: A file is damaged, of another format, or lost, or was changed.
        """
        sites = {site: folder.find_rule(site) for site in folder.sites}
        return cls(
            folder=folder,
            recipe=Tree(folder.read_recipe()),
            starts=folder.read_starts(),
            best=_read_best(folder),
            rule=folder.find_rule(),
            sites={site: rule for site, rule in sites.items() if rule is not None},
            evaluations=folder.read_evaluations(),
            history=folder.read_history(),
            records=folder.read_split(""),
        )

    @property
    def split_names(self) -> list[str]:
        """Splits that have images, in the order of their use."""
        present = {record.split for record in self.records}
        usual = [name for name in ("train", "val", "calibration", "test") if name in present]
        return usual + sorted(present - set(usual))

    @property
    def classes(self) -> tuple[str, str]:
        """Negative and positive class, by the recipe or by the names of the folders."""
        names = self.recipe.texts("data.source.init_args.classes")
        if len(names) == 2:
            return names[0], names[1]
        folders = [
            {Path(record.name).parent.name for record in self.records if record.label == label}
            for label in (0, 1)
        ]
        if all(len(each) == 1 and each != {""} for each in folders):
            return folders[0].pop(), folders[1].pop()
        return "negative", self.rule.finding if self.rule else "positive"

    def scored_records(self, name: str) -> list[ScoredImage]:
        """Read `predictions/<name>.csv`; empty if these images were not scored yet.

        Raises:
            DamagedRunError: The file is damaged or lost, or was changed.
        """
        return read_predictions(self.folder, name) or []


def read_predictions(folder: RunFolder, name: str) -> list[ScoredImage] | None:
    """Read `predictions/NAME.csv`; None if these images were not scored yet.

    Raises:
        DamagedRunError: The file is damaged or lost, or was changed.
    """
    path = folder.predictions_path(name)
    folder.files.check(path)
    if not path.is_file():
        return None
    try:
        # `surrogateescape` keeps file names that are not UTF-8.
        with path.open(encoding="utf-8", errors="surrogateescape", newline="") as file:
            reader = CsvReader(file)
            if reader.fieldnames != _PREDICTION_COLUMNS:
                found = ", ".join(reader.fieldnames or ["none"])
                expected = ", ".join(_PREDICTION_COLUMNS)
                raise ValueError(f"its columns must be {expected}, got {found!a:.100}")
            images = [_scored(row) for row in reader]
        counts = Counter(image.name for image in images)
        if repeated := [name for name, count in counts.items() if count > 1]:
            raise ValueError(f"duplicate row {repeated[0]}")
        if len({image.probability is None for image in images}) > 1:
            raise ValueError("each row must have a probability, or none may have one")
    except (OSError, csv.Error, ValueError) as error:
        remedy = f"`cxrignite {how_to_evaluate(folder.root, name)}` writes it"
        raise DamagedRunError(f"{path} is damaged: {error}; {remedy}") from error
    return images


def check_columns(reader: csv.DictReader[str], columns: Sequence[str]) -> None:
    """Refuse a table that lacks a column.

    Raises:
        ValueError: It names the column.
    """
    missing = [column for column in columns if column not in (reader.fieldnames or ())]
    if missing:
        raise ValueError(f"it has no column {missing[0]}")


def _scored(row: Mapping[str, str]) -> ScoredImage:
    if None in row or None in row.values():
        raise ValueError(f"each row must have {len(_PREDICTION_COLUMNS)} cells")
    if row["label"] not in ("0", "1"):
        raise ValueError(f"a label must be 0 or 1, got {row['label']!r}")
    score, probability = _share(row["score"]), row["probability"]
    known = _share(probability) if probability else None
    return ScoredImage(row["path"], row["patient"], int(row["label"]), score, known)


def _share(text: str) -> float:
    value = float(text)
    if not 0 <= value <= 1:
        raise ValueError(f"a score must be in [0, 1], got {value:g}")
    return value


def _read_best(folder: RunFolder) -> BestWeights | None:
    if not manifest_path(folder.best_path).exists():
        return None
    try:
        manifest = read_manifest(folder.best_path)
        score = manifest.get("score")
        return BestWeights(
            int(manifest["epoch"]),
            str(manifest.get("metric", "")),
            None if score is None else float(score),
            str(manifest["sha256"]),
        )
    except (CheckpointError, KeyError, TypeError, ValueError) as error:
        raise DamagedRunError(str(error)) from error
