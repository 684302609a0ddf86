"""The command `explain`, on a tiny model and real files."""

import csv
import json
import re
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from messages import error_line, line_with, missing
from PIL import Image
from results import finding, rewrite_rule

from cxrignite.cli import run
from cxrignite.handlers import SafeSaver, load_checkpoint
from cxrignite.runs.run_folder import RunFolder

pytestmark = pytest.mark.integration

LABELS = {"negative": "0", "positive": "1"}
QUICK = ["--explain.num_measured", "0", "--explain.select", "[random]", "--explain.max_images", "1"]


def size_of(path: Path) -> tuple[int, int]:
    with Image.open(path) as image:
        return image.size


def rows_of(folder: Path) -> list[dict[str, str]]:
    with (folder / "explain.csv").open() as file:
        return list(csv.DictReader(file))


def test_the_run_folder_gets_pictures_a_table_and_figures(trained):
    folder = trained / "explain" / "test"
    rows = rows_of(folder)
    assert 3 <= len(rows) <= 8
    assert {kind for row in rows for kind in row["selection"].split()} >= {"most_sure", "random"}
    for row in rows:
        assert size_of(folder / row["overlay"]) == (64, 64)
        assert size_of(folder / row["picture"])[0] > 600
    pictures = {row[key] for row in rows for key in ("picture", "overlay")}
    assert {path.name for path in folder.glob("[!.]*")} == {
        *pictures,
        "explain.csv",
        "explain.json",
    }
    for name in ("grad_cam_test", "faithfulness_test"):
        assert size_of(trained / "figures" / f"{name}.png")[0] > 600


def test_scores_and_decisions_are_those_of_the_predictions(trained):
    with (trained / "predictions" / "test.csv").open() as file:
        predicted = {row["path"]: row for row in csv.DictReader(file)}
    for row in rows_of(trained / "explain" / "test"):
        for key in ("label", "score", "decision", "patient"):
            assert row[key] == predicted[row["path"]][key]


def test_what_was_measured_is_kept(trained):
    content = json.loads((trained / "explain" / "test" / "explain.json").read_text())
    rule = finding(trained / "operating_point.json")
    assert content["weights_sha256"] == rule["weights_sha256"]
    assert content["threshold"] == rule["point"]["threshold"]
    assert (content["method"], content["target_layer"]) == ("grad_cam", "backbone.4")
    found = content["checks"]
    assert found["positive"]["num_images"] == 4
    assert 0 <= found["positive"]["deletion"]["by_map"] <= 1
    assert found["masks"]["num_images"] == 32
    assert found["masks"]["energy_ratio"] == pytest.approx(
        found["masks"]["energy"] / found["masks"]["area"]
    )


def test_the_report_shows_the_maps(run_dir):
    assert run(["report", "--run", str(run_dir)]) == 0
    page = (run_dir / "report.html").read_text()
    folder = run_dir / "explain" / "test"
    wrong_decisions = [row for row in rows_of(folder) if LABELS[row["decision"]] != row["label"]]
    assert wrong_decisions
    assert page.count('<li class="mapped">') == len(wrong_decisions)
    captions = re.findall(r'alt="([^"]*)"', page)
    for row in wrong_decisions:
        # The image itself, and its map where that is not empty.
        number = sum(not missing(caption, [row["path"]]) for caption in captions)
        assert number == 1 + (float(row["raw_max"]) > 0)
    found = json.loads((folder / "explain.json").read_text())["checks"]["positive"]
    assert missing(page, [f"{found[key]['by_map']:.3f}" for key in ("deletion", "insertion")]) == []


def test_settings_of_explain_may_differ_when_a_run_goes_on(trained, run_dir, capsys):
    resumed = ["fit", "--config", str(trained.parent / "recipe.yaml"), "--run_dir", str(run_dir)]
    resumed += ["--resume", "auto", "--explain.max_images", "3"]
    assert run(resumed) == 0
    capsys.readouterr()
    assert run([*resumed, "--seed", "4"]) == 2
    printed = error_line(capsys.readouterr().err, "seed")
    assert "max_images" not in printed


def test_a_second_explanation_replaces_the_first(run_dir):
    folder, figures = run_dir / "explain" / "test", run_dir / "figures"
    first = {path.name for path in folder.glob("[!.]*")}
    assert (figures / "faithfulness_test.png").exists()
    before = (figures / "grad_cam_test.png").read_bytes()
    assert run(["explain", "--run", str(run_dir), *QUICK, "--explain.method", "layer_cam"]) == 0
    second = {path.name for path in folder.glob("[!.]*")}
    assert len(second) == 4 < len(first)
    content = json.loads((folder / "explain.json").read_text())
    assert (content["method"], content["checks"]) == ("layer_cam", None)
    assert not (figures / "faithfulness_test.png").exists()
    assert (figures / "grad_cam_test.png").read_bytes() != before


