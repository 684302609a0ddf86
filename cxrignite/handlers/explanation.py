"""An image with its map, in words and as a row of a table."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from torch import Tensor

from cxrignite.csv_text import csv_bytes
from cxrignite.functional.image_choice import UNKNOWN_LABEL

_OPACITY, _PALEST = 0.6, 0.2
_FIGURES = ["label", "score", "threshold", "decision", "selection", "raw_max", "strength"]


@dataclass(frozen=True)
class Explanation:
    """An image, what it scores, and where that comes from.

    Attributes:
        about: What is known of the image, such as its path and patient.
        selection: What it was chosen as: `fixed`, or kinds of `ImageChoice`.
        y_score: Probability of the positive class, in `[0, 1]`.
        y_true: Its label, 0, 1 or `UNKNOWN_LABEL`.
        threshold: A score of at least this is called positive.
        image: As the model takes it, shape `(C, H, W)`.
        importance: Its map, shape `(H, W)`, float32 in `[0, 1]`.
        raw_max: The map's largest value before scaling; 0 for an empty map.
        strength: `raw_max` as a share of the largest of the images explained with this one, in
            `[0, 1]`: every map is scaled to its own maximum, a faint one too. Null where it is not
            held against others.
        name: Of its files: `<name>.png` shows image, map and caption, `<name>.overlay.png` the map
            over the image alone.
    """

    about: Mapping[str, str]
    selection: Sequence[str]
    y_score: float
    y_true: int
    threshold: float
    image: Tensor
    importance: Tensor
    raw_max: float
    strength: float | None
    name: str

    @property
    def picture(self) -> str:
        """Name of the file with image, map and caption."""
        return f"{self.name}.png"

    @property
    def overlay(self) -> str:
        """Name of the file with the map over the image alone."""
        return f"{self.name}.overlay.png"

    @property
    def decision(self) -> int:
        """What it is called: 1 positive, 0 negative."""
        return int(self.y_score >= self.threshold)

    @property
    def outcome(self) -> tuple[int, int]:
        """Its label and what it is called."""
        return self.y_true, self.decision

    def caption(self, classes: tuple[str, str], where: str) -> list[str]:
        """What is to be read below its picture, line by line.

        Args:
            classes: The negative and the positive class.
            where: How and where the map was taken.

        Returns:
            Its lines.
        """
        positive = classes[1]
        truth = "truth unknown"
        if self.y_true != UNKNOWN_LABEL:
            status = "right" if self.y_true == self.decision else "wrong"
            truth = f"truth {classes[self.y_true]}: {status}"
        colours = "; colours from 0 to its highest value" if self.raw_max > 0 else ""
        return [
            f"score {self.y_score:.4f}, threshold {self.threshold:.4f}: "
            f"called {classes[self.decision]}; {truth}",
            f"map of what speaks for {positive} ({where}): {self.describe_strength()}{colours}",
            ", ".join(filter(None, self.about.values())),
        ]

    @property
    def opacity(self) -> float:
        """Of its most important pixel: the weaker a map, the paler, down to what is still seen."""
        strength = float(self.raw_max > 0) if self.strength is None else self.strength
        return _OPACITY * max(_PALEST, math.sqrt(strength))

    def describe_strength(self) -> str:
        """Return how much the map says, in words."""
        if self.raw_max <= 0:
            return "empty, no place does"
        if self.strength is None:
            return f"highest value {self.raw_max:.3g}"
        return f"{self.strength:.2g} times as strong as the strongest shown"


def explanations_table(explanations: Sequence[Explanation]) -> bytes:
    """The explanations as CSV, a row an image.

    Args:
        explanations: What is known of each has the same keys, which become the first columns.

    Returns:
        The file's content; of no explanation a header alone.
    """
    known = list(explanations[0].about) if explanations else []
    rows: list[Sequence[object]] = [[*known, *_FIGURES, "picture", "overlay"]]
    for each in explanations:
        rows.append(
            [
                *(each.about[name] for name in known),
                "" if each.y_true == UNKNOWN_LABEL else each.y_true,
                repr(each.y_score),
                repr(each.threshold),
                each.decision,
                " ".join(each.selection),
                repr(each.raw_max),
                "" if each.strength is None else repr(each.strength),
                each.picture,
                each.overlay,
            ]
        )
    return csv_bytes(rows)
