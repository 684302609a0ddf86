"""Memory that ran out, and worker processes that were ended for it, told in one line."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch

from cxrignite.errors import CxrIgniteError


@contextmanager
def shortages_in_one_line() -> Iterator[None]:
    """Turn what a machine's limits end into one line that says which key to lower.

    Yields:
        Nothing, for the block that computes.

    Raises:
        CxrIgniteError: The memory of the device or of the machine ran out, or a loader's worker
            process was ended; other exceptions pass as they are.
    """
    try:
        yield
    except torch.OutOfMemoryError as error:
        raise CxrIgniteError(
            f"{_told(error)}; lower data.batch_size (trainer.accumulation_steps makes up for it), "
            "data.eval_batch_size or data.image_size"
        ) from error
    except (MemoryError, RuntimeError) as error:
        text = str(error)
        # Not "Caught ... in DataLoader worker process 0", which is an error of the code there.
        if "DataLoader worker (pid" in text:
            raise CxrIgniteError(
                f"{_told(error)}; where memory ran out, lower data.num_workers or "
                "data.prefetch_factor, and in a container raise its shared memory"
            ) from error
        if isinstance(error, MemoryError) or "DefaultCPUAllocator" in text:
            raise CxrIgniteError(
                f"out of memory: {_told(error)}; lower data.batch_size, data.num_workers or "
                "data.image_size"
            ) from error
        raise


def _told(error: Exception) -> str:
    """The first line of what torch says, up to where it explains itself."""
    first = (str(error).splitlines() or [""])[0].partition(" GPU ")[0]
    told = first.partition(" It is possible")[0].rpartition("DefaultCPUAllocator: ")[2]
    return told.strip().rstrip(".") or type(error).__name__
