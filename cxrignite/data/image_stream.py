"""A stream of new images as tensors, read by worker processes."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor
from torch.utils.data import Dataset

from cxrignite.data.loading import RecordTable, available_workers
from cxrignite.data.pipeline import Pipeline
from cxrignite.data.read_batches import ReadBatch, read_batch
from cxrignite.data.reading import Size
from cxrignite.data.sources import ImageRecord
from cxrignite.data.worker_loading import WorkerLoader
from cxrignite.errors import CxrIgniteError


class ImageStream:
    """Batches of new images in their order; an unreadable image does not affect the others.

    Memory holds only a few batches per worker process, for any number of images.

    Args:
        records: At least one record.
        pipeline: Reads and preprocesses the images.
        image_size: Rows and columns that an image must have after preprocessing.
        batch_size: Images per batch; the last one may have fewer.
        num_workers: Worker processes, at most one per core; 0 reads in this process.
        prefetch_factor: Batches that each worker prepares ahead.
        worker_timeout: As in `WorkerLoader`.
    """

    def __init__(
        self,
        records: Sequence[ImageRecord],
        pipeline: Pipeline,
        image_size: Size,
        *,
        batch_size: int,
        num_workers: int = 0,
        prefetch_factor: int = 2,
        worker_timeout: float | None = None,
    ) -> None:
        # No more workers than batches.
        num_workers = min(available_workers(num_workers), -(-len(records) // batch_size))
        self._loader = WorkerLoader(
            _Outcomes(RecordTable(records), pipeline, image_size),
            batch_size=batch_size,
            num_workers=num_workers,
            prefetch_factor=prefetch_factor,
            worker_timeout=worker_timeout,
            # Without it the pass draws from the global generator.
            generator=torch.Generator(),
        )

    def __len__(self) -> int:
        """Return the number of batches."""
        return len(self._loader)

    def __iter__(self) -> Iterator[ReadBatch[Tensor]]:
        """Return an iterator over the batches, from the first."""
        return iter(self._loader)

    def close(self) -> None:
        """End the worker processes."""
        self._loader.close()


class _Outcomes(Dataset[ReadBatch[Tensor] | CxrIgniteError]):
    """A data set of whole batches; an image's error is returned, since raising ends the worker."""

    def __init__(self, table: RecordTable, pipeline: Pipeline, image_size: Size) -> None:
        self._table, self._pipeline, self._image_size = table, pipeline, image_size

    def __len__(self) -> int:
        return len(self._table)

    def __getitems__(self, positions: list[int]) -> ReadBatch[Tensor] | CxrIgniteError:
        read, path_of = self._pipeline.read_and_judge, self._table.path
        try:
            return read_batch(positions, path_of, read, self._stack, self._image_size)
        except CxrIgniteError as error:
            return error

    def _stack(self, images: list[Tensor]) -> Tensor:
        empty = torch.empty(0, 1, *self._image_size, dtype=torch.uint8)
        return torch.stack(images) if images else empty
