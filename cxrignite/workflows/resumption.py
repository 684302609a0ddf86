"""The state that a run is resumed from, and all checks before anything is changed."""

from __future__ import annotations

import logging
from pathlib import Path

from torch import nn

from cxrignite.errors import CheckpointError, RunFolderError
from cxrignite.handlers import latest_valid
from cxrignite.handlers.checkpoint_loading import previous_path
from cxrignite.runs.checkpoints import TrainingState, check_weights, load_best, load_training_state
from cxrignite.runs.run_folder import RunFolder

_logger = logging.getLogger(__name__)


def state_to_resume(
    folder: RunFolder, recipe_text: str, resume: str | None
) -> TrainingState | None:
    """The state to go on from; None where a run begins.

    Args:
        folder: The run.
        recipe_text: The recipe that it would go on with.
        resume: As for `fit`.

    Raises:
        RunFolderError: The folder holds a run already (without `resume`), none (with a path), or
            that of another recipe.
        DamagedRunError: A file of the run is damaged, lost, or not as it was written.
        CheckpointError: The checkpoint is missing, damaged, or no training state.
    """
    folder.files.check(folder.history_path)  # a run that has lost it must not be begun again
    if resume is None:
        if folder.holds_run:
            raise RunFolderError(
                f"{folder.root} holds a run already; "
                "go on with --resume auto, or choose another run_dir"
            )
        return None
    if not folder.holds_run:
        if resume == "auto":
            _logger.info("%s holds no run yet: beginning one", folder.root)
            return None
        raise RunFolderError(f"{folder.root} holds no run to go on with")
    folder.files.warn_if_unchecked()
    folder.files.check(folder.split_path)
    folder.read_history()
    folder.read_starts()
    if folder.is_finished:
        folder.read_rule()
        folder.read_reference()
    changed = folder.changed_keys(recipe_text)
    if changed:
        raise RunFolderError(
            f"{folder.root} belongs to another recipe; these keys changed: {', '.join(changed)}"
        )
    automatic = resume == "auto"
    if Path(resume).is_dir():
        raise RunFolderError(
            f"--resume must be auto or a checkpoint's file, got {resume!r}, which is a folder"
        )
    if not (automatic or Path(resume).exists()):
        raise CheckpointError(
            f"--resume must be auto or a checkpoint's file, got {resume}, which does not exist"
        )
    path = latest_valid(folder.checkpoints_dir, "last.pt") if automatic else Path(resume)
    state = load_training_state(path)
    if state.recipe_hash != folder.recipe_hash():
        raise CheckpointError(f"the checkpoint {path} is of another recipe than {folder.root}")
    return state


def check_processes(folder: RunFolder, num_processes: int) -> None:
    """Refuse to resume a run on another number of processes: its steps would be others.

    Args:
        folder: The run.
        num_processes: How many there are now.

    Raises:
        RunFolderError: The run was trained by another number.
        DamagedRunError: `environment.json` is damaged, lost, or not as it was written.
    """
    starts = folder.read_starts()
    before = starts[-1].num_processes if starts else num_processes
    if before != num_processes:
        start = f"with `torchrun --nproc_per_node {before}`" if before != 1 else "without torchrun"
        raise RunFolderError(
            f"{folder.root} must be resumed on as many processes as it was trained on, {before}, "
            f"got {num_processes}: start it {start}"
        )


def check_best(folder: RunFolder, state: TrainingState, model: nn.Module) -> None:
    """Refuse to resume a run whose best weights are lost: it could not end.

    Args:
        folder: The run.
        state: The state that it would resume from.
        model: The recipe's.

    Raises:
        CheckpointError: Neither `best.pt` nor the file before it holds them, or later ones.
    """
    if state.best_epoch is None:
        return
    errors = []
    for path in (folder.best_path, previous_path(folder.best_path)):
        try:
            # One that is newer than the state is found again when its epoch is.
            best = load_best(path)
            if best.epoch >= state.best_epoch:
                check_weights(model, best.weights)
                return
        except CheckpointError as error:
            errors.append(str(error))
    reason = errors[0] if errors else f"{folder.best_path} does not hold it"
    raise CheckpointError(f"the weights of epoch {state.best_epoch}, the best, are lost: {reason}")


def is_complete(
    folder: RunFolder, patience: int | None, max_epochs: int, state: TrainingState
) -> bool:
    """Whether nothing is left to do.

    Args:
        folder: The run.
        patience: Epochs without a better one, after which it stops; None: never.
        max_epochs: How many epochs it is to have.
        state: Its newest state.
    """
    stopped = patience is not None and state.num_not_better >= patience
    return folder.is_finished and (stopped or state.epoch >= max_epochs)
