"""Runs against each other, in pairs on the same films: the verb `compare`.

What two runs have in common, hard films above all, cancels out in the difference: its interval is
narrower than those of the two figures make it look.
"""

from __future__ import annotations

import math
import textwrap
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from cxrignite.csv_text import csv_bytes
from cxrignite.durable_write import write_durably
from cxrignite.errors import DataError, RecipeError
from cxrignite.functional.intervals import (
    Interval,
    Statistics,
    bootstrap_differences,
    delong_difference,
)
from cxrignite.functional.weighted_metrics import decision_statistics, ranking_statistics
from cxrignite.reporting.tables import alarm
from cxrignite.reporting.wording import alarm_of_evaluation, alarm_of_rule
from cxrignite.runs.scored_run import ScoredRun, check_same_films, read_scored_run
from cxrignite.terminal import counted

_METRICS = ("roc_auc", "average_precision", "tnr", "tpr", "balanced_accuracy", "brier")
_METHODS = {"delong": "DeLong", "patient_bootstrap": "bootstrap by patient"}
_HEADER = (
    f"  {'metric':<17} {'run':>8} {'baseline':>10} {'difference':>11}  "
    f"{'95 % interval':<20}  method"
)
_COLUMNS = (
    *("run", "baseline", "metric", "value", "baseline_value", "difference", "low", "high"),
    *("method", "num_images", "num_patients"),
)
_WIDTH = 100


@dataclass(frozen=True)
class Difference:
    """One figure of one run, set against the baseline's.

    Attributes:
        run: Folder of the run.
        baseline: Folder of the run it is compared with.
        metric: `roc_auc`, `average_precision`, `tnr`, `tpr`, `balanced_accuracy` (each run at the
            threshold it decided by) or `brier` (of the natural score).
        value: The run's figure; NaN where it is undefined.
        baseline_value: The baseline's.
        interval: 95 % interval of the difference; NaN where there is none.
        method: `delong` or `patient_bootstrap`.
    """

    run: str
    baseline: str
    metric: str
    value: float
    baseline_value: float
    interval: Interval
    method: str

    @property
    def difference(self) -> float:
        """The run's figure minus the baseline's."""
        return self.value - self.baseline_value

    @property
    def excludes_zero(self) -> bool:
        """Whether the interval says that the two differ."""
        return self.interval.low > 0 or self.interval.high < 0


@dataclass(frozen=True)
class Comparison:
    """Every run against the first, on the same films.

    Attributes:
        name: Name of the films, a split or a given name.
        baseline: Folder of the first run.
        num_images: Films.
        num_patients: Patients, as the first run knows them.
        differences: By run, then by metric.
        notes: What could not be compared, and why.
        warnings: Which threshold is not usable, and why.
    """

    name: str
    baseline: str
    num_images: int
    num_patients: int
    differences: tuple[Difference, ...]
    notes: tuple[str, ...]
    warnings: tuple[str, ...] = ()

    def table(self) -> str:
        """The differences as a person reads them in a terminal of 100 columns."""
        lines = [
            *(line for warning in self.warnings for line in alarm(warning)),
            f"{self.name}: {counted(self.num_images, 'film')} of "
            f"{counted(self.num_patients, 'patient')}, "
            "each run against the baseline",
            f"baseline  {_fitted(self.baseline)}",
        ]
        run = None
        for row in self.differences:
            if row.run != run:
                run = row.run
                lines += ["", f"run       {_fitted(run)}", _HEADER]
            lines.append(_line(row))
        intervals = [row for row in self.differences if not math.isnan(row.interval.low)]
        marked = sum(row.excludes_zero for row in intervals)
        lines += [
            "",
            f"* excludes 0: {marked} of {len(intervals)} comparisons made. "
            "Where nothing differs, one in twenty excludes 0 by chance.",
            "DeLong takes films as independent, and is too narrow where patients have several; "
            "the bootstrap",
            "draws patients. tnr, tpr and balanced_accuracy are at the threshold that decided.",
            *(textwrap.fill(note, _WIDTH, break_on_hyphens=False) for note in self.notes),
        ]
        return "\n".join(lines)

    def write_csv(self, path: Path) -> None:
        """Write one row a difference; an undefined figure is left empty.

        Args:
            path: The file.

        Raises:
            CxrIgniteError: It cannot be written.
        """
        rows: list[Sequence[object]] = [_COLUMNS]
        for row in self.differences:
            figures = (row.value, row.baseline_value, row.difference, *row.interval)
            rows.append(
                [
                    *(row.run, row.baseline, row.metric),
                    *("" if math.isnan(figure) else repr(figure) for figure in figures),
                    *(row.method, self.num_images, self.num_patients),
                ]
            )
        write_durably(path, csv_bytes(rows))


