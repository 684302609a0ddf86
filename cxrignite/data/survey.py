"""What can be known of every film without a model: its file, its size, its greys, a thumbnail."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from io import BytesIO
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from cxrignite.data.dicom import DICOM_SUFFIXES
from cxrignite.data.inspection import reading_threads
from cxrignite.data.reading import decode_image, holds_dicom, read_bytes, resize_image
from cxrignite.data.sources import Film
from cxrignite.errors import UnreadableImageError, is_shortage

THUMBNAIL_SIDE = 32
"""Rows and columns of a thumbnail."""

SUFFIXES = {"JPEG": (".jpg", ".jpeg"), "PNG": (".png",), "DICOM": tuple(sorted(DICOM_SUFFIXES))}
"""What files of each format are called."""

_QUANTILES = (0.01, 0.25, 0.5, 0.75, 0.99)
# Greys and colours are looked at in an image of about this size.
_SIDE = 2 * THUMBNAIL_SIDE


class FilmFacts(NamedTuple):
    """What one file says of its film.

    Attributes:
        format: `JPEG`, `PNG` or `DICOM`, by its content.
        height: Rows, as its header says.
        width: Columns.
        mode: Pillow's word for its pixels: `L`, `RGB`, `I;16`, ...; `L` for a DICOM.
        colour: Mean difference of a pixel's largest and smallest channel, in grey levels; 0 for a
            grey film, whatever its mode.
        mean: Mean grey level of the film at 64 x 64, in `[0, 255]`.
        deviation: Standard deviation of the same.
        quantiles: Its grey levels at 1, 25, 50, 75 and 99 %.
        num_bytes: Of the file.
    """

    format: str
    height: int
    width: int
    mode: str
    colour: float
    mean: float
    deviation: float
    quantiles: tuple[float, ...]
    num_bytes: int


@dataclass(frozen=True)
class Survey:
    """What `survey_films` found.

    Attributes:
        films: The readable films with their digests, in the order they were given.
        facts: One of each of them.
        thumbnails: Of each of them, shape `(N, 32, 32)`, uint8.
        unreadable: The films that cannot be read, each with the error.
    """

    films: list[Film]
    facts: list[FilmFacts]
    thumbnails: NDArray[np.uint8]
    unreadable: list[tuple[Film, UnreadableImageError]]


def survey_films(films: Sequence[Film], *, progress: bool = False) -> Survey:
    """Reads each file once, in threads, and keeps a few numbers and a thumbnail of it.

    Args:
        films: The films of every split.
        progress: Show a progress bar on stderr where that is a terminal.
    """
    paths = list(dict.fromkeys(film.file for film in films))
    with reading_threads("survey") as pool:
        results = pool.map(_look_at, paths)
        if progress:
            from tqdm import tqdm

            # `disable=None` keeps the bar off where stderr is not a terminal.
            results = tqdm(
                results, total=len(paths), desc="surveying", unit="img", leave=False, disable=None
            )
        found = dict(zip(paths, results, strict=True))
    readable, facts, thumbnails, unreadable = [], [], [], []
    for film in films:
        outcome = found[film.file]
        if isinstance(outcome, UnreadableImageError):
            unreadable.append((film, outcome))
            continue
        readable.append(film.hashed(outcome.sha256))
        facts.append(outcome.facts)
        thumbnails.append(outcome.thumbnail)
    side = THUMBNAIL_SIDE
    stacked = np.stack(thumbnails) if thumbnails else np.zeros((0, side, side), dtype=np.uint8)
    return Survey(readable, facts, stacked, unreadable)


class _Look(NamedTuple):
    sha256: str
    facts: FilmFacts
    thumbnail: NDArray[np.uint8]


def _look_at(path: str) -> _Look | UnreadableImageError:
    try:
        data = read_bytes(path)
        if holds_dicom(data, path):
            # Decoded whole in any case, and then its size is known.
            whole = decode_image(data, path)
            grey = resize_image(whole, (_SIDE, _SIDE))
            header, colour = ("DICOM", whole.shape[0], whole.shape[1], "L"), 0.0
        else:
            grey = decode_image(data, path, (_SIDE, _SIDE))
            header, colour = _header(data), _colour(data)
    except UnreadableImageError as error:
        # The traceback would keep the file's bytes alive until the pass ends.
        return error.with_traceback(None)
    except Exception as error:
        if is_shortage(error):
            raise
        # A file at the edge of being readable, and Pillow can raise nearly anything for it.
        return UnreadableImageError(path, str(error) or type(error).__name__)
    return _Look(
        hashlib.sha256(data).hexdigest(),
        FilmFacts(
            *header,
            colour=colour,
            mean=float(grey.mean()),
            deviation=float(grey.std()),
            quantiles=tuple(np.quantile(grey, _QUANTILES).tolist()),
            num_bytes=len(data),
        ),
        grey.reshape(THUMBNAIL_SIDE, 2, THUMBNAIL_SIDE, 2).mean(axis=(1, 3)).round().astype("u1"),
    )


def _header(data: bytes) -> tuple[str, int, int, str]:
    """Format, rows, columns and mode of a JPEG or PNG file that can be decoded."""
    with Image.open(BytesIO(data), formats=("JPEG", "PNG")) as image:
        return str(image.format), image.height, image.width, image.mode


def _colour(data: bytes) -> float:
    """How far the channels of a file that can be decoded are apart, in grey levels."""
    with Image.open(BytesIO(data), formats=("JPEG", "PNG")) as image:
        if image.mode in {"L", "LA", "1"} or image.mode.startswith("I"):
            return 0.0
        # A JPEG is decoded at a fraction of its size where that is enough.
        image.draft("RGB", (_SIDE, _SIDE))
        image.thumbnail((_SIDE, _SIDE))
        pixels = np.asarray(image.convert("RGB"))
    channels = pixels.astype(np.int16)
    return float((channels.max(axis=2) - channels.min(axis=2)).mean())
