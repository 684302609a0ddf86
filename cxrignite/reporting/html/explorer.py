"""Threshold explorer of a report: the decisions on a set of images at many thresholds.

All counts and intervals are computed here. The script of the page selects and shows them; without
it, and on paper, the page has a table of a few thresholds. The script gets counts instead of
scores, so its input is small for any number of images and has no names.
"""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
from jinja2.utils import htmlsafe_json_dumps
from markupsafe import Markup
from numpy.typing import NDArray

from cxrignite.functional.confusion import checked_scores, confusion_at
from cxrignite.functional.intervals import clopper_pearson_lower_ends
from cxrignite.reporting.html.html_page import read_asset
from cxrignite.reporting.numbers import (
    Figure,
    count_text,
    observed_share,
    percent,
    score_text,
)
from cxrignite.reporting.wording import split_name
from cxrignite.runs.run_results import RunResults

NUM_BINS = 40
"""Number of bins of the histogram."""

MAX_BOUNDS = 5_000
"""Maximum number of intervals of a class.

The script interpolates for larger classes, by less than 0.01 % at 100,000 images.
"""

_SCRIPT = "explorer.js"
_TABLE_STEPS = ("0.01", *(f"0.{tenth}" for tenth in range(1, 10)), "0.99")
_BIN_WIDTH, _HEIGHT = 10, 100  # of the histogram, in units of its drawing
_BOUND_UNIT = 1e-7


class RateRow(NamedTuple):
    """Decisions at one threshold: confusion counts and rates, as text."""

    threshold: str
    is_stored: bool
    tn: str
    fp: str
    fn: str
    tp: str
    tnr: Figure
    tpr: Figure


class Histogram(NamedTuple):
    """Histogram of the scores: positives upwards, negatives downwards.

    Attributes:
        negatives: Bars of the negatives, as an SVG path.
        positives: Bars of the positives.
        stored: Places of the stored thresholds.
        tallest: Share of its class in the tallest bar, as text.
    """

    negatives: str
    positives: str
    stored: Sequence[float]
    tallest: str


class ExploredImages(NamedTuple):
    """A set of images at many thresholds.

    Attributes:
        name: Name of the images.
        stored: Stored thresholds as text.
        rows: Decisions at a few thresholds.
        histogram: Histogram of the scores.
        data: Input of the script.
    """

    name: str
    stored: Sequence[str]
    rows: Sequence[RateRow]
    histogram: Histogram
    data: Mapping[str, object]


class Explorer(NamedTuple):
    """Threshold explorer of a page.

    Attributes:
        images: Sets of images; at least one.
        data: Input of the script, as JSON that is safe inside a `script` element.
        script: The script.
        script_hash: Its source expression in the page's content security policy.
    """

    images: Sequence[ExploredImages]
    data: Markup
    script: Markup
    script_hash: Markup


def explore_run(results: RunResults, max_bounds: int = MAX_BOUNDS) -> Explorer | None:
    """Collect the scored images of a run that have a threshold.

    Validation images are left out if other images chose the threshold, and so are images whose
    rule refers some, if that of the first images does not, or the reverse.

    Args:
        results: Results of one finding of the run.
        max_bounds: Maximum number of intervals of a class.

    Returns:
        The explorer, first of the test images; None if there are no such images.

    Raises:
        DamagedRunError: A table of scores is damaged or lost, or was changed.
    """
    thresholds = {
        name: [each for each in (at.lower_threshold, at.threshold) if each is not None]
        for name, evaluation in results.evaluations.items()
        if (at := evaluation.at_threshold) is not None
    }
    if "calibration" in thresholds or ("test" in thresholds and not _is_chosen_on_val(results)):
        thresholds.pop("val", None)
    usual = [name for name in ("test", "calibration", "val") if name in thresholds]
    explored = []
    for name in dict.fromkeys([*usual, *thresholds]):
        scored = results.scored_records(name)
        if scored:
            scores = np.array([image.score for image in scored], dtype=np.float64)
            labels = np.array([image.label for image in scored], dtype=np.int64)
            explored.append(explore(split_name(name), scores, labels, thresholds[name], max_bounds))
    explored = [each for each in explored if len(each.stored) == len(explored[0].stored)]
    return make_explorer(explored) if explored else None


def make_explorer(images: Sequence[ExploredImages]) -> Explorer:
    """Combine sets of images, all with the same number of stored thresholds, and the script."""
    script = read_asset(_SCRIPT)
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode("ascii")
    data = htmlsafe_json_dumps([each.data for each in images], separators=(",", ":"))
    return Explorer(images, data, Markup(script), Markup(f"'sha256-{digest}'"))


