"""A survey of images without a model: file format, size, grey levels and a thumbnail."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from cxrignite.data import jpeg, png
from cxrignite.data.crash_report import call_named
from cxrignite.data.grey_scaling import GreyScaling
from cxrignite.data.inspection import outcomes_of
from cxrignite.data.pillow_formats import open_with_pillow
from cxrignite.data.reading import decode_image, holds_dicom, read_bytes, resize_image
from cxrignite.data.sources import ImageRecord
from cxrignite.errors import UnreadableImageError

THUMBNAIL_SIDE = 32
"""Rows and columns of a thumbnail."""

_QUANTILES = (0.01, 0.25, 0.5, 0.75, 0.99)
# Side of the reduced image from which grey levels and colours are computed.
_SIDE = 2 * THUMBNAIL_SIDE


class ImageFacts(NamedTuple):
    """Properties of an image file.

    Attributes:
        format: A key of `image_formats.SUFFIXES`, detected by the content.
        height: Rows, from the header.
        width: Columns, from the header.
        mode: Pillow's name of the pixel format: `L`, `RGB`, `I;16`, ...; `L` for DICOM.
        colour: Mean difference of a pixel's largest and smallest channel, in grey levels; 0 for a
            grey image in any mode.
        mean: Mean grey level of the image at 64 x 64, in `[0, 255]`.
        quantiles: Quantiles of the grey levels at 1, 25, 50, 75 and 99 %.
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
    """The result of `survey_images`.

    Attributes:
        records: The records of readable images with their digests, in the given order.
        facts: The properties of each.
        thumbnails: The thumbnail of each, shape `(N, 32, 32)`, uint8.
        unreadable: The images that cannot be read, each with the error.
    """

    records: list[ImageRecord]
    facts: list[ImageFacts]
    thumbnails: NDArray[np.uint8]
    unreadable: list[tuple[ImageRecord, UnreadableImageError]]
    grey_scaling: GreyScaling = "file"


def survey_images(
    records: Sequence[ImageRecord], *, grey_scaling: GreyScaling = "file", progress: bool = False
) -> Survey:
    """Read each file once, in threads, and keep its properties and a thumbnail.

    A progress bar is shown only if stderr is a terminal.
    """
    inspect = partial(_inspect, grey_scaling=grey_scaling)
    outcomes = outcomes_of(records, inspect, "surveying", progress=progress)
    readable, facts, thumbnails, unreadable = [], [], [], []
    for record, outcome in zip(records, outcomes, strict=True):
        if isinstance(outcome, UnreadableImageError):
            unreadable.append((record, outcome))
            continue
        readable.append(record.hashed(outcome.sha256))
        facts.append(outcome.facts)
        thumbnails.append(outcome.thumbnail)
    side = THUMBNAIL_SIDE
    stacked = np.stack(thumbnails) if thumbnails else np.zeros((0, side, side), dtype=np.uint8)
    return Survey(readable, facts, stacked, unreadable, grey_scaling)


class _Inspected(NamedTuple):
    sha256: str
    facts: ImageFacts
    thumbnail: NDArray[np.uint8]


def _inspect(path: str, grey_scaling: GreyScaling) -> _Inspected | UnreadableImageError:
    try:
        data = read_bytes(path)
        grey, kind = call_named(path, _decoded, data, path, grey_scaling)
    except UnreadableImageError as error:
        # The traceback would keep the file's bytes alive until the pass ends.
        return error.with_traceback(None)
    return _Inspected(
        hashlib.sha256(data).hexdigest(),
        ImageFacts(
            *kind,
            mean=float(grey.mean()),
            deviation=float(grey.std()),
            quantiles=tuple(np.quantile(grey, _QUANTILES).tolist()),
            num_bytes=len(data),
        ),
        grey.reshape(THUMBNAIL_SIDE, 2, THUMBNAIL_SIDE, 2).mean(axis=(1, 3)).round().astype("u1"),
    )


_Kind = tuple[str, int, int, str, float]
"""Format, rows, columns, mode and colour, as in `ImageFacts`."""


def _decoded(data: bytes, path: str, grey_scaling: GreyScaling) -> tuple[NDArray[np.uint8], _Kind]:
    """Return a small grey image, and the kind of file it is from."""
    if holds_dicom(data, path):
        # DICOM is always decoded at full size, which also gives its size.
        whole = decode_image(data, path, None, grey_scaling)
        kind = ("DICOM", whole.shape[0], whole.shape[1], "L", 0.0)
        return resize_image(whole, (_SIDE, _SIDE)), kind
    grey = decode_image(data, path, (_SIDE, _SIDE), grey_scaling)
    if data.startswith(jpeg.SIGNATURE):
        header = jpeg.open_jpeg(data, path)
        small = None if header.mode == "L" else header.decode("RGB", _SIDE, _SIDE)
        colour = 0.0 if small is None else _colour(Image.fromarray(small))
        return grey, ("JPEG", header.height, header.width, header.mode, colour)
    is_png = data.startswith(png.SIGNATURE)
    image = png.open_png(data, path)[0] if is_png else open_with_pillow(data, path)
    is_grey = image.mode in {"L", "LA", "1"} or image.mode.startswith("I")
    colour = 0.0 if is_grey else _colour(image)
    return grey, (
        "PNG" if is_png else str(image.format),
        image.height,
        image.width,
        image.mode,
        colour,
    )


def _colour(image: Image.Image) -> float:
    """Return the mean difference between the channels of an image, in grey levels."""
    small = image.convert("RGB").resize((_SIDE, _SIDE), Image.Resampling.BILINEAR, reducing_gap=2.0)
    channels = np.asarray(small).astype(np.int16)
    return float((channels.max(axis=2) - channels.min(axis=2)).mean())
