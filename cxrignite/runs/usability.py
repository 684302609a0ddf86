"""Whether a threshold is worth deciding by at all, which no promise of a TNR says.

A threshold that calls no film positive keeps every TNR. What is said of one that tells the classes
apart no better than a lot is written here once, for the terminal, the tables and the report.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np

from cxrignite.functional import (
    Interval,
    bootstrap_intervals,
    decision_statistics,
    delong_interval,
    ranking_statistics,
)
from cxrignite.functional.youden import youden_interval
from cxrignite.runs.scores import SplitScores

NOT_USABLE = "not usable"

_MANY_FILMS = 20_000  # need no finer interval than few resamples give


def num_resamples(num_images: int) -> int:
    """Number of bootstrap resamples for the intervals of a split."""
    return 2000 if num_images <= _MANY_FILMS else 500


def why_not_usable(
    scores: SplitScores,
    threshold: float | None,
    by_patient: Mapping[str, Interval] | None = None,
) -> tuple[str, ...]:
    """List why films do not show that decisions at a threshold are better than chance.

    The intervals are those by film and by patient, whichever reaches lower: films of one patient
    resemble each other, and where all resamples agree the bootstrap has no interval.

    Args:
        scores: The films and their scores.
        threshold: A score at or above it is positive; null where none was chosen.
        by_patient: Intervals of `roc_auc` and of `balanced_accuracy` at the threshold, from
            resamples of the patients; null draws them.

    Returns:
        The reasons, none where the threshold is usable, where there is none, or where a class is
        missing and nothing can be said.
    """
    if threshold is None or not scores.has_both_classes:
        return ()
    cells = scores.confusion(threshold)
    ranking = ranking_statistics(scores.y_score, scores.y_true)
    if by_patient is None:
        decisions = decision_statistics(scores.y_score, scores.y_true, threshold)
        by_patient = bootstrap_intervals(
            lambda weights: {**ranking(weights), **decisions(weights)},
            scores.patients,
            num_resamples=num_resamples(scores.num_images),
        )
    auc = float(ranking(np.ones((1, scores.num_images)))["roc_auc"][0])
    j = cells.tpr + cells.tnr - 1
    area = _lower(delong_interval(scores.y_score, scores.y_true), by_patient["roc_auc"])
    low, high = by_patient["balanced_accuracy"]
    youden = _lower(youden_interval(cells), Interval(2 * low - 1, 2 * high - 1))
    reasons = []
    if cells.tp == 0:
        reasons.append(f"none of {cells.fn} {scores.classes[1]} films is found")
    elif youden.low <= 0:
        reasons.append(
            f"Youden's J (TPR + TNR - 1) is {j:.3f} ({youden.low:.3f} to {youden.high:.3f}), "
            "0 is chance"
        )
    if area.low <= 0.5:
        reasons.append(f"the AUC is {auc:.3f} ({area.low:.3f} to {area.high:.3f}), 0.5 is chance")
    return tuple(reasons)


def unusable_warning(reasons: Sequence[str], films: str) -> str:
    """The reasons in one line, which stands before whatever else is said of the threshold.

    Args:
        reasons: What `why_not_usable` returned; without one the line is empty.
        films: Which films show it, such as `the test films`.
    """
    return f"THE THRESHOLD IS {NOT_USABLE.upper()}: on {films} {'; '.join(reasons)}" * bool(reasons)


def films_in_words(chosen_on: str) -> str:
    """Name the films that chose a threshold; a site keeps its name."""
    return {"val": "validation", "calibration": "the calibration split"}.get(chosen_on, chosen_on)


def status_words(verdict: str, reasons: Sequence[str]) -> str:
    """A verdict as it is shown, behind the statement that the threshold is not usable.

    Args:
        verdict: What is promised of the TNR; empty where no threshold was chosen.
        reasons: What `why_not_usable` returned.
    """
    return f"{NOT_USABLE} ({verdict})" if verdict and reasons else verdict


def _lower(by_film: Interval, by_patient: Interval) -> Interval:
    if math.isnan(by_patient.low) or by_film.low <= by_patient.low:
        return by_film
    return by_patient
