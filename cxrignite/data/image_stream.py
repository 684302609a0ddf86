"""A stream of images, each read once and in order; the result is an image or an error text."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import torch
from torch import Tensor
from torch.utils.data import Dataset

from cxrignite.data.loading import RecordTable, available_workers
from cxrignite.data.pipeline import Pipeline
from cxrignite.data.reading import Size
from cxrignite.data.sources import ImageRecord
from cxrignite.data.worker_loading import WorkerLoader
from cxrignite.errors import CxrIgniteError, DataError, UnreadableImageError


class ReadBatch(NamedTuple):
    """A batch of images, with the errors of those that could not be read.

    Attributes:
        images: The images that were read, shape `(n, 1, H, W)`, uint8; `n` may be 0.
        positions: Their `n` positions among the stream's records.
        failures: Error text by position, for all other images of the batch.
        nearly_blank: Positions of the images that use little of the grey range.
    """

    images: Tensor
    positions: list[int]
    failures: dict[int, str]
    nearly_blank: list[int]


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

    def __iter__(self) -> Iterator[ReadBatch]:
        """Return an iterator over the batches, from the first."""
        return iter(self._loader)

    def close(self) -> None:
        """End the worker processes."""
        self._loader.close()


class _Outcomes(Dataset[ReadBatch | CxrIgniteError]):
    """A data set of whole batches; an image's error is returned, since raising ends the worker."""

    def __init__(self, table: RecordTable, pipeline: Pipeline, image_size: Size) -> None:
        self._table, self._pipeline, self._image_size = table, pipeline, image_size

    def __len__(self) -> int:
        return len(self._table)

    def __getitems__(self, positions: list[int]) -> ReadBatch | CxrIgniteError:
        images, failures, nearly_blank = {}, {}, []
        for position in positions:
            try:
                images[position], is_blank = self._read(self._table.path(position))
                nearly_blank += [position] * is_blank
            except UnreadableImageError as error:
                failures[position] = error.reason
            except DataError as error:  # a transform cannot handle this image
                failures[position] = str(error)
            except CxrIgniteError as error:  # the process has a problem, not the image
                return error
        empty = torch.empty(0, 1, *self._image_size, dtype=torch.uint8)
        stacked = torch.stack(list(images.values())) if images else empty
        return ReadBatch(stacked, list(images), failures, nearly_blank)

    def _read(self, path: str) -> tuple[Tensor, bool]:
        image, is_blank = self._pipeline.read_and_judge(path)
        rows, columns = image.shape[-2:]
        if (rows, columns) != self._image_size:
            expected_rows, expected_columns = self._image_size
            raise UnreadableImageError(
                path,
                f"it must have {expected_rows} x {expected_columns} pixels after preprocessing, "
                f"like the run's images, got {rows} x {columns}",
            )
        return image, is_blank
