"""Figures of an audit."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from matplotlib.figure import Figure

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

_COLOURS = (BLUE, ORANGE)
_CHANCE = 0.5
_GREY_TITLES = ("Mean of the grey levels", "Standard deviation of the grey levels")


def sizes(survey: Survey, classes: Sequence[str]) -> Figure:
    """Draw rows and columns of every image, by class."""
    figure, axes = single_chart("Size of the image files")
    for label, (name, colour) in enumerate(zip(classes, _COLOURS, strict=True)):
        ours = [
            each
            for record, each in zip(survey.records, survey.facts, strict=True)
            if record.label == label
        ]
        axes.scatter(
            [each.width for each in ours],
            [each.height for each in ours],
            s=14,
            alpha=0.5,
            color=colour,
            marker="os"[label],
            linewidths=0,
            label=f"{name} ({len(ours):,})",
        )
    axes.set(xlabel="width (pixels)", ylabel="height (pixels)")
    axes.set_xlim(left=0)
    axes.set_ylim(bottom=0)
    axes.legend(frameon=False)
    return figure


def greys(survey: Survey, classes: Sequence[str]) -> Figure:
    """Draw mean and standard deviation of the grey levels, by class, test images separately."""
    figure = blank_figure(width=8.4, height=4.2)
    for axes, title, name in zip(
        figure.subplots(1, 2), _GREY_TITLES, ("mean", "deviation"), strict=True
    ):
        values = np.array([getattr(each, name) for each in survey.facts])
        edges = np.linspace(values.min(initial=0), max(values.max(initial=1), 1), 40)
        for label, (class_name, colour) in enumerate(zip(classes, _COLOURS, strict=True)):
            for is_test, style in ((False, "-"), (True, "--")):
                ours = [
                    record.label == label and (record.split == "test") == is_test
                    for record in survey.records
                ]
                if any(ours):
                    axes.hist(
                        values[ours],
                        edges,
                        density=True,
                        histtype="step",
                        color=colour,
                        linestyle=style,
                        linewidth=1.6,
                        label=f"{class_name}{', test' if is_test else ''}",
                    )
        axes.set_title(title, fontsize=12)
        axes.set(xlabel="grey level", yticks=[])
        make_plain(axes)
    figure.axes[0].legend(frameon=False, fontsize=8)
    figure.axes[0].set_ylabel("density of images")
    return figure


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
