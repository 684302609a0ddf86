"""Run folder: its files, and the lock for writing there.

The folder holds everything that is needed to repeat the run: the resolved recipe, the versions and
the command, the split with its hashes, the weights and the threshold.
"""

from __future__ import annotations

import hashlib
import json
import shlex
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, suppress
from pathlib import Path
from typing import TypeVar

import yaml

from cxrignite.data import ImageRecord
from cxrignite.data.splits import read_split, write_split
from cxrignite.errors import (
    CheckpointError,
    CxrIgniteError,
    DamagedRunError,
    DataError,
    RunFolderError,
)
from cxrignite.handlers import read_history, verify_checkpoint
from cxrignite.locks import hold_lock
from cxrignite.runs.checked_files import CheckedFiles
from cxrignite.runs.decision_rule import DecisionRule, DecisionRules
from cxrignite.runs.environment import RunStart, RunStarts
from cxrignite.runs.evaluation import Evaluations
from cxrignite.runs.fold_results import FoldResults
from cxrignite.runs.json_codec import from_json, to_json
from cxrignite.runs.log_file import log_file
from cxrignite.runs.map_evaluation import MapEvaluation
from cxrignite.runs.recipe_keys import (
    Leaves,
    changed_keys,
    check_epochs,
    flatten_recipe,
    read_recipe,
    recipe_hash,
)
from cxrignite.runs.reference import Reference

_T = TypeVar("_T")


