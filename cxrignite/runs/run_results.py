"""All results of a run, by finding, for a report."""

from __future__ import annotations

import csv
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, NamedTuple

from cxrignite.csv_text import CsvReader
from cxrignite.data import ImageRecord
from cxrignite.data.sources import class_pair
from cxrignite.data.splits import read_findings
from cxrignite.errors import CheckpointError, DamagedRunError
from cxrignite.functional import UNKNOWN_LABEL
from cxrignite.functional.confusion import HIGHEST_CLASS
from cxrignite.handlers.checkpoint_loading import manifest_path, read_manifest
from cxrignite.runs.decision_rule import DecisionRule
from cxrignite.runs.environment import RunStart
from cxrignite.runs.evaluation import Averages, Evaluation
from cxrignite.runs.fold_results import FoldResults
from cxrignite.runs.run_folder import RunFolder, how_to_evaluate
from cxrignite.runs.scores import record_of, results_name

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
    """Row of `predictions/*.csv`; `finding` is empty if the run has one finding."""

    name: str
    patient: str
    label: int
    score: float
    probability: float | None
    finding: str


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
        index: Position of the finding, from 0.
        all_classes: Name of an image without a finding, then the run's findings.
        best: Manifest of the best weights.
        averages: Averages over the findings, by the name of the images; empty with one finding.
        folds: The folds of an ensemble; None for another run.
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
    folds: FoldResults | None
    records: list[ImageRecord]
    # Read once for all findings.
    _scored: dict[str, list[ScoredImage]] = field(default_factory=dict)

    @classmethod
    def read(cls, folder: RunFolder, site: str | None = None) -> list[RunResults]:
        """Read all results, one for each finding.

        Args:
            folder: The run folder.
            site: Name of the site whose decision rule takes the place of the run's own.

        Raises:
            DamagedRunError: A file is damaged, of another format, or lost, or was changed.
        """
        rules, records = folder.find_rules(site), folder.read_split("")
        recipe, findings = Tree(folder.read_recipe()), read_findings(folder.split_path)
        sites = {name: folder.find_rules(name) for name in folder.sites if name != site}
        evaluations = folder.read_evaluations()
        classes = _classes(recipe, records, findings or [rule.finding for rule in rules or ()])
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
            history=[] if folder.is_ensemble else folder.read_history(),
            folds=folder.find_folds(),
            records=records,
        )
        return [
            replace(
                first,
                index=index,
                rule=rules[index] if rules else None,
                sites={name: of_site[index] for name, of_site in sites.items() if of_site},
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
        if self.rule is not None:
            return self.rule.exclusive
        source = self.recipe.child("data.source")  # the run is not finished
        name = source.text("class_path").rpartition(".")[2]
        return name == "ClassFolders" or source.flag("init_args.exclusive")

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
            found = read_predictions(
                self.folder,
                name,
                has_several=not self.has_one_finding,
                is_exclusive=self.is_exclusive,
            )
            self._scored[name] = found or []
        finding = "" if self.has_one_finding else self.classes[1]
        return [
            each
            for each in self._scored[name]
            if each.finding == finding and each.label != UNKNOWN_LABEL
        ]


def read_predictions(
    folder: RunFolder, name: str, *, has_several: bool, is_exclusive: bool
) -> list[ScoredImage] | None:
    """Read `predictions/NAME.csv`; None if these images were not scored yet.

    Raises:
        DamagedRunError: The file is damaged or lost, or was changed.
    """
    path = folder.predictions_path(name)
    folder.files.check(path)
    if not path.is_file():
        return None
    columns = [*_PREDICTION_COLUMNS]
    if has_several:
        columns.insert(2, "finding")
    if is_exclusive:
        columns.append(HIGHEST_CLASS)
    try:
        # `surrogateescape` keeps file names that are not UTF-8.
        with path.open(encoding="utf-8", errors="surrogateescape", newline="") as file:
            reader = CsvReader(file)
            if reader.fieldnames != columns:
                found = ", ".join(reader.fieldnames or ["none"])
                raise ValueError(f"its columns must be {', '.join(columns)}, got {found!a:.100}")
            images = [_scored(row) for row in reader]
        counts = Counter((image.name, image.finding) for image in images)
        if repeated := [name for (name, _), count in counts.items() if count > 1]:
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
        raise ValueError(f"each row must have {len(row) - (None in row)} cells")
    finding = row.get("finding", "")
    # Only one of several findings may have an unknown label, which is an empty cell.
    labels = ("0", "1", "") if "finding" in row else ("0", "1")
    if row["label"] not in labels:
        raise ValueError(f"a label must be 0 or 1, got {row['label']!r}")
    label = int(row["label"]) if row["label"] else UNKNOWN_LABEL
    score, probability = _share(row["score"]), row["probability"]
    known = _share(probability) if probability else None
    return ScoredImage(row["path"], row["patient"], label, score, known, finding)


def _classes(
    recipe: Tree, records: Sequence[ImageRecord], findings: Sequence[str]
) -> tuple[str, ...]:
    """Return the classes by the recipe, or by the names of findings and folders."""
    names = recipe.texts("data.source.init_args.classes")
    if len(names) >= 2:
        return tuple(names)
    if len(findings) > 1:
        return ("no finding", *findings)
    folders = [
        {Path(record.name).parent.name for record in records if record.label == label}
        for label in (0, 1)
    ]
    if all(len(each) == 1 and each != {""} for each in folders):
        return folders[0].pop(), folders[1].pop()
    return ("negative", *(findings or ("positive",)))


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
