"""Images read once, in their order, with an outcome for each: an image, or why there is none."""

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
    """What became of the images of a batch.

    Attributes:
        images: Of those that were read, shape `(n, 1, H, W)`, uint8; `n` may be 0.
        positions: Which images they are, `n` positions in the stream's images.
        failures: From the position of every other image to why it has no image.
        nearly_blank: Positions of those that use little of the grey range.
    """

    images: Tensor
    positions: list[int]
    failures: dict[int, str]
    nearly_blank: list[int]


class ImageStream:
    """Batches of new images in their order; an image that cannot be read costs no other its place.

    No more images are in memory than a few batches a worker process, however many images there are.

    Args:
        records: At least one.
        pipeline: How each is read and preprocessed.
        image_size: Rows and columns that an image must come out with.
        batch_size: Images of each batch but the last.
        num_workers: Processes that read, one a core at most; 0 reads in this one.
        prefetch_factor: Batches that each worker keeps ready.
        worker_timeout: As of `WorkerLoader`.
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
        # No worker is started that would have no batch to read.
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
        """Batches in all."""
        return len(self._loader)

    def __iter__(self) -> Iterator[ReadBatch]:
        """Reads the images from the first on."""
        return iter(self._loader)

    def close(self) -> None:
        """Ends the worker processes."""
        self._loader.close()


class _Outcomes(Dataset[ReadBatch | CxrIgniteError]):
    """Whole batches; what fails is told of its image and not raised, which would end the worker."""

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
            except DataError as error:  # of a transform, which this image does not suit
                failures[position] = str(error)
            except CxrIgniteError as error:  # of this process, whatever the image
                return error
        empty = torch.empty(0, 1, *self._image_size, dtype=torch.uint8)
        stacked = torch.stack(list(images.values())) if images else empty
        return ReadBatch(stacked, list(images), failures, nearly_blank)

    def _read(self, path: str) -> tuple[Tensor, bool]:
        image, is_blank = self._pipeline.read_and_judge(path)
        rows, columns = image.shape[-2:]
        if (rows, columns) != self._image_size:
            wanted_rows, wanted_columns = self._image_size
            raise UnreadableImageError(
                path,
                f"it must be {wanted_rows} x {wanted_columns} pixels after preprocessing, as the "
                f"run's images, got {rows} x {columns}",
            )
        return image, is_blank
