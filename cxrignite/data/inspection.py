"""Every file read once: is it a whole image, and what is its digest."""

from __future__ import annotations

import hashlib
import logging
import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from itertools import chain
from typing import Literal, NamedTuple, TypeVar

from cxrignite.data.grey_scaling import GreyScaling, is_nearly_blank
from cxrignite.data.reading import Size, decode_image, read_bytes
from cxrignite.data.sources import Film
from cxrignite.errors import UnreadableImageError
from cxrignite.terminal import IN_FILE_ONLY

_logger = logging.getLogger(__name__)

MAX_THREADS = 8
_TASK_FILES = 16
_NUM_NAMED = 3

T = TypeVar("T")


@dataclass(frozen=True)
class Inspection:
    """What `inspect_films` found.

    Attributes:
        films: The readable films with their `sha256`, in the order they were given.
        unreadable: An error for each film left out, in that order too.
        nearly_blank: Names of the films that use little of the grey range, see `is_nearly_blank`.
    """

    films: list[Film]
    unreadable: list[UnreadableImageError]
    nearly_blank: list[str] = field(default_factory=list)

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

    def log_unreadable(self) -> None:
        """Logs in one line how many films were left out, with the first; all go to the log file."""
        if not self.unreadable:
            return
        # A download that is not whole may lack most of them.
        for error in self.unreadable:
            _logger.warning("left out: %s", error, extra=IN_FILE_ONLY)
        first = "; ".join(map(str, self.unreadable[:_NUM_NAMED]))
        _logger.warning(
            "%s of %s images left out, all listed in run.log: %s%s",
            f"{len(self.unreadable):,}",
            f"{len(self.films) + len(self.unreadable):,}",
            first,
            "; ..." if len(self.unreadable) > _NUM_NAMED else "",
        )


def inspect_films(
    films: Sequence[Film],
    *,
    on_unreadable: Literal["raise", "skip"] = "raise",
    decode: bool = True,
    size: Size | None = None,
    grey_scaling: GreyScaling = "file",
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
        grey_scaling: As they will be read.
        progress: Show a progress bar on stderr where that is a terminal.

    Returns:
        The readable films and the errors of the others.

    Raises:
        UnreadableImageError: Under `raise`, for the first unreadable film in the order given.
    """
    inspect = partial(_inspect, decode=decode, size=size, grey_scaling=grey_scaling)
    outcomes = outcomes_of(films, inspect, "inspecting", progress=progress)
    inspection = Inspection(
        [
            film.hashed(each.sha256)
            for film, each in zip(films, outcomes, strict=True)
            if isinstance(each, _Look)
        ],
        [each for each in outcomes if isinstance(each, UnreadableImageError)],
        [
            film.name
            for film, each in zip(films, outcomes, strict=True)
            if isinstance(each, _Look) and each.is_nearly_blank
        ],
    )
    if on_unreadable == "raise":
        inspection.check_all_readable()
    return inspection


def outcomes_of(
    films: Sequence[Film], read: Callable[[str], T], what: str, *, progress: bool
) -> list[T]:
    """Reads each file once, in a thread a core.

    Args:
        films: Films; a file that several of them name is read once.
        read: Reads a file.
        what: What that is, for the progress bar.
        progress: Show a progress bar on stderr where that is a terminal.

    Returns:
        What `read` gives, for each film.
    """
    paths = list(dict.fromkeys(film.file for film in films))
    # Several files a task: to hand a task over takes as long as to hash a small file.
    tasks = [paths[start : start + _TASK_FILES] for start in range(0, len(paths), _TASK_FILES)]
    pool = ThreadPoolExecutor(min(MAX_THREADS, os.cpu_count() or 1), thread_name_prefix=what)
    try:
        results = chain.from_iterable(pool.map(lambda task: list(map(read, task)), tasks))
        if progress:
            from tqdm import tqdm

            # `disable=None` keeps the bar off where stderr is not a terminal.
            results = tqdm(
                results, total=len(paths), desc=what, unit="img", leave=False, disable=None
            )
        found = dict(zip(paths, results, strict=True))
    finally:
        # Ended by a signal, the loop has handed over files by the thousand.
        pool.shutdown(cancel_futures=True)
    return [found[film.file] for film in films]


class _Look(NamedTuple):
    sha256: str
    is_nearly_blank: bool


def _inspect(
    path: str, *, decode: bool, size: Size | None, grey_scaling: GreyScaling
) -> _Look | UnreadableImageError:
    try:
        data = read_bytes(path)
        is_blank = decode and is_nearly_blank(decode_image(data, path, size, grey_scaling))
    except UnreadableImageError as error:
        # The traceback would keep the file's bytes alive until the pass ends.
        return error.with_traceback(None)
    return _Look(hashlib.sha256(data).hexdigest(), is_blank)
