"""Masks of findings, from the mask files or boxes that the attributes of an image name."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from cxrignite.data import jpeg, png, reading
from cxrignite.data.dicom import image_sides
from cxrignite.data.pipeline import Pipeline
from cxrignite.data.reading import Size
from cxrignite.data.sources import ImageRecord
from cxrignite.errors import DataError

MASK = "mask"
"""Attribute with the path of a mask, relative to the source's root; of several findings, each has
its own, `mask:FINDING`."""

BOXES = "boxes"
"""Attribute with boxes `x y width height; ...` in pixels of the file, from the top left; of several
findings, each has its own, `boxes:FINDING`."""

Box = tuple[float, float, float, float]
"""Left edge, upper edge, width and height."""


def attribute_of(kind: str, finding: str = "") -> str:
    """Return the name of an attribute, `mask` or `boxes`, of one of several findings if named.

    Examples:
        >>> attribute_of(MASK), attribute_of(BOXES, "Nodule")
        ('mask', 'boxes:Nodule')
    """
    return f"{kind}:{finding}" if finding else kind


def has_mask(record: ImageRecord, finding: str = "") -> bool:
    """True if an image has a mask file or boxes.

    Args:
        record: The image.
        finding: Name of the finding, if the data have several.
    """
    return any(record.attributes.get(attribute_of(kind, finding)) for kind in (MASK, BOXES))


def read_mask(
    record: ImageRecord, root: Path, pipeline: Pipeline, finding: str = ""
) -> Tensor | None:
    """Return the mask of a finding as the pipeline makes the image, so that it fits its image.

    A mask file is used before boxes. It is resized and preprocessed as its image. A box is drawn at
    the size that the image is resized to, then preprocessed.

    Args:
        record: The image.
        root: The folder that a mask's path is relative to.
        pipeline: Reads and preprocesses the images.
        finding: Name of the finding, if the data have several.

    Returns:
        Shape `(1, H, W)`, uint8, above 127 inside; null if the image has neither mask nor boxes.

    Raises:
        UnreadableImageError: If the mask or the image cannot be read.
        DataError: If the boxes are not numbers, or a transform fails.
    """
    name = record.attributes.get(attribute_of(MASK, finding))
    if name:
        path = root / name
        # Not the rule of the images: the 99th percentile of a small mask is black.
        return _preprocessed(reading.read_image(path, pipeline.image_size), pipeline, path)
    boxes = record.attributes.get(attribute_of(BOXES, finding))
    if not boxes:
        return None
    sides = file_sides(record.path)
    drawn = draw_boxes(parse_boxes(boxes, record.name), sides, pipeline.image_size or sides)
    return _preprocessed(drawn, pipeline, record.path)


def check_mask_size(mask: Tensor, image_size: Size, record: ImageRecord, finding: str = "") -> None:
    """Check that a mask fits its image.

    Args:
        mask: Shape `(1, H, W)`.
        image_size: Rows and columns of the image.
        record: The image, for the error.
        finding: Name of the finding, if the data have several.

    Raises:
        DataError: If it has another size.
    """
    rows, columns = mask.shape[1:]
    if (rows, columns) != tuple(image_size):
        name = record.attributes.get(attribute_of(MASK, finding), BOXES)
        raise DataError(
            f"mask {name} of {record.name} must have the size of its image after preprocessing, "
            f"{image_size[0]} x {image_size[1]}, got {rows} x {columns}; set data.image_size"
        )


def _preprocessed(grey: NDArray[np.uint8], pipeline: Pipeline, path: Path) -> Tensor:
    return pipeline.preprocessed(torch.from_numpy(grey)[None], path)


def format_boxes(boxes: Iterable[Box]) -> str:
    """Return boxes as the text of an attribute.

    Examples:
        >>> format_boxes([(264, 152, 213, 379.5), (1, 2, 3, 4)])
        '264 152 213 379.5; 1 2 3 4'
    """
    return "; ".join(" ".join(f"{number:.10g}" for number in box) for box in boxes)


def parse_boxes(text: str, name: str) -> list[Box]:
    """Return the boxes of an attribute's text.

    Args:
        text: As `format_boxes` writes it.
        name: The image, for errors.

    Raises:
        DataError: If it is something else.
    """
    try:
        boxes = [tuple(map(float, part.split())) for part in text.split(";")]
    except ValueError:
        boxes = []
    if not all(len(box) == 4 and box_is_valid(box) for box in boxes) or not boxes:
        raise DataError(
            f"boxes of {name} must be 'x y width height; ...' with sides above 0, got {text!r}"
        )
    return [(x, y, width, height) for x, y, width, height in boxes]


def box_is_valid(box: Sequence[float]) -> bool:
    """True if all numbers are finite, and width and height, the last two, are above 0."""
    return all(map(math.isfinite, box)) and min(box[2:]) > 0


def draw_boxes(boxes: Iterable[Box], sides: Size, size: Size) -> NDArray[np.uint8]:
    """Draw filled boxes on a black image.

    Args:
        boxes: In pixels of an image with these `sides`.
        sides: Rows and columns that the boxes refer to.
        size: Rows and columns of the result.

    Returns:
        Shape `(H, W)`: 255 times the share of each pixel inside a box.
    """
    drawn = np.zeros(size)
    for x, y, width, height in boxes:
        rows, columns = (
            _covered(start * new / old, length * new / old, new)
            for start, length, old, new in zip((y, x), (height, width), sides, size, strict=True)
        )
        drawn = np.maximum(drawn, rows[:, None] * columns)
    return np.round(255 * drawn).astype(np.uint8)


def _covered(start: float, length: float, num_pixels: int) -> NDArray[np.float64]:
    """Return the share of each pixel of a line between start and start + length."""
    edges = np.clip(np.arange(num_pixels + 1), start, start + length)
    return np.diff(edges)


def file_sides(path: Path) -> Size:
    """Return rows and columns of an image file, upright by its EXIF orientation.

    Headers are used if possible, because decoding takes a hundred times as long.

    Raises:
        UnreadableImageError: If the file cannot be read.
    """
    data = reading.read_bytes(path)
    if data and reading.holds_dicom(data, path):
        return image_sides(data, path)
    if data.startswith(jpeg.SIGNATURE):
        header = jpeg.open_jpeg(data, path)
        sides = header.height, header.width
        return sides[::-1] if header.orientation in reading.TRANSPOSED else sides
    if data.startswith(png.SIGNATURE) and b"eXIf" not in data:
        return int.from_bytes(data[20:24]), int.from_bytes(data[16:20])
    rows, columns = reading.decode_image(data, path).shape
    return rows, columns
