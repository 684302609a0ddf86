"""What a run leaves behind, and who may write there.

The folder holds all that is needed to repeat the run: the resolved recipe, the versions and the
command, the split with its hashes, and the threshold beside the weights.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import logging
import os
import platform
import subprocess
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from importlib import metadata
from pathlib import Path
from typing import Any

import yaml

from cxrignite import __version__
from cxrignite.durable_write import write_durably
from cxrignite.errors import CxrIgniteError, RunFolderError
from cxrignite.functional import OperatingPoint
from cxrignite.handlers import read_history

# May differ between a run and its resumption: more epochs, and the folder, which may have moved.
_MAY_CHANGE = ("trainer.max_epochs", "run_dir")
_PACKAGES = ("torch", "torchvision", "pytorch-ignite", "monai", "scikit-learn", "numpy", "timm")


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
        self.checkpoints_dir = root / "checkpoints"
        self.operating_point_path = root / "operating_point.json"
        self.history_path = root / "history.csv"
        self.tensorboard_dir = root / "tensorboard"
        self.figures_dir = root / "figures"
        self.log_path = root / "run.log"
        self._lock_path = root / "run.lock"

    def predictions_path(self, name: str) -> Path:
        """The scores of the films of `name`, a split or a given name."""
        return self.root / "predictions" / f"{name}.csv"

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
        foreign = self.root.is_dir() and any(self.root.iterdir()) and not self._lock_path.exists()
        if foreign or (self.root.exists() and not self.root.is_dir()):
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
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
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
        starts.append({**_environment(command), **facts})
        self.write_json(self.environment_path, {"starts": starts})
        write_durably(self.recipe_path, recipe_text.encode())

    def changed_keys(self, recipe_text: str) -> list[str]:
        """The keys in which a recipe differs from this run's, other than those that may change.

        Raises:
            RunFolderError: `trainer.max_epochs` would shrink, or this run's recipe is damaged.
        """
        try:
            ours = _flatten(yaml.safe_load(self.recipe_path.read_text(encoding="utf-8")))
        except (OSError, ValueError, yaml.YAMLError) as error:
            raise RunFolderError(f"{self.recipe_path} cannot be read: {error}") from error
        theirs = _flatten(yaml.safe_load(recipe_text))
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
            if key not in _MAY_CHANGE and ours.get(key, missing) != theirs.get(key, missing)
        ]

    def recipe_hash(self) -> str:
        """A digest of this run's recipe, without the keys that may change."""
        leaves = _flatten(yaml.safe_load(self.recipe_path.read_text(encoding="utf-8")))
        fixed = {key: leaf for key, leaf in sorted(leaves.items()) if key not in _MAY_CHANGE}
        return hashlib.sha256(json.dumps(fixed, default=str).encode()).hexdigest()

    def finished_recipe(self) -> Path:
        """The recipe of a run that has its best weights and its threshold.

        Raises:
            RunFolderError: There is no run, or it did not finish.
        """
        if not self.holds_run:
            raise RunFolderError(f"{self.root} holds no run: it has no {self.history_path.name}")
        if not self.is_finished:
            raise RunFolderError(
                f"the run in {self.root} did not finish: "
                f"it has no {self.operating_point_path.name}; "
                f"go on with `cxrignite fit --config {self.recipe_path} --resume auto`"
            )
        return self.recipe_path

    def write_json(self, path: Path, content: Mapping[str, Any] | None) -> None:
        """Write a JSON file whole or not at all."""
        write_durably(path, f"{json.dumps(content, indent=2)}\n".encode())

    @property
    def is_finished(self) -> bool:
        """Whether the run came to its end: the operating point is written last."""
        return self.operating_point_path.is_file()

    def write_operating_point(self, point: OperatingPoint | None) -> None:
        """Keep the operating point, or null where the recipe chooses none; this ends a run."""
        content = point.to_dict() if point else None
        self.write_json(self.operating_point_path, content)

    def read_operating_point(self) -> OperatingPoint | None:
        """The stored operating point; None where the recipe chooses none.

        Raises:
            RunFolderError: The file is damaged.
        """
        try:
            content = json.loads(self.operating_point_path.read_text(encoding="utf-8"))
            return OperatingPoint.from_dict(content) if content is not None else None
        except (ValueError, KeyError, TypeError) as error:
            raise RunFolderError(f"{self.operating_point_path} is damaged: {error}") from error

    def read_history(self) -> list[dict[str, float]]:
        """The rows of `history.csv`; an empty cell is left out."""
        return read_history(self.history_path)

    @contextmanager
    def logging(self) -> Iterator[None]:
        """Keep what the library logs in `run.log`, tracebacks of failures included."""
        handler = logging.FileHandler(self.log_path, encoding="utf-8")
        handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(message)s"))
        logger = logging.getLogger("cxrignite")
        logger.addHandler(handler)
        try:
            yield
        except BaseException as error:
            # In the file alone: the terminal gets one line from the command line. A traceback is
            # for what nobody foresaw.
            foreseen = isinstance(error, (CxrIgniteError, KeyboardInterrupt))
            info = None if foreseen else (type(error), error, error.__traceback__)
            told = f"ended by {type(error).__name__}: {error}"
            handler.emit(logger.makeRecord(logger.name, logging.ERROR, __file__, 0, told, (), info))
            raise
        finally:
            logger.removeHandler(handler)
            handler.close()


def _flatten(value: object, prefix: str = "") -> dict[str, Any]:
    """Every leaf of a recipe by its dotted key; list elements by their number."""
    if isinstance(value, dict):
        pairs = value.items()
    elif isinstance(value, list):
        pairs = dict(enumerate(value)).items()
    else:
        return {prefix: value}
    if not pairs:
        return {prefix: value}
    leaves: dict[str, Any] = {}
    for key, child in pairs:
        leaves |= _flatten(child, f"{prefix}.{key}" if prefix else str(key))
    return leaves


def _environment(command: list[str]) -> dict[str, object]:
    import torch

    versions = {name: _version(name) for name in _PACKAGES}
    return {
        "command": ["cxrignite", *command],
        "cxrignite": __version__,
        "python": platform.python_version(),
        "platform": platform.platform(),
        "packages": {name: version for name, version in versions.items() if version},
        "num_threads": torch.get_num_threads(),
        "git_revision": _git_revision(),
    }


def _version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def _git_revision() -> str | None:
    """Revision of the working folder's repository, marked where files differ from it."""
    command = ["git", "describe", "--always", "--dirty", "--abbrev=40"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=5, check=True)
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.strip() or None
