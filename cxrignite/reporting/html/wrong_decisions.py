"""The images that the model called wrongly, as a gallery that fits into a page of bounded size."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path, PurePosixPath
from typing import NamedTuple

from PIL import Image

from cxrignite.data import ImageRecord, read_image
from cxrignite.data.grey_scaling import GreyScaling
from cxrignite.errors import UnreadableImageError
from cxrignite.reporting.html.html_page import to_data_uri
from cxrignite.reporting.numbers import MINUS, score_text
from cxrignite.runs.run_results import ScoredImage

MAX_WRONG_DECISIONS = 100
"""Misses of each kind that are shown, the farthest from the threshold; the others are counted."""

LARGEST_SIDE = 320
"""Pixels of the longest side of a picture, where there is room for all of them."""

# Longest side in pixels, and JPEG quality: the first that fits is taken.
_SIZES = ((LARGEST_SIDE, 80), (256, 75), (192, 70), (128, 60), (96, 40))


class WrongDecision(NamedTuple):
    """An image called wrongly.

    Attributes:
        name: Its path inside the data set.
        patient: The patient's key.
        truth: The class it belongs to.
        score: Raw, as text.
        distance: From the threshold to the score, with its sign, as text.
        attributes: What else is known of the image.
    """

    name: str
    patient: str
    truth: str
    score: str
    distance: str
    attributes: str


class Picture(NamedTuple):
    """A picture as the page holds it.

    Attributes:
        uri: A data URI.
        aspect: Its width by its height, above 0.
    """

    uri: str
    aspect: float


@dataclass(frozen=True)
class ErrorKind:
    """The misses of one kind.

    Attributes:
        title: What happened to them.
        wrong_decisions: The farthest from the threshold first, at most `MAX_WRONG_DECISIONS`.
        num_left_out: How many more there are.
        pictures: Of the images that were found, by name.
        maps: The map over an image, by the image's name; None is a map that is empty.
    """

    title: str
    wrong_decisions: Sequence[WrongDecision]
    num_left_out: int
    pictures: Mapping[str, Picture] = field(default_factory=dict)
    maps: Mapping[str, Picture | None] = field(default_factory=dict)

    def pictured(
        self, pictures: Mapping[str, Picture], maps: Mapping[str, Picture | None]
    ) -> ErrorKind:
        """The same with those of the pictures and maps that are of its images."""
        names = [wrong.name for wrong in self.wrong_decisions]
        return replace(
            self,
            pictures={name: pictures[name] for name in names if name in pictures},
            maps={name: maps[name] for name in names if name in maps},
        )


def find_wrong_decisions(
    scored: Sequence[ScoredImage],
    threshold: float,
    records: Sequence[ImageRecord],
    classes: tuple[str, str],
) -> list[ErrorKind]:
    """Collect the false negatives, then the false positives.

    Args:
        scored: Images with their labels and scores.
        threshold: A score at or above it is called positive; in `[0, 1]`.
        records: The images of the run, for their attributes.
        classes: The negative and the positive class.
    """
    attributes = {record.name: record.attributes for record in records}
    kinds = []
    for label, title in (
        (1, f"Missed: {classes[1]} images called {classes[0]} (false negatives)"),
        (0, f"False alarms: {classes[0]} images called {classes[1]} (false positives)"),
    ):
        wrong = [
            record
            for record in scored
            if record.label == label and label != (record.score >= threshold)
        ]
        # By name where they tie, so that the page is the same whatever the order of the rows.
        wrong.sort(key=lambda record: (-abs(record.score - threshold), record.name))
        wrong_decisions = [
            WrongDecision(
                record.name,
                record.patient,
                classes[label],
                score_text(record.score),
                f"{record.score - threshold:+.4f}".replace("-", MINUS),
                ", ".join(
                    f"{key}: {value}" for key, value in attributes.get(record.name, {}).items()
                ),
            )
            for record in wrong[:MAX_WRONG_DECISIONS]
        ]
        kinds.append(ErrorKind(title, wrong_decisions, len(wrong) - len(wrong_decisions)))
    return kinds


def draw_wrong_decisions(
    kinds: Sequence[ErrorKind],
    root: Path | None,
    grey_scaling: GreyScaling,
    overlays: Mapping[str, Image.Image | None],
    num_bytes: int,
) -> list[ErrorKind]:
    """Add a picture to each wrong whose image can be read, and its map, all of one size.

    Args:
        kinds: The misses.
        root: The data set's folder, which the names are relative to; None where it is not known.
        grey_scaling: As the run read them.
        overlays: The map over an image, by the image's name; None is a map that is empty.
        num_bytes: What all pictures together may take in the page; the size falls until they do.
            Where not even the smallest does there are no maps, and then no images either.

    Returns:
        The misses with what pictures there are.
    """
    names = [wrong.name for kind in kinds for wrong in kind.wrong_decisions]
    images = {} if root is None else {name: _read_small(root, name, grey_scaling) for name in names}
    records = {name: image for name, image in images.items() if image is not None}
    for shown in (overlays, {}):
        # Of one size: an image and its map are there to be compared.
        for side, quality in _SIZES:
            pictures = {
                name: _to_picture(record, side, quality) for name, record in records.items()
            }
            maps = {
                name: None if overlay is None else _to_picture(overlay, side, quality)
                for name, overlay in shown.items()
            }
            taken = [*pictures.values(), *filter(None, maps.values())]
            if sum(len(picture.uri) for picture in taken) <= num_bytes:
                return [kind.pictured(pictures, maps) for kind in kinds]
    return list(kinds)


def _read_small(root: Path, name: str, grey_scaling: GreyScaling) -> Image.Image | None:
    inside = PurePosixPath(name)
    # A predictions file may come from anywhere, and must not show other files of this machine.
    if inside.is_absolute() or ".." in inside.parts:
        return None
    try:
        image = Image.fromarray(read_image(root / inside, None, grey_scaling))
    except (UnreadableImageError, ValueError):  # the latter for a null byte in a name
        return None
    image.thumbnail((LARGEST_SIDE, LARGEST_SIDE))
    return image


def _to_picture(image: Image.Image, side: int, quality: int) -> Picture:
    small = image.copy()
    small.thumbnail((side, side))
    data = io.BytesIO()
    small.save(data, "JPEG", quality=quality, optimize=True)
    return Picture(to_data_uri(data.getvalue(), "jpeg"), small.width / small.height)