def compare_runs(run_dirs: Sequence[Path], name: str = "test") -> Comparison:
    """Set every run against the first, on the films that both have scored.

    Args:
        run_dirs: At least two run folders, each once; the first is the baseline.
        name: Name of the films, a split or a given name.

    Returns:
        The differences: `roc_auc` by DeLong and, like all others, by the bootstrap over patients
        with the same resamples for both runs.

    Raises:
        RecipeError: There are fewer than two runs, or one is named twice.
        RunFolderError: A run did not finish, has not scored these films, or is damaged.
        DataError: Two runs scored other films, or none.
    """
    if len(run_dirs) < 2:
        raise RecipeError(f"compare needs at least two runs, got {len(run_dirs)}")
    seen: set[Path] = set()
    for run_dir in run_dirs:
        if run_dir.resolve() in seen:
            raise RecipeError(f"compare needs each run once, got {run_dir} twice")
        seen.add(run_dir.resolve())
    scored = [read_scored_run(run_dir, name) for run_dir in run_dirs]
    baseline, *runs = scored
    if not baseline.paths:
        raise DataError(f"{baseline.run} has no films in its {name} predictions")
    for run in runs:
        check_same_films(run, baseline)
    return Comparison(
        name,
        baseline.run,
        len(baseline.paths),
        len(set(baseline.patients)),
        tuple(row for run in runs for row in _differences(run, baseline)),
        tuple(_notes(scored)),
        tuple(
            f"{run.run}: {warning}"
            for run in scored
            for warning in (
                alarm_of_rule(run.evaluation.rule),
                alarm_of_evaluation(name, run.evaluation),
            )
            if warning
        ),
    )


def _differences(run: ScoredRun, baseline: ScoredRun) -> Iterator[Difference]:
    ours, theirs = _figures(run, baseline), _figures(baseline, run)
    everything = np.ones((1, run.y_true.size))
    value, baseline_value = ours(everything), theirs(everything)
    delong = {"roc_auc": delong_difference(run.y_score, baseline.y_score, baseline.y_true)}
    # The baseline's patients and one seed: every run is compared on the same resamples.
    resampled = bootstrap_differences(ours, theirs, baseline.patients)
    for method, intervals in (("delong", delong), ("patient_bootstrap", resampled)):
        for metric, interval in intervals.items():
            yield Difference(
                run=run.run,
                baseline=baseline.run,
                metric=metric,
                value=float(value[metric][0]),
                baseline_value=float(baseline_value[metric][0]),
                interval=interval,
                method=method,
            )


def _figures(run: ScoredRun, other: ScoredRun) -> Statistics:
    """The figures of `run` that `other` has as well."""
    parts = [ranking_statistics(run.y_score, run.y_true)]
    if run.threshold is not None and other.threshold is not None:
        parts.append(decision_statistics(run.y_score, run.y_true, run.threshold))
    if run.natural_score is not None and other.natural_score is not None:
        squares = (run.natural_score - run.y_true) ** 2
        parts.append(lambda weights: {"brier": weights @ squares / weights.sum(axis=1)})

    def statistics(weights: NDArray[np.float64]) -> dict[str, NDArray[np.float64]]:
        figures = {name: figure for part in parts for name, figure in part(weights).items()}
        return {metric: figures[metric] for metric in _METRICS if metric in figures}

    return statistics


def _notes(scored: Sequence[ScoredRun]) -> Iterator[str]:
    for run in scored:
        if run.threshold is None:
            yield f"No tnr, tpr and balanced_accuracy with {run.run}: it has no threshold."
        if run.natural_score is None:
            yield f"No brier with {run.run}: it has no natural scores."


def _line(row: Difference) -> str:
    low, high = row.interval
    interval = "none" if math.isnan(low) else f"[{low:+.4f}, {high:+.4f}]"
    return (
        f"  {row.metric:<17} {_number(row.value)} {_number(row.baseline_value):>10} "
        f"{_number(row.difference, '+'):>11}  {interval:<18} {'*' if row.excludes_zero else ' '}  "
        f"{_METHODS[row.method]}"
    )


def _number(value: float, sign: str = "") -> str:
    return f"{'-':>8}" if math.isnan(value) else f"{value:{sign}8.4f}"


def _fitted(run: str) -> str:
    """The end of a long path, which tells more than its beginning."""
    room = _WIDTH - len("baseline  ")
    return run if len(run) <= room else f"...{run[3 - room :]}"