def explore(
    name: str,
    y_score: NDArray[np.float64],
    y_true: NDArray[np.int64],
    stored: Sequence[float],
    max_bounds: int = MAX_BOUNDS,
) -> ExploredImages:
    """Compute the decisions on a set of images.

    Args:
        name: Name of the images.
        y_score: Scores in [0, 1] of the positive class, `(N,)`.
        y_true: Labels 0 and 1, `(N,)`.
        stored: The stored threshold, or two in ascending order: scores below the first are
            negative, scores at or above the last are positive.
        max_bounds: Maximum number of intervals of a class.
    """
    scores, positive = checked_scores(y_score, y_true)
    by_class = [np.sort(scores[~positive]), np.sort(scores[positive])]
    texts = [score_text(threshold) for threshold in stored]
    if len({*texts}) < len({*stored}):
        texts = [repr(float(threshold)) for threshold in stored]
    # A stored threshold replaces the step that has the same text.
    steps = {text: float(text) for text in _step_texts()} | dict(zip(texts, stored, strict=True))
    ordered = sorted(steps, key=steps.__getitem__)
    values = [steps[text] for text in ordered]
    data = {
        "steps": ordered,
        "stored": [ordered.index(text) for text in texts],
        "sizes": [each.size for each in by_class],
        # Differences are shorter than the numbers.
        "below": [_differences(np.searchsorted(each, values, side="left")) for each in by_class],
        "lows": [_differences(_lower_ends(each.size, max_bounds)) for each in by_class],
    }
    rows = {f"{float(text):.4f}": float(text) for text in _TABLE_STEPS} | {
        text: steps[text] for text in texts
    }
    return ExploredImages(
        name,
        texts,
        [
            _rate_row(text, threshold, scores, positive, is_stored=text in texts)
            for text, threshold in sorted(rows.items(), key=lambda row: row[1])
        ],
        _histogram(by_class, stored),
        data,
    )


def _is_chosen_on_val(results: RunResults) -> bool:
    return results.rule is not None and results.rule.chosen_on == "val"


def _step_texts() -> list[str]:
    """Return thresholds in steps of 0.001, with smaller steps close to 0 and 1."""
    small = [f"{digit}e-{places}" for places in range(4, 8) for digit in range(1, 10)]
    return [
        *(f"{step / 1000:.4f}" for step in range(1001)),
        *(f"{float(text):.{text[-1]}f}" for text in small),
        *(f"{1 - float(text):.{text[-1]}f}" for text in small),
    ]


def _lower_ends(num_trials: int, max_bounds: int) -> NDArray[np.int64]:
    ends = clopper_pearson_lower_ends(num_trials, min(num_trials, max_bounds))
    return np.round(ends / _BOUND_UNIT).astype(np.int64)


def _differences(values: NDArray[np.int64]) -> list[int]:
    differences: list[int] = np.diff(values, prepend=0).tolist()
    return differences


def _rate_row(
    text: str,
    threshold: float,
    scores: NDArray[np.float64],
    positive: NDArray[np.bool_],
    *,
    is_stored: bool,
) -> RateRow:
    each = confusion_at(scores, positive, threshold)
    return RateRow(
        text,
        is_stored,
        count_text(each.tn),
        count_text(each.fp),
        count_text(each.fn),
        count_text(each.tp),
        observed_share(each.tn, each.fp),
        observed_share(each.tp, each.fn),
    )


def _histogram(by_class: Sequence[NDArray[np.float64]], stored: Sequence[float]) -> Histogram:
    shares = [np.histogram(each, NUM_BINS, (0, 1))[0] / max(each.size, 1) for each in by_class]
    tallest = float(np.max(shares))
    down, up = (
        "".join(
            # A bar of few images stays visible.
            f"M{index * _BIN_WIDTH + 0.5} {_HEIGHT}v{sign * max(share / tallest * _HEIGHT, 1):.1f}"
            f"h{_BIN_WIDTH - 1}V{_HEIGHT}z"
            for index, share in enumerate(each.tolist())
            if share
        )
        for each, sign in zip(shares, (1, -1), strict=True)
    )
    places = [round(min(each, 1.0) * NUM_BINS * _BIN_WIDTH, 2) for each in stored]
    return Histogram(down, up, places, percent(tallest))