def test_any_images_can_be_explained(run_dir, tmp_path, capsys):
    given = tmp_path / "given"
    given.mkdir()
    for number in range(3):
        pixels = np.full((64, 64), 60 * number, np.uint8)
        pixels[:20, :30] = 255
        Image.fromarray(pixels).save(given / f"image {number}.png")
    assert run(["explain", "--run", str(run_dir), "--files", str(given)]) == 0
    rows = rows_of(run_dir / "explain" / "files")
    assert [Path(row["path"]).name for row in rows] == [f"image {n}.png" for n in range(3)]
    assert {row["label"] for row in rows} == {""}
    assert {row["selection"] for row in rows} == {"fixed"}
    content = json.loads((run_dir / "explain" / "files" / "explain.json").read_text())
    assert content["checks"] is None
    printed = capsys.readouterr().out
    line_with(printed.splitlines()[0], "files", "3", "PNEUMONIA")
    line_with(printed.splitlines()[1], "grad_cam", "backbone.4", f"{content['threshold']:.4f}")
    line_with(printed)  # that nothing was measured


def test_images_of_another_size_are_refused(run_dir, tmp_path, capsys):
    Image.new("L", (80, 50)).save(tmp_path / "wide.png")
    assert run(["explain", "--run", str(run_dir), "--files", str(tmp_path / "wide.png")]) == 3
    error_line(capsys.readouterr().err, "wide.png", "64 x 64", "50 x 80")
    assert not (run_dir / "explain" / "files").exists()


def test_broken_and_missing_images_are_named(run_dir, tmp_path, capsys):
    (tmp_path / "broken.png").write_bytes(b"no image")
    (tmp_path / "empty").mkdir()
    for name in ("broken.png", "missing.png", "empty"):
        assert run(["explain", "--run", str(run_dir), "--files", str(tmp_path / name)]) == 3
        error_line(capsys.readouterr().err, name)


@pytest.mark.parametrize(
    ("options", "facts"),
    [
        (["--explain.target_layer", "backbone.44"], ["backbone.44", "backbone.4"]),
        (["--explain.target_layer", "head.1"], ["explain.target_layer", "head.1"]),
        (["--explain.select", "[]"], ["explain.select"]),
        (["--explain.method", "gradcam"], ["explain.method"]),
        (["--explain.max_images", "0"], ["explain.max_images", "1"]),
        (["--split", "tset"], ["--split", "'tset'", "test"]),
        (["--name", "site"], ["--name", "--data.source"]),
        (["--files", "a.png", "--split", "val"], ["--files", "--split"]),
        (["--trainer.max_epochs", "3"], ["--trainer.max_epochs", "--explain"]),
    ],
)
def test_mistakes_get_one_line(options, facts, run_dir, capsys):
    assert run(["explain", "--run", str(run_dir), *options]) == 2
    error_line(capsys.readouterr().err, *facts)


def test_a_failure_leaves_the_earlier_maps(run_dir):
    folder = run_dir / "explain" / "test"
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    # A folder where the last figure has to be written, when all maps are there.
    (run_dir / "figures" / "grad_cam_test.png").unlink()
    (run_dir / "figures" / "grad_cam_test.png").mkdir()
    assert run(["explain", "--run", str(run_dir), *QUICK, "--explain.method", "layer_cam"]) == 1
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before
    assert not (run_dir / "explain" / ".unfinished").exists()


def test_a_wrong_layer_is_found_before_training(trained, tmp_path, capsys):
    recipe = yaml.safe_load((trained.parent / "recipe.yaml").read_text())
    recipe["data"]["cache"] = "off"
    (tmp_path / "recipe.yaml").write_text(yaml.safe_dump(recipe))
    argv = ["fit", "--config", str(tmp_path / "recipe.yaml"), "--run_dir", str(tmp_path / "run")]
    assert run([*argv, "--explain.target_layer", "4"]) == 2
    error_line(capsys.readouterr().err, "explain.target_layer", "4")
    assert not (tmp_path / "run" / "history.csv").exists()


def test_weights_that_are_not_finite_are_one_line(run_dir, capsys):
    best = load_checkpoint(run_dir / "checkpoints" / "best.pt")
    weight = best["model"]["backbone.4.0.weight"]
    best["model"]["backbone.4.0.weight"] = torch.full_like(weight, float("nan"))
    SafeSaver(run_dir / "checkpoints")(best, "best.pt", {"epoch": best["epoch"]})
    rewrite_rule(run_dir, weights_sha256=RunFolder(run_dir).weights_sha256())
    assert run(["explain", "--run", str(run_dir)]) == 1
    error_line(capsys.readouterr().err, "NaN")
