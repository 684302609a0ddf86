"""Figures of one split's scores: decisions, ranking and reliability.

As in `run_figures.py`, no file is written and no style set here.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from numpy.typing import NDArray
from sklearn import metrics

from cxrignite.functional import (
    Confusion,
    ExpectedReferral,
    ExpectedSensitivity,
    OperatingPoint,
)
from cxrignite.functional.calibration import ReliabilityBin, reliability_bins
from cxrignite.functional.intervals import clopper_pearson
from cxrignite.reporting.plots.charting import (
    BLUE,
    GREY,
    ORANGE,
    blank_figure,
    draw_confusion,
    make_plain,
    mark_point,
    mark_undefined,
    single_chart,
    unit_square,
)
from cxrignite.reporting.wording import thresholds_text


def confusion_pair(
    at_half: Confusion, at_threshold: Confusion, point: OperatingPoint, classes: Sequence[str]
) -> Figure:
    """Draw the decisions at 0.5 and at the operating point."""
    figure = blank_figure(width=9.4, height=5.3, top=0.8)
    pair = figure.subplots(1, 2)
    titles = ("Threshold 0.5", f"Chosen {thresholds_text(point)}")
    for axes, confusion, title in zip(pair, (at_half, at_threshold), titles, strict=True):
        draw_confusion(axes, confusion, classes, title)
    return figure


def roc_curve(
    y_score: NDArray[Any],
    y_true: NDArray[Any],
    operating_point: OperatingPoint | None = None,
    *,
    split: str = "",
    interval: tuple[float, float] | None = None,
) -> Figure:
    """Draw the true positive rate against the false positive rate, for every threshold.

    Args:
        y_score: Scores, shape `(N,)`.
        y_true: 0 or 1, shape `(N,)`.
        operating_point: Its threshold is marked with the rates of these images.
        split: Name of the images, for the title.
        interval: The 95 % interval of the area; one with NaN is left out.
    """
    figure, axes = unit_square(_titled("ROC curve", split))
    axes.set_xlabel("false positive rate (1 - specificity)")
    axes.set_ylabel("true positive rate (sensitivity)")
    axes.plot([0, 1], [0, 1], color=GREY, linestyle=":", label="chance")
    if not _has_both_classes(y_true):
        mark_undefined(axes)
    else:
        fpr, tpr, _ = metrics.roc_curve(y_true, y_score)
        auc = metrics.roc_auc_score(y_true, y_score)
        label = _with_interval(f"AUC {auc:.4f}", interval)
        axes.plot(fpr, tpr, color=BLUE, linewidth=2, label=label)
        for threshold in _thresholds(operating_point):
            called, positive = _decide(y_score, y_true, threshold)
            rates = called[~positive].mean(), called[positive].mean()
            label = f"threshold {threshold:.4f}: TNR {1 - rates[0]:.3f}, "
            mark_point(axes, rates, f"{label}TPR {rates[1]:.3f}")
    axes.legend(loc="lower right", fontsize=9)
    return figure


def precision_recall_curve(
    y_score: NDArray[Any],
    y_true: NDArray[Any],
    operating_point: OperatingPoint | None = None,
    *,
    split: str = "",
    interval: tuple[float, float] | None = None,
) -> Figure:
    """Draw precision against recall, for every threshold.

    Args:
        y_score: Scores, shape `(N,)`.
        y_true: 0 or 1, shape `(N,)`.
        operating_point: Its threshold is marked with the rates of these images.
        split: Name of the images, for the title.
        interval: The 95 % interval of the average precision; one with NaN is left out.
    """
    figure, axes = unit_square(_titled("Precision-recall curve", split))
    axes.set_xlabel("recall (sensitivity)")
    axes.set_ylabel("precision (positive predictive value)")
    if not _has_both_classes(y_true):
        mark_undefined(axes)
    else:
        prevalence = float(np.mean(y_true))
        axes.axhline(prevalence, color=GREY, linestyle=":", label=f"chance {prevalence:.3f}")
        precision, recall, _ = metrics.precision_recall_curve(y_true, y_score)
        average = metrics.average_precision_score(y_true, y_score)
        label = _with_interval(f"average precision {average:.4f}", interval)
        axes.plot(recall, precision, color=BLUE, linewidth=2, drawstyle="steps-pre", label=label)
        for threshold in _thresholds(operating_point):
            called, positive = _decide(y_score, y_true, threshold)
            # If no image is called positive, there is no precision to mark.
            if called.any():
                point = called[positive].mean(), positive[called].mean()
                label = f"threshold {threshold:.4f}: PPV {point[1]:.3f}, "
                mark_point(axes, point, f"{label}TPR {point[0]:.3f}")
        axes.legend(loc="lower left", fontsize=9)
    return figure


def sensitivity_plan(
    plan: Sequence[ExpectedSensitivity], operating_point: OperatingPoint, *, site: str
) -> Figure:
    """Draw the sensitivity to expect from numbers of negative patients.

    Args:
        plan: One for each number, in ascending order.
        operating_point: Its number of negative patients and its requested TNR are shown.
        site: Name of the site, for the title.
    """
    requested, confidence = operating_point.min_tnr, 100 * (operating_point.level or 0)
    constraint = f"certified for a TNR of {requested:g} at {confidence:g} %"
    figure, axes = single_chart(f"Expected sensitivity at {site}, {constraint}")
    sizes = [each.num_negatives for each in plan]
    rates = np.array([each.tpr for each in plan])
    ends = np.array([each.interval for each in plan])
    spread = np.abs(ends.T - rates)
    label = "median, 5 to 95 % (0: threshold above all negative scores)"
    axes.errorbar(sizes, rates, spread, fmt="o-", color=BLUE, capsize=3, label=label)
    present = operating_point.num_negative_patients
    mark_point(axes, (present, rates[sizes.index(present)]), f"present number: {present}")
    # From one number to the next, twice as many false positives are allowed.
    axes.set_xscale("log")
    # The present number may be too close to the next one for a label of its own.
    ticks = [each for each in sizes if each != present]
    axes.set_xticks(ticks, [f"{each}" for each in ticks])
    axes.minorticks_off()
    axes.set(ylim=(-0.02, 1.15), yticks=np.linspace(0, 1, 6))
    axes.set_xlabel("negative patients that choose the threshold")
    axes.set_ylabel("true positive rate (sensitivity)")
    axes.legend(loc="upper right", frameon=False, ncols=2)
    return figure


def referral_plan(
    plan: Sequence[ExpectedReferral], operating_point: OperatingPoint, *, site: str
) -> Figure:
    """Draw the share referred to expect from numbers of patients of each class.

    Args:
        plan: One for each pair of numbers, of which at least one is the present number.
        operating_point: Its numbers of patients and its limits are shown.
        site: Name of the site, for the title.
    """
    point = operating_point
    limits = f"TNR of {point.min_tnr:g} and a TPR of {point.min_tpr:g}"
    title = f"Expected share referred at {site}, certified for a {limits}"
    figure, axes = single_chart(f"{title} at {100 * (point.level or 0):g} %")
    present = point.num_negative_patients, point.num_positive_patients or 0
    for varied, name, colour in ((0, "negative", BLUE), (1, "positive", ORANGE)):
        fixed = 1 - varied
        drawn = sorted(each for each in plan if each[fixed] == present[fixed])
        if not drawn:
            continue
        shares = np.array([each.referred for each in drawn])
        spread = np.abs(np.array([each.interval for each in drawn]).T - shares)
        other = ("negative", "positive")[fixed]
        numbers, label = [each[varied] for each in drawn], f"{name} patients, with"
        label += f" {present[fixed]} {other} ones"
        axes.errorbar(numbers, shares, spread, fmt="o-", color=colour, capsize=3, label=label)
    axes.set_xscale("log")
    sizes = sorted({size for each in plan for size in each[:2]})
    # Numbers that are closer would write their labels over each other.
    ticks = [
        size for number, size in enumerate(sizes) if not number or size > 1.25 * sizes[number - 1]
    ]
    axes.set_xticks(ticks, [f"{each}" for each in ticks])
    axes.minorticks_off()
    axes.set(ylim=(-0.02, 1.2), yticks=np.linspace(0, 1, 6))
    axes.set_xlabel("patients that choose the thresholds")
    axes.set_ylabel("share referred (median, 5 to 95 %)")
    axes.legend(loc="upper right", frameon=False, ncols=2)
    return figure


def reliability(
    y_score: NDArray[Any],
    y_true: NDArray[Any],
    num_bins: int = 10,
    *,
    split: str = "",
    probability: NDArray[Any] | None = None,
) -> Figure:
    """Draw the share of positive images by score, and the number of images by score.

    The thin bar of a point is the 95 % Clopper-Pearson interval of its share.

    Args:
        y_score: Scores, shape `(N,)`, in `[0, 1]`.
        y_true: 0 or 1, shape `(N,)`.
        num_bins: Number of bins of equal width over `[0, 1]`.
        split: Name of the images, for the title.
        probability: Probabilities of the same images at the training prevalence, shape `(N,)`, in
            `[0, 1]`; drawn as a second curve.
    """
    figure = blank_figure(width=8.4, height=6.4, top=0.75)
    grid = {"height_ratios": [3, 1], "hspace": 0.08}
    top, bottom = figure.subplots(2, 1, sharex=True, gridspec_kw=grid)
    top.plot([0, 1], [0, 1], color=GREY, linestyle=":", label="perfect calibration")
    bins = reliability_bins(y_score, y_true, num_bins)
    if probability is None:
        _draw_reliability(top, bins, BLUE, "o-", "score")
        _draw_counts(bottom, bins, BLUE, place=0.5, width=0.9)
    else:
        corrected = reliability_bins(probability, y_true, num_bins)
        _draw_reliability(top, bins, BLUE, "o-", "score")
        label = "probability at the training prevalence"
        # Broader and below, so that neither of two bars at one place hides the other.
        _draw_reliability(top, corrected, ORANGE, "s--", label, bar_width=2.2, zorder=2)
        _draw_counts(bottom, bins, BLUE, place=0.29, width=0.42)
        _draw_counts(bottom, corrected, ORANGE, place=0.71, width=0.42)
    top.set(ylabel="share of positive images\n(bars: 95 % interval)", ylim=(-0.03, 1.03))
    scales = "score" if probability is None else "score, or probability at the training prevalence"
    bottom.set(xlabel=scales, ylabel="images")
    bottom.set(xlim=(-0.02, 1.02), xticks=np.linspace(0, 1, 11))
    bottom.yaxis.set_major_locator(MaxNLocator(3, integer=True))
    bottom.margins(y=0.25)
    figure.suptitle(_titled("Reliability of the scores", split), fontsize=12)
    # Above the axes: intervals reach into every corner.
    top.legend(loc="lower center", bbox_to_anchor=(0.5, 1), ncols=3, frameon=False, fontsize=9)
    for axes in (top, bottom):
        make_plain(axes)
    bottom.grid(False, axis="x")
    return figure


def _draw_reliability(
    axes: Axes,
    bins: Sequence[ReliabilityBin],
    colour: str,
    style: str,
    label: str,
    *,
    bar_width: float = 0.9,
    zorder: float = 3,
) -> None:
    filled = [entry for entry in bins if entry.num_images]
    scores = np.array([entry.mean_score for entry in filled])
    shares = np.array([entry.positive_share for entry in filled])
    ends = [
        clopper_pearson(round(entry.positive_share * entry.num_images), entry.num_images)
        for entry in filled
    ]
    # Rounding may put an end beyond the share it equals, and a bar has no negative length.
    below = np.maximum(shares - [low for low, _ in ends], 0)
    above = np.maximum([high for _, high in ends] - shares, 0)
    axes.errorbar(
        scores,
        shares,
        [below, above],
        fmt=style,
        color=colour,
        linewidth=1,
        zorder=zorder,
        markeredgecolor="black",
        markeredgewidth=0.6,
        elinewidth=bar_width,
        capsize=2.5,
        label=label,
    )


def _draw_counts(
    axes: Axes, bins: Sequence[ReliabilityBin], colour: str, *, place: float, width: float
) -> None:
    """Draw one bar per bin; `place` (its middle) and `width` are shares of the bin."""
    size = 1 / len(bins)
    middles = [entry.low + place * size for entry in bins]
    heights = [entry.num_images for entry in bins]
    bars = axes.bar(middles, heights, width * size, color=colour)
    labels = [f"{height:,}" if height else "" for height in heights]
    axes.bar_label(bars, labels, fontsize=7, padding=1)


def _with_interval(label: str, interval: tuple[float, float] | None) -> str:
    if interval is None or not all(map(math.isfinite, interval)):
        return label
    return f"{label} (95 % interval {interval[0]:.4f} to {interval[1]:.4f})"


def _has_both_classes(y_true: NDArray[Any]) -> bool:
    return len(np.unique(y_true)) == 2


def _titled(title: str, split: str) -> str:
    return f"{title}, {split} images" if split else title


def _thresholds(point: OperatingPoint | None) -> list[float]:
    both = (point.lower_threshold, point.threshold) if point else ()
    return [each for each in both if each is not None]


def _decide(
    y_score: NDArray[Any], y_true: NDArray[Any], threshold: float
) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
    """Return which images are called positive, and which are positive."""
    return np.asarray(y_score, np.float64) >= threshold, np.asarray(y_true) > 0.5
