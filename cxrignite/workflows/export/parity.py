"""Comparison of an exported model with the model of the run, on the same images."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import groupby
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from cxrignite.engines import BatchScorer
from cxrignite.errors import CxrIgniteError, NonFiniteError, is_resource_error
from cxrignite.runs.decision_rule import DecisionRule, probabilities
from cxrignite.runs.exported_model import ExportedFinding, Parity
from cxrignite.workflows.export.graphs import Graph, Outputs

BATCH_SIZES = (1, 7)
"""Numbers of images in a pass of the exported model."""

CPU_REFERENCE = "fp32 on cpu"
"""The reference whose scores an export in float32 reaches up to rounding."""

Images = Sequence[NDArray[np.uint8]]
"""Images, each of shape `(1, H, W)`."""


class Samples(NamedTuple):
    """Images, and the results of the run's model for them as `predict` writes them.

    Attributes:
        images: At least one image.
        score: Scores, `(N, K)`.
        probability: Probabilities at the training prevalence, `(N, K)`; NaN if unknown.
        decision: Decisions in words, `(N, K)`; empty without a threshold.
        num_checked: Number of the images that are not of the run.
        reference: Number format and device of the run's model.
    """

    images: Images
    score: NDArray[np.float64]
    probability: NDArray[np.float64]
    decision: NDArray[np.str_]
    num_checked: int
    reference: str


def scored(
    scorer: BatchScorer, images: Images, rules: Sequence[DecisionRule], num_checked: int
) -> Samples:
    """Score images with the run's model, and decide about them.

    Args:
        scorer: The run's model.
        images: At least one image.
        rules: The decision rule of each finding.
        num_checked: Number of the images that are not of the run.

    Raises:
        NonFiniteError: A score is NaN or infinite.
    """

    def run(batch: NDArray[np.uint8]) -> tuple[NDArray[np.float64]]:
        scores: NDArray[np.float64] = scorer(torch.from_numpy(batch))[0].cpu().double().numpy()
        return (scores.reshape(len(batch), len(rules)),)

    (score,) = _in_batches(run, images, scorer.batch_size or 1)
    if not np.isfinite(score).all():
        raise NonFiniteError("scores must be finite, got NaN or infinity from the run's model")
    unknown = np.full(len(score), np.nan)
    probability = [unknown if each is None else each for each in probabilities(rules, score)]
    decision = [
        [rule.decide(each) or "" for each in column.tolist()]
        for rule, column in zip(rules, score.T, strict=True)
    ]
    reference = f"{scorer.precision.name} on {scorer.device.type}"
    columns = np.stack(probability, axis=1), np.array(decision).T
    return Samples(images, score, *columns, num_checked, reference)


def compare(graph: Graph, samples: Samples, findings: Sequence[ExportedFinding]) -> Parity:
    """Run an exported model in batches of several sizes, and compare its results.

    Args:
        graph: The exported model.
        samples: Images with the results of the run's model.
        findings: The findings, with the words of the decisions.

    Raises:
        CxrIgniteError: The exported model cannot take an image.
    """
    score, probability = np.zeros(len(findings)), np.zeros(len(findings))
    differs = np.zeros(samples.score.shape, bool)
    for size in BATCH_SIZES:
        found = _in_batches(_named_errors(graph), samples.images, size)
        score = np.maximum(score, _largest(found[0], samples.score))
        probability = np.maximum(probability, _largest(found[1], samples.probability))
        for column, finding in enumerate(findings):
            words = np.array([*finding.decisions, ""])  # -1 is the last
            differs[:, column] |= words[found[2][:, column]] != samples.decision[:, column]
    unknown = np.isnan(samples.probability[0]).tolist()
    return Parity(
        num_images=len(samples.images) - samples.num_checked,
        num_checked=samples.num_checked,
        batch_sizes=BATCH_SIZES,
        reference=samples.reference,
        runtime=graph.runtime,
        score_difference=tuple(score.tolist()),
        probability_difference=tuple(
            None if is_unknown else each
            for is_unknown, each in zip(unknown, probability.tolist(), strict=True)
        ),
        num_decisions_different=tuple(differs.sum(axis=0).tolist()),
    )


def _named_errors(graph: Graph) -> Callable[[NDArray[np.uint8]], Outputs]:
    """Return the function that runs the model; errors of the runtime then name the images."""

    def run(images: NDArray[np.uint8]) -> Outputs:
        try:
            return graph.run(images)
        except Exception as error:  # the types depend on the runtime
            if is_resource_error(error):
                raise
            rows, columns = images.shape[2:]
            raise CxrIgniteError(
                f"the exported model must take images of {rows} x {columns}, as the run does, but "
                f"{graph.runtime} failed: {str(error).strip().splitlines()[0]}; train with "
                "data.image_size, which gives all images one size"
            ) from error

    return run


def _largest(found: NDArray[Any], expected: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the largest difference of each column; infinite if only one of both is NaN."""
    both_unknown = np.isnan(found) & np.isnan(expected)
    difference = np.where(both_unknown, 0.0, np.abs(found.astype(np.float64) - expected))
    largest: NDArray[np.float64] = np.nan_to_num(difference, nan=np.inf).max(axis=0)
    return largest


def _in_batches(
    run: Callable[[NDArray[np.uint8]], tuple[NDArray[Any], ...]], images: Images, size: int
) -> tuple[NDArray[Any], ...]:
    """Run a model on batches of at most `size` images of one shape; return its outputs in order."""
    batches = []
    for _, alike in groupby(images, key=lambda image: image.shape):
        group = list(alike)
        starts = range(0, len(group), size)
        batches += [run(np.stack(group[start : start + size])) for start in starts]
    return tuple(np.concatenate(each) for each in zip(*batches, strict=True))
