"""Drawing of an image beside the same image with its map, and a caption below."""

from __future__ import annotations

import io
import re
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from cxrignite.functional.map_overlay import as_grey, colour_scale, overlay
from cxrignite.handlers.explanation import Explanation
from cxrignite.terminal import printable

_MIN_PANEL = 320
_MARGIN = 8
_TEXT_SIZE = 14
_MAX_NAME = 60


def map_picture(
    image: Tensor, importance: Tensor, lines: Sequence[str], *, opacity: float = 0.6
) -> NDArray[np.uint8]:
    """Draw an image and its map side by side, with lines of text below.

    Args:
        image: Shape `(C, H, W)`, as `overlay` takes images.
        importance: The map, shape `(H, W)`, in `[0, 1]`.
        lines: The text below; long lines are wrapped.
        opacity: Opacity of the most important pixel, in `(0, 1]`.

    Returns:
        Shape `(H', W', 3)`, uint8.

    Raises:
        ValueError: If the shapes do not fit.
    """
    # Imported here, so that importing the handlers needs no image library.
    from PIL import Image, ImageDraw, ImageFont

    mapped = overlay(image[None], importance[None], opacity=opacity)[0].permute(1, 2, 0)
    grey = as_grey(image[None])[0].round().to(torch.uint8)[..., None].expand(-1, -1, 3)
    # Small images are enlarged by a whole factor, which keeps the pixel values.
    scale = max(1, -(-_MIN_PANEL // grey.shape[1]))
    panels = [
        Image.fromarray(panel.numpy()).resize(
            (scale * grey.shape[1], scale * grey.shape[0]), Image.Resampling.NEAREST
        )
        for panel in (grey.contiguous(), mapped.contiguous())
    ]
    width = 2 * panels[0].width + 3 * _MARGIN
    font = ImageFont.load_default(_TEXT_SIZE)
    text_width, shown = width - 2 * _MARGIN, map(printable, lines)
    wrapped = [part for line in shown for part in _wrap(line, font.getlength, text_width)]
    line_height = round(1.4 * _TEXT_SIZE)
    height = panels[0].height + 3 * _MARGIN + line_height * len(wrapped)
    canvas = Image.new("RGB", (width, height), "white")
    for number, panel in enumerate(panels):
        canvas.paste(panel, (_MARGIN + number * (panel.width + _MARGIN), _MARGIN))
    # The colour scale in the margin below the map, from 0 to its highest value.
    colours = colour_scale(panels[1].width, _MARGIN - 2, opacity=opacity).permute(1, 2, 0)
    place = (panels[0].width + 2 * _MARGIN, _MARGIN + panels[1].height + 1)
    canvas.paste(Image.fromarray(colours.contiguous().numpy()), place)
    draw = ImageDraw.Draw(canvas)
    for number, line in enumerate(wrapped):
        top = panels[0].height + 2 * _MARGIN + number * line_height
        draw.text((_MARGIN, top), line, fill="black", font=font)
    return np.array(canvas)


def explanation_pictures(
    explanation: Explanation, classes: tuple[str, str], where: str
) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    """Draw an explanation.

    Args:
        explanation: The image, its map and its caption.
        classes: The negative and the positive class.
        where: The method and the layer of the map.

    Returns:
        Image, map and caption, shape `(H', W', 3)`, and the map over the image, `(H, W, 3)`.
    """
    image, importance, opacity = explanation.image, explanation.importance, explanation.opacity
    lines = explanation.caption(classes, where)
    picture = map_picture(image, importance, lines, opacity=opacity)
    over = overlay(image[None], importance[None], opacity=opacity)[0]
    return picture, over.permute(1, 2, 0).numpy()


def picture_name(number: int, known_as: str) -> str:
    """Return the stem of an image's files: its number, which is unique, and its own name."""
    stem = re.sub(r"[^A-Za-z0-9._-]+", "_", Path(known_as).stem)[-_MAX_NAME:]
    return f"{number:06d}" if known_as == str(number) else f"{number:06d}_{stem}"


def as_png(pixels: NDArray[np.uint8]) -> memoryview:
    """Encode a picture as PNG.

    Args:
        pixels: Shape `(H, W, 3)`.
    """
    from PIL import Image

    file = io.BytesIO()
    Image.fromarray(np.ascontiguousarray(pixels)).save(file, "PNG")
    return file.getbuffer()


def _wrap(line: str, measure: Callable[[str], float], width: int) -> list[str]:
    """Wrap a line at words; a word longer than the width is split."""
    parts, current = [], ""
    for word in line.split():
        longer = f"{current} {word}".lstrip()
        if measure(longer) > width and current:
            parts.append(current)
            longer = word
        while measure(longer) > width and len(longer) > 1:
            fitting = 1
            while measure(longer[: fitting + 1]) <= width:
                fitting += 1
            parts.append(longer[:fitting])
            longer = longer[fitting:]
        current = longer
    return [*parts, current]
