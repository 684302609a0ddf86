"""A site's own operating point, by the command line, on a tiny model and real files."""

import csv
import json
from pathlib import Path

import numpy as np
import pytest

from cxrignite.cli import run
from cxrignite.handlers import SafeSaver, load_checkpoint

RECIPE = """\
seed: 3
data:
  source:
    class_path: Phantom
    init_args: {num_train: 240, num_test: 80, size: 64, positive_fraction: 0.4}
  val_fraction: 0.2
  calibration_fraction: 0.3
  batch_size: 16
  num_workers: 0
model: {class_path: LightCNN, init_args: {width: 4}}
optimizer: {class_path: AdamW, init_args: {lr: 3.0e-3}}
trainer: {max_epochs: 2, precision: fp32}
validator:
  handlers:
    - class_path: ThresholdSearch
      init_args: {min_tnr: 0.7, min_threshold: 0.1, confidence: 0.9}
"""
SITE = {"num_train": 100, "num_test": 100, "size": 64, "positive_fraction": 0.5, "seed": 5}


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    folder = tmp_path_factory.mktemp("trained")
    (folder / "recipe.yaml").write_text(RECIPE)
    argv = ["fit", "--config", str(folder / "recipe.yaml"), "--run_dir", str(folder / "run")]
    assert run([*argv, "--data.source.root", str(folder / "films")]) == 0
    return folder / "run"


@pytest.fixture
def run_dir(trained, tmp_path):
    """A copy, so that no test sees another's sites."""
    import shutil

    return Path(shutil.copytree(trained, tmp_path / "run"))


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    """Options that name another hospital's films."""
    from cxrignite.data import Phantom

    root = tmp_path_factory.mktemp("site") / "films"
    Phantom(root=root, **SITE).films()
    options = {"root": root, **SITE}
    return [part for key, value in options.items() for part in (f"--data.source.{key}", str(value))]


def read(path: Path) -> dict:
    return json.loads(path.read_text())


def test_a_calibration_split_gives_a_certificate(trained):
    point = read(trained / "operating_point.json")
    assert (point["verdict"], point["chosen_on"]) == ("certified", "calibration")
    assert point["tnr_lower_bound"] >= 0.7
    with (trained / "split.csv").open() as file:
        rows = [row for row in csv.DictReader(file) if row["split"] == "calibration"]
    assert point["num_negative"] == sum(row["label"] == "0" for row in rows)
    owners = {row["patient"] for row in rows if row["label"] == "0"}
    assert point["num_negative_patients"] == len(owners)
    assert read(trained / "metrics" / "calibration.json")["num_images"] == len(rows)


def test_every_prediction_file_tells_both_scales(trained):
    imbalance = read(trained / "operating_point.json")["imbalance"]
    for name in ("val", "calibration"):
        with (trained / "predictions" / f"{name}.csv").open() as file:
            rows = list(csv.DictReader(file))
        score = np.array([float(row["score"]) for row in rows])
        natural = np.array([float(row["natural_score"]) for row in rows])
        logit = np.log(score / (1 - score)) - imbalance["logit_shift"]
        np.testing.assert_allclose(natural, 1 / (1 + np.exp(-logit)), rtol=1e-9)


def test_a_site_gets_its_own_threshold_beside_the_first(run_dir, site, capsys):
    before = (run_dir / "operating_point.json").read_bytes()
    argv = ["recalibrate", "--run", str(run_dir), "--name", "site-a", *site, "--share", "0.5"]
    assert run(argv) == 0
    assert "site-a: threshold" in capsys.readouterr().out
    point = read(run_dir / "operating_points" / "site-a.json")
    assert (point["verdict"], point["chosen_on"]) == ("certified", "site-a")
    assert (point["min_tnr"], point["confidence"]) == (0.7, 0.9)
    assert (run_dir / "operating_point.json").read_bytes() == before

    scored = ["test", "--run", str(run_dir), "--name", "site", *site]
    assert run([*scored, "--operating_point", "site-a"]) == 0
    shown = capsys.readouterr()
    assert "films chose the operating point site-a: left out" in shown.err
    judged = read(run_dir / "metrics" / "site@site-a.json")
    assert judged["at_threshold"]["threshold"] == point["threshold"]
    assert judged["num_images"] == 100 - point["num_negative"] - point["num_positive"]
    with (run_dir / "operating_points" / "site-a.csv").open() as file:
        used = {row["path"] for row in csv.DictReader(file)}
    with (run_dir / "predictions" / "site@site-a.csv").open() as file:
        assert used.isdisjoint(row["path"] for row in csv.DictReader(file))


def test_a_site_is_not_written_over(run_dir, site, capsys):
    argv = ["recalibrate", "--run", str(run_dir), "--name", "site-a", *site]
    assert run(argv) == 0
    before = (run_dir / "operating_points" / "site-a.json").read_bytes()
    assert run([*argv, "--min_tnr", "0.5"]) == 2
    assert "exists and is not written over" in capsys.readouterr().err
    assert (run_dir / "operating_points" / "site-a.json").read_bytes() == before


