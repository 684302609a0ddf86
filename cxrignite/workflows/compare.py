"""Compare runs in pairs on the same images.

What two runs have in common, above all the hard images, cancels in the difference. So the interval
of the difference is narrower than the two single intervals suggest.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from cxrignite.durable_write import write_durably
from cxrignite.errors import DataError, RecipeError, RunFolderError
from cxrignite.functional.intervals import Statistics, bootstrap_differences, delong_difference
from cxrignite.functional.weighted_metrics import decision_statistics, ranking_statistics
from cxrignite.reporting.comparison_table import comparison_csv, comparison_table
from cxrignite.reporting.wording import alarm_of_evaluation, alarm_of_rule
from cxrignite.runs.comparison_result import ComparisonResult, Difference
from cxrignite.runs.evaluation import Estimate, Evaluations
from cxrignite.runs.recipe_keys import flatten_recipe
from cxrignite.runs.run_folder import RunFolder
from cxrignite.runs.scored_run import ScoredRun, read_scored_run
from cxrignite.terminal import print_output

_METRICS = ("roc_auc", "average_precision", "tnr", "tpr", "referred", "balanced_accuracy", "brier")


RANK_FIGURES = ("roc_auc", "average_precision", "balanced_accuracy")
"""Validation figures that runs can be ranked by."""


def compare(
    run_dirs: Sequence[Path],
    name: str = "test",
    output: Path | None = None,
    rank_by: str | None = None,
) -> None:
    """Print the comparison of every run with the first, on the images that all have scored.

    `output` is a CSV file for the same table. With `rank_by`, one of `RANK_FIGURES`, the runs are
    ranked by that validation figure and the best one is the first.

    Raises:
        CxrIgniteError: As in `compare_runs`, or the file cannot be written.
    """
    result = compare_runs(run_dirs, name, rank_by)
    print_output(f"{comparison_table(result)}\n")
    if output is not None:
        write_durably(output, comparison_csv(result))


def compare_runs(
    run_dirs: Sequence[Path], name: str = "test", rank_by: str | None = None
) -> ComparisonResult:
    """Compute the difference of every run to the first, on the images that all have scored.

    The first run is the baseline: the first one named or, with `rank_by`, the one with the best
    validation figure of that name. A figure of the test images cannot rank, since choosing by it
    would make it too good. `name` is a split or a given name.

    Returns:
        The differences: `roc_auc` by DeLong and, like all others, by the bootstrap over patients
        with the same resamples for both runs.

    Raises:
        RecipeError: There are fewer than two runs, or one is named twice.
        RunFolderError: A run did not finish, has not scored these images, or is damaged.
        DataError: Two runs scored different images, or none.
    """
    if len(run_dirs) < 2:
        raise RecipeError(f"compare needs at least two runs, got {len(run_dirs)}")
    folders = [run_dir.resolve() for run_dir in run_dirs]
    for number, run_dir in enumerate(run_dirs):
        if folders[number] in folders[:number]:
            raise RecipeError(f"compare needs different runs, got {run_dir} twice")
    ranks: list[Estimate] = []
    if rank_by is not None:
        ranked = [(run_dir, _validation_figure(run_dir, rank_by)) for run_dir in run_dirs]
        ranked.sort(key=lambda each: -1.0 if each[1].value is None else each[1].value, reverse=True)
        run_dirs, ranks = [each for each, _ in ranked], [each for _, each in ranked]
    scored = [read_scored_run(run_dir, name) for run_dir in run_dirs]
    baselines, *others = scored
    for runs in others:
        _check_same_findings(runs, baselines)
        for run, baseline in zip(runs, baselines, strict=True):
            _check_same_records(run, baseline)
    if not any(baseline.paths for baseline in baselines):
        raise DataError(f"{baselines[0].run} has no images in its {name} predictions")
    patients = {
        path: patient
        for baseline in baselines
        for path, patient in zip(baseline.paths, baseline.patients, strict=True)
    }
    return ComparisonResult(
        name,
        baselines[0].run,
        len(patients),
        len(set(patients.values())),
        tuple(
            row
            for runs in others
            for run, baseline in zip(runs, baselines, strict=True)
            if baseline.paths  # a finding may have no known label
            for row in _differences(run, baseline)
        ),
        runs=tuple(map(str, run_dirs)),
        recipe_values=_recipe_values(run_dirs),
        rank_by=rank_by or "",
        ranks=tuple(ranks),
        without_threshold=tuple(
            f"{run.run}{_of(run, len(runs))}"
            for runs in scored
            for run in runs
            if run.threshold is None
        ),
        without_probability=tuple(
            f"{run.run}{_of(run, len(runs))}"
            for runs in scored
            for run in runs
            if run.paths and run.probability is None
        ),
        without_labels=tuple(baseline.finding for baseline in baselines if not baseline.paths),
        warnings=tuple(
            f"{run.run}{_of(run, len(runs))}: {alarm}"
            for runs in scored
            for run in runs
            for alarm in (
                alarm_of_rule(run.evaluation.rule),
                alarm_of_evaluation(name, run.evaluation),
            )
            if alarm
        ),
    )


def _validation_figure(run_dir: Path, name: str) -> Estimate:
    """Return a figure of a run's validation images; the average over several findings."""
    if name not in RANK_FIGURES:
        raise RecipeError(f"--rank_by must be one of {', '.join(RANK_FIGURES)}, got {name}")
    evaluations = RunFolder(run_dir).find_evaluations("val")
    if evaluations is None:
        raise RunFolderError(
            f"{run_dir} must have validation figures to be ranked, got none; run "
            f"`cxrignite validate --run {run_dir}`"
        )
    found = _figure(evaluations, name)
    if found is None:
        raise RecipeError(f"{run_dir} has no validation figure {name}; use --rank_by roc_auc")
    return found


