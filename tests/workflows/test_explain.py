"""The verb `explain`, on a tiny model and real files."""

import csv
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from cxrignite.cli import run
from cxrignite.handlers import SafeSaver, load_checkpoint

RECIPE = """\
seed: 3
data:
  source: {class_path: Phantom, init_args: {num_train: 64, num_test: 24, size: 64}}
  val_fraction: 0.25
  batch_size: 16
  num_workers: 0
model: {class_path: LightCNN, init_args: {width: 4, stride: 16}}
optimizer: {class_path: AdamW, init_args: {lr: 3.0e-3}}
trainer: {max_epochs: 2, precision: fp32}
validator:
  handlers:
    - {class_path: ThresholdSearch, init_args: {min_tnr: 0.5, min_threshold: 0.1}}
explain: {max_images: 2, num_measured: 4}
"""


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    folder = tmp_path_factory.mktemp("trained")
    (folder / "recipe.yaml").write_text(RECIPE)
    argv = ["fit", "--config", str(folder / "recipe.yaml"), "--run_dir", str(folder / "run")]
    assert run([*argv, "--data.source.root", str(folder / "films")]) == 0
    assert run(["test", "--run", str(folder / "run")]) == 0
    return folder / "run"


@pytest.fixture(scope="module")
def explained(trained):
    assert run(["explain", "--run", str(trained)]) == 0
    return trained


@pytest.fixture
def run_dir(trained, tmp_path):
    """A copy, for what changes the run."""
    return Path(shutil.copytree(trained, tmp_path / "run"))


def size_of(path: Path) -> tuple[int, int]:
    with Image.open(path) as image:
        return image.size


def rows_of(folder: Path) -> list[dict[str, str]]:
    with (folder / "explain.csv").open() as file:
        return list(csv.DictReader(file))


def test_the_run_folder_gets_pictures_a_table_and_figures(explained):
    folder = explained / "explain" / "test"
    rows = rows_of(folder)
    assert 3 <= len(rows) <= 8
    assert {kind for row in rows for kind in row["selection"].split()} >= {"most_sure", "random"}
    for row in rows:
        assert size_of(folder / row["overlay"]) == (64, 64)
        assert size_of(folder / row["picture"])[0] > 600
    pictures = {row[key] for row in rows for key in ("picture", "overlay")}
    assert {path.name for path in folder.iterdir()} == {*pictures, "explain.csv", "explain.json"}
    for name in ("grad_cam_test", "faithfulness_test"):
        assert size_of(explained / "figures" / f"{name}.png")[0] > 600


def test_scores_and_decisions_are_those_of_the_predictions(explained):
    with (explained / "predictions" / "test.csv").open() as file:
        predicted = {row["path"]: row for row in csv.DictReader(file)}
    for row in rows_of(explained / "explain" / "test"):
        for key in ("label", "score", "decision", "patient"):
            assert row[key] == predicted[row["path"]][key]


def test_what_was_measured_is_kept(explained):
    content = json.loads((explained / "explain" / "test" / "explain.json").read_text())
    point = json.loads((explained / "operating_point.json").read_text())
    assert content["weights_sha256"] == point["weights_sha256"]
    assert content["threshold"] == point["threshold"]
    assert (content["method"], content["target_layer"]) == ("grad_cam", "backbone.4")
    found = content["faithfulness"]
    assert found["num_images"] == 4
    assert 0 <= found["deletion"]["map"] <= 1
    assert found["masks"]["num_images"] == 14
    assert found["masks"]["energy_ratio"] == pytest.approx(
        found["masks"]["energy"] / found["masks"]["area"]
    )


def test_the_report_shows_the_maps(explained):
    assert run(["report", "--run", str(explained)]) == 0
    page = (explained / "report.html").read_text()
    assert "Do the maps mean anything?" in page
    misses = [
        row for row in rows_of(explained / "explain" / "test") if row["label"] != row["decision"]
    ]
    num_empty = sum(float(row["raw_max"]) == 0 for row in misses)
    assert page.count('alt="Map of') == len(misses) - num_empty
    assert page.count("empty map: no place spoke") == num_empty
    assert misses


def test_a_run_goes_on_with_other_settings_of_explain(run_dir):
    resumed = ["fit", "--config", str(run_dir / "recipe.yaml"), "--resume", "auto"]
    more = ["--trainer.max_epochs", "3", "--explain.max_images", "3", "--run_dir", str(run_dir)]
    assert run([*resumed, *more]) == 0
    assert len((run_dir / "history.csv").read_text().splitlines()) == 4
    assert "max_images: 3" in (run_dir / "recipe.yaml").read_text()


def test_a_second_explanation_replaces_the_first(run_dir):
    assert run(["explain", "--run", str(run_dir), "--explain.num_measured", "0"]) == 0
    first = {path.name for path in (run_dir / "explain" / "test").iterdir()}
    options = ["--explain.select", "[random]", "--explain.max_images", "1"]
    options += ["--explain.num_measured", "0", "--explain.method", "layer_cam"]
    assert run(["explain", "--run", str(run_dir), *options]) == 0
    second = {path.name for path in (run_dir / "explain" / "test").iterdir()}
    assert len(second) == 4 < len(first)


