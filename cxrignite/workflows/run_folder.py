"""What a run leaves behind, and who may write there.

The folder holds all that is needed to repeat the run: the resolved recipe, the versions and the
command, the split with its hashes, and the threshold beside the weights.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any

import yaml

from cxrignite.data import Film
from cxrignite.durable_write import write_durably
from cxrignite.errors import CheckpointError, RunFolderError
from cxrignite.handlers import read_history, verify_checkpoint
from cxrignite.locks import lock_file
from cxrignite.workflows.decision import Decision
from cxrignite.workflows.environment import environment
from cxrignite.workflows.log_file import log_file
from cxrignite.workflows.recipe_keys import flatten_recipe, may_change
from cxrignite.workflows.reference import Reference


class RunFolder:
    """The files of one run.

    Args:
        root: The folder; nothing is made until something is written.
    """

    def __init__(self, root: Path) -> None:
        self.root = root
        self.recipe_path = root / "recipe.yaml"
        self.environment_path = root / "environment.json"
        self.split_path = root / "split.csv"
        self.leakage_path = root / "leakage.csv"
        self.audit_dir = root / "audit"
        self.checkpoints_dir = root / "checkpoints"
        self.best_path = self.checkpoints_dir / "best.pt"
        self.operating_point_path = root / "operating_point.json"
        self.reference_path = root / "reference.npz"
        self.looks_path = root / "looks.json"
        self.report_path = root / "report.html"
        self.history_path = root / "history.csv"
        self.tensorboard_dir = root / "tensorboard"
        self.figures_dir = root / "figures"
        self.log_path = root / "run.log"
        self._lock_path = root / "run.lock"

    def predictions_path(self, name: str) -> Path:
        """The scores of the films of `name`, a split or a given name."""
        return self.root / "predictions" / f"{name}.csv"

    def explain_dir(self, name: str) -> Path:
        """The class activation maps of the films of `name`, a split or a given name."""
        return self.root / "explain" / name

    def metrics_path(self, name: str) -> Path:
        """The figures of the films of `name`, a split or a given name."""
        return self.root / "metrics" / f"{name}.json"

    @property
    def holds_run(self) -> bool:
        """Whether an epoch was completed here; with less than that nothing is lost by beginning."""
        return self.history_path.is_file()

    @contextmanager
    def lock(self) -> Iterator[None]:
        """Keep other processes from writing here; the lock goes with this process, however it ends.

        Raises:
            RunFolderError: Another process holds the folder, or it belongs to something else.
        """
        # An audit may have been here before the run.
        others = set(self.root.iterdir()) - {self.audit_dir} if self.root.is_dir() else ()
        foreign = bool(others) and not self._lock_path.exists()
        if self.root.exists() and not self.root.is_dir():
            raise RunFolderError(f"run_dir must be a folder, got the file {self.root}")
        if foreign:
            raise RunFolderError(
                f"{self.root} is not empty and no run folder; choose another run_dir"
            )
        try:
            self.root.mkdir(parents=True, exist_ok=True)
            handle = self._lock_path.open("a+", encoding="ascii")
        except OSError as error:
            raise RunFolderError(f"cannot write into {self.root}: {error.strerror}") from error
        with handle:
            try:
                lock_file(handle)
            except OSError as error:
                handle.seek(0)
                pid = handle.read().strip() or "unknown"
                raise RunFolderError(f"{self.root} is in use by process {pid}") from error
            handle.truncate(0)
            handle.write(str(os.getpid()))
            handle.flush()
            yield

    def begin(self, recipe_text: str, command: list[str], facts: Mapping[str, object]) -> None:
        """Write the resolved recipe and the environment, and take back that the run is finished."""
        self.operating_point_path.unlink(missing_ok=True)
        starts = []
        if self.environment_path.is_file():
            starts = json.loads(self.environment_path.read_text(encoding="utf-8")).get("starts", [])
        starts.append({**environment(command), **facts})
        self.write_json(self.environment_path, {"starts": starts})
        write_durably(self.recipe_path, recipe_text.encode())

    def changed_keys(self, recipe_text: str) -> list[str]:
        """The keys in which a recipe differs from this run's, other than those that may change.

        Raises:
            RunFolderError: `trainer.max_epochs` would shrink, or this run's recipe is damaged.
        """
        try:
            ours = flatten_recipe(yaml.safe_load(self.recipe_path.read_text(encoding="utf-8")))
        except (OSError, ValueError, yaml.YAMLError) as error:
            raise RunFolderError(f"{self.recipe_path} cannot be read: {error}") from error
        theirs = flatten_recipe(yaml.safe_load(recipe_text))
        key = "trainer.max_epochs"
        if theirs[key] < ours[key]:
            raise RunFolderError(
                f"{self.root}: {key} may grow when a run is resumed, "
                f"not shrink from {ours[key]} to {theirs[key]}"
            )
        keys = sorted(ours.keys() | theirs.keys())
        missing = object()
        return [
            key
            for key in keys
            if not may_change(key) and ours.get(key, missing) != theirs.get(key, missing)
        ]

    def recipe_hash(self) -> str:
        """A digest of this run's recipe, without the keys that may change."""
        leaves = flatten_recipe(yaml.safe_load(self.recipe_path.read_text(encoding="utf-8")))
        fixed = {key: leaf for key, leaf in sorted(leaves.items()) if not may_change(key)}
        return hashlib.sha256(json.dumps(fixed, default=str).encode()).hexdigest()

    def finished_recipe(self) -> Path:
        """The recipe of a run that has its best weights and its threshold.

        Raises:
            RunFolderError: There is no run, or it did not finish.
        """
        if not self.holds_run:
            raise RunFolderError(f"{self.root} holds no run: {self.why_no_run()}")
        if not self.is_finished:
            raise RunFolderError(
                f"the run in {self.root} did not finish: "
                f"it has no {self.operating_point_path.name}; "
                f"go on with `cxrignite fit --config {self.recipe_path} --resume auto`"
            )
        return self.recipe_path

    def why_no_run(self) -> str:
        """What is there instead of a run, for a message."""
        if not self.root.exists():
            return "there is no such folder; `cxrignite fit` makes it"
        runs = ", ".join(sorted(str(each.parent) for each in self.root.glob("*/history.csv")))
        return f"it has no {self.history_path.name}" + (f", but these do: {runs}" if runs else "")

    def write_json(self, path: Path, content: Mapping[str, Any] | None) -> None:
        """Write a JSON file whole or not at all."""
        write_durably(path, f"{json.dumps(content, indent=2)}\n".encode())

    @property
    def is_finished(self) -> bool:
        """Whether the run came to its end: the operating point is written last."""
        return self.operating_point_path.is_file()

    def weights_sha256(self) -> str:
        """Digest of the best weights' file.

        Raises:
            CheckpointError: The file is missing or damaged.
        """
        return str(verify_checkpoint(self.best_path)["sha256"])

    def write_decision(self, decision: Decision) -> None:
        """Keep the operating point; this ends a run."""
        self.write_json(self.operating_point_path, decision.to_dict())

    def site_path(self, site: str) -> Path:
        """The operating point of a site."""
        return self.root / "operating_points" / f"{site}.json"

    def write_site(self, decision: Decision, films: list[Film], reference: Reference) -> None:
        """Keep a site's operating point, the films that chose it, and how they look to the model.

        The operating point is written last: without it the other two are nothing.
        """
        from cxrignite.data.splits import write_split  # scikit-learn takes a second to import

        path = self.site_path(decision.chosen_on)
        write_split(films, path.with_suffix(".csv"))
        reference.write(path.with_suffix(".npz"))
        self.write_json(path, decision.to_dict())

    def read_site_films(self, site: str) -> list[Film]:
        """The films that chose a site's operating point.

        Raises:
            DataError: The list is missing or damaged.
        """
        from cxrignite.data.splits import read_split

        return read_split(self.site_path(site).with_suffix(".csv"), "")

    def read_decision(self, site: str | None = None) -> Decision:
        """The stored operating point, which must be of these weights.

        Args:
            site: Whose; null is the run's own.

        Raises:
            RunFolderError: There is none of that site, or the file is damaged.
            CheckpointError: It belongs to other weights, or those are missing or damaged.
        """
        path = self.operating_point_path if site is None else self.site_path(site)
        if site is not None and not path.is_file():
            known = sorted(each.stem for each in path.parent.glob("*.json"))
            raise RunFolderError(
                f"{self.root} has no operating point '{site}', "
                f"it has {', '.join(known) if known else 'only its own'}"
            )
        try:
            decision = Decision.from_dict(json.loads(path.read_text(encoding="utf-8")))
        except (ValueError, KeyError, TypeError) as error:
            missing = f"it has no {error}" if isinstance(error, KeyError) else str(error)
            raise RunFolderError(f"{path} is damaged: {missing}") from error
        if decision.weights_sha256 != self.weights_sha256():
            raise CheckpointError(
                f"{path} is the operating point of other weights than {self.best_path}: "
                "a threshold means nothing for scores that did not choose it"
            )
        return decision

    def read_reference(self, site: str | None = None) -> Reference | None:
        """How the negatives that chose an operating point look to the model; null without a file.

        Raises:
            RunFolderError: The file is damaged.
        """
        path = self.reference_path if site is None else self.site_path(site).with_suffix(".npz")
        return Reference.read(path) if path.is_file() else None

    def count_look(self, films: Sequence[Film]) -> int:
        """Count one more scoring of films, told by their content, whatever they are called.

        Returns:
            How often the one that was scored most often has been scored.

        Raises:
            RunFolderError: The count is damaged.
        """
        looks = {}
        if self.looks_path.is_file():
            try:
                looks = json.loads(self.looks_path.read_text(encoding="utf-8"))
            except ValueError as error:
                raise RunFolderError(f"{self.looks_path} is damaged: {error}") from error
        digests = {film.sha256[:16] for film in films}
        looks |= {digest: looks.get(digest, 0) + 1 for digest in digests}
        self.write_json(self.looks_path, looks)
        return max(int(looks[digest]) for digest in digests)

    def read_history(self) -> list[dict[str, float]]:
        """The rows of `history.csv`; an empty cell is left out."""
        return read_history(self.history_path)

    def logging(self) -> AbstractContextManager[None]:
        """Keep what the library logs in `run.log`, tracebacks of failures included."""
        return log_file(self.log_path)
