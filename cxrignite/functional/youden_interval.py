"""Youden's J of the decisions at a threshold."""

from __future__ import annotations

import math

import scipy

from cxrignite.functional.confusion import Confusion
from cxrignite.functional.intervals import Interval


def youden_interval(cells: Confusion, confidence: float = 0.95) -> Interval:
    """Return the confidence interval of Youden's J, twice the balanced accuracy - 1; 0 is chance.

    With referred images, J is the mean of its values at both thresholds, and so is the interval,
    which is conservative.

    J is the difference of two proportions, TPR and FPR. The interval is method 10 of Newcombe 1998
    (doi 10.1002/(SICI)1097-0258(19980430)17:8<873::AID-SIM779>3.0.CO;2-I), from the Wilson
    intervals of the two. It assumes independent images.

    Args:
        cells: Confusion counts.
        confidence: Coverage probability, in `(0, 1)`.

    Returns:
        The interval, within `[-1, 1]`; NaN if a class has no image.

    Raises:
        ValueError: If `confidence` is out of range.

    Examples:
        >>> low, high = youden_interval(Confusion(tn=32, fp=48, fn=14, tp=56))
        >>> round(low, 4), round(high, 4)
        (0.0524, 0.3339)
    """
    if not 0 < confidence < 1:
        raise ValueError(f"confidence must be in (0, 1), got {confidence}")
    num_positive, num_negative = cells.num_positive, cells.num_negative
    if cells.referred_negative or cells.referred_positive:
        rn, rp = cells.referred_negative, cells.referred_positive
        upper = Confusion(cells.tn + rn, cells.fp, cells.fn + rp, cells.tp)
        lower = Confusion(cells.tn, cells.fp + rn, cells.fn, cells.tp + rp)
        at_upper, at_lower = (youden_interval(each, confidence) for each in (upper, lower))
        return Interval((at_upper.low + at_lower.low) / 2, (at_upper.high + at_lower.high) / 2)
    if not num_positive or not num_negative:
        return Interval(math.nan, math.nan)
    found, called = cells.tp / num_positive, cells.fp / num_negative
    of_found, of_called = (
        scipy.stats.binomtest(count, number).proportion_ci(confidence, method="wilson")
        for count, number in ((cells.tp, num_positive), (cells.fp, num_negative))
    )
    j = found - called
    return Interval(
        j - math.hypot(found - of_found.low, of_called.high - called),
        j + math.hypot(of_found.high - found, called - of_called.low),
    )
