"""Figure of a benchmark."""

from __future__ import annotations

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter

from cxrignite.reporting.benchmark_tables import number_text, times_text
from cxrignite.reporting.plots.charting import BLUE, GREY, ORANGE, blank_figure, make_plain
from cxrignite.runs.benchmark_result import BenchmarkResult


def benchmark_figure(result: BenchmarkResult) -> Figure:
    """Draw images per second of each row, with the share of time spent waiting for data."""
    stages, variants = result.stages, result.variants
    figure = blank_figure(width=9.6, height=1.6 + 0.36 * (len(stages) + len(variants)))
    upper, lower = figure.subplots(2, 1, height_ratios=[len(stages), len(variants)])
    upper.set_title("Input pipeline: images per second, as multiple of the plain loop", fontsize=11)
    ratios = [stage.ratio for stage in stages]
    upper.barh([f"{each.name} ({each.note})" for each in stages], ratios, color=BLUE, height=0.6)
    upper.set_xscale("log")
    upper.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    upper.axvline(1, color=GREY, linewidth=1)
    for row, ratio in enumerate(ratios):
        upper.annotate(
            f" {times_text(ratio)}", (max(ratio, 1), row), va="center", fontsize=9, color="black"
        )
    upper.set_xlim(min(0.5, *ratios), 4 * max(1, *ratios))
    lower.set_title("Training: images per second, each row with one more change", fontsize=11)
    shown = [variant for variant in variants if not variant.failure]
    names, rates = [each.name for each in shown], np.array([e.images_per_second for e in shown])
    waits = np.array([each.wait_share for each in shown])
    lower.barh(names, rates * (1 - waits), color=BLUE, height=0.6, label="computing")
    lower.barh(
        names,
        rates * waits,
        left=rates * (1 - waits),
        color=ORANGE,
        height=0.6,
        label="waiting for data",
    )
    for row, rate in enumerate(rates):
        lower.annotate(
            f" {number_text(rate)}/s, {times_text(rate / rates[0])}",
            (rate, row),
            va="center",
            fontsize=9,
        )
    lower.set_xlim(0, 1.3 * rates.max())
    lower.set_xlabel("images per second; each bar is divided by share of time")
    lower.legend(loc="upper right", fontsize=9, frameon=False)
    for axes in (upper, lower):
        make_plain(axes)
        axes.invert_yaxis()
    return figure
