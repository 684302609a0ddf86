"""Gathering of tensors over processes that may have different numbers of rows."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import NamedTuple, Protocol, runtime_checkable

import numpy as np
import torch
import torch.distributed as dist
from numpy.typing import NDArray
from torch import Tensor

from cxrignite.functional.arrays import check_finite
from cxrignite.functional.confusion import checked_scores
from cxrignite.functional.findings import checked_findings

NO_INDEX = -1
"""Index of an image whose batch has no indices."""

_log = logging.getLogger(__name__)


class EpochScores(NamedTuple):
    """Scores of an epoch, each image once, identical on all processes.

    Attributes:
        y_score: Probabilities of the positive class, shape `(N,)`; of several findings `(N, K)`.
        y_true: Labels, 0 or 1, in the same shape; with several findings -1 if unknown.
        index: Positions in the evaluated split, shape `(N,)`, ascending. If the batches have no
            index, it is `NO_INDEX` and the order is that of collection.
    """

    y_score: NDArray[np.float64]
    y_true: NDArray[np.int64]
    index: NDArray[np.int64]  # type: ignore[assignment]  # It hides `tuple.index`.


@runtime_checkable
class ScoreSource(Protocol):
    """Provider of the scores of an engine's epoch: `engine.state.score_source`.

    Handlers use it if it is there, so that scores are collected and gathered once.
    """

    def gather(self) -> EpochScores:
        """Return the epoch's scores of all processes.

        This is a collective call: every process must make it, after the epoch's last batch. A
        second call returns the same object.
        """
        ...


def gather_rows(rows: Tensor) -> Tensor:
    """Concatenate the rows of all processes, in rank order.

    `torch.distributed.all_gather` needs equal shapes. With unequal ones gloo (torch 2.14) aborts
    the process with fewer rows and gives the others misplaced rows; Ignite's `EpochMetric` (0.5.5)
    calls it this way. This function pads the rows to the largest number and removes the padding
    afterwards.

    Every process must call it, with the same dtype and the same shape after the first dimension;
    only a process without rows may have another number of columns, since it cannot know it.
    Without an initialised process group it returns `rows` itself.

    Args:
        rows: Rows of this process, shape `(n, ...)`; `n` may differ between processes and be 0.

    Returns:
        All rows, shape `(sum of all n, ...)`, on the device of `rows`, without gradients.

    Raises:
        ValueError: If `rows` has no first dimension.

    Examples:
        >>> gather_rows(torch.tensor([1, 2])).tolist()
        [1, 2]
    """
    if rows.ndim == 0:
        raise ValueError("rows must have at least one dimension, got a 0-d tensor")
    if not _is_distributed():
        return rows
    device = _collective_device(rows)
    num_columns = rows.shape[1] if rows.ndim == 2 else 0
    own_size = torch.tensor([rows.shape[0], num_columns], dtype=torch.int64, device=device)
    sizes = [torch.empty_like(own_size) for _ in range(dist.get_world_size())]
    dist.all_gather(sizes, own_size)
    num_rows = [int(size[0]) for size in sizes]
    if rows.ndim == 2 and not rows.shape[0]:
        widths = [int(size[1]) for size in sizes if size[0]]
        rows = rows.new_empty(0, max(widths, default=num_columns))

    padded = torch.zeros((max(num_rows), *rows.shape[1:]), dtype=rows.dtype, device=device)
    padded[: rows.shape[0]] = rows.detach()
    shares = [torch.empty_like(padded) for _ in num_rows]
    if padded.numel():
        dist.all_gather(shares, padded)
    joined = torch.cat([share[:count] for share, count in zip(shares, num_rows, strict=True)])
    return joined.to(rows.device)


def gather_images(rows: Tensor, index: Tensor) -> tuple[Tensor, Tensor]:
    """Gather one row per image from all processes, each image once.

    A distributed sampler repeats images until every process has the same number. Repeats are
    recognised by their index, and the first one is kept. More repeats than that cause a warning,
    since the batch may hold something else in place of the index, such as a patient number. Every
    process must call this function, as `gather_rows`.

    Args:
        rows: Images of this process, shape `(n, ...)`.
        index: Index of each image, shape `(n,)`, int64; `NO_INDEX` if it is unknown.

    Returns:
        Rows and indices, sorted by index; if any index is unknown, all rows in rank order.

    Examples:
        >>> rows, index = gather_images(torch.tensor([5.0, 7.0]), torch.tensor([3, 1]))
        >>> rows.tolist(), index.tolist()
        ([7.0, 5.0], [1, 3])
    """
    rows, index = gather_rows(rows), gather_rows(index)
    if (index == NO_INDEX).any():
        return rows, index
    unique, first = np.unique(index.cpu().numpy(), return_index=True)
    num_repeats = len(index) - len(unique)
    num_processes, rank = (dist.get_world_size(), dist.get_rank()) if _is_distributed() else (1, 0)
    if num_repeats >= num_processes and rank == 0:
        _log.warning(
            "%d of %d images are ignored because their index is repeated; check that "
            "state.batch[2] is the index of each image",
            num_repeats,
            len(index),
        )
    return rows[torch.from_numpy(first).to(rows.device)], torch.from_numpy(unique)


def scores_of(rows: Tensor, index: Tensor, num_findings: int = 1) -> EpochScores:
    """Return an epoch's scores from gathered rows.

    Args:
        rows: Columns of scores, labels and optional further values, shape `(N, 2 * num_findings or
            more)`.
        index: Index of each image, shape `(N,)`.
        num_findings: Number of columns of scores, and of labels.

    Returns:
        The scores.

    Raises:
        NonFiniteError: If a score is NaN or infinite.
        ValueError: If a score is outside `[0, 1]`, or a label is neither 0 nor 1; of several
            findings, a label may be NaN or -1.
    """
    if num_findings > 1:
        y_score, y_true = rows[:, :num_findings], rows[:, num_findings : 2 * num_findings]
        check_finite(y_score.flatten())
        return EpochScores(*checked_findings(y_score, y_true), index.cpu().numpy())
    check_finite(rows[:, 0])
    scores, positive = checked_scores(rows[:, 0], rows[:, 1])
    return EpochScores(scores, positive.astype(np.int64), index.cpu().numpy())


def image_index(batch: object, num_images: int) -> Tensor:
    """Read the index of each image from the third part of a batch.

    Args:
        batch: A list or tuple whose third part is the index. A batch of another type, with fewer
            than three parts or with None as the third has no index. A list of mappings, one per
            image as in MONAI's engines, has none either.
        num_images: Expected number of indices.

    Returns:
        Indices, shape `(num_images,)`, int64, on the CPU; `NO_INDEX` if the batch has none. They
        are a copy, since a tensor from a loader worker keeps a file descriptor open.

    Raises:
        ValueError: If the third part is not a sequence of `num_images` whole numbers.
    """
    third = batch[2] if isinstance(batch, list | tuple) and len(batch) > 2 else None
    if third is None or isinstance(third, Mapping):
        return torch.full((num_images,), NO_INDEX)
    rule = "state.batch[2] must be the index of each image, whole numbers of shape (N,)"
    try:
        index = torch.as_tensor(third)
    except (TypeError, ValueError, RuntimeError) as error:
        raise ValueError(f"{rule}, got {type(third).__name__}") from error
    is_whole = not (index.is_floating_point() or index.is_complex() or index.dtype == torch.bool)
    if index.dim() != 1 or not (is_whole or index.numel() == 0):  # an empty list is float
        raise ValueError(f"{rule}, got {index.dtype} {tuple(index.shape)}")
    if len(index) != num_images:
        raise ValueError(f"index must have one entry per image, got {len(index)} for {num_images}")
    return index.to("cpu", torch.int64, copy=True)


def _is_distributed() -> bool:
    return dist.is_available() and dist.is_initialized()


def _collective_device(rows: Tensor) -> torch.device:
    # NCCL transfers CUDA memory only; gloo supports both.
    if rows.device.type == "cpu" and dist.get_backend() == "nccl":
        return torch.device("cuda", torch.cuda.current_device())
    return rows.device
