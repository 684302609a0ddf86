"""Tables of a comparison of runs, as text and as CSV."""

from __future__ import annotations

import math

from cxrignite.csv_text import csv_bytes
from cxrignite.reporting.text_table import alarm, table_lines
from cxrignite.reporting.wording import describe_missing_labels
from cxrignite.runs.comparison_result import ComparisonResult, Difference
from cxrignite.terminal import counted, wrapped

_METHODS = {"delong": "DeLong", "patient_bootstrap": "bootstrap by patient"}
_HEADER = ["metric", "run", "baseline", "difference", "95 % interval", "method"]
_COLUMNS = (
    *("run", "baseline", "finding", "metric", "value", "baseline_value", "difference"),
    *("low", "high", "method", "num_images", "num_patients"),
)
_MAX_PATH = 90


def comparison_table(result: ComparisonResult) -> str:
    """Lay out a comparison for a terminal of 100 columns."""
    rows: list[list[str]] = []
    has_several = len({row.finding for row in result.differences}) > 1
    last = "", ""
    for row in result.differences:
        if last != (row.run, row.finding):
            if last[0] != row.run:
                rows += [[], [f"run       {_fitted(row.run)}"]]
            if has_several:
                sizes = counted(row.num_images, "image"), counted(row.num_patients, "patient")
                rows.append([f"  {row.finding}: {' of '.join(sizes)}"])
            rows.append(_HEADER)
            last = row.run, row.finding
        rows.append(_cells(row))
    intervals = [row for row in result.differences if not math.isnan(row.interval.low)]
    marked = sum(row.excludes_zero for row in intervals)
    notes = [
        f"* the interval excludes 0: {marked} of {len(intervals)} comparisons. "
        "If runs do not differ, one in twenty excludes 0 by chance.",
        "DeLong treats images as independent: its interval is too narrow if patients have several. "
        "The bootstrap resamples patients. tnr, tpr and balanced_accuracy are at each run's own "
        "threshold.",
        *(
            ["tnr and tpr count a referred image as not wrong: read them together with referred."]
            if any(row.metric == "referred" for row in result.differences)
            else []
        ),
        *(
            f"No tnr, tpr and balanced_accuracy for {_fitted(run)}: it has no threshold."
            for run in result.without_threshold
        ),
        *(
            f"No brier for {_fitted(run)}: it has no probabilities."
            for run in result.without_probability
        ),
        *map(describe_missing_labels, result.without_labels),
    ]
    return "\n".join(
        [
            *(line for warning in result.warnings for line in alarm(warning)),
            *_run_lines(result),
            f"{result.name}: {counted(result.num_images, 'image')} of "
            f"{counted(result.num_patients, 'patient')}; each run is compared with the baseline",
            f"baseline  {_fitted(result.baseline)}",
            *table_lines(rows, "<>>><<", indent="  "),
            "",
            *map(wrapped, notes),
        ]
    )


def _run_lines(result: ComparisonResult) -> list[str]:
    """List the runs by rank, and the recipe keys in which they differ."""
    runs = list(map(_fitted, result.runs))
    if result.ranks:
        rows = [["", f"val {result.rank_by}", "95 % interval", "run"]]
        for number, (run, figure) in enumerate(zip(runs, result.ranks, strict=True), start=1):
            interval = figure.by_patient or figure.interval
            limits = "none" if interval is None else f"[{interval.low:.4f}, {interval.high:.4f}]"
            value = _number(math.nan if figure.value is None else figure.value)
            rows.append([str(number), value, limits, run])
        note = (
            f"The best of {len(runs)} runs looks better on the images that ranked it than on new "
            "ones."
        )
        lines = [*table_lines(rows, ">>><", indent="  "), wrapped(note), ""]
    else:
        rows = [[str(number), run] for number, run in enumerate(runs, start=1)]
        lines = [*table_lines(rows, "><", indent="  "), ""] if result.recipe_values else []
    if not result.recipe_values:
        return lines
    keys = [["recipe key", "value (runs)"]]
    for key, values in result.recipe_values.items():
        which: dict[str, list[str]] = {}
        for number, value in enumerate(values, start=1):
            which.setdefault(value or "not set", []).append(str(number))
        shown = (f"{value} ({', '.join(numbers)})" for value, numbers in which.items())
        keys.append([key, "; ".join(shown)])
    return [*lines, *table_lines(keys, "<<", indent="  ", wrap=True), ""]


def comparison_csv(result: ComparisonResult) -> bytes:
    """Write one row per difference, in full precision; an undefined figure is an empty cell."""
    rows: list[tuple[object, ...]] = [_COLUMNS]
    for row in result.differences:
        figures = (row.value, row.baseline_value, row.difference, *row.interval)
        cells = ("" if math.isnan(figure) else repr(figure) for figure in figures)
        about = row.run, result.baseline, row.finding, row.metric
        rows.append((*about, *cells, row.method, row.num_images, row.num_patients))
    return csv_bytes(rows)


def _cells(row: Difference) -> list[str]:
    low, high = row.interval
    interval = "none" if math.isnan(low) else f"[{low:+.4f}, {high:+.4f}]"
    figures = (_number(row.value), _number(row.baseline_value), _number(row.difference, "+"))
    mark = " *" if row.excludes_zero else ""
    return [row.metric, *figures, f"{interval}{mark}", _METHODS[row.method]]


def _number(value: float, sign: str = "") -> str:
    return "-" if math.isnan(value) else f"{value:{sign}.4f}"


def _fitted(run: str) -> str:
    """Shorten a long path to its end, which identifies it better than its beginning."""
    return run if len(run) <= _MAX_PATH else f"...{run[3 - _MAX_PATH :]}"
