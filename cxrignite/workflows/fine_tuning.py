"""Start of a training from the weights of another one."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path

from cxrignite.data import ImageRecord
from cxrignite.errors import DataError, WeightsError
from cxrignite.handlers import verify_checkpoint
from cxrignite.nn import BinaryClassifier
from cxrignite.nn.model_parts import find_parts
from cxrignite.nn.weights import read_state, take_weights
from cxrignite.recipe import FineTuningRecipe
from cxrignite.reporting.console import print_start_from
from cxrignite.runs.run_folder import RunFolder
from cxrignite.terminal import counted


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


def check_start_is_apart(records: Sequence[ImageRecord], path: Path) -> None:
    """Check that no image to be evaluated had a part in the weights that training starts from.

    Only a run folder, or a checkpoint in it, says which images these were; they are compared by the
    digests of their files. The validation images of both runs may be the same.

    Args:
        records: The records of all splits.
        path: The recipe's `fine_tuning.start_from`.

    Raises:
        DataError: Images that trained the weights, or selected their epoch, are in a later split.
        DamagedRunError: The list of images of that run was changed.
    """
    if not path.is_dir() and path.parent.name != "checkpoints":
        return
    folder = RunFolder(path if path.is_dir() else path.parent.parent)
    if not folder.split_path.is_file():
        return
    before = folder.read_split("")
    trained, chose = (
        {each.sha256 for each in before if each.split == split} for split in ("train", "val")
    )
    for split, used in (
        ("val", trained),
        ("calibration", trained | chose),
        ("test", trained | chose),
    ):
        seen = [each.name for each in records if each.split == split and each.sha256 in used]
        if seen:
            raise DataError(
                "leakage: fine_tuning.start_from must be weights of other images, but "
                f"{folder.root} was trained or validated on {counted(len(seen), 'image')} of the "
                f"{split} split, the first is {seen[0]}; keep these images in the splits of that "
                "run, or start from other weights"
            )


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
