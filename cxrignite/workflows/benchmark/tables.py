"""What was measured, as a table for people, as CSV and as a figure."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter

from cxrignite.csv_text import dict_rows
from cxrignite.workflows.benchmark.stages import Stage
from cxrignite.workflows.benchmark.variants import Variant
from cxrignite.workflows.charting import BLUE, GREY, ORANGE, blank_figure, make_plain

_COLUMNS = (
    "part",
    "name",
    "plain_images_per_second",
    "images_per_second",
    "times_the_plain_way",
    "own_share",
    "milliseconds_a_step",
    "data_wait_share",
    "epoch_seconds",
    "peak_memory_mb",
    "note",
)


def own_shares(variants: Sequence[Variant]) -> list[float]:
    """How many times faster each variant is than the one before it; the first is 1.

    `compile` that the recipe does not ask for is not what the next row builds on.
    """
    shares, before = [1.0], variants[0]
    for variant, following in zip(variants[1:], [*variants[2:], None], strict=True):
        shares.append(variant.images_per_second / before.images_per_second)
        aside = following is not None and variant.settings.compile > following.settings.compile
        before = before if aside else variant
    return shares


def as_csv(
    stages: Sequence[Stage], variants: Sequence[Variant], num_images: int, batch: int
) -> bytes:
    """Everything, one row each, with empty cells where a column does not apply.

    Args:
        stages: Parts of the input pipeline.
        variants: The plain loop and its optimisations.
        num_images: Images of a whole training epoch.
        batch: Images a step.
    """
    rows = []
    for stage in stages:
        rows.append(
            {
                "part": "input",
                "name": stage.name,
                "plain_images_per_second": f"{stage.plain:.6g}",
                "images_per_second": f"{stage.ours:.6g}",
                "times_the_plain_way": f"{stage.ratio:.4g}",
                "note": stage.note,
            }
        )
    for variant, share in zip(variants, own_shares(variants), strict=True):
        rate = variant.images_per_second
        rows.append(
            {
                "part": "training",
                "name": variant.name,
                "plain_images_per_second": f"{variants[0].images_per_second:.6g}",
                "images_per_second": f"{rate:.6g}",
                "times_the_plain_way": f"{rate / variants[0].images_per_second:.4g}",
                "own_share": f"{share:.4g}",
                "milliseconds_a_step": f"{1000 * batch / rate:.6g}",
                "data_wait_share": f"{variant.wait_share:.4g}",
                "epoch_seconds": f"{num_images / rate:.6g}",
                "peak_memory_mb": f"{variant.memory_bytes / 2**20:.0f}",
                "note": variant.failure,
            }
        )
    return dict_rows(rows, _COLUMNS)


def as_markdown(
    facts: Sequence[str],
    stages: Sequence[Stage],
    variants: Sequence[Variant],
    num_images: int,
    batch: int,
) -> str:
    """The same for people.

    Args:
        facts: Lines on the machine, the recipe and the films.
        stages: Parts of the input pipeline.
        variants: The plain loop and its optimisations.
        num_images: Images of a whole training epoch.
        batch: Images a step.
    """
    lines = [
        "# Benchmark",
        "",
        *(f"- {fact}" for fact in facts),
        "",
        "## Input, images a second",
        "",
    ]
    lines += _table(
        ("", "plain", "cxrignite", "times", "measured on"),
        [
            (each.name, _number(each.plain), _number(each.ours), _times(each.ratio), each.note)
            for each in stages
        ],
    )
    lines += ["", "## Training", ""]
    lines.append("Each row adds one thing to the row above it.")
    lines.append("")
    first = variants[0].images_per_second
    rows = []
    for variant, share in zip(variants, own_shares(variants), strict=True):
        rate = variant.images_per_second
        if variant.failure:
            rows.append((variant.name, *[""] * 6, variant.failure))
            continue
        rows.append(
            (
                variant.name,
                _number(rate),
                _times(rate / first),
                "" if variant is variants[0] else _times(share),
                f"{1000 * batch / rate:,.1f}",
                f"{100 * variant.wait_share:.0f} %",
                f"{num_images / rate:,.1f}",
                f"{variant.memory_bytes / 2**20:,.0f}",
            )
        )
    lines += _table(
        (
            "",
            "images/s",
            "times plain",
            "own share",
            "ms a step",
            "waits for data",
            f"s an epoch of {num_images:,}",
            "peak MB",
        ),
        rows,
    )
    return "\n".join([*lines, ""])


def as_figure(stages: Sequence[Stage], variants: Sequence[Variant]) -> Figure:
    """Images a second of each row, with the share of time that waits for data."""
    figure = blank_figure(width=9.6, height=1.6 + 0.36 * (len(stages) + len(variants)))
    upper, lower = figure.subplots(2, 1, height_ratios=[len(stages), len(variants)])
    upper.set_title("Input pipeline: times the images a second of the plain way", fontsize=11)
    ratios = [stage.ratio for stage in stages]
    upper.barh([f"{each.name} ({each.note})" for each in stages], ratios, color=BLUE, height=0.6)
    upper.set_xscale("log")
    upper.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    upper.axvline(1, color=GREY, linewidth=1)
    for row, ratio in enumerate(ratios):
        upper.annotate(
            f" {_times(ratio)}", (max(ratio, 1), row), va="center", fontsize=9, color="black"
        )
    upper.set_xlim(min(0.5, *ratios), 4 * max(1, *ratios))
    lower.set_title("Training: images a second, each row with one thing more", fontsize=11)
    shown = [variant for variant in variants if not variant.failure]
    names, rates = [each.name for each in shown], np.array([e.images_per_second for e in shown])
    waits = np.array([each.wait_share for each in shown])
    lower.barh(names, rates * (1 - waits), color=BLUE, height=0.6, label="computes")
    lower.barh(
        names,
        rates * waits,
        left=rates * (1 - waits),
        color=ORANGE,
        height=0.6,
        label="waits for data",
    )
    for row, rate in enumerate(rates):
        lower.annotate(
            f" {_number(rate)}/s, {_times(rate / rates[0])}", (rate, row), va="center", fontsize=9
        )
    lower.set_xlim(0, 1.3 * rates.max())
    lower.set_xlabel("images a second; the bar is divided as the time is")
    lower.legend(loc="upper right", fontsize=9, frameon=False)
    for axes in (upper, lower):
        make_plain(axes)
        axes.invert_yaxis()
    return figure


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    widths = [max(len(row[column]) for row in (head, *rows)) for column in range(len(head))]

    def line(cells: Sequence[str]) -> str:
        padded = [cell.rjust(width) for cell, width in zip(cells, widths, strict=True)]
        padded[0] = cells[0].ljust(widths[0])
        return f"| {' | '.join(padded)} |"

    rule = [":" + "-" * (widths[0] - 1), *("-" * (width - 1) + ":" for width in widths[1:])]
    return [line(head), f"| {' | '.join(rule)} |", *map(line, rows)]


def _number(value: float) -> str:
    return f"{value:,.0f}" if value >= 100 else f"{value:.1f}"


def _times(ratio: float) -> str:
    return (
        f"{ratio:,.0f} x" if ratio >= 100 else f"{ratio:.1f} x" if ratio >= 10 else f"{ratio:.2f} x"
    )
