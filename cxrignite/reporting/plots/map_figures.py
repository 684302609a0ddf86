"""Figures of class activation maps: one map per outcome, and the curves that check them."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.cm import ScalarMappable
from matplotlib.colors import ListedColormap
from matplotlib.figure import Figure

from cxrignite.functional.faithfulness import MeanCurves
from cxrignite.functional.map_overlay import colour_scale, overlay
from cxrignite.handlers import Explanation
from cxrignite.reporting.plots.charting import BLUE, GREY, blank_figure, make_plain

_LINE = 44
_OUTCOMES = {
    (0, "negative"): "true negative",
    (0, "positive"): "false positive",
    (1, "negative"): "false negative",
    (1, "positive"): "true positive",
}


def outcome_maps(explanations: Sequence[Explanation], classes: tuple[str, str]) -> Figure:
    """Draw one map per outcome: rows are labels, columns decisions.

    Of each outcome, the image farthest from the threshold is shown.
    """
    figure = blank_figure(width=7.6, height=9.4)
    for axes, (outcome, name) in zip(figure.subplots(2, 2).flat, _OUTCOMES.items(), strict=True):
        axes.set(xticks=[], yticks=[])
        axes.spines[:].set_visible(False)
        of_kind = [each for each in explanations if (each.y_true, each.decision) == outcome]
        label, decision = classes[outcome[0]], classes[outcome[1] == "positive"]
        text = textwrap.fill(f"label {label}, called {decision}", _LINE)
        title = f"{name}\n{text}"
        if not of_kind:
            axes.set_title(title, fontsize=9)
            axes.text(
                0.5, 0.5, "none among the\nimages shown", ha="center", va="center", color=GREY
            )
            continue
        shown = max(of_kind, key=lambda each: abs(each.y_score - each.threshold))
        picture = overlay(shown.image[None], shown.importance[None], opacity=shown.opacity)[0]
        axes.imshow(picture.permute(1, 2, 0).numpy())
        score = f"score {shown.y_score:.4f}"
        axes.set_title(f"{title}\n{score}\nmap {shown.describe_strength()}", fontsize=9)
    threshold = ""
    if explanations:
        both = (explanations[0].lower, explanations[0].threshold)
        known = [f"{each:.4f}" for each in both if each is not None]
        threshold = f", threshold{'s' if len(known) > 1 else ''} {' and '.join(known)}"
    colours = ListedColormap(colour_scale(256, 1)[:, 0].T.numpy() / 255)
    bar = figure.colorbar(
        ScalarMappable(cmap=colours),
        ax=figure.axes,
        orientation="horizontal",
        shrink=0.4,
        aspect=40,
        ticks=[0, 1],
    )
    bar.set_ticklabels(["0", "maximum of the map"])
    figure.suptitle(f"Class activation maps: evidence for {classes[1]}{threshold}", fontsize=12)
    return figure


def perturbation_curves(curves: Mapping[str, MeanCurves], classes: tuple[str, str]) -> Figure:
    """Draw the curves of `check_maps`: the mean score while pixels are removed or inserted."""
    num_rows = len(curves) // 2
    figure = blank_figure(width=8.8, height=4.2 * num_rows)
    grid = figure.subplots(num_rows, 2, squeeze=False).flat
    for axes, (name, curve) in zip(grid, curves.items(), strict=True):
        is_deletion = name.endswith("deletion")
        scored = classes[0] if name.startswith("against") else classes[1]
        percent = 100 * np.asarray(curve.fraction)
        axes.plot(percent, curve.by_map, color=BLUE, label="order of the map")
        axes.plot(percent, curve.by_chance, "--", color=GREY, label="order of random maps")
        axes.set(ylim=(-0.02, 1.02), ylabel=f"mean score for {scored}")
        axes.set_xlabel(f"pixels {'removed' if is_deletion else 'inserted'} (%)")
        better = "Deletion (lower is better)" if is_deletion else "Insertion (higher is better)"
        axes.set_title(f"{better}\nimages called {scored}, maps for {scored}", fontsize=10)
        axes.legend(frameon=False)
        make_plain(axes)
    return figure
