"""Exported model: a folder that holds a model, its decision rule and a description of both.

This module imports neither torch nor a library that reads the model, so that an exported model can
be checked where those are not installed.
"""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal, Self

from pydantic import JsonValue

from cxrignite.data.patients import NewPatients
from cxrignite.errors import CheckpointError
from cxrignite.runs.json_codec import from_json, to_json

__all__ = [
    "DESCRIPTION",
    "MODEL_FILES",
    "ExportedFinding",
    "ExportedModel",
    "ExportedPoint",
    "ExportedPriorShift",
    "Parity",
    "PreprocessStep",
    "Reading",
    "TensorSpec",
]

DESCRIPTION = "model.json"
"""Name of the file that describes an exported model."""

MODEL_FILES = {"onnx": "model.onnx", "torch": "model.pt2"}
"""Name of the file of the model, by its format."""

_WAY_OUT = "export the run again, or restore the original"
_DIGEST = re.compile(rb'"sha256": "([0-9a-f]{64})"\s*\}\s*\Z')
_NO_DIGEST = "0" * 64


@dataclass(frozen=True)
class ExportedPriorShift:
    """Effect of sampler and loss on the prior of a finding; see `PriorShift`.

    Attributes:
        logit_shift: Constant to subtract from the logit of a score for the probability at the
            training prevalence; None if unknown, and for exclusive classes.
    """

    num_negative: int
    num_positive: int
    sampled_prevalence: float
    pos_weight: float | None
    logit_shift: float | None


@dataclass(frozen=True)
class ExportedPoint:
    """Thresholds of a finding and their certificate; the names are those of `OperatingPoint`.

    Attributes:
        chosen_on: `val`, `calibration`, or the name of the site whose images chose it.
        graph_threshold: Number that the model compares a score with: `threshold`, or slightly less
            if an image that chose the threshold has exactly this score, so that the rounding of
            another program does not change its decision. No other image that chose the threshold
            lies between the two, so the certificate covers both.
        graph_lower_threshold: As above, for `lower_threshold`.
    """

    threshold: float
    lower_threshold: float | None
    graph_threshold: float
    graph_lower_threshold: float | None
    status: Literal["certified", "empirical", "infeasible"]
    chosen_on: str
    min_threshold: float
    min_tnr: float
    min_tpr: float | None
    confidence: float | None
    joint: bool
    patient_found: Literal["every_image", "any_image"]
    tnr: float
    tpr: float
    tnr_lower_bound: float
    tpr_lower_bound: float | None
    num_negative: int
    num_positive: int
    num_false_positive: int
    num_false_negative: int
    num_negative_patients: int
    num_positive_patients: int | None
    note: str


@dataclass(frozen=True)
class ExportedFinding:
    """Finding of an exported model, and the rule that decides about it.

    Attributes:
        name: The positive class.
        classes: The negative and the positive class.
        decisions: Words of the output `decision`, by its value; empty without a threshold, and
            `decision` is then -1.
        point: The operating point; None without one.
        status: As in the column `status` of `predict`, such as `certified`; empty without a point.
        description: The rule in one line, as `predict` prints it.
        alarm: Line that `predict` prints first if the threshold is not usable; else empty.
    """

    name: str
    classes: tuple[str, str]
    decisions: tuple[str, ...]
    point: ExportedPoint | None
    prior_shift: ExportedPriorShift
    status: str
    description: str
    alarm: str


@dataclass(frozen=True)
class PreprocessStep:
    """MONAI transform of an image that has been read, scaled to `[0, 1]`.

    Attributes:
        class_path: Class of `monai.transforms`.
        init_args: Its settings.
    """

    class_path: str
    init_args: dict[str, JsonValue]


@dataclass(frozen=True)
class Reading:
    """Steps from a file to the input of the model.

    Attributes:
        image_size: Rows and columns that an image is resized to; None keeps the file's own.
        grey_scaling: Rule for the values that become black and white; see `GreyScaling`.
        preprocess: Transforms after the resizing, in order; usually none.
        rules: All steps in words.
        run_size: Rows and columns of the run's images after all steps. An image of another size
            cannot be scored.
        patients: Patients of new images.
    """

    image_size: tuple[int, int] | None
    grey_scaling: Literal["file", "stored", "minmax", "percentiles"]
    preprocess: tuple[PreprocessStep, ...]
    rules: tuple[str, ...]
    run_size: tuple[int, int]
    patients: NewPatients


@dataclass(frozen=True)
class TensorSpec:
    """Input or output of the model.

    Attributes:
        shape: Size of each dimension; a letter stands for any size.
    """

    name: str
    dtype: Literal["uint8", "float32", "int64"]
    shape: tuple[int | str, ...]


