"""Inspection of image files: each is read once, hashed and checked for completeness."""

from __future__ import annotations

import hashlib
import logging
import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from itertools import chain
from typing import NamedTuple, TypeVar

from cxrignite.data.grey_scaling import GreyScaling, is_nearly_blank
from cxrignite.data.reading import Size, decode_image, read_bytes
from cxrignite.data.sources import ImageRecord
from cxrignite.errors import UnreadableImageError
from cxrignite.terminal import IN_FILE_ONLY

_logger = logging.getLogger(__name__)

MAX_THREADS = 8
_TASK_FILES = 16
_NUM_NAMED = 3

T = TypeVar("T")


@dataclass(frozen=True)
class Inspection:
    """The result of `inspect_images`.

    Attributes:
        records: The records of readable images with their `sha256`, in the given order.
        unreadable: An error for each image left out, in the same order.
        nearly_blank: Names of the images that use little of the grey range, see `is_nearly_blank`.
    """

    records: list[ImageRecord]
    unreadable: list[UnreadableImageError]
    nearly_blank: list[str] = field(default_factory=list)

    def check_all_readable(self) -> None:
        """Check that all images are readable.

        Raises:
            UnreadableImageError: For the first unreadable image, with the number of others.
        """
        if not self.unreadable:
            return
        first, num_more = self.unreadable[0], len(self.unreadable) - 1
        if num_more:
            raise UnreadableImageError(first.path, f"{first.reason} (and {num_more} more)")
        raise first

    def log_unreadable(self) -> None:
        """Log the number of images left out and the first of them; the log file lists all."""
        if not self.unreadable:
            return
        # An interrupted download may lack most of the images.
        for error in self.unreadable:
            _logger.warning("left out: %s", error, extra=IN_FILE_ONLY)
        first = "; ".join(map(str, self.unreadable[:_NUM_NAMED]))
        _logger.warning(
            "%s of %s images left out, all listed in run.log: %s%s",
            f"{len(self.unreadable):,}",
            f"{len(self.records) + len(self.unreadable):,}",
            first,
            "; ..." if len(self.unreadable) > _NUM_NAMED else "",
        )


def inspect_images(
    records: Sequence[ImageRecord],
    *,
    decode: bool = True,
    size: Size | None = None,
    grey_scaling: GreyScaling = "file",
    progress: bool = False,
) -> Inspection:
    """Read, hash and decode each file once, in threads.

    Memory holds at most one image per thread. A file that several records name is read once.

    Args:
        records: The images to inspect.
        decode: Decode the images too. If false, a file is unreadable only if its bytes are.
        size: Rows and columns that training reads them at, which is faster; see `decode_image`.
        grey_scaling: The grey scaling that training uses.
        progress: Show a progress bar on stderr if that is a terminal.
    """
    inspect = partial(_inspect, decode=decode, size=size, grey_scaling=grey_scaling)
    outcomes = outcomes_of(records, inspect, "inspecting", progress=progress)
    return Inspection(
        [
            record.hashed(each.sha256)
            for record, each in zip(records, outcomes, strict=True)
            if isinstance(each, _Inspected)
        ],
        [each for each in outcomes if isinstance(each, UnreadableImageError)],
        [
            record.name
            for record, each in zip(records, outcomes, strict=True)
            if isinstance(each, _Inspected) and each.is_nearly_blank
        ],
    )


def outcomes_of(
    records: Sequence[ImageRecord], read: Callable[[str], T], what: str, *, progress: bool
) -> list[T]:
    """Read each file once, with one thread per core, at most `MAX_THREADS`.

    A file that several records name is read once. `what` names the task in the progress bar, which
    is shown only if stderr is a terminal.
    """
    paths = list(dict.fromkeys(record.file for record in records))
    # Several files per task: submitting a task takes as long as hashing a small file.
    tasks = [paths[start : start + _TASK_FILES] for start in range(0, len(paths), _TASK_FILES)]
    pool = ThreadPoolExecutor(min(MAX_THREADS, os.cpu_count() or 1), thread_name_prefix=what)
    try:
        results = chain.from_iterable(pool.map(lambda task: list(map(read, task)), tasks))
        if progress:
            from tqdm import tqdm

            # `disable=None` shows no bar if stderr is not a terminal.
            results = tqdm(
                results, total=len(paths), desc=what, unit="img", leave=False, disable=None
            )
        found = dict(zip(paths, results, strict=True))
    finally:
        # If a signal ends the loop, thousands of files may still be queued.
        pool.shutdown(cancel_futures=True)
    return [found[record.file] for record in records]


class _Inspected(NamedTuple):
    sha256: str
    is_nearly_blank: bool


def _inspect(
    path: str, *, decode: bool, size: Size | None, grey_scaling: GreyScaling
) -> _Inspected | UnreadableImageError:
    try:
        data = read_bytes(path)
        is_blank = decode and is_nearly_blank(decode_image(data, path, size, grey_scaling))
    except UnreadableImageError as error:
        # The traceback would keep the file's bytes alive until the pass ends.
        return error.with_traceback(None)
    return _Inspected(hashlib.sha256(data).hexdigest(), is_blank)
