"""An image with its class activation map, as a caption and as a row of a table."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from torch import Tensor

from cxrignite.csv_text import csv_bytes
from cxrignite.functional.confusion import Decision, decide
from cxrignite.functional.image_choice import UNKNOWN_LABEL

_OPACITY, _PALEST = 0.6, 0.2
_FIGURES = ["label", "score", "threshold", "lower_threshold", "decision"]
_FIGURES += ["selection", "raw_max", "strength"]


@dataclass(frozen=True)
class Explanation:
    """An image, its score, and the map of the regions that contribute to it.

    Attributes:
        about: Known facts of the image, such as its path and patient.
        selection: Reasons why it was chosen: `fixed`, or kinds of `ImageChoice`.
        y_score: Probability of the positive class, in `[0, 1]`.
        y_true: Its label, 0, 1 or `UNKNOWN_LABEL`.
        threshold: Scores of at least this value are positive.
        lower: Scores below it are negative; None if all below `threshold` are.
        image: The model input, shape `(C, H, W)`.
        importance: The map, shape `(H, W)`, float32 in `[0, 1]`.
        raw_max: The map's largest value before scaling; 0 for an empty map.
        strength: `raw_max` divided by the largest `raw_max` of the images explained together, in
            `[0, 1]`. It is needed because every map, however faint, is scaled to its own maximum.
            Null if the map is not compared with others.
        name: Stem of the file names: `<name>.png` shows image, map and caption,
            `<name>.overlay.png` only the map over the image.

    Examples:
        >>> import torch
        >>> explanation = Explanation(
        ...     about={"path": "a.png"}, selection=("fixed",), y_score=0.9, y_true=1, threshold=0.5,
        ...     image=torch.zeros(1, 8, 8), importance=torch.ones(8, 8), raw_max=0.2, strength=1.0,
        ...     name="000000_a",
        ... )
        >>> explanation.caption(("NORMAL", "PNEUMONIA"), "grad_cam at head")[0]
        'score 0.9000, threshold 0.5000: called PNEUMONIA; truth PNEUMONIA: right'
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
    lower: float | None = None

    @property
    def picture(self) -> str:
        """Name of the file with image, map and caption."""
        return f"{self.name}.png"

    @property
    def overlay(self) -> str:
        """Name of the file with only the map over the image."""
        return f"{self.name}.overlay.png"

    @property
    def decision(self) -> Decision:
        """The decision."""
        return decide(self.y_score, self.threshold, self.lower)

    def caption(self, classes: tuple[str, str], where: str) -> list[str]:
        """Return the lines of text below the picture.

        Args:
            classes: The negative and the positive class.
            where: The method and the layer of the map.
        """
        positive = classes[1]
        called = {"negative": f"called {classes[0]}", "positive": f"called {positive}"}
        truth = "truth unknown"
        if self.y_true != UNKNOWN_LABEL:
            truth = f"truth {classes[self.y_true]}"
            if self.decision != "refer":
                is_right = self.y_true == (self.decision == "positive")
                truth += f": {'right' if is_right else 'wrong'}"
        lower = "" if self.lower is None else f"thresholds {self.lower:.4f} and "
        colours = "; colours from 0 to its highest value" if self.raw_max > 0 else ""
        return [
            f"score {self.y_score:.4f}, {lower or 'threshold '}{self.threshold:.4f}: "
            f"{called.get(self.decision, 'referred to a reader')}; {truth}",
            f"map of evidence for {positive} ({where}): {self.describe_strength()}{colours}",
            ", ".join(filter(None, self.about.values())),
        ]

    @property
    def opacity(self) -> float:
        """Opacity of the most important pixel: weaker maps are paler, but stay visible."""
        strength = float(self.raw_max > 0) if self.strength is None else self.strength
        return _OPACITY * max(_PALEST, math.sqrt(strength))

    def describe_strength(self) -> str:
        """Return the strength of the map in words."""
        if self.raw_max <= 0:
            return "empty, no region contributes"
        if self.strength is None:
            return f"highest value {self.raw_max:.3g}"
        return f"{self.strength:.2g} times as strong as the strongest shown"


def explanations_table(explanations: Sequence[Explanation]) -> bytes:
    """Return the explanations as CSV, one row per image; without any, only a header.

    Args:
        explanations: The `about` of each has the same keys, which become the first columns.
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
                "" if each.lower is None else repr(each.lower),
                each.decision,
                " ".join(each.selection),
                repr(each.raw_max),
                "" if each.strength is None else repr(each.strength),
                each.picture,
                each.overlay,
            ]
        )
    return csv_bytes(rows)