@dataclass(frozen=True)
class Parity:
    """Comparison of the exported model with the model of the run, on the same images.

    Attributes:
        num_images: Number of images of the run.
        num_checked: Number of further images, which `--check` named.
        batch_sizes: Numbers of images in a pass of the exported model; each image is in one pass of
            each size.
        reference: Number format and device of the run's model.
        runtime: Program that ran the exported model, with its version.
        score_difference: Largest difference of a score, by finding.
        probability_difference: Largest difference of a probability, by finding; None if unknown.
        num_decisions_different: Number of images with another decision, by finding.
    """

    num_images: int
    num_checked: int
    batch_sizes: tuple[int, ...]
    reference: str
    runtime: str
    score_difference: tuple[float, ...]
    probability_difference: tuple[float | None, ...]
    num_decisions_different: tuple[int, ...]


@dataclass(frozen=True)
class ExportedModel:
    """Content of `model.json`.

    Attributes:
        kind: Format of the model: `onnx` (`model.onnx`) or `torch` (`model.pt2`).
        weights_dtype: Number format of the stored weights; all computation is in float32.
        findings: The findings, in the order of the columns of the outputs.
        exclusive: True if an image has one of the findings at most; the scores are a softmax.
        classes: The name of images without a finding, then the name of each finding.
        operating_point: The site of the decision rule; None for the run's own.
        rule_sha256: Digest of the run's file with the decision rule.
        weights_sha256: Digest of the run's file with the weights.
        batch_norm_sha256: Digest of the batch statistics of the site; None uses those of the
            weights.
        views: Settings of each view whose scores are averaged with those of the image; the model
            makes the views.
        input: The image; see `Reading` for what it must hold.
        outputs: `score`, `probability` (NaN if unknown) and `decision`, in this order.
        run: Name of the run folder.
        versions: Version of each program that made the export.
        files: Digest of every other file of the folder, by its name.
        sha256: Digest of `model.json` with this value replaced by 64 zeros.
    """

    kind: Literal["onnx", "torch"]
    weights_dtype: Literal["fp32", "fp16"]
    findings: tuple[ExportedFinding, ...]
    exclusive: bool
    classes: tuple[str, ...]
    operating_point: str | None
    rule_sha256: str
    weights_sha256: str
    batch_norm_sha256: str | None
    views: tuple[dict[str, JsonValue], ...]
    reading: Reading
    input: TensorSpec
    outputs: tuple[TensorSpec, ...]
    run: str
    versions: dict[str, str]
    parity: Parity
    files: dict[str, str]
    format: Literal[1] = 1
    sha256: str = _NO_DIGEST

    @property
    def model_file(self) -> str:
        """Name of the file of the model."""
        return MODEL_FILES[self.kind]

    def to_json(self) -> bytes:
        """Return the content of `model.json`, with its digest."""
        content = to_json(replace(self, sha256=_NO_DIGEST))
        digest = hashlib.sha256(content).hexdigest()
        return to_json(replace(self, sha256=digest))

    @classmethod
    def load(cls, folder: Path) -> Self:
        """Read `model.json`, and check every file of the folder.

        The digests find each byte that was changed, and files of another export. They are no
        signature: someone who changes a file on purpose can compute them again.

        Raises:
            CheckpointError: A file is missing, damaged, was changed, or is of another export.
        """
        path = folder / DESCRIPTION
        content = _read(path)
        stored = _DIGEST.search(content)
        if stored is None:
            raise CheckpointError(
                f"{path} must end with its own sha256, as `cxrignite export` writes it; {_WAY_OUT}"
            )
        blank = content[: stored.start(1)] + _NO_DIGEST.encode() + content[stored.end(1) :]
        _check_digest(path, blank, stored[1].decode())
        try:
            found = from_json(cls, content)
        except (ValueError, RecursionError) as error:
            raise CheckpointError(
                f"{path} is of another version: {error}; export the run again"
            ) from error
        if found.model_file not in found.files or any(_is_path(name) for name in found.files):
            raise CheckpointError(f"{path} must list files of its folder; {_WAY_OUT}")
        for name in found.files:
            found.read_file(folder, name)
        return found

    def read_file(self, folder: Path, name: str) -> bytes:
        """Read a file of the folder, whose digest is checked.

        Raises:
            CheckpointError: It is missing, damaged, was changed, or is of another export.
        """
        content = _read(folder / name)
        _check_digest(folder / name, content, self.files[name])
        return content


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise CheckpointError(
            f"cannot read {path} of the exported model: {error.strerror}; {_WAY_OUT}"
        ) from error


def _check_digest(path: Path, content: bytes, expected: str) -> None:
    found = hashlib.sha256(content).hexdigest()
    if found != expected:
        raise CheckpointError(
            f"{path} was changed, or belongs to another export: its sha256 must be {expected}, "
            f"got {found}; {_WAY_OUT}"
        )


def _is_path(name: str) -> bool:
    return name in ("", ".", "..", DESCRIPTION) or not set(name).isdisjoint("/\\\0")
