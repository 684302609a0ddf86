"""Batches of new images, each read once and in order; the result is an image or an error text."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import islice
from typing import Any, Generic, NamedTuple, TypeVar

import numpy as np
from numpy.typing import NDArray

from cxrignite.data.reading import Size
from cxrignite.data.sources import ImageRecord
from cxrignite.errors import DataError, UnreadableImageError

_Images = TypeVar("_Images")
_AHEAD = 2  # batches per thread


class ReadBatch(NamedTuple, Generic[_Images]):
    """A batch of images, with the errors of those that could not be read.

    Attributes:
        images: The images that were read, shape `(n, 1, H, W)`, uint8; `n` may be 0.
        positions: Their `n` positions among the stream's records.
        failures: Error text by position, for all other images of the batch.
        nearly_blank: Positions of the images that use little of the grey range.
    """

    images: _Images
    positions: list[int]
    failures: dict[int, str]
    nearly_blank: list[int]


def read_batch(
    positions: Sequence[int],
    path_of: Callable[[int], str],
    read: Callable[[str], tuple[Any, bool]],
    stack: Callable[[list[Any]], _Images],
    image_size: Size,
) -> ReadBatch[_Images]:
    """Read the images of a batch; an unreadable one does not affect the others.

    Args:
        positions: Positions of the images.
        path_of: Returns the path of a position.
        read: Returns an image, shape `(1, H, W)`, and True if it is nearly blank.
        stack: Makes one array or tensor of images; there may be none.
        image_size: Rows and columns that an image must have after preprocessing.

    Raises:
        CxrIgniteError: The process has a problem, not the image.
    """
    images, failures, nearly_blank = {}, {}, []
    for position in positions:
        try:
            image, is_blank = read(path_of(position))
            rows, columns = image.shape[-2:]
            if (rows, columns) != tuple(image_size):
                failures[position] = (
                    f"it must have {image_size[0]} x {image_size[1]} pixels after preprocessing, "
                    f"like the run's images, got {rows} x {columns}"
                )
                continue
            images[position] = image
            nearly_blank += [position] * is_blank
        except UnreadableImageError as error:
            failures[position] = error.reason
        except DataError as error:  # a transform cannot handle this image
            failures[position] = str(error)
    return ReadBatch(stack(list(images.values())), list(images), failures, nearly_blank)


def read_batches(
    records: Sequence[ImageRecord],
    read: Callable[[str], tuple[NDArray[np.uint8], bool]],
    image_size: Size,
    *,
    batch_size: int,
    num_threads: int,
) -> Iterator[ReadBatch[NDArray[np.uint8]]]:
    """Read new images as arrays, in threads that read ahead; memory holds only a few batches.

    Args:
        records: The records.
        read: As in `read_batch`.
        image_size: As in `read_batch`.
        batch_size: Images per batch; the last one may have fewer.
        num_threads: Number of threads, at least 1.

    Yields:
        The batches, in order.

    Raises:
        CxrIgniteError: The process has a problem, not an image.
    """

    def stack(images: list[NDArray[np.uint8]]) -> NDArray[np.uint8]:
        return np.stack(images) if images else np.empty((0, 1, *image_size), np.uint8)

    def batch_at(start: int) -> ReadBatch[NDArray[np.uint8]]:
        positions = range(start, min(start + batch_size, len(records)))
        return read_batch(positions, lambda each: records[each].file, read, stack, image_size)

    starts = iter(range(0, len(records), batch_size))
    pool = ThreadPoolExecutor(num_threads, thread_name_prefix="reading")
    waiting: list[Future[ReadBatch[NDArray[np.uint8]]]] = []
    try:
        waiting += [pool.submit(batch_at, each) for each in islice(starts, _AHEAD * num_threads)]
        while waiting:
            batch = waiting.pop(0).result()
            waiting += [pool.submit(batch_at, each) for each in islice(starts, 1)]
            yield batch
    finally:
        # If a signal ends the loop, the batches ahead are not needed.
        pool.shutdown(wait=False, cancel_futures=True)
