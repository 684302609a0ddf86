"""Figures of an audit."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from matplotlib.figure import Figure
from numpy.typing import NDArray

from cxrignite.data.survey import Survey
from cxrignite.reporting.plots.charting import (
    BLUE,
    GREY,
    ORANGE,
    blank_figure,
    make_plain,
    single_chart,
)
from cxrignite.runs.audit_result import Probe

_COLOURS = (BLUE, ORANGE, GREY)
_MARKERS = "os^"
_CHANCE = 0.5
_GREY_TITLES = ("Mean of the grey levels", "Standard deviation of the grey levels")


def sizes(survey: Survey, classes: Sequence[str]) -> Figure:
    """Draw rows and columns of every image, by class; several findings are one class."""
    figure, axes = single_chart("Size of the image files")
    groups = zip(_groups(survey, classes).items(), _COLOURS, _MARKERS, strict=False)
    for (name, is_member), colour, marker in groups:
        ours = [each for each, is_one in zip(survey.facts, is_member, strict=True) if is_one]
        axes.scatter(
            [each.width for each in ours],
            [each.height for each in ours],
            s=14,
            alpha=0.5,
            color=colour,
            marker=marker,
            linewidths=0,
            label=f"{name} ({len(ours):,})",
        )
    axes.set(xlabel="width (pixels)", ylabel="height (pixels)")
    axes.set_xlim(left=0)
    axes.set_ylim(bottom=0)
    axes.legend(frameon=False)
    return figure


def greys(survey: Survey, classes: Sequence[str]) -> Figure:
    """Draw mean and standard deviation of the grey levels, by class, test images separately.

    Several findings are one class.
    """
    is_test = np.array([record.split == "test" for record in survey.records], dtype=bool)
    figure = blank_figure(width=8.4, height=4.2)
    for axes, title, name in zip(
        figure.subplots(1, 2), _GREY_TITLES, ("mean", "deviation"), strict=True
    ):
        values = np.array([getattr(each, name) for each in survey.facts])
        edges = np.linspace(values.min(initial=0), max(values.max(initial=1), 1), 40)
        groups = zip(_groups(survey, classes).items(), _COLOURS, strict=False)
        for (class_name, is_member), colour in groups:
            for is_of_test, style in ((False, "-"), (True, "--")):
                ours = is_member & (is_test == is_of_test)
                if ours.any():
                    axes.hist(
                        values[ours],
                        edges,
                        density=True,
                        histtype="step",
                        color=colour,
                        linestyle=style,
                        linewidth=1.6,
                        label=f"{class_name}{', test' if is_of_test else ''}",
                    )
        axes.set_title(title, fontsize=12)
        axes.set(xlabel="grey level", yticks=[])
        make_plain(axes)
    figure.axes[0].legend(frameon=False, fontsize=8)
    figure.axes[0].set_ylabel("density of images")
    return figure


def _groups(survey: Survey, classes: Sequence[str]) -> dict[str, NDArray[np.bool_]]:
    """Return which images are of each class; of several findings, without and with one of them."""
    labels = np.array([record.labels for record in survey.records]).reshape(-1, len(classes) - 1)
    without, found = ~labels.any(axis=1), (labels == 1).any(axis=1)
    if len(classes) == 2:
        return dict(zip(classes, (without, found), strict=True))
    groups = {classes[0]: without, "with a finding": found}
    unclear = ~(without | found)
    return {**groups, "none known": unclear} if unclear.any() else groups


def areas(probes: Sequence[Probe], title: str) -> Figure:
    """Draw the AUC of each probe with its interval."""
    figure = blank_figure(width=8.4, height=1.2 + 0.42 * len(probes))
    axes = figure.subplots()
    axes.set_title(title, fontsize=12)
    make_plain(axes)
    for place, probe in enumerate(reversed(probes)):
        check = probe.check
        area = _CHANCE if check is None else check.roc_auc
        if area is None:
            axes.text(_CHANCE, place, "too few patients", va="center", ha="center", color=GREY)
            continue
        colour = ORANGE if probe.is_finding else BLUE
        if check is not None and check.interval is not None:
            axes.hlines(place, *check.interval, color=colour, linewidth=2)
        axes.plot(area, place, "s" if probe.is_finding else "o", color=colour)
        axes.annotate(f"{area:.2f}", (area, place), (0, 7), textcoords="offset points", ha="center")
    axes.axvline(_CHANCE, color=GREY, linestyle=":", linewidth=1)
    axes.set_yticks(range(len(probes)), [probe.name for probe in reversed(probes)])
    axes.set(xlim=(0.35, 1.02), ylim=(-0.6, len(probes) - 0.3), xlabel="AUC; 0.5 is chance")
    return figure