def test_any_images_can_be_explained(run_dir, tmp_path, capsys):
    given = tmp_path / "given"
    given.mkdir()
    for number in range(3):
        pixels = np.full((64, 64), 60 * number, np.uint8)
        pixels[:20, :30] = 255
        Image.fromarray(pixels).save(given / f"film {number}.png")
    assert run(["explain", "--run", str(run_dir), "--files", str(given)]) == 0
    rows = rows_of(run_dir / "explain" / "files")
    assert [Path(row["path"]).name for row in rows] == [f"film {n}.png" for n in range(3)]
    assert {row["label"] for row in rows} == {""}
    assert {row["selection"] for row in rows} == {"fixed"}
    assert "was not measured" in capsys.readouterr().out


def test_images_of_another_size_are_refused(run_dir, tmp_path, capsys):
    Image.new("L", (80, 50)).save(tmp_path / "wide.png")
    assert run(["explain", "--run", str(run_dir), "--files", str(tmp_path / "wide.png")]) == 3
    assert "wide.png must be 64 x 64 pixels" in capsys.readouterr().err
    assert not (run_dir / "explain" / "files").exists()


def test_broken_and_missing_images_are_named(run_dir, tmp_path, capsys):
    (tmp_path / "broken.png").write_bytes(b"no image")
    (tmp_path / "empty").mkdir()
    for name in ("broken.png", "missing.png", "empty"):
        assert run(["explain", "--run", str(run_dir), "--files", str(tmp_path / name)]) == 3
        error = capsys.readouterr().err
        assert name in error
        assert "Traceback" not in error


@pytest.mark.parametrize(
    ("options", "complaint"),
    [
        (["--explain.target_layer", "backbone.44"], "did you mean backbone.4"),
        (["--explain.target_layer", "head.1"], "explain.target_layer head.1 must give a map"),
        (["--explain.select", "[]"], "explain.select must be at least one kind"),
        (["--explain.method", "gradcam"], "explain.method"),
        (["--explain.max_images", "0"], "explain.max_images must be at least 1"),
        (["--split", "tset"], "--split must be one of"),
        (["--name", "site"], "--name goes with --data.source"),
        (["--files", "a.png", "--split", "val"], "--files goes without"),
        (["--trainer.max_epochs", "3"], "is not one of"),
    ],
)
def test_mistakes_get_one_line(options, complaint, run_dir, capsys):
    assert run(["explain", "--run", str(run_dir), *options]) == 2
    error = capsys.readouterr().err
    assert complaint in error
    assert "Traceback" not in error


def test_a_failure_leaves_the_earlier_maps(explained, tmp_path):
    run_dir = Path(shutil.copytree(explained, tmp_path / "run"))
    folder = run_dir / "explain" / "test"
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    # A folder where the last figure has to be written, when all maps are there.
    (run_dir / "figures" / "grad_cam_test.png").unlink()
    (run_dir / "figures" / "grad_cam_test.png").mkdir()
    assert run(["explain", "--run", str(run_dir), "--explain.method", "layer_cam"]) == 1
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before
    assert not (run_dir / "explain" / ".unfinished").exists()


def test_figures_of_an_earlier_explanation_do_not_stay(explained, tmp_path):
    run_dir = Path(shutil.copytree(explained, tmp_path / "run"))
    assert run(["explain", "--run", str(run_dir), "--explain.num_measured", "0"]) == 0
    assert not (run_dir / "figures" / "faithfulness_test.png").exists()
    assert (run_dir / "figures" / "grad_cam_test.png").exists()


def test_a_wrong_layer_is_found_before_training(tmp_path, capsys):
    (tmp_path / "recipe.yaml").write_text(RECIPE)
    argv = ["fit", "--config", str(tmp_path / "recipe.yaml"), "--run_dir", str(tmp_path / "run")]
    argv += ["--data.source.root", str(tmp_path / "films")]
    assert run([*argv, "--explain.target_layer", "4"]) == 2
    assert "explain.target_layer" in capsys.readouterr().err
    assert not (tmp_path / "run" / "history.csv").exists()


def test_weights_that_are_not_finite_are_one_line(run_dir, capsys):
    best = load_checkpoint(run_dir / "checkpoints" / "best.pt")
    weight = best["model"]["backbone.4.0.weight"]
    best["model"]["backbone.4.0.weight"] = torch.full_like(weight, float("nan"))
    SafeSaver(run_dir / "checkpoints")(best, "best.pt", {"epoch": best["epoch"]})
    point = json.loads((run_dir / "operating_point.json").read_text())
    manifest = json.loads((run_dir / "checkpoints" / "best.json").read_text())
    point["weights_sha256"] = manifest["sha256"]
    (run_dir / "operating_point.json").write_text(json.dumps(point))
    assert run(["explain", "--run", str(run_dir)]) == 1
    error = capsys.readouterr().err
    assert "NaN" in error
    assert "Traceback" not in error
