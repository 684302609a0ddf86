"""Wrong decisions of the model, as a gallery that fits into a page of bounded size."""

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
from cxrignite.functional import decide
from cxrignite.reporting.html.html_page import to_data_uri
from cxrignite.reporting.numbers import MINUS, score_text
from cxrignite.runs.run_results import ScoredImage

MAX_WRONG_DECISIONS = 100
"""Maximum number shown of each kind, the farthest from the threshold; the others are counted."""

LARGEST_SIDE = 320
"""Pixels of the longest side of a picture, if all pictures fit."""

# Longest side in pixels, and JPEG quality; the first that fits is used.
_SIZES = ((LARGEST_SIDE, 80), (256, 75), (192, 70), (128, 60), (96, 40))


class WrongDecision(NamedTuple):
    """Image called wrongly.

    Attributes:
        name: Path inside the data set.
        patient: Key of the patient.
        label: Name of the labelled class.
        labels: All its labels, if there are several findings.
        score: Score, as text.
        distance: Score minus threshold, with its sign, as text.
        attributes: Further attributes of the image.
    """

    name: str
    patient: str
    label: str
    labels: str
    score: str
    distance: str
    attributes: str


class Picture(NamedTuple):
    """Picture in the page.

    Attributes:
        uri: A data URI.
        aspect: Width divided by height, above 0.
    """

    uri: str
    aspect: float


@dataclass(frozen=True)
class ErrorKind:
    """Wrong decisions of one kind.

    Attributes:
        title: Name of the kind.
        wrong_decisions: The farthest from the threshold first, at most a given number.
        num_left_out: Number of further wrong decisions.
        pictures: Pictures of the images that were found, by name.
        maps: The map over an image, by the image's name; None is an empty map.
    """

    title: str
    wrong_decisions: Sequence[WrongDecision]
    num_left_out: int
    pictures: Mapping[str, Picture] = field(default_factory=dict)
    maps: Mapping[str, Picture | None] = field(default_factory=dict)

    @property
    def num_bytes(self) -> int:
        """Size of the pictures in the page."""
        drawn = [*self.pictures.values(), *self.maps.values()]
        return sum(len(picture.uri) for picture in drawn if picture is not None)

    def pictured(
        self, pictures: Mapping[str, Picture], maps: Mapping[str, Picture | None]
    ) -> ErrorKind:
        """Return a copy with the pictures and maps of its images."""
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
    lower: float | None = None,
    *,
    max_number: int = MAX_WRONG_DECISIONS,
    labels: Mapping[str, str] | None = None,
) -> list[ErrorKind]:
    """Collect the false negatives, then the false positives.

    Args:
        scored: Images with their labels and scores.
        threshold: A score at or above it is called positive; in `[0, 1]`.
        records: The images of the run, for their attributes.
        classes: The negative and the positive class.
        lower: A score below it is called negative, if the images between both are referred.
        max_number: Maximum number of each kind.
        labels: All labels of an image, by its name, if there are several findings.
    """
    attributes = {record.name: record.attributes for record in records}
    kinds = []
    for label, wrongly, title in (
        (1, "negative", f"{classes[1]} images called {classes[0]} (false negatives)"),
        (0, "positive", f"{classes[0]} images called {classes[1]} (false positives)"),
    ):
        wrong = [
            image
            for image in scored
            if image.label == label and decide(image.score, threshold, lower) == wrongly
        ]
        # Ties are sorted by name, so that the page does not depend on the order of the rows.
        # A positive image is wrong below the lower of two thresholds.
        limit = lower if label and lower is not None else threshold
        distances = {image.name: image.score - limit for image in wrong}
        wrong.sort(key=lambda image: (-abs(distances[image.name]), image.name))
        wrong_decisions = [
            WrongDecision(
                image.name,
                image.patient,
                classes[label],
                (labels or {}).get(image.name, ""),
                score_text(image.score),
                f"{distances[image.name]:+.4f}".replace("-", MINUS),
                ", ".join(
                    f"{key}: {value}" for key, value in attributes.get(image.name, {}).items()
                ),
            )
            for image in wrong[:max_number]
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
    """Add a picture to each wrong decision whose image can be read, and its map, all of one size.

    Args:
        kinds: The wrong decisions.
        root: The data set's folder, which the names are relative to; None if it is not known.
        grey_scaling: Grey scaling of the run.
        overlays: The map over an image, by the image's name; None is an empty map.
        num_bytes: Maximum size of all pictures in the page; they are reduced until they fit. If
            the smallest do not fit, maps are left out, and then images, too.

    Returns:
        The wrong decisions with the available pictures.
    """
    names = [wrong.name for kind in kinds for wrong in kind.wrong_decisions]
    images = {} if root is None else {name: _read_small(root, name, grey_scaling) for name in names}
    found = {name: image for name, image in images.items() if image is not None}
    for shown in (overlays, {}):
        # All of one size: an image is compared with its map.
        for side, quality in _SIZES:
            pictures = {name: _to_picture(image, side, quality) for name, image in found.items()}
            maps = {
                name: None if overlay is None else _to_picture(overlay, side, quality)
                for name, overlay in shown.items()
            }
            drawn = [*pictures.values(), *filter(None, maps.values())]
            if sum(len(picture.uri) for picture in drawn) <= num_bytes:
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
