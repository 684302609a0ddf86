"""Rows of all processes in one tensor, also where each process has another number of them."""

from __future__ import annotations

import torch
import torch.distributed as dist
from torch import Tensor


def gather_rows(rows: Tensor) -> Tensor:
    """Join the rows of all processes, in rank order.

    `torch.distributed.all_gather` needs equal shapes: with uneven ones gloo (torch 2.14) aborts the
    process with fewer rows and hands the other one misplaced rows. Ignite's `EpochMetric` (0.5.5)
    calls it so. Here the rows travel padded to the longest share and are cut again.

    Every process must call this, with the same dtype and the same shape behind the first
    dimension. Without an initialised process group it returns `rows` itself.

    Args:
        rows: This process's rows, shape `(n, ...)`; `n` may differ between processes and be 0.

    Returns:
        Shape `(sum of all n, ...)`, on the device of `rows`, without gradients.

    Raises:
        ValueError: If `rows` has no first dimension.

    Examples:
        >>> gather_rows(torch.tensor([1, 2])).tolist()
        [1, 2]
    """
    if rows.ndim == 0:
        raise ValueError("rows must have at least one dimension, got a 0-d tensor")
    if not (dist.is_available() and dist.is_initialized()):
        return rows
    device = _collective_device(rows)
    own_count = torch.tensor([rows.shape[0]], dtype=torch.int64, device=device)
    counts = [torch.empty_like(own_count) for _ in range(dist.get_world_size())]
    dist.all_gather(counts, own_count)
    num_rows = [int(count) for count in counts]

    padded = torch.zeros((max(num_rows), *rows.shape[1:]), dtype=rows.dtype, device=device)
    padded[: rows.shape[0]] = rows.detach()
    shares = [torch.empty_like(padded) for _ in num_rows]
    if padded.numel():
        dist.all_gather(shares, padded)
    joined = torch.cat([share[:count] for share, count in zip(shares, num_rows, strict=True)])
    return joined.to(rows.device)


def _collective_device(rows: Tensor) -> torch.device:
    # NCCL moves CUDA memory only; gloo takes either.
    if rows.device.type == "cpu" and dist.get_backend() == "nccl":
        return torch.device("cuda", torch.cuda.current_device())
    return rows.device
