import csv
import math
from dataclasses import replace

import numpy as np
import pytest
from messages import line_with, missing, refused, unwrapped
from results import USELESS, evaluation_of, rule_of
from scipy.special import expit
from sklearn.metrics import average_precision_score, brier_score_loss, roc_auc_score

from cxrignite.errors import DataError, RecipeError, RunFolderError
from cxrignite.functional.confusion import confusion_at
from cxrignite.functional.intervals import bootstrap_samples, delong_difference
from cxrignite.functional.weighted_metrics import decision_statistics
from cxrignite.handlers import SafeSaver
from cxrignite.reporting.comparison_table import comparison_csv, comparison_table
from cxrignite.reporting.wording import NOT_USABLE
from cxrignite.runs.decision_rule import DecisionRules
from cxrignite.runs.evaluation import Evaluations
from cxrignite.runs.json_codec import to_json
from cxrignite.runs.run_folder import RunFolder
from cxrignite.workflows.compare import compare, compare_runs

HEADER = ["path", "patient", "label", "score", "probability", "decision"]
NUM_IMAGES = 160


@pytest.fixture
def make_run(tmp_path):
    """Leave a finished run's files; gives the folder."""

    def make(run, rows, threshold=0.6, name="test", header=HEADER, measured=None):
        folder = tmp_path / run
        (folder / "predictions").mkdir(parents=True, exist_ok=True)
        (folder / "history.csv").write_text("epoch\n1\n")
        (folder / "recipe.yaml").write_text(f"seed: 1\nrun_dir: {run}\n")
        if not (folder / "checkpoints").exists():
            SafeSaver(folder / "checkpoints")({"model": {}}, "best.pt", {"epoch": 1})
        run_folder = RunFolder(folder)
        rule = rule_of(status="empirical", weights_sha256=run_folder.weights_sha256())
        point = None if threshold is None else replace(rule.point, threshold=threshold)
        rule = replace(rule, point=point)
        write = {
            run_folder.operating_point_path: DecisionRules((rule,)),
            run_folder.metrics_path(name): Evaluations(
                (evaluation_of(rule, informativeness=measured),)
            ),
        }
        for path, result in write.items():
            path.parent.mkdir(exist_ok=True)
            path.write_bytes(to_json(result))
        with (folder / "predictions" / f"{name}.csv").open("w", newline="") as file:
            writer = csv.writer(file)
            writer.writerow(header)
            writer.writerows([[row[column] for column in header] for row in rows])
        return folder

    return make


def records(seed, strength=2.0, num_images=NUM_IMAGES):
    """Rows of a prediction file: the same images for every seed, other scores."""
    noise = np.random.default_rng(seed).normal(size=num_images)
    common = np.random.default_rng(99).normal(size=num_images)
    rows = []
    for number in range(num_images):
        label = int(number % 5 > 1)
        score = float(expit(strength * label - 1 + common[number] + 0.5 * noise[number]))
        rows.append(
            {
                "path": f"image{number:03d}.png",
                "patient": f"p{number // 2}",
                "label": label,
                "score": repr(score),
                "probability": repr(score**2),
                "decision": "positive" if score >= 0.6 else "negative",
            }
        )
    return rows


def by_metric(comparison, method="patient_bootstrap"):
    return {row.metric: row for row in comparison.differences if row.method == method}


