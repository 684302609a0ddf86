"""Conversion of a module to a file of ONNX or of `torch.export`, and running of such a file."""

from __future__ import annotations

import importlib
import io
import logging
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, Literal, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.export import Dim, ExportedProgram

from cxrignite.errors import CxrIgniteError, RecipeError, is_resource_error
from cxrignite.runs.exported_model import TensorSpec
from cxrignite.workflows.export.scoring_model import INPUT, OUTPUTS

Kind = Literal["onnx", "torch"]
Outputs = tuple[NDArray[np.float32], NDArray[np.float32], NDArray[np.int64]]

_NUM_EXAMPLES = 2  # with one, torch would fix the number of images
ONNX_PACKAGES = ("onnx", "onnxscript", "onnxruntime")
_MAX_BYTES = 2**31 - 1  # of a protocol buffer


class Graph(NamedTuple):
    """A module as the bytes of a file.

    Attributes:
        content: The file.
        rows: Rows of an image; a letter for any number.
        columns: Columns of an image; a letter for any number.
        run: Runs the file: images, `(N, 1, H, W)`, uint8, to the three outputs.
        runtime: Program that `run` uses, with its version.
    """

    content: bytes
    rows: int | str
    columns: int | str
    run: Callable[[NDArray[np.uint8]], Outputs]
    runtime: str

    @property
    def input(self) -> TensorSpec:
        """The input of the model."""
        return TensorSpec(INPUT, "uint8", ("N", 1, self.rows, self.columns))


def check_packages(kind: Kind) -> None:
    """Check that the packages of a format are installed.

    Raises:
        RecipeError: One is missing.
    """
    for package in ONNX_PACKAGES if kind == "onnx" else ():
        try:
            importlib.import_module(package)
        except ImportError as error:
            raise RecipeError(
                f"--format onnx needs {package}, which is not installed; "
                "run pip install '.[onnx]' in a checkout"
            ) from error


def make_graph(
    module: nn.Module,
    image: Tensor,
    kind: Kind,
    *,
    any_size: bool = False,
    properties: Mapping[str, str] | None = None,
) -> Graph:
    """Convert a module.

    Args:
        module: Takes images, `(N, 1, H, W)`, uint8, and returns a tuple of tensors.
        image: An image, `(1, H, W)`, uint8, for its size; its pixels are not used.
        kind: The format.
        any_size: Let rows and columns differ from those of the image, if the module allows it.
        properties: Facts to store in an ONNX file.

    Raises:
        CxrIgniteError: The module, such as one of the user's own code, cannot be converted.
    """
    side = Dim.AUTO if any_size else Dim.STATIC
    sizes = {0: Dim("N", min=1), 1: Dim.STATIC, 2: side, 3: side}
    # A file of `torch.export` holds its example, which must not be the image of a patient.
    examples = image.new_zeros(_NUM_EXAMPLES, *image.shape)
    try:
        with _quiet():
            program = torch.export.export(module.eval(), (examples,), dynamic_shapes=(sizes,))
            rows, columns = _sides(program, any_size)
            _forget_source(program)
            if kind == "torch":
                buffer = io.BytesIO()
                torch.export.save(program, buffer)
                content = buffer.getvalue()
            else:
                content = _onnx_bytes(program, properties or {})
    except Exception as error:  # torch raises errors of many types
        if is_resource_error(error) or isinstance(error, CxrIgniteError):
            raise
        reason = next(iter(str(error).strip().splitlines()), type(error).__name__)
        raise CxrIgniteError(
            f"the model cannot be exported to --format {kind}: {reason}; "
            "its code must consist of tensor operations that do not depend on the pixels"
        ) from error
    if kind == "torch":
        return Graph(content, rows, columns, _torch_runner(content), f"torch {torch.__version__}")
    return Graph(content, rows, columns, *_onnx_runner(content))


def _sides(program: ExportedProgram, any_size: bool) -> tuple[int | str, int | str]:
    """Return rows and columns that the program takes, a letter for any number."""
    found = next(node for node in program.graph.nodes if node.target == "image").meta["val"].shape
    height, width = (
        side if isinstance(side, int) else letter
        for side, letter in zip(found[2:], ("H", "W"), strict=True)
    )
    return height, width


def _forget_source(program: ExportedProgram) -> None:
    """Remove the lines of source code, which name folders of this machine."""
    for module in program.graph_module.modules():
        if isinstance(module, torch.fx.GraphModule):
            for node in module.graph.nodes:
                node.meta.pop("stack_trace", None)


def _onnx_bytes(program: ExportedProgram, properties: Mapping[str, str]) -> bytes:
    converted: Any = torch.onnx.export(
        program,
        input_names=[INPUT],
        output_names=list(OUTPUTS),
        dynamo=True,
        external_data=False,
        verbose=False,
    )
    model = converted.model
    for node in model.graph.all_nodes():
        node.metadata_props.clear()
    model.metadata_props.update(properties)
    proto = converted.model_proto
    size = proto.ByteSize()
    if size > _MAX_BYTES:
        raise CxrIgniteError(
            f"an ONNX model in one file must be smaller than 2 GB, got {size / 1e9:.1f} GB; "
            "use --dtype fp16 or --format torch"
        )
    content: bytes = proto.SerializeToString(deterministic=True)
    return content


def _torch_runner(content: bytes) -> Callable[[NDArray[np.uint8]], Outputs]:
    with _quiet():
        model = torch.export.load(io.BytesIO(content)).module()

    def run(images: NDArray[np.uint8]) -> Outputs:
        with torch.inference_mode():
            score, probability, decision = model(torch.from_numpy(images))
        return score.numpy(), probability.numpy(), decision.numpy()

    return run


def _onnx_runner(content: bytes) -> tuple[Callable[[NDArray[np.uint8]], Outputs], str]:
    import onnxruntime

    session = onnxruntime.InferenceSession(content, providers=["CPUExecutionProvider"])

    def run(images: NDArray[np.uint8]) -> Outputs:
        score, probability, decision = session.run(list(OUTPUTS), {INPUT: images})
        return score, probability, decision

    return run, f"onnxruntime {onnxruntime.__version__}"


@contextmanager
def _quiet() -> Iterator[None]:
    """Hide what torch and onnxscript print about their own work."""
    loggers = [logging.getLogger(name) for name in ("torch", "torch.onnx", "onnxscript", "onnx_ir")]
    levels = [logger.level for logger in loggers]
    try:
        for logger in loggers:
            logger.setLevel(logging.ERROR)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)