@pytest.mark.parametrize(
    ("argv", "code", "says"),
    [
        (["--name", "val"], 2, "a site needs a --name other than train, val, calibration, test"),
        (["--min_tnr", "0.99"], 4, "needs at least 230 negative patients, got"),
        (["--min_tnr", "1.0"], 2, "min_tnr must be in [0, 1) to be certified"),
        (["--confidence", "1.5"], 2, "confidence must be in (0, 1), got 1.5"),
        (["--min_threshold", "2"], 2, "min_threshold must be in [0, 1], got 2"),
        (["--share", "0.7"], 2, "--share must be in (0, 0.5], or 1"),
        (["--share", "0"], 2, "--share must be in (0, 0.5]"),
    ],
)
def test_what_cannot_be_is_one_line_and_writes_nothing(argv, code, says, run_dir, site, capsys):
    assert run(["recalibrate", "--run", str(run_dir), "--name", "a", *site, *argv]) == code
    error = capsys.readouterr().err
    assert says in error
    assert len([line for line in error.splitlines() if "error" in line]) == 1
    assert not (run_dir / "operating_points").exists()


def test_one_class_alone_is_a_data_problem(run_dir, tmp_path, capsys):
    from PIL import Image

    for number in range(3):
        path = tmp_path / "one" / "test" / "NORMAL" / f"p{number}_1.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.full((64, 64), 10 * number, np.uint8)).save(path)
    (tmp_path / "one" / "test" / "PNEUMONIA").mkdir()
    source = ["--data.source", "ClassFolders", "--data.source.root", str(tmp_path / "one")]
    assert run(["recalibrate", "--run", str(run_dir), "--name", "a", *source]) == 3
    assert "PNEUMONIA must hold at least one image" in capsys.readouterr().err


def test_films_of_the_training_cannot_recalibrate(run_dir, trained, capsys):
    source = ["--data.source.root", str(trained.parent / "films"), "--data.source.num_test", "80"]
    argv = ["recalibrate", "--run", str(run_dir), "--name", "own", *source]
    assert run(argv) == 0  # its test films are nobody's yet
    capsys.readouterr()
    assert run(["test", "--run", str(run_dir), "--operating_point", "own"]) == 3
    assert "all 80 films chose the operating point own" in capsys.readouterr().err


def test_an_unknown_site_names_the_known_ones(run_dir, capsys):
    assert run(["test", "--run", str(run_dir), "--operating_point", "mars"]) == 2
    assert "no operating point 'mars', it has only its own" in capsys.readouterr().err


@pytest.mark.parametrize("option", ["--name", "--operating_point"])
def test_a_site_name_stays_in_the_run_folder(option, run_dir, site, capsys):
    verb = "recalibrate" if option == "--name" else "test"
    assert run([verb, "--run", str(run_dir), option, "../evil", *site]) == 2
    assert f"{option} must be letters" in capsys.readouterr().err


def test_the_threshold_of_another_run_is_refused(run_dir, capsys):
    best = load_checkpoint(run_dir / "checkpoints" / "best.pt")
    SafeSaver(run_dir / "checkpoints")({**best, "epoch": 7}, "best.pt", {"epoch": 7})
    assert run(["test", "--run", str(run_dir)]) == 3
    assert "the operating point of other weights" in capsys.readouterr().err


def test_testing_again_is_counted_and_said(run_dir, capsys):
    assert run(["test", "--run", str(run_dir)]) == 0
    assert "look number" not in capsys.readouterr().out
    assert run(["test", "--run", str(run_dir)]) == 0
    assert "look number 2 at these films" in capsys.readouterr().out
    assert read(run_dir / "metrics" / "test.json")["num_looks"] == 2


