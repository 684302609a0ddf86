"""An exported ONNX model, run by onnxruntime on the CPU."""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from cxrignite.errors import CheckpointError, RecipeError
from cxrignite.runs.exported_model import ExportedModel


class ModelOutputs(NamedTuple):
    """Outputs of an exported model for a batch, each of shape `(n, K)`.

    Attributes:
        score: In `[0, 1]`.
        decision: Positions among the words of a finding; -1 without a threshold.
    """

    score: NDArray[np.float64]
    decision: NDArray[np.int64]


class OnnxModel:
    """Scorer of batches of images, all filled up to one size.

    The last bits of a score depend on the size of its batch, as in `BatchScorer`.

    Args:
        folder: The exported model.
        description: Its description, see `ExportedModel.load`.
        batch_size: Number of images of every pass.
        num_threads: Number of threads.

    Raises:
        RecipeError: onnxruntime is not installed, or the folder has a model of another format.
        CheckpointError: onnxruntime cannot read the model, or its inputs are not as described.
    """

    def __init__(
        self, folder: Path, description: ExportedModel, *, batch_size: int, num_threads: int
    ) -> None:
        if description.kind != "onnx":
            raise RecipeError(
                f"predict --exported needs a model of the format onnx, got {description.kind} in "
                f"{folder}; export the run with --format onnx"
            )
        try:
            import onnxruntime
        except ImportError as error:
            raise RecipeError(
                "predict --exported needs onnxruntime; in a checkout, pip install '.[onnx]'"
            ) from error
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = num_threads
        options.log_severity_level = 3  # errors, which are raised too
        # Waiting threads would take the cores from those that read images.
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        name = description.model_file
        content = description.read_file(folder, name)
        try:
            self._session = onnxruntime.InferenceSession(
                content, options, providers=["CPUExecutionProvider"]
            )
        except Exception as error:  # its errors have no common class
            reason = str(error).partition("\n")[0]
            raise CheckpointError(
                f"onnxruntime cannot read {folder / name}: {reason}; its version may be too old, "
                f"got {onnxruntime.__version__}"
            ) from error
        self._input, self._batch_size = description.input.name, batch_size
        self._outputs = [each.name for each in description.outputs]

    def __call__(self, images: NDArray[np.uint8]) -> ModelOutputs:
        """Score a batch.

        Args:
            images: Shape `(n, 1, H, W)`, uint8, at most `batch_size` and at least one.
        """
        filled = np.resize(images, (self._batch_size, *images.shape[1:]))
        found: list[Any] = self._session.run(self._outputs, {self._input: filled})
        outputs = dict(zip(self._outputs, found, strict=True))
        num_images = len(images)
        return ModelOutputs(
            outputs["score"][:num_images].astype(np.float64), outputs["decision"][:num_images]
        )
