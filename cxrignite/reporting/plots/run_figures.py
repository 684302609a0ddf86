"""Figures of a run's data and training; `score_figures.py` draws those of its scores.

Figures are made without pyplot: no global state, no window, nothing to close. No file is written
and no style set here.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from itertools import cycle
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from numpy.typing import NDArray

from cxrignite.reporting.plots.charting import (
    BLUE,
    DPI,
    GREEN,
    GREY,
    ORANGE,
    blank_figure,
    count_epochs,
    make_plain,
    mark_point,
    single_chart,
)


def class_distribution(counts: Mapping[str, Mapping[str, int]]) -> Figure:
    """Draw the number of images of each class in each split.

    Args:
        counts: Number of images by split and class; every split has the same classes. More than
            two classes may be findings that occur together.
    """
    classes = list(next(iter(counts.values()), {}))
    if len(classes) > 2:
        return _finding_distribution(counts, classes)
    figure, axes = single_chart("Images in each split")
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
    axes.set_ylabel("images")
    axes.margins(y=0.2)
    axes.yaxis.set_major_locator(MaxNLocator(integer=True))
    axes.grid(False, axis="x")
    if classes:
        axes.legend(loc="upper right", frameon=False, ncols=len(classes))
    return figure


def _finding_distribution(
    counts: Mapping[str, Mapping[str, int]], classes: Sequence[str]
) -> Figure:
    """Draw the number of images of each finding as one row of bars, one for each split."""
    figure, axes = single_chart("Images of each finding")
    # Names are longer than the numbers that the margin is made for; 0.085 inches a character.
    figure.subplots_adjust(left=max(0.9, 0.3 + 0.085 * max(map(len, classes))) / 8.4)
    height = 0.8 / len(counts)
    colours = cycle((BLUE, ORANGE, GREEN, GREY))
    for number, (split, colour) in enumerate(zip(counts, colours, strict=False)):
        places = np.arange(len(classes)) + (number - (len(counts) - 1) / 2) * height
        numbers = [counts[split][name] for name in classes]
        bars = axes.barh(places, numbers, 0.94 * height, color=colour, label=split)
        axes.bar_label(bars, [f"{each:,}" for each in numbers], padding=2, fontsize=8)
    axes.set_yticks(range(len(classes)), list(classes))
    axes.invert_yaxis()
    axes.set_xlabel("images")
    axes.margins(x=0.12)
    axes.grid(False, axis="y")
    axes.legend(loc="lower right", frameon=False)
    return figure


def sample_grid(images: Sequence[NDArray[Any]], titles: Sequence[str]) -> Figure:
    """Draw images side by side, on one grey scale.

    Args:
        images: Each of shape `(H, W)`, uint8 or floating point in `[0, 1]`.
        titles: One per image.

    Raises:
        ValueError: If the lengths differ.
    """
    if len(images) != len(titles):
        raise ValueError(f"each image needs a title, got {len(images)} and {len(titles)}")
    num_columns = min(max(len(images), 1), 6)
    num_rows = max(1, math.ceil(len(images) / num_columns))
    width, height = 1.4 * num_columns, 1.75 * num_rows
    figure = Figure(figsize=(width, height), dpi=DPI)
    # One pair of axes, in inches: laying out a pair for each image takes most of a second.
    axes = figure.add_axes((0, 0, 1, 1))
    axes.set_axis_off()
    for number, (image, title) in enumerate(zip(images, titles, strict=True)):
        row, column = divmod(number, num_columns)
        rows, columns = np.multiply(image.shape, 1.3 / max(image.shape))
        middle, bottom = 1.4 * (column + 0.5), 1.75 * (row + 1) - 0.05
        # With a range of its own, each image would look equally exposed.
        axes.imshow(
            image,
            cmap="gray",
            vmin=0,
            vmax=255 if image.dtype == np.uint8 else 1,
            extent=(middle - columns / 2, middle + columns / 2, bottom, bottom - rows),
        )
        # Cut to what fits, in the middle: identifiers differ at their ends.
        lines = [x if len(x) < 21 else f"{x[:9]}…{x[-9:]}" for x in title.splitlines()]
        axes.text(middle, bottom - rows - 0.04, "\n".join(lines), fontsize=8, ha="center")
    axes.set(xlim=(0, width), ylim=(height, 0), aspect="auto")
    return figure


def epoch_times(rows: Sequence[Mapping[str, float]]) -> Figure:
    """Draw the seconds of each training epoch, computing and waiting for data.

    Args:
        rows: One per epoch, with `epoch`, `epoch_seconds` and, if measured, `data_wait_seconds`
            and `images_per_second`.
    """
    figure, axes = single_chart("Seconds per training epoch")
    epochs = _column(rows, "epoch")
    seconds = np.nan_to_num(_column(rows, "epoch_seconds"))
    waited = np.minimum(np.nan_to_num(_column(rows, "data_wait_seconds")), seconds)
    axes.bar(epochs, seconds - waited, 0.7, color=BLUE, label="computing")
    axes.bar(epochs, waited, 0.7, seconds - waited, color=ORANGE, label="waiting for data")
    speeds = _column(rows, "images_per_second")
    if np.isfinite(speeds).any():
        speed = np.nanmedian(speeds)
        title = f"Seconds per training epoch: median {np.median(seconds):.3g} s"
        axes.set_title(f"{title}, {speed:,.0f} images/s", fontsize=12)
    axes.set_ylabel("seconds")
    count_epochs(axes, epochs)
    axes.margins(y=0.2)
    axes.grid(False, axis="x")
    axes.legend(loc="upper right", ncols=2, frameon=False)
    return figure


def learning_curves(rows: Sequence[Mapping[str, float]]) -> Figure:
    """Draw training and validation loss, and validation AUC, by epoch.

    Args:
        rows: One per epoch, with `epoch` and, if there are any, `loss`, `val_loss` and
            `val_roc_auc`; NaN leaves a gap.
    """
    figure = blank_figure(width=8.8, height=4.2, top=0.45)
    left, right = figure.subplots(1, 2, gridspec_kw={"wspace": 0.28})
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
    right.set_ylabel("AUC (area under the ROC curve)")
    if np.isfinite(auc).any():
        best = int(np.nanargmax(auc))
        right.plot(epochs[best], auc[best], "D", color=GREEN, markersize=9)
        right.set_title(f"Validation AUC: best {auc[best]:.4f} in epoch {epochs[best]:.0f}")
    for axes in (left, right):
        count_epochs(axes, epochs)
        make_plain(axes)
    return figure


def _column(rows: Sequence[Mapping[str, float]], key: str) -> NDArray[np.float64]:
    """Return one value per row, NaN if a row has none."""
    return np.array([row.get(key, math.nan) for row in rows], np.float64)


def learning_rate_curve(
    lr: Sequence[float],
    loss: Sequence[float],
    smoothed: Sequence[float],
    *,
    suggestion: float | None,
    own: float,
) -> Figure:
    """Draw the loss of a training in which the learning rate rises after each batch.

    Args:
        lr: Learning rate of each batch, ascending.
        loss: Loss of each batch; values that are not finite are left out.
        smoothed: Running mean of the losses.
        suggestion: The suggested learning rate, marked on the curve; None marks nothing.
        own: Learning rate of the recipe.
    """
    figure, axes = single_chart("Training loss while the learning rate rises")
    axes.set_xscale("log")
    # The default labels are powers in mathematics, which these figures draw literally.
    axes.xaxis.set_major_formatter(lambda value, _: f"{value:g}")
    axes.plot(lr, loss, ".", color=GREY, markersize=5, label="loss of a batch")
    axes.plot(lr, smoothed, color=BLUE, linewidth=2, label="running mean")
    axes.axvline(own, color=GREEN, linestyle="--", label=f"of the recipe: {own:.2g}")
    if suggestion is not None:
        at = suggestion, float(np.interp(suggestion, lr, smoothed))
        mark_point(axes, at, f"suggested: {suggestion:.2g}")
    finite = np.concatenate([np.array(each)[np.isfinite(each)] for each in (loss, smoothed)])
    if len(finite):
        # A diverging loss would press the fall into one line.
        low, start = float(finite.min()), float(finite[0])
        height = max(start - low, 0.1 * abs(start), 1e-6)
        axes.set_ylim(low - 0.1 * height, start + 1.2 * height)
    axes.set(xlabel="learning rate", ylabel="loss")
    axes.legend(loc="upper left", edgecolor="none", framealpha=1, ncols=2)
    return figure
