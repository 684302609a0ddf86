"""The folder of a run: its files, and the right to write there.

The folder holds all that is needed to repeat the run: the resolved recipe, the versions and the
command, the split with its hashes, and the threshold beside the weights.
"""

from __future__ import annotations

import json
import shlex
from collections.abc import Iterator, Sequence
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
from cxrignite.runs.decision_rule import DecisionRule, DecisionRules
from cxrignite.runs.environment import RunStart, RunStarts
from cxrignite.runs.evaluation import Evaluation, Evaluations
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
from cxrignite.runs.run_files import RunFiles

_T = TypeVar("_T")


class RunFolder:
    """The files of one run.

    Args:
        root: The folder; nothing is made until something is written.

    Attributes:
        files: Writes the files that a later command believes, and checks them.
    """

    def __init__(self, root: Path) -> None:
        self.root = root
        self.files = RunFiles(root)
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
        self.tensorboard_dir = root / "tensorboard"
        self.figures_dir = root / "figures"
        self.log_path = root / "run.log"
        self._lock_path = root / "run.lock"

    def predictions_path(self, name: str) -> Path:
        """The scores of the images of `name`, a split or a given name."""
        return self.root / "predictions" / f"{name}.csv"

    def explain_dir(self, name: str) -> Path:
        """The class activation maps of the images of `name`, a split or a given name."""
        return self.root / "explain" / name

    def metrics_path(self, name: str) -> Path:
        """The figures of the images of `name`, a split or a given name."""
        return self.root / "metrics" / f"{name}.json"

    @property
    def holds_run(self) -> bool:
        """True if an epoch was completed here; with less than that nothing is lost by beginning."""
        return self.history_path.is_file()

    @property
    def is_foreign(self) -> bool:
        """True if there is something here that is no run."""
        # An audit may have been here before the run.
        others = set(self.root.iterdir()) - {self.audit_dir} if self.root.is_dir() else ()
        # The lock may not have come along when a run was copied.
        begun = self.recipe_path.is_file() and self.environment_path.is_file()
        return bool(others) and not (begun or self._lock_path.exists())

    @property
    def is_finished(self) -> bool:
        """True if the run came to its end: the operating point is written last."""
        return self.operating_point_path.is_file()

    def site_path(self, site: str) -> Path:
        """The operating point of a site."""
        return self.root / "operating_points" / f"{site}.json"

    @contextmanager
    def lock(self) -> Iterator[None]:
        """Keep other processes from writing here; the lock goes with this process, however it ends.

        Raises:
            RunFolderError: Another process holds the folder, or it belongs to something else.
        """
        if self.root.exists() and not self.root.is_dir():
            raise RunFolderError(f"run_dir must be a folder, got the file {self.root}")
        if self.is_foreign:
            raise RunFolderError(
                f"{self.root} is not empty and no run folder; choose another run_dir"
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
                # Of a full or damaged folder the block has said so; a later write does it again.
                with suppress(CxrIgniteError):
                    self.files.settle()

    def begin(self, recipe_text: str, start: RunStart) -> None:
        """Write the resolved recipe and the environment, and take back that the run is finished.

        Raises:
            DamagedRunError: The environment of an earlier start is damaged; nothing is changed.
        """
        starts = RunStarts((*self.read_starts(), start))
        self.files.remove(self.operating_point_path)
        self.files.write(self.environment_path, to_json(starts))
        self.files.write(self.recipe_path, recipe_text.encode())

    def read_starts(self) -> tuple[RunStart, ...]:
        """Read the starts from `environment.json`; empty before the first.

        Raises:
            DamagedRunError: The file is damaged, lost, or not as it was written.
        """
        return (self._find(RunStarts, self.environment_path) or RunStarts()).starts

    def changed_keys(self, recipe_text: str) -> list[str]:
        """The keys in which a recipe differs from this run's, other than those that may change.

        Raises:
            RunFolderError: `trainer.max_epochs` would shrink.
            DamagedRunError: This run's recipe is damaged, or not as it was written.
        """
        ours, theirs = self._read_recipe(), flatten_recipe(yaml.safe_load(recipe_text))
        check_epochs(self.root, ours, theirs)
        return changed_keys(ours, theirs)

    def recipe_hash(self) -> str:
        """A digest of this run's recipe, without the keys that may change.

        Raises:
            DamagedRunError: This run's recipe is damaged, or not as it was written.
        """
        return recipe_hash(self._read_recipe())

    def _read_recipe(self) -> Leaves:
        self.files.check(self.recipe_path)
        return read_recipe(self.recipe_path)

    def finished_recipe(self) -> Path:
        """The recipe of a run that has its best weights and its threshold.

        Raises:
            RunFolderError: There is no run, or it did not finish.
            DamagedRunError: Its recipe or its history is not as it was written.
        """
        self.files.check(self.history_path)
        if not self.holds_run:
            raise RunFolderError(f"{self.root} holds no run: {self.why_no_run()}")
        self.files.warn_if_unchecked()
        self.files.check(self.recipe_path)
        if not self.is_finished:
            raise RunFolderError(
                f"the run in {self.root} did not finish: "
                f"it has no {self.operating_point_path.name}; "
                f"go on with `cxrignite fit --config {shlex.quote(str(self.recipe_path))} "
                f"--run_dir {shlex.quote(str(self.root))} --resume auto`"
            )
        return self.recipe_path

    def why_no_run(self) -> str:
        """Describe what is there instead of a run."""
        if not self.root.exists():
            return "there is no such folder; `cxrignite fit` makes it"
        runs = ", ".join(sorted(str(each.parent) for each in self.root.glob("*/history.csv")))
        return f"it has no {self.history_path.name}" + (f", but these do: {runs}" if runs else "")

    def _find(self, kind: type[_T], path: Path, remedy: str = "") -> _T | None:
        """Read a typed result; None if no command has written it yet.

        Args:
            kind: Its dataclass.
            path: Its file.
            remedy: Command that makes it again.

        Raises:
            DamagedRunError: It is damaged, of another format, lost, or not as it was written.
        """
        self.files.check(path)
        try:
            return from_json(kind, path.read_bytes())
        except FileNotFoundError:
            return None
        except (OSError, ValueError, RecursionError) as error:
            again = f"; `cxrignite {remedy}` makes it again" if remedy else ""
            raise DamagedRunError(
                f"{path} is damaged or of another version: {error}{again}"
            ) from error

    def weights_sha256(self) -> str:
        """Digest of the best weights' file.

        Raises:
            CheckpointError: The file is missing or damaged.
        """
        return str(verify_checkpoint(self.best_path)["sha256"])

    def write_rule(self, rule: DecisionRule) -> None:
        """Write the run's own decision rule; this ends a run."""
        self.files.write(self.operating_point_path, to_json(DecisionRules((rule,))))

    def write_site(
        self, rule: DecisionRule, records: list[ImageRecord], reference: Reference
    ) -> None:
        """Keep a site's operating point, the images that chose it, and how they look to the model.

        The operating point is written last: without it the other two are nothing.
        """
        path = self.site_path(rule.chosen_on)
        write_split(records, path.with_suffix(".csv"), self.files.write)
        reference.write(path.with_suffix(".npz"), self.files.write)
        self.files.write(path, to_json(DecisionRules((rule,))))

    def read_site_records(self, site: str) -> list[ImageRecord]:
        """The images that chose a site's operating point.

        Raises:
            DamagedRunError: The list is missing or damaged.
        """
        return self._read_records(self.site_path(site).with_suffix(".csv"), "")

    def read_split(self, source_root: Path | str) -> list[ImageRecord]:
        """The images of the run as they were divided when it began.

        Args:
            source_root: The folder that their paths are relative to.

        Raises:
            DamagedRunError: The list is missing, damaged, or not as it was written.
        """
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

    def find_rule(self, site: str | None = None) -> DecisionRule | None:
        """Read a stored decision rule, whatever its weights; None if it was not written yet.

        Args:
            site: Whose; None is the run's own.

        Raises:
            DamagedRunError: The file is damaged, of another format, or not as it was written.
        """
        path = self.operating_point_path if site is None else self.site_path(site)
        command = "fit --resume auto" if site is None else f"recalibrate --name {site}"
        stored = self._find(DecisionRules, path, command)
        return stored.findings[0] if stored else None

    def read_rule(self, site: str | None = None) -> DecisionRule:
        """Read a stored decision rule, which must be of these weights.

        Args:
            site: Whose; None is the run's own.

        Raises:
            RunFolderError: There is none.
            DamagedRunError: The file is damaged, of another format, or not as it was written.
            CheckpointError: It belongs to other weights, or those are missing or damaged.
        """
        rule = self.find_rule(site)
        if rule is None:
            which = f" '{site}'" if site else ""
            raise RunFolderError(
                f"{self.root} has no operating point{which}, "
                f"it has {', '.join(self.sites) or 'only its own'}"
            )
        if rule.weights_sha256 != self.weights_sha256():
            path = self.operating_point_path if site is None else self.site_path(site)
            raise CheckpointError(
                f"{path} is the operating point of other weights than {self.best_path}: "
                "a threshold means nothing for scores that did not choose it"
            )
        return rule

    def write_evaluation(self, name: str, evaluation: Evaluation) -> None:
        """Write the metrics of the images of `name`."""
        self.files.write(self.metrics_path(name), to_json(Evaluations((evaluation,))))

    def find_evaluation(self, name: str) -> Evaluation | None:
        """Read the metrics of the images of `name`; None if they were not evaluated yet.

        Raises:
            DamagedRunError: The file is damaged, of another format, or not as it was written.
        """
        stored = self._find(Evaluations, self.metrics_path(name), how_to_evaluate(self.root, name))
        return stored.findings[0] if stored else None

    def read_evaluations(self) -> dict[str, Evaluation]:
        """Read the metrics of all images that were evaluated, by their name.

        Raises:
            DamagedRunError: A file is damaged, of another format, or not as it was written.
        """
        paths = self.files.written_in(self.metrics_path("any").parent)
        names = [path.stem for path in paths if path.suffix == ".json"]
        found = {name: self.find_evaluation(name) for name in names}
        return {name: each for name, each in found.items() if each is not None}

    def find_map_evaluation(self, name: str) -> MapEvaluation | None:
        """Read how the maps of the images of `name` were made; None if there are none.

        Raises:
            DamagedRunError: The file is damaged, of another format, or not as it was written.
        """
        path = self.explain_dir(name) / "explain.json"
        return self._find(MapEvaluation, path, f"explain --run {self.root}")

    def read_reference(self, site: str | None = None) -> Reference | None:
        """Read the features of the negatives that chose an operating point; None without a file.

        Raises:
            DamagedRunError: The file is damaged, lost, or not as it was written.
        """
        path = self.reference_path if site is None else self.site_path(site).with_suffix(".npz")
        self.files.check(path)
        return Reference.read(path) if path.is_file() else None

    def record_evaluation(self, records: Sequence[ImageRecord]) -> int:
        """Count one more scoring of images, told by their content, whatever they are called.

        Returns:
            How often the one that was scored most often has been scored.

        Raises:
            DamagedRunError: The count is damaged, lost, or not as it was written.
        """
        counts = self.read_evaluation_counts()
        digests = {record.sha256[:16] for record in records}
        counts |= {digest: counts.get(digest, 0) + 1 for digest in digests}
        self.files.write(self.evaluation_counts_path, f"{json.dumps(counts, indent=2)}\n".encode())
        return max(counts[digest] for digest in digests)

    def read_evaluation_counts(self) -> dict[str, int]:
        """Read how often each image was scored, by the start of its digest.

        Raises:
            DamagedRunError: The count is damaged, lost, or not as it was written.
        """
        counts = self._find(dict[str, int], self.evaluation_counts_path) or {}
        if min(counts.values(), default=1) < 1:
            raise DamagedRunError(
                f"{self.evaluation_counts_path} is damaged: a count must be at least 1"
            )
        return counts

    def read_history(self) -> list[dict[str, float]]:
        """The rows of `history.csv`; an empty cell is left out.

        Raises:
            DamagedRunError: The file is missing, damaged, or not as it was written.
        """
        self.files.check(self.history_path)
        try:
            rows = read_history(self.history_path)
            if not rows or "epoch" not in rows[0]:
                raise ValueError("it has no epoch")
        except (OSError, ValueError) as error:
            raise DamagedRunError(f"{self.history_path} is damaged: {error}") from error
        return rows

    def logging(self) -> AbstractContextManager[None]:
        """Keep what the library logs in `run.log`, tracebacks of failures included."""
        return log_file(self.log_path)


def how_to_evaluate(run_dir: Path, name: str) -> str:
    """Return the command that evaluates the images of `name` with a run.

    Args:
        run_dir: The run folder.
        name: A split or a given name, `@` and the site whose threshold decides.
    """
    if name == "calibration":
        return "fit --data.calibration_fraction ..."
    images, _, site = name.partition("@")
    own = images in ("val", "test")
    command = "validate" if images == "val" else "test"
    others = "" if own else f" --name {images} --data.source.root ..."
    return f"{command} --run {run_dir}{others}{f' --operating_point {site}' if site else ''}"
