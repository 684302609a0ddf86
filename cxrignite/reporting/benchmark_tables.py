"""Tables of a benchmark, as Markdown and as CSV."""

from __future__ import annotations

from cxrignite.csv_text import dict_rows
from cxrignite.reporting.text_table import table_lines
from cxrignite.runs.benchmark_result import BenchmarkResult

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


def benchmark_csv(result: BenchmarkResult) -> bytes:
    """Write one row per measurement as CSV; a cell is empty if its column does not apply."""
    rows = [
        {
            "part": "input",
            "name": stage.name,
            "plain_images_per_second": f"{stage.plain:.6g}",
            "images_per_second": f"{stage.ours:.6g}",
            "times_the_plain_way": f"{stage.ratio:.4g}",
            "note": stage.note,
        }
        for stage in result.stages
    ]
    first = result.variants[0].images_per_second
    for variant, share in zip(result.variants, result.own_shares, strict=True):
        rate = variant.images_per_second
        rows.append(
            {
                "part": "training",
                "name": variant.name,
                "plain_images_per_second": f"{first:.6g}",
                "images_per_second": f"{rate:.6g}",
                "times_the_plain_way": f"{rate / first:.4g}",
                "own_share": f"{share:.4g}",
                "milliseconds_a_step": f"{1000 * result.batch_size / rate:.6g}",
                "data_wait_share": f"{variant.wait_share:.4g}",
                "epoch_seconds": f"{result.num_images / rate:.6g}",
                "peak_memory_mb": f"{variant.memory_bytes / 2**20:.0f}",
                "note": variant.failure,
            }
        )
    return dict_rows(rows, _COLUMNS)


def benchmark_markdown(result: BenchmarkResult) -> str:
    """Write the same as Markdown tables."""
    stages = [["", "plain loop", "cxrignite", "ratio", "measured on"]]
    for stage in result.stages:
        rates = (number_text(stage.plain), number_text(stage.ours), times_text(stage.ratio))
        stages.append([stage.name, *rates, stage.note])
    variants = [
        [
            *("", "images/s", "vs plain loop", "own factor", "ms per step", "waits for data"),
            *(f"s per epoch of {result.num_images:,}", "peak MB"),
        ]
    ]
    first = result.variants[0].images_per_second
    for number, (variant, share) in enumerate(zip(result.variants, result.own_shares, strict=True)):
        rate = variant.images_per_second
        if variant.failure:
            variants.append([variant.name, *[""] * 6, variant.failure])
            continue
        variants.append(
            [
                variant.name,
                number_text(rate),
                times_text(rate / first),
                times_text(share) if number else "",
                f"{1000 * result.batch_size / rate:,.1f}",
                f"{100 * variant.wait_share:.0f} %",
                f"{result.num_images / rate:,.1f}",
                f"{variant.memory_bytes / 2**20:,.0f}",
            ]
        )
    lines = ["# Benchmark", "", *(f"- {line}" for line in _setup_lines(result))]
    lines += ["", "## Input, images per second", "", *table_lines(stages, "<>", markdown=True)]
    lines += ["", "## Training", "", "Each row adds one change to the row above it.", ""]
    return "\n".join([*lines, *table_lines(variants, "<>", markdown=True), ""])


def _setup_lines(result: BenchmarkResult) -> list[str]:
    start, precision = result.start, result.precision
    device = f"{start.device} ({result.gpu})" if result.gpu else start.device
    return [
        f"device {device}, {result.num_cores} cores, {start.num_threads} threads",
        f"torch {result.torch}, Python {start.python}, {start.platform}",
        f"{precision.name}: {precision.reason}",
        f"{result.model}, images of {result.image_size[0]} x {result.image_size[1]}, "
        f"batches of {result.batch_size}, {result.num_workers} workers",
    ]


def number_text(value: float) -> str:
    """Write a rate, to a tenth if it is small."""
    return f"{value:,.0f}" if value >= 100 else f"{value:.1f}"


def times_text(ratio: float) -> str:
    """Write a ratio with three digits."""
    return (
        f"{ratio:,.0f} x" if ratio >= 100 else f"{ratio:.1f} x" if ratio >= 10 else f"{ratio:.2f} x"
    )
