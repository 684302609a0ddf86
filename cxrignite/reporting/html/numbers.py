"""Figures as a report writes them: a rounded figure never says more than the figure."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from cxrignite.functional.intervals import clopper_pearson
from cxrignite.reporting.html.reading import Record

Ends = tuple[float, float]

UNDEFINED = "\N{EN DASH}"
MINUS = "\N{MINUS SIGN}"
_SPACE = "\N{NO-BREAK SPACE}"


class Estimate(NamedTuple):
    """A figure and its 95 % interval, as text; the interval may be empty."""

    value: str = UNDEFINED
    interval: str = ""


def percent(share: float | None, places: int = 1) -> str:
    r"""A share in `[0, 1]` as a percentage.

    Args:
        share: The share; None is undefined.
        places: Digits after the point.

    Examples:
        >>> percent(0.8376), percent(0.99996), percent(1.0)
        ('83.8\xa0%', '>\xa099.9\xa0%', '100.0\xa0%')
    """
    if share is None:
        return UNDEFINED
    # Rounded as a share, so that it agrees with the charts: 0.963 there is 96.3 % here.
    rounded = float(f"{share:.{places + 2}f}")
    value = share if rounded in (0, 1) else rounded
    return f"{_rounded(value * 100, 100, places)}{_SPACE}%"


def plain_percent(share: float | None) -> str:
    r"""A share that somebody chose, such as 0.93, without digits that nobody wrote.

    Examples:
        >>> plain_percent(0.93), plain_percent(0.975)
        ('93\xa0%', '97.5\xa0%')
    """
    return UNDEFINED if share is None else f"{share * 100:.6g}{_SPACE}%"


def decimal(value: float | None, places: int = 3) -> str:
    r"""A number with a fixed count of digits.

    Args:
        value: The number; None is undefined.
        places: Digits after the point.

    Examples:
        >>> decimal(0.97444), decimal(0.00004), decimal(0.9999)
        ('0.974', '<\xa00.001', '>\xa00.999')
    """
    return UNDEFINED if value is None else _rounded(value, 1, places)


def score_text(score: float | None) -> str:
    """A score or a threshold in `[0, 1]`: four digits, or as many as tell it from 0 and 1.

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


def count_text(count: int | None) -> str:
    """A count with its thousands apart."""
    return UNDEFINED if count is None else f"{count:,}"


def share_estimate(share: float | None, ends: Ends | None) -> Estimate:
    """A share with its interval, in percent."""
    if share is None or ends is None:
        return Estimate(percent(share))
    low, high = (percent(end).removesuffix(f"{_SPACE}%") for end in ends)
    return Estimate(percent(share), f"{low} to {high}{_SPACE}%")


def decimal_estimate(value: float | None, ends: Ends | None, places: int = 3) -> Estimate:
    """A number with its interval."""
    if value is None or ends is None:
        return Estimate(decimal(value, places))
    return Estimate(decimal(value, places), " to ".join(decimal(end, places) for end in ends))


def observed_share(successes: int | None, failures: int | None) -> Estimate:
    """A share of counts with its Clopper-Pearson interval; undefined without any."""
    if successes is None or failures is None or not successes + failures:
        return Estimate()
    number = successes + failures
    return share_estimate(successes / number, clopper_pearson(successes, number))


def rate_ends(decisions: Record, name: str) -> Ends | None:
    """The interval of a rate, as the figures hold it or, in older runs, from their counts.

    Args:
        decisions: `at_half` or `at_threshold` of `metrics/*.json`.
        name: `tnr`, `tpr`, `ppv`, `npv` or `accuracy`.
    """
    kept = decisions.interval(f"intervals.{name}")
    if kept is not None or name not in _COUNTS:
        return kept
    right, wrong = _COUNTS[name]
    num_right, num_wrong = _total(decisions, right), _total(decisions, wrong)
    if num_right is None or num_wrong is None or not num_right + num_wrong:
        return None
    return clopper_pearson(num_right, num_right + num_wrong)


def rate(decisions: Record, name: str) -> Estimate:
    """A rate with its 95 % interval by film."""
    return share_estimate(decisions.number(name), rate_ends(decisions, name))


_COUNTS: dict[str, tuple[Sequence[str], Sequence[str]]] = {
    "tnr": (["tn"], ["fp"]),
    "tpr": (["tp"], ["fn"]),
    "ppv": (["tp"], ["fp"]),
    "npv": (["tn"], ["fn"]),
    "accuracy": (["tn", "tp"], ["fp", "fn"]),
}


def _total(decisions: Record, names: Sequence[str]) -> int | None:
    counts = [decisions.count(name) for name in names]
    return None if None in counts else sum(count for count in counts if count is not None)


def _rounded(value: float, whole: float, places: int) -> str:
    """Rounded, but never to 0 or to `whole` unless it is exactly that."""
    text, step = f"{value:.{places}f}", 10.0**-places
    if value < whole and float(text) == whole:
        text = f">{_SPACE}{whole - step:.{places}f}"
    elif value and float(text) == 0:
        text = f"<{_SPACE}{step:.{places}f}" if value > 0 else f">{_SPACE}{-step:.{places}f}"
    return text.replace("-", MINUS)
