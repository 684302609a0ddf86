"""Every file read once: is it a whole image, and what is its digest."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from itertools import chain
from typing import Literal

from cxrignite.data.reading import Size, decode_image, read_bytes
from cxrignite.data.sources import Film
from cxrignite.errors import UnreadableImageError

MAX_THREADS = 8
_TASK_FILES = 16


@dataclass(frozen=True)
class Inspection:
    """What `inspect_films` found.

    Attributes:
        films: The readable films with their `sha256`, in the order they were given.
        unreadable: An error for each film left out, in that order too.
    """

    films: list[Film]
    unreadable: list[UnreadableImageError]

    def check_all_readable(self) -> None:
        """Refuses unreadable films.

        Raises:
            UnreadableImageError: For the first one; its reason counts the others, so that all can
                be mended at once.
        """
        if not self.unreadable:
            return
        first, num_more = self.unreadable[0], len(self.unreadable) - 1
        if num_more:
            raise UnreadableImageError(first.path, f"{first.reason} (and {num_more} more)")
        raise first


def inspect_films(
    films: Sequence[Film],
    *,
    on_unreadable: Literal["raise", "skip"] = "raise",
    decode: bool = True,
    size: Size | None = None,
    progress: bool = False,
) -> Inspection:
    """Reads each file once, in threads: hashes it and decodes it.

    No more images are in memory at a time than there are threads. A file that several films name
    is read once.

    Args:
        films: The films to inspect.
        on_unreadable: `raise` stops at the end of the pass, `skip` leaves unreadable films out.
        decode: Whether to decode too; else a file is unreadable only if its bytes are.
        size: Rows and columns that they will be read at, which is faster; see `decode_image`.
        progress: Show a progress bar on stderr where that is a terminal.

    Returns:
        The readable films and the errors of the others.

    Raises:
        UnreadableImageError: Under `raise`, for the first unreadable film in the order given.
    """
    paths = list(dict.fromkeys(film.file for film in films))
    with reading_threads("inspect") as pool:
        # Several files a task: to hand a task over takes as long as to hash a small file.
        inspect = partial(_inspect, decode=decode, size=size)
        tasks = [paths[start : start + _TASK_FILES] for start in range(0, len(paths), _TASK_FILES)]
        results = chain.from_iterable(pool.map(lambda task: list(map(inspect, task)), tasks))
        if progress:
            from tqdm import tqdm

            # `disable=None` keeps the bar off where stderr is not a terminal.
            results = tqdm(
                results, total=len(paths), desc="inspecting", unit="img", leave=False, disable=None
            )
        found = dict(zip(paths, results, strict=True))
    outcomes = [found[film.file] for film in films]
    inspection = Inspection(
        [
            film.hashed(each)
            for film, each in zip(films, outcomes, strict=True)
            if type(each) is str
        ],
        [each for each in outcomes if isinstance(each, UnreadableImageError)],
    )
    if on_unreadable == "raise":
        inspection.check_all_readable()
    return inspection


@contextmanager
def reading_threads(name: str) -> Iterator[ThreadPoolExecutor]:
    """Threads that read files, and begin no other file once the block has ended.

    Args:
        name: Of the threads.

    Yields:
        The threads, a core each.
    """
    pool = ThreadPoolExecutor(min(MAX_THREADS, os.cpu_count() or 1), thread_name_prefix=name)
    try:
        yield pool
    finally:
        # Ended by a signal, the block has handed over files by the thousand.
        pool.shutdown(cancel_futures=True)


def _inspect(path: str, *, decode: bool, size: Size | None) -> str | UnreadableImageError:
    try:
        data = read_bytes(path)
        if decode:
            decode_image(data, path, size)
    except UnreadableImageError as error:
        # The traceback would keep the file's bytes alive until the pass ends.
        return error.with_traceback(None)
    return hashlib.sha256(data).hexdigest()
