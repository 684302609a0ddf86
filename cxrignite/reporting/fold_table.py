"""Table of the folds of a cross-validation, as text and as CSV."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict, fields
from statistics import mean, stdev

from cxrignite.csv_text import csv_bytes
from cxrignite.reporting.numbers import decimal
from cxrignite.reporting.text_table import table_lines
from cxrignite.runs.fold_results import FoldResult, FoldResults

FOLD_HEADER = (
    *("fold", "images", "positive", "epoch", "threshold", "AUC", "average prec."),
    *("TNR", "TPR", "balanced acc."),
)
"""Titles of the columns."""

_METRICS = ("roc_auc", "average_precision", "tnr", "tpr", "balanced_accuracy")


def fold_rows(results: FoldResults, finding: str) -> list[list[str]]:
    """Return the cells of each fold, then those of the mean and of the standard deviation.

    Args:
        results: The folds.
        finding: Name of the finding.
    """
    folds = [each for each in results.folds if each.finding == finding]
    rows = [
        [
            *(str(each.fold), str(each.num_images), str(each.num_positive), str(each.epoch)),
            decimal(each.threshold, 4),
            *(decimal(getattr(each, name), 4) for name in _METRICS),
        ]
        for each in folds
    ]
    for name, values in _summaries(folds):
        rows.append([name, "", "", "", "", *(decimal(value, 4) for value in values)])
    return rows


def fold_table(results: FoldResults) -> str:
    """Lay out the folds for a terminal."""
    findings = list(dict.fromkeys(each.finding for each in results.folds))
    rows: list[Sequence[str]] = []
    for finding in findings:
        rows += [[], [finding]] if len(findings) > 1 else [[]]
        rows += [FOLD_HEADER, *fold_rows(results, finding)]
    return "\n".join([*table_lines(rows, "<>", indent="  "), ""])


def fold_csv(results: FoldResults) -> bytes:
    """Return the folds as CSV, with a mean and a standard deviation of each finding at the end."""
    columns = [field.name for field in fields(FoldResult)]
    rows: list[dict[str, object]] = [asdict(each) for each in results.folds]
    for finding in dict.fromkeys(each.finding for each in results.folds):
        folds = [each for each in results.folds if each.finding == finding]
        for name, values in _summaries(folds):
            rows.append(
                {"fold": name, "finding": finding, **dict(zip(_METRICS, values, strict=True))}
            )
    return csv_bytes([columns, *([row.get(name) for name in columns] for row in rows)])


def _summaries(folds: Sequence[FoldResult]) -> Iterator[tuple[str, list[float | None]]]:
    """Yield the mean and the standard deviation of each metric over the folds that have it."""
    known = [
        [value for each in folds if (value := getattr(each, name)) is not None] for name in _METRICS
    ]
    yield "mean", [mean(values) if values else None for values in known]
    yield "std", [stdev(values) if len(values) > 1 else None for values in known]
