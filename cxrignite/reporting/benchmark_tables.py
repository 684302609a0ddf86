"""What was measured, as a table for people, as CSV and as a figure."""

from __future__ import annotations

from collections.abc import Sequence

from cxrignite.csv_text import dict_rows
from cxrignite.runs.benchmark_result import Stage, Variant, own_shares

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
            (
                each.name,
                number_text(each.plain),
                number_text(each.ours),
                times_text(each.ratio),
                each.note,
            )
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
                number_text(rate),
                times_text(rate / first),
                "" if variant is variants[0] else times_text(share),
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


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    widths = [max(len(row[column]) for row in (head, *rows)) for column in range(len(head))]

    def line(cells: Sequence[str]) -> str:
        padded = [cell.rjust(width) for cell, width in zip(cells, widths, strict=True)]
        padded[0] = cells[0].ljust(widths[0])
        return f"| {' | '.join(padded)} |"

    rule = [":" + "-" * (widths[0] - 1), *("-" * (width - 1) + ":" for width in widths[1:])]
    return [line(head), f"| {' | '.join(rule)} |", *map(line, rows)]


def number_text(value: float) -> str:
    """Write a rate, to a tenth if it is small."""
    return f"{value:,.0f}" if value >= 100 else f"{value:.1f}"


def times_text(ratio: float) -> str:
    """Write a ratio with three digits."""
    return (
        f"{ratio:,.0f} x" if ratio >= 100 else f"{ratio:.1f} x" if ratio >= 10 else f"{ratio:.2f} x"
    )
