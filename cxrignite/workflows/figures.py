"""The figures of a run, drawn from plain numbers; no file is written and no style set here.

Figures are made without pyplot: no global state, no window, nothing to close.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from numpy.typing import NDArray
from sklearn import metrics

from cxrignite.functional import Confusion, OperatingPoint
from cxrignite.workflows.charting import (
    BLUE,
    GREEN,
    GREY,
    ORANGE,
    blank_figure,
    count_epochs,
    draw_confusion,
    make_plain,
    mark_point,
    say_undefined,
    single_chart,
    unit_square,
)


def class_distribution(counts: Mapping[str, Mapping[str, int]]) -> Figure:
    """How many films of each class every split has.

    Args:
        counts: Split to class to count; every split names the same classes.
    """
    figure, axes = single_chart("Films in each split")
    classes = list(next(iter(counts.values()), {}))
    width = 0.8 / max(len(classes), 1)
    for number, (name, colour) in enumerate(zip(classes, (BLUE, ORANGE), strict=False)):
        places = np.arange(len(counts)) + (number - (len(classes) - 1) / 2) * width
        heights = [split[name] for split in counts.values()]
        bars = axes.bar(places, heights, 0.94 * width, color=colour, label=name)
        labels = [
            f"{split[name]:,}\n{split[name] / max(sum(split.values()), 1):.0%}"
            for split in counts.values()
        ]
        axes.bar_label(bars, labels, padding=2)
    axes.set_xticks(range(len(counts)), list(counts))
    axes.set_ylabel("films")
    axes.margins(y=0.2)
    axes.yaxis.set_major_locator(MaxNLocator(integer=True))
    axes.grid(False, axis="x")
    if classes:
        axes.legend(loc="upper right", frameon=False, ncols=len(classes))
    return figure


def sample_grid(images: Sequence[NDArray[Any]], titles: Sequence[str]) -> Figure:
    """Films side by side, on one grey scale.

    Args:
        images: Each of shape `(H, W)`, uint8 or floating point in `[0, 1]`.
        titles: One an image.

    Raises:
        ValueError: If the lengths differ.
    """
    if len(images) != len(titles):
        raise ValueError(f"each image needs a title, got {len(images)} and {len(titles)}")
    num_columns = min(max(len(images), 1), 6)
    num_rows = max(1, math.ceil(len(images) / num_columns))
    figure = blank_figure(width=1.4 * num_columns + 0.2, height=1.75 * num_rows + 0.1)
    grid = figure.subplots(num_rows, num_columns, squeeze=False)
    for axes in grid.flat:
        axes.set_axis_off()
    for axes, image, title in zip(grid.flat, images, titles, strict=False):
        # A fixed range: stretched to its own extremes, each film would look equally exposed.
        highest = 255 if image.dtype == np.uint8 else 1
        axes.imshow(image, cmap="gray", vmin=0, vmax=highest)
        axes.set_title(title, fontsize=8)
    return figure


def confusion_pair(
    at_half: Confusion, at_threshold: Confusion, threshold: float, classes: Sequence[str]
) -> Figure:
    """The decisions at 0.5 and at the chosen threshold.

    Args:
        at_half: Decisions at 0.5.
        at_threshold: Decisions at `threshold`.
        threshold: The chosen one, in `[0, 1]`.
        classes: The negative and the positive class.
    """
    figure = blank_figure(width=8.4, height=5.0)
    pair = figure.subplots(1, 2)
    titles = ("Threshold 0.5", f"Chosen threshold {threshold:.4f}")
    for axes, confusion, title in zip(pair, (at_half, at_threshold), titles, strict=True):
        draw_confusion(axes, confusion, classes, title)
    return figure


def roc_curve(
    y_score: NDArray[Any],
    y_true: NDArray[Any],
    operating_point: OperatingPoint | None = None,
    *,
    split: str = "",
) -> Figure:
    """The true positive rate against the false positive rate, for every threshold.

    Args:
        y_score: Probabilities of the positive class, shape `(N,)`.
        y_true: 0 or 1, shape `(N,)`.
        operating_point: Marks what these films get at its threshold.
        split: Which films they are, for the title.
    """
    figure, axes = unit_square(_titled("ROC curve", split))
    axes.set_xlabel("false positive rate (1 - specificity)")
    axes.set_ylabel("true positive rate (sensitivity)")
    axes.plot([0, 1], [0, 1], color=GREY, linestyle=":", label="chance")
    if not _has_both_classes(y_true):
        say_undefined(axes)
    else:
        fpr, tpr, _ = metrics.roc_curve(y_true, y_score)
        auc = metrics.roc_auc_score(y_true, y_score)
        axes.plot(fpr, tpr, color=BLUE, linewidth=2, label=f"AUC {auc:.4f}")
        if operating_point is not None:
            called, positive = _decide(y_score, y_true, operating_point)
            rates = called[~positive].mean(), called[positive].mean()
            label = f"threshold {operating_point.threshold:.4f}: TNR {1 - rates[0]:.3f}, "
            mark_point(axes, rates, f"{label}TPR {rates[1]:.3f}")
    axes.legend(loc="lower right")
    return figure


def precision_recall_curve(
    y_score: NDArray[Any],
    y_true: NDArray[Any],
    operating_point: OperatingPoint | None = None,
    *,
    split: str = "",
) -> Figure:
    """Precision against recall, for every threshold.

    Args:
        y_score: Probabilities of the positive class, shape `(N,)`.
        y_true: 0 or 1, shape `(N,)`.
        operating_point: Marks what these films get at its threshold.
        split: Which films they are, for the title.
    """
    figure, axes = unit_square(_titled("Precision-recall curve", split))
    axes.set_xlabel("recall (sensitivity)")
    axes.set_ylabel("precision (positive predictive value)")
    if not _has_both_classes(y_true):
        say_undefined(axes)
    else:
        prevalence = float(np.mean(y_true))
        axes.axhline(prevalence, color=GREY, linestyle=":", label=f"chance {prevalence:.3f}")
        precision, recall, _ = metrics.precision_recall_curve(y_true, y_score)
        average = metrics.average_precision_score(y_true, y_score)
        label = f"average precision {average:.4f}"
        axes.plot(recall, precision, color=BLUE, linewidth=2, drawstyle="steps-pre", label=label)
        if operating_point is not None:
            called, positive = _decide(y_score, y_true, operating_point)
            # Where nothing is called positive there is no precision to mark.
            if called.any():
                point = called[positive].mean(), positive[called].mean()
                label = f"threshold {operating_point.threshold:.4f}: PPV {point[1]:.3f}, "
                mark_point(axes, point, f"{label}TPR {point[0]:.3f}")
        axes.legend(loc="lower left")
    return figure


def reliability(
    y_score: NDArray[Any], y_true: NDArray[Any], num_bins: int = 10, *, split: str = ""
) -> Figure:
    """How often films of a given score are positive, and how many films have that score.

    Args:
        y_score: Probabilities of the positive class, shape `(N,)`, in `[0, 1]`.
        y_true: 0 or 1, shape `(N,)`.
        num_bins: Bins of equal width over `[0, 1]`.
        split: Which films they are, for the title.
    """
    figure = blank_figure(width=8.4, height=5.8)
    top, bottom = figure.subplots(2, 1, sharex=True, height_ratios=[3, 1])
    edges = np.linspace(0, 1, num_bins + 1)
    scores = np.asarray(y_score, np.float64)
    numbers = np.clip(np.digitize(scores, edges) - 1, 0, num_bins - 1)
    counts = np.bincount(numbers, minlength=num_bins)
    filled = counts > 0
    mean_score = np.bincount(numbers, scores, num_bins)[filled] / counts[filled]
    share = np.bincount(numbers, np.asarray(y_true, np.float64), num_bins)[filled] / counts[filled]
    top.plot([0, 1], [0, 1], color=GREY, linestyle=":", label="what the score promises")
    top.plot(mean_score, share, "o-", color=BLUE, label="films of that score")
    bottom.bar(edges[:-1], counts, 1 / num_bins, align="edge", color=BLUE, edgecolor="white")
    top.set(ylabel="share that is positive", ylim=(-0.03, 1.03), xlim=(-0.02, 1.02))
    bottom.set(xlabel="score (probability of the positive class)", ylabel="films")
    bottom.yaxis.set_major_locator(MaxNLocator(3, integer=True))
    top.set_title(_titled("Reliability of the scores", split), fontsize=12)
    top.legend(loc="upper left")
    for axes in (top, bottom):
        make_plain(axes)
    return figure


def epoch_times(rows: Sequence[Mapping[str, float]]) -> Figure:
    """Seconds a training epoch takes, computing and waiting for data.

    Args:
        rows: One an epoch, with `epoch`, `epoch_seconds` and, where they were measured,
            `data_wait_seconds` and `images_per_second`.
    """
    figure, axes = single_chart("Seconds a training epoch")
    epochs = _column(rows, "epoch")
    seconds = np.nan_to_num(_column(rows, "epoch_seconds"))
    waited = np.minimum(np.nan_to_num(_column(rows, "data_wait_seconds")), seconds)
    axes.bar(epochs, seconds - waited, 0.7, color=BLUE, label="computing")
    axes.bar(epochs, waited, 0.7, seconds - waited, color=ORANGE, label="waiting for data")
    speeds = _column(rows, "images_per_second")
    if np.isfinite(speeds).any():
        speed = np.nanmedian(speeds)
        title = f"Seconds a training epoch: median {np.median(seconds):.3g} s"
        axes.set_title(f"{title}, {speed:,.0f} images/s", fontsize=12)
    axes.set_ylabel("seconds")
    count_epochs(axes, epochs)
    axes.margins(y=0.2)
    axes.grid(False, axis="x")
    axes.legend(loc="upper right", ncols=2, frameon=False)
    return figure


def learning_curves(rows: Sequence[Mapping[str, float]]) -> Figure:
    """Training and validation loss, and validation AUC, by epoch.

    Args:
        rows: One an epoch, with `epoch` and, where there are any, `loss`, `val_loss` and
            `val_roc_auc`; NaN leaves a gap.
    """
    figure = blank_figure(width=8.8, height=4.2)
    left, right = figure.subplots(1, 2)
    epochs = _column(rows, "epoch")
    curves = (("loss", "training", BLUE, "o-"), ("val_loss", "validation", ORANGE, "s--"))
    for key, name, colour, style in curves:
        left.plot(epochs, _column(rows, key), style, color=colour, label=name)
    left.set_title("Loss", fontsize=12)
    left.set_ylabel("loss")
    left.legend(loc="upper right")
    auc = _column(rows, "val_roc_auc")
    right.plot(epochs, auc, "s--", color=ORANGE)
    right.set_title("Validation AUC", fontsize=12)
    right.set_ylabel("area under the ROC curve")
    if np.isfinite(auc).any():
        best = int(np.nanargmax(auc))
        right.plot(epochs[best], auc[best], "D", color=GREEN, markersize=9)
        right.set_title(f"Validation AUC: best {auc[best]:.4f} in epoch {epochs[best]:.0f}")
    for axes in (left, right):
        count_epochs(axes, epochs)
        make_plain(axes)
    return figure


def _column(rows: Sequence[Mapping[str, float]], key: str) -> NDArray[np.float64]:
    """One value a row, NaN where a row has none."""
    return np.array([row.get(key, math.nan) for row in rows], np.float64)


def _has_both_classes(y_true: NDArray[Any]) -> bool:
    return len(np.unique(y_true)) == 2


def _titled(title: str, split: str) -> str:
    return f"{title}, {split} films" if split else title


def _decide(
    y_score: NDArray[Any], y_true: NDArray[Any], point: OperatingPoint
) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
    """Which films are called positive, and which are."""
    return np.asarray(y_score, np.float64) >= point.threshold, np.asarray(y_true) > 0.5
