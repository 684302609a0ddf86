"""Numbers as text; rounding never turns a number into 0 or 1."""

from __future__ import annotations

from typing import NamedTuple

from cxrignite.functional.intervals import clopper_pearson
from cxrignite.runs.evaluation import Estimate

Ends = tuple[float, float]

UNDEFINED = "\N{EN DASH}"
MINUS = "\N{MINUS SIGN}"


class Figure(NamedTuple):
    """A figure and its 95 % interval, as text; the interval may be empty."""

    value: str = UNDEFINED
    interval: str = ""


def percent(share: float | None, places: int = 1) -> str:
    """Write a share in `[0, 1]` as a percentage.

    Args:
        share: The share; None is undefined.
        places: Digits after the point.

    Examples:
        >>> percent(0.8376), percent(0.99996), percent(1.0)
        ('83.8 %', '> 99.9 %', '100.0 %')
    """
    if share is None:
        return UNDEFINED
    # Rounded as a share, so that it agrees with the charts: 0.963 there is 96.3 % here.
    rounded = float(f"{share:.{places + 2}f}")
    value = share if rounded in (0, 1) else rounded
    return f"{_rounded(value * 100, 100, places)} %"


def plain_percent(share: float | None) -> str:
    """Write a share from the recipe, such as 0.93, without further digits.

    Examples:
        >>> plain_percent(0.93), plain_percent(0.975)
        ('93 %', '97.5 %')
    """
    return UNDEFINED if share is None else f"{share * 100:.6g} %"


def decimal(value: float | None, places: int = 3) -> str:
    """Write a number with a fixed count of digits.

    Args:
        value: The number; None is undefined.
        places: Digits after the point.

    Examples:
        >>> decimal(0.97444), decimal(0.00004), decimal(0.9999)
        ('0.974', '< 0.001', '> 0.999')
    """
    return UNDEFINED if value is None else _rounded(value, 1, places)


def score_text(score: float | None) -> str:
    """Write a score or a threshold in `[0, 1]` with four digits, or more if it is close to 0 or 1.

    Examples:
        >>> score_text(0.90015), score_text(0.99999994), score_text(1.0)
        ('0.9002', '0.9999999', '1.0000')
    """
    if score is None:
        return UNDEFINED
    places = 4
    while places < 12 and score not in (0, 1) and float(f"{score:.{places}f}") in (0, 1):
        places += 1
    return f"{score:.{places}f}"


def zone_text(threshold: float | None, lower: float | None) -> str:
    """Name a threshold, or both with the images between them referred."""
    if lower is None:
        return score_text(threshold)
    return f"{score_text(lower)} to {score_text(threshold)}"


def count_text(count: int | None) -> str:
    """Write a count with a thousands separator."""
    return UNDEFINED if count is None else f"{count:,}"


def share_text(estimate: Estimate) -> Figure:
    """Write a share with its interval by image, in percent."""
    return share_estimate(estimate.value, estimate.interval)


def share_estimate(share: float | None, ends: Ends | None) -> Figure:
    """Write a share with its interval, in percent."""
    if share is None or ends is None:
        return Figure(percent(share))
    low, high = (percent(end).removesuffix(" %") for end in ends)
    return Figure(percent(share), f"{low} to {high} %")


def decimal_estimate(value: float | None, ends: Ends | None, places: int = 3) -> Figure:
    """Write a number with its interval."""
    if value is None or ends is None:
        return Figure(decimal(value, places))
    return Figure(decimal(value, places), " to ".join(decimal(end, places) for end in ends))


def observed_share(successes: int | None, failures: int | None) -> Figure:
    """Write a share of counts with its Clopper-Pearson interval; undefined if there are none."""
    if successes is None or failures is None or not successes + failures:
        return Figure()
    number = successes + failures
    return share_estimate(successes / number, clopper_pearson(successes, number))


def _rounded(value: float, whole: float, places: int) -> str:
    """Round, but never to 0 or to `whole` unless the value is exactly that."""
    text, step = f"{value:.{places}f}", 10.0**-places
    if value < whole and float(text) == whole:
        text = f"> {whole - step:.{places}f}"
    elif value and float(text) == 0:
        text = f"< {step:.{places}f}" if value > 0 else f"> {-step:.{places}f}"
    return text.replace("-", MINUS)