def _figure(evaluations: Evaluations, name: str) -> Estimate | None:
    averages, first = evaluations.averages, evaluations.findings[0]
    of_decisions = first.at_threshold if averages is None else averages.decisions
    of_ranking = first if averages is None else averages
    found: Estimate | None = getattr(
        of_decisions if name == "balanced_accuracy" else of_ranking, name, None
    )
    return found


def _recipe_values(run_dirs: Sequence[Path]) -> dict[str, tuple[str, ...]]:
    """Return the recipe keys that differ between runs, with the value of each run."""
    recipes = [flatten_recipe(RunFolder(each).read_recipe()) for each in run_dirs]
    keys = dict.fromkeys(key for recipe in recipes for key in recipe if key != "run_dir")
    values = {
        key: tuple(json.dumps(each[key]).strip('"') if key in each else "" for each in recipes)
        for key in keys
    }
    return {key: each for key, each in values.items() if len(set(each)) > 1}


def _of(run: ScoredRun, num_findings: int) -> str:
    return f", {run.finding}" if num_findings > 1 else ""


def _check_same_findings(runs: Sequence[ScoredRun], baselines: Sequence[ScoredRun]) -> None:
    """Check that two runs have the same findings in the same order.

    Raises:
        DataError: They do not.
    """
    ours, theirs = ([run.finding for run in each] for each in (runs, baselines))
    if ours != theirs and (len(ours) > 1 or len(theirs) > 1):
        raise DataError(
            f"{runs[0].run} and {baselines[0].run} must have the same findings, "
            f"got {', '.join(ours)} and {', '.join(theirs)}"
        )


def _check_same_records(run: ScoredRun, baseline: ScoredRun) -> None:
    """Check that two runs scored the same images, with the same labels.

    Raises:
        DataError: They did not; with the number of differences and the first of them.
    """
    ours = dict(zip(run.paths, run.y_true.tolist(), strict=True))
    theirs = dict(zip(baseline.paths, baseline.y_true.tolist(), strict=True))
    differing = sorted(
        path for path in ours.keys() | theirs.keys() if ours.get(path) != theirs.get(path)
    )
    if not differing:
        return
    first = differing[0]
    if first not in theirs:
        reason = f"only in {run.run}"
    elif first not in ours:
        reason = f"only in {baseline.run}"
    else:
        reason = f"label {ours[first]} in {run.run} and {theirs[first]} in {baseline.run}"
    raise DataError(
        f"{run.run} and {baseline.run} scored different images: "
        f"{len(differing)} differ, the first is {first} ({reason})"
    )


def _differences(run: ScoredRun, baseline: ScoredRun) -> Iterator[Difference]:
    ours, theirs = _metrics(run, baseline), _metrics(baseline, run)
    everything = np.ones((1, run.y_true.size))
    value, baseline_value = ours(everything), theirs(everything)

    def difference(metric: str) -> tuple[str, str, str, float, float]:
        values = float(value[metric][0]), float(baseline_value[metric][0])
        return run.run, run.finding, metric, *values

    sizes = len(baseline.paths), len(set(baseline.patients))
    delong = delong_difference(run.y_score, baseline.y_score, baseline.y_true)
    yield Difference(*difference("roc_auc"), delong, "delong", *sizes)
    # The baseline's patients and one seed, so that all runs share the same resamples.
    resampled = bootstrap_differences(ours, theirs, baseline.patients)
    for metric, interval in resampled.items():
        yield Difference(*difference(metric), interval, "patient_bootstrap", *sizes)


def _metrics(run: ScoredRun, other: ScoredRun) -> Statistics:
    """Return the metrics of `run` that `other` has as well."""
    parts = [ranking_statistics(run.y_score, run.y_true)]
    if run.threshold is not None and other.threshold is not None:
        parts.append(
            decision_statistics(*(run.y_score, run.y_true, run.threshold), run.lower_threshold)
        )
    if run.probability is not None and other.probability is not None:
        squares = (run.probability - run.y_true) ** 2
        parts.append(lambda weights: {"brier": weights @ squares / weights.sum(axis=1)})

    def statistics(weights: NDArray[np.float64]) -> dict[str, NDArray[np.float64]]:
        found = {name: values for part in parts for name, values in part(weights).items()}
        if run.lower_threshold is None and other.lower_threshold is None:
            found.pop("referred", None)
        return {metric: found[metric] for metric in _METRICS if metric in found}

    return statistics