def test_every_figure_is_that_of_a_second_source(make_run):
    ours, theirs = records(1), records(2, strength=1.2)
    run, baseline = make_run("b", ours, threshold=0.7), make_run("a", theirs, threshold=0.5)
    comparison = compare_runs([baseline, run])
    assert (comparison.num_images, comparison.num_patients) == (NUM_IMAGES, NUM_IMAGES // 2)
    rows = by_metric(comparison)
    labels = [row["label"] for row in ours]
    for side, records_of, threshold in (
        ("value", ours, 0.7),
        ("baseline_value", theirs, 0.5),
    ):
        scores = [float(row["score"]) for row in records_of]
        probability = [float(row["probability"]) for row in records_of]
        cells = confusion_at(scores, labels, threshold)
        expected = {
            "roc_auc": roc_auc_score(labels, scores),
            "average_precision": average_precision_score(labels, scores),
            "tnr": cells.tnr,
            "tpr": cells.tpr,
            "balanced_accuracy": cells.balanced_accuracy,
            "brier": brier_score_loss(labels, probability),
        }
        assert {name: getattr(row, side) for name, row in rows.items()} == pytest.approx(expected)
    assert {row.run for row in rows.values()} == {str(run)}
    assert comparison.baseline == str(baseline)


def test_the_recipe_keys_that_differ_are_listed(make_run):
    runs = [make_run(name, records(1)) for name in "abc"]
    for run, text in zip(runs, ("lr: 0.1\n", "lr: 0.2\n", "lr: 0.1\nextra: []\n"), strict=True):
        (run / "recipe.yaml").write_text(f"seed: 1\nrun_dir: {run}\noptimizer:\n  {text}")
    (runs[2] / "recipe.yaml").write_text("seed: 1\nextra: null\noptimizer: {lr: 0.1}\n")
    result = compare_runs(runs)
    assert result.recipe_values == {
        "optimizer.lr": ("0.1", "0.2", "0.1"),
        "extra": ("", "", "null"),
    }
    table = comparison_table(result)
    line_with(table, "optimizer.lr", "0.1 (1, 3)", "0.2 (2)")
    assert "seed" not in table


@pytest.fixture
def ranked(make_run):
    """Three runs, the second with the best validation figure and the last with the worst."""
    runs = [make_run(name, records(seed)) for seed, name in enumerate("abc")]
    for run, value in zip(runs, (0.8, 0.9, 0.7), strict=True):
        folder = RunFolder(run)
        (evaluation,) = folder.find_evaluations("test").findings
        area = replace(evaluation.roc_auc, value=value)
        decisions = replace(
            evaluation.at_threshold,
            balanced_accuracy=replace(evaluation.at_threshold.balanced_accuracy, value=1 - value),
        )
        changed = replace(evaluation, roc_auc=area, at_threshold=decisions)
        folder.metrics_path("val").write_bytes(to_json(Evaluations((changed,))))
    return runs


@pytest.mark.parametrize(
    ("figure", "order", "best"),
    [("roc_auc", (1, 0, 2), 0.9), ("balanced_accuracy", (2, 0, 1), 0.3)],
)
def test_runs_are_ranked_by_a_validation_figure(ranked, figure, order, best):
    result = compare_runs(ranked, rank_by=figure)
    assert result.runs == tuple(str(ranked[each]) for each in order)
    assert result.baseline == result.runs[0]
    assert result.ranks[0].value == pytest.approx(best)
    table = unwrapped(comparison_table(result))
    assert missing(table, [f"val {figure}", f"{best:.4f}", "best of 3 runs"]) == []


@pytest.mark.parametrize("figure", ["test_roc_auc", "loss"])
def test_only_validation_figures_rank(ranked, figure):
    with refused(RecipeError, "--rank_by", "roc_auc", figure):
        compare_runs(ranked, rank_by=figure)


def test_a_run_without_validation_figures_cannot_be_ranked(ranked):
    RunFolder(ranked[2]).metrics_path("val").unlink()
    with refused(RunFolderError, ranked[2], "cxrignite validate"):
        compare_runs(ranked, rank_by="roc_auc")


def test_a_threshold_that_is_not_usable_is_reported_before_the_table(make_run):
    runs = [make_run("a", records(1)), make_run("b", records(2), measured=USELESS)]
    first = unwrapped(comparison_table(compare_runs(runs))).splitlines()[0]
    line_with(first, runs[1], NOT_USABLE.upper(), "test", "0.430")


def test_the_area_is_compared_by_delong_and_by_the_bootstrap(make_run):
    ours, theirs = records(1), records(2, strength=1.2)
    comparison = compare_runs([make_run("a", theirs), make_run("b", ours)])
    scores = [[float(row["score"]) for row in rows] for rows in (ours, theirs)]
    [row] = by_metric(comparison, "delong").values()
    assert row.metric == "roc_auc"
    assert row.interval == delong_difference(*scores, [row["label"] for row in ours])
    bootstrapped = by_metric(comparison)["roc_auc"]
    assert bootstrapped.difference == row.difference > 0
    assert bootstrapped.interval == pytest.approx(row.interval, abs=0.03)


def test_both_runs_are_resampled_alike(make_run):
    ours, theirs = records(1), records(2)
    row = by_metric(compare_runs([make_run("a", theirs), make_run("b", ours)]))["balanced_accuracy"]
    low, high = row.interval
    assert low < row.difference < high
    # Apart, the images that are hard for both would count twice.
    labels, names = [row["label"] for row in ours], [row["patient"] for row in ours]
    spread = 0.0
    for rows in (ours, theirs):
        statistics = decision_statistics([float(row["score"]) for row in rows], labels, 0.6)
        spread += bootstrap_samples(statistics, names)["balanced_accuracy"].var()
    assert high - low < 0.8 * 2 * 1.96 * math.sqrt(spread)


def test_a_better_run_is_marked_and_an_equal_one_is_not(make_run):
    baseline = make_run("a", records(1, strength=0.5))
    comparison = compare_runs([baseline, make_run("b", records(2, strength=4.0))])
    better = by_metric(comparison)
    assert better["roc_auc"].excludes_zero
    assert better["tpr"].excludes_zero
    alike = compare_runs([baseline, make_run("c", records(3, strength=0.5))])
    assert not by_metric(alike)["roc_auc"].excludes_zero
    for row in comparison.differences:
        assert row.excludes_zero == (row.interval.low > 0 or row.interval.high < 0)


def test_a_run_against_its_own_scores_differs_in_nothing(make_run):
    rows = records(1)
    comparison = compare_runs([make_run("a", rows), make_run("b", rows)])
    for row in comparison.differences:
        assert row.difference == 0
        assert not row.excludes_zero
    # The bootstrap saw no difference in any resample and says nothing; DeLong falls back.
    assert all(math.isnan(row.interval.low) for row in by_metric(comparison).values())
    # Of the seven lines that hold a difference one alone has an interval.
    lines = comparison_table(comparison).splitlines()
    assert sum("+0.0000" in line for line in lines) == 7
    assert sum("[" in line for line in lines) == 1
    line_with(comparison_table(comparison), "*", "0 of 1")


def test_images_are_matched_by_path_whatever_their_order(make_run):
    ours, baseline = records(1), make_run("a", records(2))
    straight = compare_runs([baseline, make_run("b", ours)])
    shuffled = make_run("b", [ours[k] for k in np.random.default_rng(0).permutation(len(ours))])
    assert compare_runs([baseline, shuffled]) == straight


def test_every_run_is_compared_with_the_first(make_run):
    dirs = [make_run(name, records(seed)) for seed, name in enumerate("abc")]
    comparison = compare_runs(dirs)
    assert [row.run for row in comparison.differences] == [str(dirs[1])] * 7 + [str(dirs[2])] * 7
    assert comparison.baseline == str(dirs[0])
    alone = compare_runs([dirs[0], dirs[2]])
    assert alone.differences == comparison.differences[7:]


def test_without_a_threshold_or_training_scores_the_rest_is_compared(make_run):
    unknown = [{**row, "probability": ""} for row in records(1)]
    without = make_run("a", unknown, threshold=None)
    comparison = compare_runs([without, make_run("b", records(2))])
    assert list(by_metric(comparison)) == ["roc_auc", "average_precision"]
    assert comparison.without_threshold == comparison.without_probability == (str(without),)
    text = " ".join(comparison_table(comparison).split())
    assert missing(text, ["No tnr, tpr and balanced_accuracy", "No brier", without]) == []


def test_the_threshold_is_the_one_that_decided_the_scores(make_run):
    baseline, run = make_run("a", records(1)), make_run("b", records(2), threshold=0.4)
    before = by_metric(compare_runs([baseline, run]))["tpr"].value
    # Another operating point now, as after more epochs or of another run: not of these scores.
    folder = RunFolder(run)
    rule = folder.find_rules()[0]
    moved = replace(rule, point=replace(rule.point, threshold=0.99))
    folder.operating_point_path.write_bytes(to_json(DecisionRules((moved,))))
    assert by_metric(compare_runs([baseline, run]))["tpr"].value == before
    # The same images decided by a site's operating point, under a name of their own.
    for folder, seed in ((baseline, 1), (run, 2)):
        make_run(folder.name, records(seed), threshold=0.99, name="test@site")
    assert by_metric(compare_runs([baseline, run], "test@site"))["tpr"].value < before


def test_scores_of_other_weights_than_the_run_has_now_are_refused(make_run):
    baseline, run = make_run("a", records(1)), make_run("b", records(2))
    SafeSaver(run / "checkpoints")({"model": {"more": 1}}, "best.pt", {"epoch": 2})
    with refused(RunFolderError, run, "weights"):
        compare_runs([baseline, run])


def test_the_csv_has_a_row_a_difference_and_full_precision(make_run, tmp_path):
    runs = [make_run("a", records(1)), make_run("b", records(2, strength=3.0))]
    comparison = compare_runs(runs)
    path = tmp_path / "out" / "differences.csv"
    compare(runs, output=path)
    with path.open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert list(rows[0]) == [
        *("run", "baseline", "finding", "metric", "value", "baseline_value", "difference"),
        *("low", "high", "method", "num_images", "num_patients"),
    ]
    assert len(rows) == len(comparison.differences) == 7
    for row, difference in zip(rows, comparison.differences, strict=True):
        assert (row["metric"], row["method"]) == (difference.metric, difference.method)
        assert float(row["value"]) - float(row["baseline_value"]) == float(row["difference"])
        assert (float(row["low"]), float(row["high"])) == difference.interval
        assert (row["num_images"], row["num_patients"]) == ("160", "80")


def test_an_undefined_figure_is_empty_in_the_csv_and_a_dash_in_the_table(make_run):
    healthy = (
        [{**row, "label": 0} for row in records(1)],
        [{**row, "label": 0} for row in records(2)],
    )
    comparison = compare_runs([make_run("a", healthy[0]), make_run("b", healthy[1])])
    rows = by_metric(comparison)
    assert math.isnan(rows["roc_auc"].value)
    assert math.isnan(rows["tpr"].difference)
    assert np.isfinite(rows["tnr"].interval).all()
    [first, *_] = csv.DictReader(comparison_csv(comparison).decode().splitlines())
    assert [first[name] for name in ("value", "difference", "low", "high")] == [""] * 4
    line = next(line for line in comparison_table(comparison).splitlines() if " tpr " in line)
    assert line.split()[:4] == ["tpr", "-", "-", "-"]
    assert "[" not in line


def test_the_table_fits_a_terminal_and_says_what_chance_does(make_run):
    long = "runs/" + "a-very-long-name-" * 8
    dirs = [make_run("a", records(1, 0.5)), make_run(long, records(2, 4.0), threshold=None)]
    comparison = compare_runs(dirs)
    lines = comparison_table(comparison).splitlines()
    assert max(map(len, lines)) <= 100
    line_with(lines[0], "test", 160, 80)
    assert sum("..." in line and line.endswith(long[-40:]) for line in lines) == 1
    marked = sum("] *  " in line for line in lines)
    assert marked == sum(row.excludes_zero for row in comparison.differences) == 4
    assert sum(not missing(line, ["*", "4 of 4"]) for line in lines) == 1
    line_with(comparison_table(comparison), "DeLong")


@pytest.mark.parametrize("count", [0, 1])
def test_fewer_than_two_runs_are_refused(make_run, count):
    with refused(RecipeError, "compare", count):
        compare_runs([make_run("a", records(1))][:count])


def test_a_run_named_twice_is_refused_however_it_is_spelt(make_run):
    run = make_run("a", records(1))
    other = make_run("b", records(2))
    with refused(RecipeError, "b/../a"):
        compare_runs([run, other, other / ".." / "a"])


def test_other_images_are_counted_and_the_first_is_named(make_run, tmp_path):
    rows = records(1)
    baseline = make_run("a", rows)
    relabelled = [
        {**row, "label": 1 - row["label"]} if k in (7, 9) else row for k, row in enumerate(rows)
    ]
    for changed, facts in (
        (rows[:-2], [2, "image158.png", "only in", baseline]),
        ([*rows, {**rows[0], "path": "a.png"}], [1, "a.png", "only in", tmp_path / "b"]),
        (relabelled, [2, "image007.png", "label 0", tmp_path / "b", 1, baseline]),
    ):
        with refused(DataError, *facts) as caught:
            compare_runs([baseline, make_run("b", changed)])
        assert caught.value.exit_code == 3


def test_predictions_without_images_are_refused(make_run):
    with refused(DataError, "test"):
        compare_runs([make_run("a", []), make_run("b", [])])


@pytest.mark.parametrize(
    ("name", "remedy"),
    [
        ("test", "`cxrignite test --run {run}`"),
        ("val", "`cxrignite validate --run {run}`"),
        ("site-a", "`cxrignite test --run {run} --name site-a --data.source.root ...`"),
        ("test@a", "`cxrignite test --run {run} --operating_point a`"),
        (
            "site-a@b",
            "`cxrignite test --run {run} --name site-a --data.source.root ... --operating_point b`",
        ),
        ("calibration", "data.calibration_fraction"),
    ],
)
def test_a_run_that_did_not_score_the_images_is_reported_what_to_run(make_run, name, remedy):
    scored = make_run("a", records(1), name=name)
    other = make_run("b", records(1), name="else")
    with refused(RunFolderError, other, f"predictions/{name}.csv", remedy.format(run=other)):
        compare_runs([scored, other], name)


def test_a_folder_without_a_finished_run_is_refused(make_run, tmp_path):
    run = make_run("a", records(1))
    with refused(RunFolderError, tmp_path / "nothing"):
        compare_runs([run, tmp_path / "nothing"])
    unfinished = make_run("b", records(1))
    (unfinished / "operating_point.json").unlink()
    with refused(RunFolderError, unfinished, "--resume auto"):
        compare_runs([run, unfinished])


@pytest.mark.parametrize(
    ("change", "facts"),
    [
        ({"label": "2"}, ["label", "'2'"]),
        ({"label": ""}, ["label", "''"]),
        ({"score": "high"}, ["'high'"]),
        ({"score": "nan"}, ["score", "[0, 1]", "nan"]),
        ({"probability": "1.5"}, ["score", "[0, 1]", "1.5"]),
        ({"probability": ""}, ["probability"]),
        ({"path": "image001.png"}, ["image001.png"]),
    ],
)
def test_a_damaged_predictions_file_is_refused(make_run, change, facts):
    rows = records(1)
    damaged = make_run("b", [{**rows[0], **change}, *rows[1:]])
    with refused(RunFolderError, damaged / "predictions" / "test.csv", "cxrignite test", *facts):
        compare_runs([make_run("a", rows), damaged])


@pytest.mark.parametrize("header", [["path", "label", "score"], HEADER[:4], [*HEADER[:5], "path"]])
def test_a_predictions_file_of_other_columns_is_refused(header, make_run):
    damaged = make_run("b", records(1), header=header)
    path = damaged / "predictions" / "test.csv"
    with refused(RunFolderError, path, *HEADER, "cxrignite test"):
        compare_runs([make_run("a", records(1)), damaged])


@pytest.mark.parametrize(
    "content",
    [
        *("{", "[]", '{"tnr": 1}', '{"operating_point": {"threshold": 0.5}}'),
        *(
            f'{{"operating_point": {{"threshold": {number}, "weights_sha256": "", '
            '"chosen_on": "val", "not_usable": []}, "not_usable": []}'
            for number in ("2", '"x"')
        ),
    ],
)
def test_damaged_metrics_are_refused(make_run, content):
    damaged = make_run("b", records(1))
    (damaged / "metrics" / "test.json").write_text(content)
    with refused(RunFolderError, damaged / "metrics" / "test.json"):
        compare_runs([make_run("a", records(1)), damaged])


def test_images_whose_names_are_not_utf_8_are_compared(make_run):
    runs = [make_run("a", records(1)), make_run("b", records(2))]
    for run in runs:
        path = run / "predictions" / "test.csv"
        path.write_bytes(path.read_bytes().replace(b"image001", b"image\xff"))
    assert compare_runs(runs).num_images == NUM_IMAGES
