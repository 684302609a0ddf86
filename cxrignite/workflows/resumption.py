"""What a run goes on from, and everything that speaks against it, before anything is changed."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from cxrignite.errors import CheckpointError, RunFolderError
from cxrignite.handlers import latest_valid, load_checkpoint
from cxrignite.recipe import Recipe
from cxrignite.workflows.run_folder import RunFolder

_logger = logging.getLogger(__name__)


def state_to_resume(
    folder: RunFolder, recipe_text: str, resume: str | None
) -> Mapping[str, Any] | None:
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
    folder.read_history()
    folder.read_starts()
    if folder.is_finished:
        folder.read_decision()
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
    checkpoint = load_checkpoint(path)
    if "trainer" not in checkpoint:
        raise CheckpointError(f"{path} holds no training state to go on with, as last.pt does")
    return checkpoint


def is_complete(folder: RunFolder, recipe: Recipe, checkpoint: Mapping[str, Any]) -> bool:
    """Whether nothing is left to do.

    Args:
        folder: The run.
        recipe: How many epochs it is to have.
        checkpoint: Its newest state.
    """
    state = checkpoint["trainer"]
    epoch = state["iteration"] // state["epoch_length"]
    patience = recipe.monitor.patience
    stopped = patience is not None and checkpoint["early_stopping"]["counter"] >= patience
    return folder.is_finished and (stopped or epoch >= recipe.trainer.max_epochs)
