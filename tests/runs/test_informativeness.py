"""A threshold that finds nothing is called so first, wherever its status is shown."""

import csv
from dataclasses import replace

import numpy as np
import pytest
from messages import line_with, unwrapped

from cxrignite.cli import run
from cxrignite.data import ImageRecord
from cxrignite.functional import Interval
from cxrignite.reporting.wording import NOT_USABLE, reasons_not_usable, status
from cxrignite.runs.decision_rule import DecisionRules
from cxrignite.runs.informativeness import Informativeness, measure_informativeness
from cxrignite.runs.json_codec import to_json
from cxrignite.runs.run_folder import RunFolder
from cxrignite.runs.scores import SplitScores


def scored(y_score, y_true, per_patient=1):
    records = [
        ImageRecord(f"{n}.png", f"{n}.png", int(label), f"p{n // per_patient}", "test")
        for n, label in enumerate(y_true)
    ]
    features = np.zeros((len(records), 2), np.float32)
    return SplitScores(
        records, ("NORMAL", "SICK"), np.asarray(y_score), np.asarray(y_true), features
    )


def separated(strength, number=118, per_patient=1):
    rng = np.random.default_rng(0)
    y_true = np.repeat([0, 1], number)
    noise = np.repeat(rng.normal(size=2 * number // per_patient), per_patient)
    return scored(1 / (1 + np.exp(-(strength * y_true + noise))), y_true, per_patient)


def reasons(scores, threshold):
    return reasons_not_usable(measure_informativeness(scores, threshold), "SICK")


def test_a_threshold_that_finds_no_positive_is_not_usable_and_says_of_how_many():
    scores = separated(-0.3)
    highest = float(scores.y_score.max())
    none_found, area = reasons(scores, np.nextafter(highest, 1))
    line_with(none_found, 118, "SICK")
    line_with(area, "AUC", "0.5")


def test_a_good_ranking_with_a_useless_threshold_is_reported_by_youdens_j():
    scores = separated(2.0)
    [reason] = reasons(scores, float(np.sort(scores.y_score)[-2]))
    line_with(reason, "J", 0)
    assert reasons(scores, 0.75) == []


@pytest.mark.parametrize(
    ("y_score", "num_positive", "facts"),
    [
        (np.full(120, 0.7), 60, ["AUC", "0.500"]),
        (np.linspace(1, 0, 120), 60, ["worse than chance"]),
        (np.r_[np.linspace(0, 0.9, 117), [0.2, 0.95, 0.5]], 3, ["AUC"]),
    ],
    ids=["constant scores", "reversed labels", "three positives"],
)
def test_scores_without_information_are_not_usable(y_score, num_positive, facts):
    y_true = np.repeat([0, 1], [120 - num_positive, num_positive])
    line_with("\n".join(reasons(scored(y_score, y_true), 0.6)), *facts)


def test_a_rule_that_refers_everything_is_no_better_than_chance():
    scores = separated(3.0)
    assert measure_informativeness(scores, 0.7, lower=0.3).is_informative
    everything = measure_informativeness(scores, 1.0, lower=0.0)
    assert not everything.is_informative
    assert everything.youden == pytest.approx(0)


def cleared(of_negatives, of_positives=0.0):
    """Scores whose lower threshold 0.3 is good; these shares of each class score 0.95 instead."""
    y_true = np.repeat([0, 1], 100)
    y_score = np.where(y_true == 0, 0.1, 0.5)
    y_score[: int(100 * of_negatives)] = 0.95
    y_score[100 : 100 + int(100 * of_positives)] = 0.95
    return measure_informativeness(scored(y_score, y_true), 0.9, lower=0.3)


def test_two_thresholds_are_judged_as_one_rule():
    alone = measure_informativeness(scored([0.1] * 50 + [0.5] * 50, [0] * 50 + [1] * 50), 0.9)
    assert not alone.is_informative  # the same upper threshold, without a lower one
    both = cleared(0.0)
    assert (both.num_found, both.is_informative) == (0, True)
    assert both.youden_of_each == (1.0, 0.0)
    assert reasons_not_usable(both, "SICK") == []


@pytest.mark.parametrize("of_positives", [0.0, 0.02])
def test_an_upper_threshold_that_calls_mainly_negatives_positive_is_not_usable(of_positives):
    measured = cleared(0.05, of_positives)
    assert measured.youden_interval.low > 0  # the lower threshold would be enough
    assert not measured.is_informative
    [reason] = reasons_not_usable(measured, "SICK")
    line_with(reason, "upper", f"{of_positives - 0.05:.3f}")


def test_images_of_one_patient_do_not_count_as_many():
    assert reasons(separated(0.6, 120), 0.6) == []
    assert reasons(separated(0.6, 120, per_patient=20), 0.6)


@pytest.mark.parametrize("labels", [[0, 0, 0], [1, 1, 1]])
def test_nothing_is_said_of_one_class_or_without_a_threshold(labels):
    assert measure_informativeness(scored([0.1, 0.2, 0.3], labels), 0.5) is None
    assert measure_informativeness(separated(0.0), None) is None


@pytest.mark.integration
def test_it_comes_first_in_the_terminal_and_beside_each_decision(
    trained, run_dir, tmp_path, capsys, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    folder = RunFolder(run_dir)
    rule = folder.read_rules()[0]
    assert (status(rule), rule.is_usable) == ("certified", True)
    useless = Informativeness(29, 2, 0.01, Interval(-0.1, 0.1), 0.43, Interval(0.4, 0.52))
    rule = replace(rule, informativeness=useless)
    folder.files.write(folder.operating_point_path, to_json(DecisionRules((rule,))))
    image = next((trained.parent / "images").rglob("*.png"))
    for arguments in (
        ["test", "--run", str(run_dir)],
        ["predict", "--run", str(run_dir), "--files", str(image)],
    ):
        assert run(arguments) == 0
        first = unwrapped(capsys.readouterr().out).splitlines()[0]
        line_with(first, NOT_USABLE.upper(), "calibration", "0.430")
    with (tmp_path / "predictions.csv").open() as file:
        [row] = csv.DictReader(file)
    assert row["status"] == status(rule) == f"{NOT_USABLE} (certified)"