class RunFolder:
    """Files of one run.

    A file that a later command relies on is checked when it is read: `DamagedRunError` is raised if
    it is damaged, of another format, lost, or was changed.

    Args:
        root: The folder; it is created by the first write.

    Attributes:
        files: Writer and checker of the files that later commands rely on.
    """

    def __init__(self, root: Path) -> None:
        self.root = root
        self.files = CheckedFiles(root)
        self.recipe_path = root / "recipe.yaml"
        self.environment_path = root / "environment.json"
        self.split_path = root / "split.csv"
        self.leakage_path = root / "leakage.csv"
        self.audit_dir = root / "audit"
        self.checkpoints_dir = root / "checkpoints"
        self.best_path = self.checkpoints_dir / "best.pt"
        self.operating_point_path = root / "operating_point.json"
        self.reference_path = root / "reference.npz"
        self.evaluation_counts_path = root / "evaluations.json"
        self.report_path = root / "report.html"
        self.history_path = root / "history.csv"
        self.folds_path = root / "folds.json"
        self.tensorboard_dir = root / "tensorboard"
        self.figures_dir = root / "figures"
        self.log_path = root / "run.log"
        self._lock_path = root / "run.lock"

    def predictions_path(self, name: str) -> Path:
        """Return the file of scores of the images of `name`, a split or a given name."""
        return self.root / "predictions" / f"{name}.csv"

    def explain_dir(self, name: str) -> Path:
        """Return the folder of maps of the images of `name`, a split or a given name."""
        return self.root / "explain" / name

    def metrics_path(self, name: str) -> Path:
        """Return the file of metrics of the images of `name`, a split or a given name."""
        return self.root / "metrics" / f"{name}.json"

    @property
    def holds_run(self) -> bool:
        """True if an epoch was completed here; before that, a new start loses nothing."""
        return self.history_path.is_file() or self.is_ensemble

    @property
    def is_ensemble(self) -> bool:
        """True if `cross_validate` made this run of others, so that it has no epochs."""
        return self.folds_path.is_file()

    @property
    def is_foreign(self) -> bool:
        """True if the folder holds files but no run."""
        # An audit may come before the run.
        others = set(self.root.iterdir()) - {self.audit_dir} if self.root.is_dir() else ()
        # A copy of a run may lack the lock file.
        begun = self.recipe_path.is_file() and self.environment_path.is_file()
        return bool(others) and not (begun or self._lock_path.exists())

    @property
    def is_finished(self) -> bool:
        """True if the run is finished; the operating point is its last file."""
        return self.operating_point_path.is_file()

    def site_path(self, site: str) -> Path:
        """Return the file of the operating point of a site."""
        return self.root / "operating_points" / f"{site}.json"

    def statistics_path(self, site: str) -> Path:
        """Return the file of the batch statistics of a site, if it has its own."""
        return self.site_path(site).with_suffix(".pt")

    @contextmanager
    def lock(self) -> Iterator[None]:
        """Lock the folder against other writers until the block or this process ends.

        Raises:
            RunFolderError: Another process holds the lock, or the folder is not a run folder.
        """
        if self.root.exists() and not self.root.is_dir():
            raise RunFolderError(f"run_dir must be a folder, got the file {self.root}")
        if self.is_foreign:
            raise RunFolderError(
                f"{self.root} is not empty and not a run folder; choose another run_dir"
            )
        try:
            self.root.mkdir(parents=True, exist_ok=True)
            lock = hold_lock(self._lock_path)
        except BlockingIOError as error:
            raise RunFolderError(f"{self.root} is {error.strerror}") from error
        except OSError as error:
            raise RunFolderError(f"cannot write into {self.root}: {error.strerror}") from error
        with lock:
            try:
                yield
            finally:
                # The block already failed if the disk is full; a later write settles again.
                with suppress(CxrIgniteError):
                    self.files.settle()

    def begin(self, recipe_text: str, start: RunStart) -> None:
        """Write the resolved recipe and the environment, and mark the run as not finished."""
        # Read first: if it is damaged, nothing is changed.
        starts = RunStarts((*self.read_starts(), start))
        self.files.remove(self.operating_point_path)
        self.files.write(self.environment_path, to_json(starts))
        self.files.write(self.recipe_path, recipe_text.encode())

    def read_starts(self) -> tuple[RunStart, ...]:
        """Read the starts from `environment.json`; empty before the first."""
        return (self._find(RunStarts, self.environment_path) or RunStarts()).starts

    def changed_keys(self, recipe_text: str, *, checks_epochs: bool = True) -> list[str]:
        """Return the keys in which a recipe differs from this run's, except those that may change.

        Raises:
            RunFolderError: `trainer.max_epochs` is smaller, if that is checked.
        """
        ours, theirs = self._read_keys(), flatten_recipe(yaml.safe_load(recipe_text))
        if checks_epochs:
            check_epochs(self.root, ours, theirs)
        return changed_keys(ours, theirs)

    def recipe_hash(self) -> str:
        """Return a digest of this run's recipe, without the keys that may change."""
        return recipe_hash(self._read_keys())

    def read_recipe(self) -> Mapping[str, object]:
        """Read this run's recipe, as YAML gives it."""
        self.files.check(self.recipe_path)
        return read_recipe(self.recipe_path)

    def _read_keys(self) -> Leaves:
        leaves = flatten_recipe(self.read_recipe())
        if not isinstance(leaves.get("trainer.max_epochs"), int):
            rule = "trainer.max_epochs must be an integer"
            raise DamagedRunError(f"{self.recipe_path} is damaged: {rule}")
        return leaves

    def finished_recipe(self) -> Path:
        """Return the recipe file of a finished run, with best weights and threshold.

        Raises:
            RunFolderError: There is no run, or it did not finish.
            DamagedRunError: Its recipe or its history was changed.
        """
        self.check_holds_run()
        self.files.check(self.recipe_path)
        if not self.is_finished:
            again = (
                "run `cxrignite cross_validate` again with --resume auto"
                if self.is_ensemble
                else f"resume it with `cxrignite fit --config {shlex.quote(str(self.recipe_path))} "
                f"--run_dir {shlex.quote(str(self.root))} --resume auto`"
            )
            raise RunFolderError(
                f"the run in {self.root} is not finished: "
                f"it has no {self.operating_point_path.name}; {again}"
            )
        return self.recipe_path

    def check_holds_run(self) -> None:
        """Check that the folder holds a run, finished or not.

        Raises:
            RunFolderError: There is no run.
            DamagedRunError: Its history was changed.
        """
        self.files.check(self.history_path, self.folds_path)
        if not self.holds_run:
            raise RunFolderError(f"{self.root} is not a run folder: {self._why_no_run()}")
        self.files.warn_if_unchecked()

    def _why_no_run(self) -> str:
        """Return the reason why the folder holds no run."""
        if not self.root.exists():
            return "it does not exist; `cxrignite fit` creates it"
        found = (*self.root.glob("*/history.csv"), *self.root.glob("*/folds.json"))
        runs = ", ".join(sorted(str(each.parent) for each in found))
        return f"it has no {self.history_path.name}" + (
            f"; run folders in it: {runs}" if runs else ""
        )

    def _find(self, kind: type[_T], path: Path, remedy: str = "") -> _T | None:
        """Read a typed result; None if no command has written it yet."""
        self.files.check(path)
        try:
            return from_json(kind, path.read_bytes())
        except FileNotFoundError:
            return None
        except (OSError, ValueError, RecursionError) as error:
            again = f"; `cxrignite {remedy}` writes it again" if remedy else ""
            raise DamagedRunError(
                f"{path} is damaged or of another version: {error}{again}"
            ) from error

    def weights_sha256(self) -> str:
        """Return the digest of the file with the best weights.

        Raises:
            CheckpointError: The file is missing or damaged.
        """
        return str(verify_checkpoint(self.best_path)["sha256"])

    def write_rules(self, rules: Sequence[DecisionRule]) -> None:
        """Write the run's own decision rules, one for each finding, which finishes the run."""
        self.files.write(self.operating_point_path, to_json(DecisionRules(tuple(rules))))

    def write_site(
        self,
        site: str,
        rules: Sequence[DecisionRule],
        records: list[ImageRecord],
        reference: Reference,
        statistics: bytes | None = None,
    ) -> None:
        """Write a site's operating points, the records that chose them, and their features.

        The operating points are written last; without them, the other two files are ignored.
        """
        path = self.site_path(site)
        findings = [rule.finding for rule in rules]
        write_split(records, path.with_suffix(".csv"), self.files.write, findings)
        reference.write(path.with_suffix(".npz"), self.files.write)
        if statistics is not None:
            self.files.write(self.statistics_path(site), statistics)
        self.files.write(path, to_json(DecisionRules(tuple(rules))))

    def read_statistics(self, site: str, sha256: str) -> bytes:
        """Read the file of the batch statistics of a site.

        Raises:
            DamagedRunError: It is missing, or its digest is not that of the decision rule.
        """
        path = self.statistics_path(site)
        self.files.check(path)
        content = path.read_bytes() if path.is_file() else b""
        found = hashlib.sha256(content).hexdigest()
        if found != sha256:
            raise DamagedRunError(
                f"{path} must hold the batch statistics of the operating point {site}: its sha256 "
                f"must be {sha256}, got {found if content else 'no file'}; restore the original, "
                "or choose a threshold with another --name"
            )
        return content

    def read_site_records(self, site: str) -> list[ImageRecord]:
        """Read the records that chose a site's operating point."""
        return self._read_records(self.site_path(site).with_suffix(".csv"), "")

    def read_split(self, source_root: Path | str) -> list[ImageRecord]:
        """Read the records of the run, in the splits that were made when it began."""
        return self._read_records(self.split_path, source_root)

    def _read_records(self, path: Path, source_root: Path | str) -> list[ImageRecord]:
        self.files.check(path)
        try:
            return read_split(path, source_root)
        except DataError as error:
            raise DamagedRunError(str(error)) from error

    @property
    def sites(self) -> list[str]:
        """Names of the sites that have an operating point."""
        paths = self.files.written_in(self.site_path("any").parent)
        return [path.stem for path in paths if path.suffix == ".json"]

    def find_rules(self, site: str | None = None) -> tuple[DecisionRule, ...] | None:
        """Read stored decision rules without a check of their weights; None if there are none yet.

        Without a site it is the own rule of the run.
        """
        path = self.operating_point_path if site is None else self.site_path(site)
        command = "fit --resume auto" if site is None else f"recalibrate --name {site}"
        stored = self._find(DecisionRules, path, command)
        return stored.findings if stored else None

    def read_rules(self, site: str | None = None) -> tuple[DecisionRule, ...]:
        """Read stored decision rules, one for each finding; they must belong to the best weights.

        Without a site it is the own rule of the run.

        Raises:
            RunFolderError: There is none.
            CheckpointError: It belongs to other weights, or those are missing or damaged.
        """
        rules = self.find_rules(site)
        if rules is None:
            which = f" '{site}'" if site else ""
            raise RunFolderError(
                f"{self.root} has no operating point{which}; "
                f"available: {', '.join(self.sites) or 'only its own'}"
            )
        weights = self.weights_sha256()
        if any(rule.weights_sha256 != weights for rule in rules):
            path = self.operating_point_path if site is None else self.site_path(site)
            raise CheckpointError(
                f"{path} must belong to the weights in {self.best_path}, but belongs to others: "
                "a threshold is valid only for the scores that chose it"
            )
        return rules

    def write_evaluations(self, name: str, evaluations: Evaluations) -> None:
        """Write the metrics of the images of `name`."""
        self.files.write(self.metrics_path(name), to_json(evaluations))

    def find_evaluations(self, name: str) -> Evaluations | None:
        """Read the metrics of the images of `name`; None if they were not evaluated yet.

        Raises:
            DamagedRunError: The file is damaged, of another format, or was changed.
        """
        return self._find(Evaluations, self.metrics_path(name), how_to_evaluate(self.root, name))

    def read_evaluations(self) -> dict[str, Evaluations]:
        """Read all stored evaluations, by the name of their images.

        Raises:
            DamagedRunError: A file is damaged, of another format, or was changed.
        """
        paths = self.files.written_in(self.metrics_path("any").parent)
        names = [path.stem for path in paths if path.suffix == ".json"]
        found = {name: self.find_evaluations(name) for name in names}
        return {name: each for name, each in found.items() if each is not None}

    def find_map_evaluation(self, name: str) -> MapEvaluation | None:
        """Read the evaluation of the maps of the images of `name`; None if there are none."""
        path = self.explain_dir(name) / "explain.json"
        return self._find(MapEvaluation, path, f"explain --run {self.root}")

    def read_reference(self, site: str | None = None) -> Reference | None:
        """Read the features of the negatives that chose an operating point; None without a file."""
        path = self.reference_path if site is None else self.site_path(site).with_suffix(".npz")
        self.files.check(path)
        return Reference.read(path) if path.is_file() else None

    def record_evaluation(self, records: Sequence[ImageRecord]) -> int:
        """Count one more evaluation of images, which their content identifies.

        Returns:
            The largest number of evaluations of any of these images.
        """
        counts = self.read_evaluation_counts()
        digests = {record.sha256[:16] for record in records}
        counts |= {digest: counts.get(digest, 0) + 1 for digest in digests}
        self.files.write(self.evaluation_counts_path, f"{json.dumps(counts, indent=2)}\n".encode())
        return max(counts[digest] for digest in digests)

    def read_evaluation_counts(self) -> dict[str, int]:
        """Read the number of evaluations of each image, by the start of its digest."""
        counts = self._find(dict[str, int], self.evaluation_counts_path) or {}
        if min(counts.values(), default=1) < 1:
            raise DamagedRunError(
                f"{self.evaluation_counts_path} is damaged: a count must be at least 1"
            )
        return counts

    def find_folds(self) -> FoldResults | None:
        """Read the folds that an ensemble is made of; None for another run."""
        return self._find(FoldResults, self.folds_path, "cross_validate --resume auto")

    def read_history(self) -> list[dict[str, float]]:
        """Read the rows of `history.csv`, without empty cells."""
        self.files.check(self.history_path)
        try:
            rows = read_history(self.history_path)
            if not rows or "epoch" not in rows[0]:
                raise ValueError("it has no epoch")
        except (OSError, ValueError) as error:
            raise DamagedRunError(f"{self.history_path} is damaged: {error}") from error
        return rows

    def logging(self) -> AbstractContextManager[None]:
        """Log to `run.log` within the block, with tracebacks of unexpected errors."""
        return log_file(self.log_path)


def how_to_evaluate(run_dir: Path, name: str) -> str:
    """Return the command that evaluates the images of `name` with a run.

    Args:
        run_dir: The run folder.
        name: A split or a given name; with the threshold of a site, `@` and the site.
    """
    if name == "calibration":
        return "fit --data.calibration_fraction ..."
    images, _, site = name.partition("@")
    own = images in ("val", "test")
    command = "validate" if images == "val" else "test"
    others = "" if own else f" --name {images} --data.source.root ..."
    return f"{command} --run {run_dir}{others}{f' --operating_point {site}' if site else ''}"