def test_validate_holds_other_films_to_the_certificate_too(run_dir, tmp_path, site, capsys):
    """Films that are all called positive: nothing certified can be left standing."""
    from PIL import Image

    from cxrignite.data import Phantom

    root = tmp_path / "black"
    for film in Phantom(root=root, **SITE).films():
        with Image.open(film.path) as image:
            Image.fromarray(np.asarray(image) // 8).save(film.path)
    source = ["--data.source", "ClassFolders", "--data.source.root", str(root)]
    source += ["--data.source.patient_pattern", r"(p\d+)"]
    for verb, name in (("validate", "a"), ("test", "b")):
        assert run([verb, "--run", str(run_dir), "--name", name, *source]) == 0
        assert read(run_dir / "metrics" / f"{name}.json")["certificate"]["is_void"]
        assert "THE CERTIFICATE IS VOID" in capsys.readouterr().out
    # 200 films at first, then the 100 of `test` once more, under another name.
    assert read(run_dir / "metrics" / "b.json")["num_looks"] == 2


def test_a_site_may_be_called_like_other_results_without_taking_their_place(run_dir, site, capsys):
    assert run(["recalibrate", "--run", str(run_dir), "--name", "a", *site, "--share", "0.5"]) == 0
    scored = ["test", "--run", str(run_dir), *site]
    assert run([*scored, "--name", "x", "--operating_point", "a"]) == 0
    assert run([*scored, "--name", "x-a"]) == 0
    names = {path.stem for path in (run_dir / "metrics").glob("x*.json")}
    assert names == {"x@a", "x-a"}
    assert run(["compare", str(run_dir), str(run_dir), "--name", "x@../a"]) == 2
    assert "--name must be letters" in capsys.readouterr().err


def test_subgroups_come_from_a_regular_expression_on_file_names(run_dir, capsys):
    view = ["--subgroups", r"_(?P<view>\d)\.png$"]
    assert run(["test", "--run", str(run_dir), *view]) == 0
    groups = read(run_dir / "metrics" / "test.json")["subgroups"]
    assert {(group["attribute"], group["value"]) for group in groups} >= {("view", "1")}
    assert "view 1" in capsys.readouterr().out
    looks = read(run_dir / "metrics" / "test.json")["num_looks"]
    assert run(["test", "--run", str(run_dir), "--subgroups", "(?P<n>zzz)"]) == 2
    assert "fits none of 80 names, such as test/" in capsys.readouterr().err
    assert max(read(run_dir / "looks.json").values()) == looks
    assert run(["test", "--run", str(run_dir), "--subgroups", "("]) == 2
    assert run(["test", "--run", str(run_dir), "--subgroups", "abc"]) == 2
    assert "must have a named group" in capsys.readouterr().err


def test_films_that_differ_void_the_certificate(run_dir, tmp_path, capsys):
    """Negatives with the grey scale reversed: no model needs to be good to see that."""
    from PIL import Image

    from cxrignite.data import Phantom

    root = tmp_path / "inverted"
    for film in Phantom(root=root, **SITE).films():
        with Image.open(film.path) as image:
            inverted = Image.fromarray(255 - np.asarray(image))
        inverted.save(film.path)
    source = ["--data.source", "ClassFolders", "--data.source.root", str(root)]
    source += ["--data.source.patient_pattern", r"(p\d+)"]
    assert run(["test", "--run", str(run_dir), "--name", "inverted", *source]) == 0
    certificate = read(run_dir / "metrics" / "inverted.json")["certificate"]
    assert certificate["is_void"]
    shown = capsys.readouterr().out
    assert "THE CERTIFICATE IS VOID FOR THESE FILMS" in shown
    assert "a classifier tells the NORMAL films of the two apart" in " ".join(shown.split())


def test_films_alike_leave_the_certificate_alone(run_dir, capsys):
    assert run(["test", "--run", str(run_dir)]) == 0
    metrics = read(run_dir / "metrics" / "test.json")
    assert metrics["shift"]["is_detected"] is False
    assert "no shift detected" in capsys.readouterr().out


@pytest.mark.parametrize(("fraction", "code"), [("0.05", 4), ("0.5", 2)])
def test_a_certificate_that_the_split_cannot_give_is_refused_before_training(
    fraction, code, trained, tmp_path, capsys
):
    argv = ["fit", "--config", str(trained / "recipe.yaml"), "--run_dir", str(tmp_path / "run")]
    assert run([*argv, "--data.calibration_fraction", fraction]) == code
    error = capsys.readouterr().err
    if code == 4:
        assert "needs at least 7 negative patients; the calibration split has" in error
    else:
        assert "data.calibration_fraction must be in [0, 0.4], got 0.5" in error
    assert not (tmp_path / "run" / "history.csv").exists()


def test_a_threshold_chosen_where_the_checkpoint_was_picked_is_never_certified(
    trained, tmp_path, capsys
):
    argv = ["fit", "--config", str(trained / "recipe.yaml"), "--run_dir", str(tmp_path / "run")]
    assert run([*argv, "--data.calibration_fraction", "0"]) == 0
    point = read(tmp_path / "run" / "operating_point.json")
    assert (point["verdict"], point["chosen_on"]) == ("empirical", "val")
    assert "also picked the checkpoint" in point["note"]
    assert "also picked the checkpoint" in " ".join(capsys.readouterr().out.split())


def test_two_runs_are_compared_and_one_is_reported_by_the_command_line(run_dir, tmp_path, capsys):
    import shutil

    assert run(["test", "--run", str(run_dir)]) == 0
    other = shutil.copytree(run_dir, tmp_path / "other")
    capsys.readouterr()
    table = tmp_path / "comparison.csv"
    assert run(["compare", str(run_dir), str(other), "--output", str(table)]) == 0
    assert "roc_auc" in capsys.readouterr().out
    with table.open() as file:
        assert {float(row["difference"]) for row in csv.DictReader(file)} == {0.0}

    page = tmp_path / "page.html"
    assert run(["report", "--run", str(run_dir), "--output", str(page)]) == 0
    assert capsys.readouterr().out == f"{page}\n"
    assert "Certified" in page.read_text()
    assert run(["report", "--run", str(tmp_path)]) == 2
    assert "holds no run" in capsys.readouterr().err


@pytest.mark.parametrize("argv", [["compare"], ["report"], ["compare", "a", "--name", "../b"]])
def test_a_verb_that_lacks_something_says_so_and_exits_with_2(argv, capsys):
    assert run(argv) == 2
    assert "Traceback" not in capsys.readouterr().err
