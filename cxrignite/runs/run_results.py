"""All results of a run, by finding, for a report."""

from __future__ import annotations

import csv
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, NamedTuple

import yaml

from cxrignite.csv_text import CsvReader
from cxrignite.data import ImageRecord
from cxrignite.data.sources import class_pair
from cxrignite.data.splits import read_split
from cxrignite.errors import CheckpointError, DamagedRunError, DataError
from cxrignite.handlers.checkpoint_loading import manifest_path, read_manifest
from cxrignite.runs.decision_rule import DecisionRule
from cxrignite.runs.environment import RunStart
from cxrignite.runs.evaluation import Averages, Evaluation
from cxrignite.runs.run_folder import RunFolder
from cxrignite.runs.scores import record_of, results_name


@dataclass(frozen=True)
class Tree:
    """YAML of a recipe, with typed access to its values.

    Keys are dotted. A value that is missing or of another type is None or empty.

    Args:
        content: Nested mappings.
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


class BestWeights(NamedTuple):
    """Manifest of the best weights."""

    epoch: int
    metric: str
    score: float | None
    sha256: str


@dataclass(frozen=True)
class RunResults:
    """All results of one finding of a run; one that no command has written is None or absent.

    Attributes:
        folder: Folder of the run.
        index: Position of the finding, from 0.
        all_classes: Name of an image without a finding, then the run's findings.
        recipe: Resolved recipe.
        starts: Starts of the run in order.
        best: Manifest of the best weights.
        rule: The run's own decision rule.
        sites: Decision rules of sites, by name.
        evaluations: Evaluations, by the name of their images.
        averages: Averages over the findings, by the name of the images; empty with one finding.
        history: One row for each epoch.
        records: Records of all splits, with the labels of this finding.
    """

    folder: RunFolder
    index: int
    all_classes: tuple[str, ...]
    recipe: Tree
    starts: tuple[RunStart, ...]
    best: BestWeights | None
    rule: DecisionRule | None
    sites: dict[str, DecisionRule]
    evaluations: dict[str, Evaluation]
    averages: dict[str, Averages]
    history: list[dict[str, float]]
    records: list[ImageRecord]
    # By the name of the images, then by finding; shared by the findings of a run.
    _scored: dict[str, dict[str, list[ScoredImage]]] = field(
        default_factory=dict, repr=False, compare=False
    )

    @classmethod
    def read(cls, folder: RunFolder) -> list[RunResults]:
        """Read all results, one for each finding.

        Args:
            folder: Folder of the run.

        Raises:
            DamagedRunError: A file is damaged, of another format, or lost, or was changed.
        """
        rules, recipe, records = folder.find_rules(), _read_recipe(folder), _read_records(folder)
        sites = {site: folder.find_rules(site) for site in folder.sites}
        evaluations = folder.read_evaluations()
        classes = _classes(recipe, records, rules)
        averages = {name: each.averages for name, each in evaluations.items()}
        first = cls(
            folder=folder,
            index=0,
            all_classes=classes,
            recipe=recipe,
            starts=folder.read_starts(),
            best=_read_best(folder),
            rule=None,
            sites={},
            evaluations={},
            averages={name: each for name, each in averages.items() if each is not None},
            history=folder.read_history(),
            records=records,
        )
        return [
            replace(
                first,
                index=index,
                rule=rules[index] if rules else None,
                sites={site: of_site[index] for site, of_site in sites.items() if of_site},
                evaluations={name: each.findings[index] for name, each in evaluations.items()},
                records=[record_of(record, classes, index) for record in records],
            )
            for index in range(len(classes) - 1)
        ]

    @property
    def split_names(self) -> list[str]:
        """Splits that have images, in the order of their use."""
        present = {record.split for record in self.records}
        usual = [name for name in ("train", "val", "calibration", "test") if name in present]
        return usual + sorted(present - set(usual))

    @property
    def classes(self) -> tuple[str, str]:
        """Names of the absence and the presence of the finding."""
        return class_pair(self.all_classes, self.index)

    @property
    def has_one_finding(self) -> bool:
        """True if the run has no other finding."""
        return len(self.all_classes) == 2

    @property
    def is_exclusive(self) -> bool:
        """True if an image has one of several findings at most."""
        if self.has_one_finding:
            return False
        source = self.recipe.child("data.source")
        return (
            source.text("class_path").rpartition(".")[2] == "ClassFolders"
            or source.flag("init_args.exclusive")
            or any(each.decisions is not None for each in self.averages.values())
        )

    def results_name(self, name: str) -> str:
        """Return the name of the files of this finding, for the images of `name`."""
        return results_name(name, self.all_classes, self.index)

    def scored_records(self, name: str) -> list[ScoredImage]:
        """Read `predictions/<name>.csv`; empty if these images were not scored yet.

        Images whose label of the finding is unknown are left out.

        Raises:
            DamagedRunError: The file is damaged or lost, or was changed.
        """
        if name not in self._scored:
            # One reading for all findings: a table of many images takes seconds.
            self._scored[name] = self._read_scored(name)
        return self._scored[name].get(self.classes[1], [])

    def _read_scored(self, name: str) -> dict[str, list[ScoredImage]]:
        """Read the scored images of every finding, by its name."""
        path = self.folder.predictions_path(name)
        self.folder.files.check(path)
        scored: dict[str, list[ScoredImage]] = {}
        if not path.is_file():
            return scored
        texts: dict[str, str] = {}  # findings share the names of images and patients
        try:
            with path.open(encoding="utf-8", errors="surrogateescape", newline="") as file:
                reader = CsvReader(file)
                one = () if self.has_one_finding else ("finding",)
                check_columns(reader, ("path", "patient", *one, "label", "score"))
                for row in reader:
                    if not one or row["label"]:
                        finding = row["finding"] if one else self.classes[1]
                        scored.setdefault(finding, []).append(_scored(row, texts))
        except (OSError, csv.Error, KeyError, TypeError, ValueError) as error:
            raise DamagedRunError(f"{path} is damaged: {error}") from error
        return scored


def check_columns(reader: csv.DictReader[str], columns: Sequence[str]) -> None:
    """Refuse a table that lacks a column.

    Raises:
        ValueError: It names the column.
    """
    missing = [column for column in columns if column not in (reader.fieldnames or ())]
    if missing:
        raise ValueError(f"it has no column {missing[0]}")


def _scored(row: Mapping[str, str], texts: dict[str, str]) -> ScoredImage:
    label, score = int(row["label"]), float(row["score"])
    if label not in (0, 1) or not 0 <= score <= 1:
        raise ValueError(f"{row['path']} must have label 0 or 1 and a score in [0, 1]")
    path, patient = (texts.setdefault(row[key], row[key]) for key in ("path", "patient"))
    return ScoredImage(path, patient, label, score)


def _classes(
    recipe: Tree, records: Sequence[ImageRecord], rules: Sequence[DecisionRule] | None
) -> tuple[str, ...]:
    """Return the classes by the recipe, or by the names of rules and folders."""
    names = recipe.texts("data.source.init_args.classes")
    if len(names) >= 2:
        return tuple(names)
    named = recipe.texts("data.source.init_args.findings")  # of Phantom
    findings = [rule.finding for rule in rules or ()] or named
    if len(findings) > 1:
        return ("no finding", *findings)
    folders = [
        {Path(record.name).parent.name for record in records if record.label == label}
        for label in (0, 1)
    ]
    if all(len(each) == 1 and each != {""} for each in folders):
        return folders[0].pop(), folders[1].pop()
    return ("negative", *(findings or ["positive"]))


def _read_recipe(folder: RunFolder) -> Tree:
    path = folder.recipe_path
    folder.files.check(path)
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError, yaml.YAMLError) as error:
        reason = str(error).partition("\n")[0]
        raise DamagedRunError(f"{path} is damaged: {reason}") from error
    if not isinstance(content, Mapping):
        raise DamagedRunError(f"{path} is damaged: it must be a mapping")
    return Tree(content)


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


def _read_records(folder: RunFolder) -> list[ImageRecord]:
    folder.files.check(folder.split_path)
    try:
        return read_split(folder.split_path, "")
    except DataError as error:
        raise DamagedRunError(str(error)) from error
