"""State from which a run is resumed, and all checks before anything is changed."""

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
    """Return the state to resume from; None for a new run.

    Raises:
        RunFolderError: The folder holds a run already (without `resume`), none (with a path), or a
            run of another recipe.
        DamagedRunError: A file of the run is damaged, missing or changed.
        CheckpointError: The checkpoint is missing, damaged, or not a training state.
    """
    if folder.is_ensemble:
        raise RunFolderError(
            f"{folder.root} must hold a run of `fit`, got an ensemble; resume it with "
            "`cxrignite cross_validate`, or choose another run_dir"
        )
    folder.files.check(folder.history_path)  # a run without it must not be restarted silently
    if resume is None:
        if folder.holds_run:
            raise RunFolderError(
                f"{folder.root} holds a run already; "
                "resume it with --resume auto, or choose another run_dir"
            )
        return None
    if not folder.holds_run:
        if resume == "auto":
            _logger.info("%s holds no run yet: starting a new one", folder.root)
            return None
        raise RunFolderError(
            f"{folder.root} holds no run to resume; start one without --resume PATH"
        )
    folder.files.warn_if_unchecked()
    folder.files.check(folder.split_path)
    # A result that is missing is made again; what cannot be replaced must not be found at the end.
    folder.files.check(*(path for path in folder.files.listed() if path.is_dir()))
    folder.read_history()
    folder.read_starts()
    if folder.is_finished:
        folder.read_rules()
        folder.read_reference()
    changed = folder.changed_keys(recipe_text)
    if changed:
        raise RunFolderError(
            f"{folder.root} belongs to another recipe; these keys changed: {', '.join(changed)}; "
            "restore their values, or choose another run_dir"
        )
    automatic = resume == "auto"
    if Path(resume).is_dir():
        raise RunFolderError(
            f"--resume must be auto or a checkpoint file, got {resume!r}, which is a folder"
        )
    if not (automatic or Path(resume).exists()):
        raise CheckpointError(
            f"--resume must be auto or a checkpoint file, got {resume}, which does not exist"
        )
    path = latest_valid(folder.checkpoints_dir, "last.pt") if automatic else Path(resume)
    state = load_training_state(path)
    if state.recipe_hash != folder.recipe_hash():
        raise CheckpointError(
            f"the checkpoint {path} must be of the same recipe as {folder.root}, "
            "got one of another recipe"
        )
    return state


def check_processes(folder: RunFolder, num_processes: int) -> None:
    """Check that a run is resumed on as many processes as before: the steps depend on it.

    Raises:
        RunFolderError: The run was trained on another number.
        DamagedRunError: `environment.json` is damaged, missing or changed.
    """
    starts = folder.read_starts()
    before = starts[-1].num_processes if starts else num_processes
    if before != num_processes:
        start = f"with `torchrun --nproc_per_node {before}`" if before != 1 else "without torchrun"
        raise RunFolderError(
            f"{folder.root} must be resumed on as many processes as it was trained on, {before}, "
            f"got {num_processes}; start it {start}"
        )


def check_best(folder: RunFolder, state: TrainingState, model: nn.Module) -> None:
    """Check that the best weights of a run still exist; without them it could not be finished.

    Raises:
        CheckpointError: Neither `best.pt` nor the previous file holds them, or later ones.
    """
    if state.best_epoch is None:
        return
    errors = []
    for path in (folder.best_path, previous_path(folder.best_path)):
        try:
            # A best epoch newer than the state will be reached again.
            best = load_best(path)
            if best.epoch >= state.best_epoch:
                check_weights(model, best.weights)
                return
        except CheckpointError as error:
            errors.append(str(error))
    reason = errors[0] if errors else f"{folder.best_path} does not hold them"
    raise CheckpointError(
        f"the weights of the best epoch, {state.best_epoch}, are not available: {reason}"
    )


def is_complete(
    folder: RunFolder, patience: int | None, max_epochs: int, state: TrainingState
) -> bool:
    """True if a run is finished and no epoch is left.

    `patience` is the number of epochs without improvement after which training stops; None never
    stops.
    """
    stopped = patience is not None and state.num_not_better >= patience
    return folder.is_finished and (stopped or state.epoch >= max_epochs)
