"""Elements that all figures share: size, colours, plain axes, and marks."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg, RendererAgg
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine
from matplotlib.ticker import MaxNLocator
from numpy.typing import NDArray

from cxrignite.functional import Confusion
from cxrignite.functional.intervals import clopper_pearson
from cxrignite.terminal import printable

# Okabe and Ito's palette, distinguishable in every common form of colour blindness (2008,
# https://jfly.uni-koeln.de/color/).
BLUE, ORANGE, GREEN, GREY = "#0072B2", "#E69F00", "#009E73", "#6F6F6F"

DPI = 120


class _PlainRenderer(RendererAgg):
    """Renderer that draws every text literally.

    Class, patient and file names come from the user: two `$` in one would be read as mathematics,
    and a name that is not UTF-8 could not be drawn at all. All texts of a figure pass here.
    """

    def get_text_width_height_descent(self, s: str, prop: Any, ismath: Any) -> Any:
        measure: Any = super().get_text_width_height_descent
        return measure(printable(s), prop, False)

    def draw_text(  # as the base class has it
        self,
        gc: Any,
        x: float,
        y: float,
        s: str,
        prop: Any,
        angle: float,
        ismath: Any = False,
        mtext: Any = None,
    ) -> None:
        draw_text: Any = super().draw_text
        draw_text(gc, x, y, printable(s), prop, angle, False, mtext)


class _Canvas(FigureCanvasAgg):
    """Canvas with that renderer, which also measures texts for the layout."""

    renderer: _PlainRenderer | None = None

    def get_renderer(self) -> _PlainRenderer:
        if self.renderer is None:  # a figure is drawn once, in one size
            width, height = self.figure.bbox.size
            renderer: Any = _PlainRenderer  # has no types
            self.renderer = renderer(width, height, self.figure.dpi)
        return self.renderer


def blank_figure(*, width: float, height: float, top: float | None = None) -> Figure:
    """Make an empty figure.

    Args:
        width: In inches.
        height: In inches.
        top: Inches for titles. If given, margins are fixed, with room for labels of numbers only;
            else texts are measured, which takes longer than drawing.
    """
    if top is None:
        layout = ConstrainedLayoutEngine(w_pad=0.1, h_pad=0.1)
        return Figure(figsize=(width, height), dpi=DPI, layout=layout)
    figure = Figure(figsize=(width, height), dpi=DPI)
    sides = {"left": 0.9 / width, "right": 1 - 0.25 / width}
    figure.subplots_adjust(**sides, bottom=0.6 / height, top=1 - top / height)
    return figure


def draw(figure: Figure) -> NDArray[np.uint8]:
    """Draw a figure once: `savefig` and TensorBoard's `add_figure` lay it out again each time.

    Returns:
        Shape `(H, W, 3)`.
    """
    canvas: Any = _Canvas(figure)  # has no types
    canvas.draw()
    return np.asarray(canvas.buffer_rgba())[..., :3]


def single_chart(title: str, *, width: float = 8.4) -> tuple[Figure, Axes]:
    """Make a figure with one plain set of axes."""
    figure = blank_figure(width=width, height=5.4, top=0.45)
    axes = figure.subplots()
    axes.set_title(title, fontsize=12)
    make_plain(axes)
    return figure, axes


def unit_square(title: str) -> tuple[Figure, Axes]:
    """Make a figure for two rates in `[0, 1]` on equal scales."""
    figure, axes = single_chart(title, width=5.8)
    # With a margin, a curve along the border stays visible.
    axes.set(xlim=(-0.02, 1.02), ylim=(-0.02, 1.02), aspect="equal")
    return figure, axes


def make_plain(axes: Axes) -> None:
    """Remove decoration from axes and put a faint grid behind the data."""
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(True, color="#DDDDDD", linewidth=0.8)
    axes.set_axisbelow(True)


def count_epochs(axes: Axes, epochs: NDArray[np.float64]) -> None:
    """Give the horizontal axis whole epochs, with a wide margin if there are few.

    Args:
        axes: Axes to change.
        epochs: Numbers of the epochs, shape `(N,)`; `N` may be 0.
    """
    first, last = (epochs[0], epochs[-1]) if len(epochs) else (1, 1)
    margin = 0.6 if last - first > 2 else 0.9
    axes.set(xlabel="epoch", xlim=(first - margin, last + margin))
    axes.xaxis.set_major_locator(MaxNLocator(12, integer=True, min_n_ticks=1))


def mark_undefined(axes: Axes) -> None:
    """Write on axes that the curve is undefined because there is one class only."""
    axes.text(
        0.5,
        0.5,
        "undefined: all images belong to one class",
        ha="center",
        transform=axes.transAxes,
        backgroundcolor="white",
    )


def mark_point(axes: Axes, place: tuple[float, float], label: str) -> None:
    """Mark the operating point at a place in data coordinates, with a label for the legend."""
    axes.plot(
        *place,
        "D",
        color=ORANGE,
        markeredgecolor="black",
        markersize=9,
        clip_on=False,
        zorder=5,
        label=label,
    )


def draw_confusion(axes: Axes, confusion: Confusion, classes: Sequence[str], title: str) -> None:
    """Draw a confusion matrix: counts, and shares of each true class as shades.

    Referred images have a column between the two. The title shows the two rates with their 95 %
    Clopper-Pearson intervals.

    Args:
        axes: Axes to draw on.
        confusion: The counts.
        classes: The negative and the positive class.
        title: Title above the two rates.
    """
    referred = confusion.referred_negative, confusion.referred_positive
    counts = np.array(
        [[confusion.tn, referred[0], confusion.fp], [confusion.fn, referred[1], confusion.tp]]
    )
    names = np.array(
        [
            ["true negatives", "referred", "false positives"],
            ["false negatives", "referred", "true positives"],
        ]
    )
    columns = [classes[0], "refer", classes[1]]
    if not any(referred):
        counts, names, columns = counts[:, ::2], names[:, ::2], columns[::2]
    totals = counts.sum(axis=1, keepdims=True)
    shares = counts / np.maximum(totals, 1)
    axes.imshow(shares, cmap="Blues", vmin=0, vmax=1, aspect="auto")
    for row, column in np.ndindex(*counts.shape):
        share = shares[row, column]
        axes.text(
            column,
            row,
            f"{counts[row, column]:,}\n{share:.1%}\n{names[row, column]}",
            ha="center",
            va="center",
            color="white" if share > 0.7 else "black",
        )
    axes.set_xticks(range(len(columns)), columns)
    axes.set_yticks([0, 1], classes, rotation=90, va="center")
    axes.set(xlabel="decision", ylabel="reference label")
    axes.tick_params(length=0)
    negatives, positives = confusion.num_negative, confusion.num_positive
    specificity = _rate(negatives - confusion.fp, negatives)
    sensitivity = _rate(positives - confusion.fn, positives)
    rates = f"specificity (TNR) {specificity}\nsensitivity (TPR) {sensitivity}"
    if any(referred):
        # The column between is neither, so that these count it as right.
        rates = f"TNR {specificity}\nTPR {sensitivity}"
    axes.set_title(f"{title}\n{rates}", fontsize=10)


def _rate(part: int, whole: int) -> str:
    if not whole:
        return "undefined"
    low, high = clopper_pearson(part, whole)
    return f"{part / whole:.3f}, 95 % interval {low:.3f} to {high:.3f}"
