"""The tables of a report: decisions, areas, calibration, subgroups."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from cxrignite.reporting.html.numbers import (
    UNDEFINED,
    Ends,
    Estimate,
    count_text,
    decimal_estimate,
    observed_share,
    rate,
    score_text,
    share_estimate,
)
from cxrignite.reporting.html.reading import Record
from cxrignite.reporting.html.verdict import split_word

MAX_SUBGROUPS = 60
"""Rows of the subgroup table; an attribute may have a value for each patient."""

_COUNTS = ("tn", "fp", "fn", "tp")


CALIBRATION_SCALES = {
    "raw": "Raw score",
    "natural": "Natural score",
    "platt": "Platt scaling",
    "temperature": "Temperature scaling",
}


class Cell(NamedTuple):
    """One cell of a confusion matrix: how many films, and which share of its row."""

    films: str
    share: Estimate
    is_right: bool


class ConfusionTable(NamedTuple):
    """Decisions at one threshold.

    Attributes:
        title: Names the threshold.
        rows: A class and its two cells: called negative, called positive.
    """

    title: str
    rows: Sequence[tuple[str, Cell, Cell]]


class RateRow(NamedTuple):
    """One figure, at two thresholds or on several sets of films, with both its intervals."""

    name: str
    meaning: str
    by_film: Sequence[Estimate]
    by_patient: Sequence[Estimate]


class Measure(NamedTuple):
    """A named figure on several scales."""

    name: str
    meaning: str
    figures: Sequence[Estimate]


class Subgroup(NamedTuple):
    """What one subgroup of films got at the threshold."""

    name: str
    size: str
    tnr: Estimate
    tpr: Estimate
    roc_auc: Estimate


def confusion_tables(figures: Record, classes: tuple[str, str]) -> list[ConfusionTable]:
    """The decisions at 0.5 and, where one was chosen, at the threshold.

    Args:
        figures: Of one set of films.
        classes: The negative and the positive class.
    """
    negative, positive = classes
    tables = []
    for title, decisions in _decided(figures):
        tn, fp, fn, tp = (decisions.count(name) or 0 for name in _COUNTS)
        rows = (
            (negative, _cell(tn, fp, is_right=True), _cell(fp, tn, is_right=False)),
            (positive, _cell(fn, tp, is_right=False), _cell(tp, fn, is_right=True)),
        )
        tables.append(ConfusionTable(title, rows))
    return tables


def _decided(figures: Record) -> list[tuple[str, Record]]:
    """The thresholds whose decisions were counted in full, with their titles."""
    half, chosen = figures.child("at_half"), figures.child("at_threshold")
    title = f"Chosen threshold {score_text(chosen.number('threshold'))}"
    both = (("Threshold 0.5", half), (title, chosen))
    return [pair for pair in both if all(pair[1].count(name) is not None for name in _COUNTS)]


def _cell(count: int, rest: int, *, is_right: bool) -> Cell:
    return Cell(count_text(count), observed_share(count, rest), is_right)


def rate_rows(figures: Record, classes: tuple[str, str]) -> list[RateRow]:
    """The rates at both thresholds.

    Args:
        figures: Of one set of films.
        classes: The negative and the positive class.
    """
    negative, positive = classes
    meanings = (
        ("tnr", "Specificity (TNR)", f"of the {negative} films, called {negative}"),
        ("tpr", "Sensitivity (TPR)", f"of the {positive} films, called {positive}"),
        ("ppv", "Positive predictive value", f"of the films called {positive}, truly so"),
        ("npv", "Negative predictive value", f"of the films called {negative}, truly so"),
        ("balanced_accuracy", "Balanced accuracy", "mean of specificity and sensitivity"),
        ("accuracy", "Accuracy", "of all films, called rightly"),
    )
    present = [decisions for _, decisions in _decided(figures)]
    return [
        RateRow(
            name,
            meaning,
            [rate(decisions, key) for decisions in present],
            [_by_patient(decisions, key) for decisions in present],
        )
        for key, name, meaning in meanings
    ]


def _by_patient(decisions: Record, key: str) -> Estimate:
    return share_estimate(decisions.number(key), decisions.interval(f"patient_intervals.{key}"))


def ranking_rows(metrics: dict[str, Record]) -> tuple[list[str], list[RateRow]]:
    """AUC and average precision of every set of films.

    Args:
        metrics: Figures by the name of the films.

    Returns:
        The names of the films, and a row a measure with a figure for each of them.
    """
    usual = [name for name in ("val", "calibration", "test") if name in metrics]
    names = [*usual, *sorted(metrics.keys() - set(usual))]
    rows = (
        (
            "AUC",
            "chance that a positive film scores above a negative one; 0.5 is guessing",
            "roc_auc",
        ),
        (
            "Average precision",
            "area under the precision-recall curve; depends on the share of positives",
            "average_precision",
        ),
    )
    return [split_word(name) for name in names], [
        RateRow(
            name,
            meaning,
            [_area(metrics[films], key, "intervals") for films in names],
            [_area(metrics[films], key, "patient_intervals") for films in names],
        )
        for name, meaning, key in rows
    ]


def _area(figures: Record, key: str, intervals: str) -> Estimate:
    return decimal_estimate(figures.number(key), figures.interval(f"{intervals}.{key}"))


def calibration_rows(figures: Record) -> list[Measure]:
    """How well the scores do as probabilities: raw, natural, and scaled.

    Args:
        figures: Of one set of films.

    Returns:
        A row a measure, with the figure on each scale of `CALIBRATION_SCALES`; empty where none was
        measured.
    """
    scales = [figures.child(f"calibration.{scale}") for scale in CALIBRATION_SCALES]
    if not any(scales):
        return []
    rows = (
        ("brier", "Brier score", "mean squared error of the probability; 0 is best"),
        (
            "ece",
            "Expected calibration error",
            "typical gap between promised and true share; 0 is best",
        ),
        ("calibration_slope", "Calibration slope", "below 1: too sure of itself; 1 is best"),
        ("calibration_intercept", "Calibration intercept", "below 0: scores too high; 0 is best"),
    )
    return [
        Measure(
            name,
            meaning,
            [
                decimal_estimate(scale.number(key), scale.interval(f"patient_intervals.{key}"))
                for scale in scales
            ],
        )
        for key, name, meaning in rows
    ]


def subgroup_rows(figures: Record, classes: tuple[str, str]) -> tuple[list[Subgroup], int]:
    """What the subgroups got at the threshold.

    Args:
        figures: Of one set of films.
        classes: The negative and the positive class.

    Returns:
        The first `MAX_SUBGROUPS` rows, and how many more there are.
    """
    groups = figures.children("subgroups")
    rows = []
    for group in groups[:MAX_SUBGROUPS]:
        sizes = (
            (group.count("num_negative"), classes[0]),
            (group.count("num_positive"), classes[1]),
            (group.count("num_patients"), "patients"),
        )
        size = ", ".join(f"{number:,} {what}" for number, what in sizes if number)
        tnr, tpr = (
            share_estimate(group.number(key), group.interval(f"intervals.{key}"))
            for key in ("tnr", "tpr")
        )
        ends: Ends | None = group.interval("intervals.roc_auc")
        area = decimal_estimate(group.number("roc_auc"), ends)
        name = f"{group.text('attribute')}: {group.text('value') or UNDEFINED}"
        rows.append(Subgroup(name, size, tnr, tpr, area))
    return rows, len(groups) - len(rows)
