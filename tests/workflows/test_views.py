"""Views: an own decision rule for scores that are means over an image and its views."""

import csv
import json

import pytest
import yaml
from messages import error_line, missing, unwrapped
from results import finding, rewrite_rule

from cxrignite.cli import run
from cxrignite.data import View
from cxrignite.handlers import read_history
from cxrignite.runs.checked_files import CheckedFiles

pytestmark = pytest.mark.integration

VIEWS = (View(shift=(0.03, 0.0)), View(gamma=0.8))
AS_JSON = [
    {"shift": [0.03, 0.0], "scale": 1.0, "gamma": 1.0},
    {"shift": [0.0, 0.0], "scale": 1.0, "gamma": 0.8},
]


def scores_of(path):
    with path.open() as file:
        return {row["path"].rpartition("/")[2]: row["score"] for row in csv.DictReader(file)}


def set_views(run_dir, views):
    """Rewrite the recipe of a run."""
    path = run_dir / "recipe.yaml"
    recipe = yaml.safe_load(path.read_text())
    recipe["data"]["views"] = views
    CheckedFiles(run_dir).write(path, yaml.safe_dump(recipe).encode())


@pytest.fixture
def viewed(run_dir):
    """A run whose recipe and whose rule have views."""
    set_views(run_dir, AS_JSON)
    rewrite_rule(run_dir, views=VIEWS)
    return run_dir


def test_every_command_scores_the_views_and_the_same_bits(viewed, trained, tmp_path, capsys):
    fixed = ["--run", str(viewed)]
    assert run(["test", *fixed]) == 0
    assert missing(unwrapped(capsys.readouterr().out), ["mean", "2 views"]) == []
    scores = scores_of(viewed / "predictions" / "test.csv")
    plain = scores_of(trained / "predictions" / "test.csv")
    assert scores.keys() == plain.keys()
    assert sum(scores[name] != plain[name] for name in scores) > len(scores) / 2

    output = tmp_path / "scores.csv"
    files = str(trained.parent / "images" / "test")
    assert run(["predict", *fixed, "--files", files, "--output", str(output)]) == 0
    assert scores_of(output) == scores
    assert json.loads(output.with_suffix(".json").read_text())["views"] == AS_JSON

    assert run(["explain", *fixed, "--explain.num_measured", "0"]) == 0
    explained = scores_of(viewed / "explain" / "test" / "explain.csv")
    assert explained.items() <= scores.items()

    site = ["--data.source.root", str(tmp_path / "site"), "--data.source.seed", "9"]
    assert run(["recalibrate", *fixed, "--name", "ward", *site]) == 0
    assert finding(viewed / "operating_points" / "ward.json")["views"] == AS_JSON


def test_the_threshold_of_other_views_is_refused(viewed, capsys):
    for views, number in ((AS_JSON[:1], 1), (AS_JSON[::-1], 2), ([], 0)):
        set_views(viewed, views)
        assert run(["test", "--run", str(viewed)]) == 3
        error_line(capsys.readouterr().err, "data.views", number, 2)


def test_fit_chooses_and_stores_a_threshold_for_the_views(trained, tmp_path):
    recipe = str(trained.parent / "recipe.yaml")
    argv = ["fit", "--config", recipe, "--trainer.max_epochs", "1"]
    runs = [tmp_path / "plain", tmp_path / "viewed"]
    assert run([*argv, "--run_dir", str(runs[0])]) == 0
    views = "[{shift: [0.03, 0]}, {gamma: 0.8}]"
    assert run([*argv, "--run_dir", str(runs[1]), "--data.views", views]) == 0
    rules = [finding(each / "operating_point.json") for each in runs]
    assert [rule["views"] for rule in rules] == [[], AS_JSON]
    # The weights are chosen by the scores of the images alone, as without views.
    histories = [read_history(each / "history.csv")[0] for each in runs]
    columns = ("loss", "val_loss", "val_roc_auc")
    histories = [[row[column] for column in columns] for row in histories]
    assert histories[0] == histories[1]
    assert rules[0]["weights_sha256"] == rules[1]["weights_sha256"]
    scores = [scores_of(each / "predictions" / "calibration.csv") for each in runs]
    assert scores[0] != scores[1]
    assert str(rules[1]["point"]["threshold"]) in {*scores[1].values(), "0.1"}
