"""`cross_validate`: a run for each fold of one recipe, and the ensemble of all."""

from __future__ import annotations

import logging
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from functools import partial
from typing import IO

from cxrignite.engines.session import num_launched
from cxrignite.errors import CxrIgniteError, RecipeError, RunFolderError
from cxrignite.recipe import Recipe
from cxrignite.runs.run_folder import RunFolder
from cxrignite.stops import end_with_parent, held_signals
from cxrignite.terminal import counted
from cxrignite.workflows.ensemble import build_ensemble
from cxrignite.workflows.fit import fit
from cxrignite.workflows.resumption import is_complete, state_to_resume

_logger = logging.getLogger(__name__)

Parse = Callable[[Sequence[str]], tuple[Recipe, str]]
"""Function from the arguments of `fit` to a recipe and its resolved text."""

_POLL_SECONDS = 0.1


class FoldError(CxrIgniteError):
    """A fold whose process failed; it has the exit code of that process.

    Args:
        message: The error.
        exit_code: The exit code.
    """

    def __init__(self, message: str, exit_code: int) -> None:
        super().__init__(message)
        self.exit_code = exit_code


def cross_validate(
    recipe: Recipe,
    recipe_text: str,
    parse: Parse,
    num_folds: int,
    *,
    num_jobs: int = 1,
    resume: str | None = None,
    command: list[str] | None = None,
) -> None:
    """Train a run for each fold of the training patients, and make an ensemble of their models.

    Each fold is a run of `fit` in `run_dir/fold_0` and so on, the ensemble one in
    `run_dir/ensemble`. Whatever is finished is not done again, so a killed cross-validation is
    resumed by the same steps.

    Args:
        recipe: The experiment; its `run_dir` is the folder of all.
        recipe_text: The same, resolved, as YAML.
        parse: Parses a recipe again, since each fold needs objects of its own.
        num_folds: Number of folds, at least 2.
        num_jobs: Number of folds trained at the same time, each in a process.
        resume: `auto` resumes; None begins.
        command: The command line, stored in the run folders.

    Raises:
        RecipeError: A number is out of range, or a launcher started several processes.
        RunFolderError: The folder is in use, holds runs already (without `resume`), or belongs to
            another recipe.
        CxrIgniteError: Any other reason that ends a run of `fit`.
    """
    _check(num_folds, num_jobs, resume)
    if recipe.data.fold is not None:
        raise RecipeError(
            f"data.fold must be null for cross_validate, which sets it, got {recipe.data.fold}; "
            "set --folds"
        )
    parent = RunFolder(recipe.run_dir)
    folders = [RunFolder(parent.root / f"fold_{index}") for index in range(num_folds)]
    with ExitStack() as stack:
        stack.enter_context(parent.lock())
        stack.enter_context(parent.logging())
        _check_resume(parent, resume, recipe_text)
        parent.files.write(parent.recipe_path, recipe_text.encode())
        arguments = [
            [
                f"--config={parent.recipe_path}",
                f"--run_dir={folder.root}",
                f"--data.fold={{index: {index}, count: {num_folds}}}",
            ]
            for index, folder in enumerate(folders)
        ]
        left = []
        for folder, argv in zip(folders, arguments, strict=True):
            if _is_done(folder, *parse(argv)):
                _logger.info("%s is already finished", folder.root)
            else:
                left.append((folder, argv))
        if num_jobs == 1:
            for folder, argv in left:
                _logger.info("training %s of %d folds", folder.root.name, num_folds)
                fit(*parse(argv), resume=_resumption(folder), command=command)
        else:
            _train_side_by_side(left, num_jobs)
        build_ensemble(parent, folders, recipe.data.source, parse, command or [])


def _check(num_folds: int, num_jobs: int, resume: str | None) -> None:
    for name, value, least in (("folds", num_folds, 2), ("jobs", num_jobs, 1)):
        if value < least:
            raise RecipeError(f"--{name} must be at least {least}, got {value}")
    if resume not in (None, "auto"):
        raise RecipeError(f"--resume must be auto, got {resume!r}: each fold has its checkpoints")
    if (number := num_launched()) > 1:
        raise RecipeError(
            f"cross_validate must be started as one process, got {number}; use --jobs for several "
            "folds at a time, or train each fold with fit and data.fold"
        )


def _check_resume(parent: RunFolder, resume: str | None, recipe_text: str) -> None:
    """Check that a folder is empty, or to be resumed with the same recipe."""
    if parent.holds_run:
        raise RunFolderError(f"{parent.root} holds a run of fit; choose another run_dir")
    runs = [each.parent for each in (*parent.root.glob("fold_*/history.csv"),)]
    if runs and resume is None:
        raise RunFolderError(
            f"{parent.root} holds {counted(len(runs), 'fold')} already; "
            "resume with --resume auto, or choose another run_dir"
        )
    # Each fold checks its own epochs; this recipe may be that of a start which they refused.
    if runs and (changed := parent.changed_keys(recipe_text, checks_epochs=False)):
        raise RunFolderError(
            f"{parent.root} belongs to another recipe; these keys changed: {', '.join(changed)}; "
            "restore their values, or choose another run_dir"
        )


def _resumption(folder: RunFolder) -> str | None:
    return "auto" if folder.holds_run else None


def _is_done(folder: RunFolder, recipe: Recipe, recipe_text: str) -> bool:
    """True if a fold has no epoch left; a fold of another recipe is refused."""
    state = state_to_resume(folder, recipe_text, _resumption(folder))
    epochs = recipe.trainer.max_epochs
    return state is not None and is_complete(folder, recipe.monitor.patience, epochs, state)


def _train_side_by_side(left: Sequence[tuple[RunFolder, list[str]]], num_jobs: int) -> None:
    """Train folds in processes of their own, which end with this one."""
    waiting = list(left)
    running: dict[subprocess.Popen[bytes], tuple[RunFolder, IO[bytes]]] = {}
    errors: IO[bytes]
    try:
        while waiting or running:
            while waiting and len(running) < num_jobs:
                folder, argv = waiting.pop(0)
                with held_signals():
                    errors = tempfile.TemporaryFile()  # noqa: SIM115  (closed with the process)
                    process = _start(folder, argv, errors)
                    running[process] = folder, errors
                _logger.info("training %s, logged in %s", folder.root.name, folder.log_path)
            for process in [each for each in running if each.poll() is not None]:
                folder, errors = running.pop(process)
                with errors:
                    _check_end(folder, process.returncode, errors)
                _logger.info("%s is finished", folder.root.name)
            time.sleep(_POLL_SECONDS)
    finally:
        for process in running:
            process.terminate()
        for process, (_, errors) in running.items():
            process.wait()
            errors.close()


def _start(folder: RunFolder, argv: list[str], errors: IO[bytes]) -> subprocess.Popen[bytes]:
    resume = [f"--resume={each}" for each in (_resumption(folder),) if each]
    return subprocess.Popen(
        [sys.executable, "-m", "cxrignite", "fit", *argv, *resume],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=errors,
        # Ctrl-C reaches this process only, which ends the others.
        start_new_session=True,
        preexec_fn=partial(end_with_parent, os.getpid()),
    )


def _check_end(folder: RunFolder, code: int, errors: IO[bytes]) -> None:
    if code == 0:
        return
    if code < 0:
        raise FoldError(f"{folder.root.name} was ended by signal {-code}", 1)
    errors.seek(0)
    lines = errors.read().decode(errors="backslashreplace").strip().splitlines()
    last = lines[-1] if lines else f"exit code {code}"
    raise FoldError(f"{folder.root.name}: {last.removeprefix('cxrignite fit: error: ')}", code)
