"""Every file read once: is it a whole image, and what is its digest."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import Literal

from cxrignite.data.reading import decode_image, read_bytes
from cxrignite.data.sources import Film
from cxrignite.errors import UnreadableImageError

MAX_THREADS = 8


@dataclass(frozen=True)
class Inspection:
    """What `inspect_films` found.

    Attributes:
        films: The readable films with their `sha256`, in the order they were given.
        unreadable: An error for each film left out, in that order too.
    """

    films: list[Film]
    unreadable: list[UnreadableImageError]


def inspect_films(
    films: Sequence[Film],
    *,
    on_unreadable: Literal["raise", "skip"] = "raise",
    progress: bool = False,
) -> Inspection:
    """Reads each file once, in threads: hashes it and decodes it in full.

    No more images are in memory at a time than there are threads.

    Args:
        films: The films to inspect.
        on_unreadable: `raise` stops at the end of the pass, `skip` leaves unreadable films out.
        progress: Show a progress bar on stderr where that is a terminal.

    Returns:
        The readable films and the errors of the others.

    Raises:
        UnreadableImageError: Under `raise`, for the first unreadable film in the order given; its
            reason counts the others, so that all can be mended at once.
    """
    num_threads = min(MAX_THREADS, os.cpu_count() or 1)
    with ThreadPoolExecutor(num_threads, thread_name_prefix="inspect") as pool:
        results = pool.map(_inspect, films)
        if progress:
            from tqdm import tqdm

            # `disable=None` keeps the bar off where stderr is not a terminal.
            results = tqdm(results, total=len(films), desc="inspecting", unit="img", disable=None)
        outcomes = list(results)
    unreadable = [outcome for outcome in outcomes if isinstance(outcome, UnreadableImageError)]
    if unreadable and on_unreadable == "raise":
        first, num_more = unreadable[0], len(unreadable) - 1
        if num_more:
            raise UnreadableImageError(first.path, f"{first.reason} (and {num_more} more)")
        raise first
    return Inspection([film for film in outcomes if isinstance(film, Film)], unreadable)


def _inspect(film: Film) -> Film | UnreadableImageError:
    try:
        data = read_bytes(film.path)
        decode_image(data, film.path)
    except UnreadableImageError as error:
        # The traceback would keep the file's bytes alive until the pass ends.
        return error.with_traceback(None)
    return replace(film, sha256=hashlib.sha256(data).hexdigest())
