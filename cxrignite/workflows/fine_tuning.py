"""Start of a training from the weights of another one."""

from __future__ import annotations

import hashlib
from pathlib import Path

from cxrignite.errors import WeightsError
from cxrignite.handlers import verify_checkpoint
from cxrignite.nn import BinaryClassifier
from cxrignite.nn.model_parts import find_parts
from cxrignite.nn.weights import read_state, take_weights
from cxrignite.recipe import FineTuningRecipe
from cxrignite.reporting.console import print_start_from
from cxrignite.runs.run_folder import RunFolder


def start_from(model: BinaryClassifier, path: Path) -> str:
    """Load the weights of another training into a model, and print what was taken.

    Args:
        model: The recipe's model.
        path: A run folder, or a checkpoint file.

    Returns:
        The digest of the file.

    Raises:
        WeightsError: There is no such file, or it holds no weights of this backbone.
        CheckpointError: The best weights of the run are missing or damaged.
    """
    if not path.exists():
        raise WeightsError(
            "fine_tuning.start_from must be a run folder or a checkpoint file, "
            f"got {path}, which does not exist"
        )
    file = path
    if path.is_dir():
        file = RunFolder(path).best_path
        verify_checkpoint(file)
    taken = take_weights(model, read_state(file), str(file))
    print_start_from(file, taken, model)
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def check_parts(model: BinaryClassifier, tuning: FineTuningRecipe) -> int:
    """Check the names of the parts of a model, and count the parameters trained at first.

    Raises:
        RecipeError: A name matches no part, or no part is left to train.
    """
    find_parts(model, tuning.lr_factors, "fine_tuning.lr_factors")
    model.freeze(tuning.frozen)
    num_trained = sum(each.numel() for each in model.parameters() if each.requires_grad)
    model.unfreeze()
    return num_trained
