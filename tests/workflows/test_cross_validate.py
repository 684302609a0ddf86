"""`cross_validate` and its ensemble, on tiny models, in real processes."""

import csv
import os
import random
import shutil
import signal
import subprocess
import threading
import time
from pathlib import Path

import numpy as np
import pytest
from messages import error_line, refused
from results import finding, point
from sklearn.metrics import roc_auc_score

from cxrignite.cli import run
from cxrignite.data.splits import read_split
from cxrignite.errors import RunFolderError
from cxrignite.runs.run_folder import RunFolder
from cxrignite.stops import StopRequested, stoppable
from cxrignite.workflows import cross_validate

pytestmark = pytest.mark.integration

FOLDS = 3
SAME = (
    *("checkpoints/best.pt", "operating_point.json", "reference.npz", "split.csv", "folds.json"),
    *("predictions/val.csv", "metrics/val.json", "metrics/calibration.json"),
)


def arguments(trained, run_dir, *argv):
    """Of a `cross_validate` with the recipe of a shared run, for one epoch."""
    home = trained.parent
    return [
        *("cross_validate", "--config", str(home / "recipe.yaml"), "--run_dir", str(run_dir)),
        *("--data.cache", str(home / "cache"), "--trainer.max_epochs", "1", *argv),
    ]


def table(path):
    with path.open() as file:
        return list(csv.DictReader(file))


def scores(path):
    rows = table(path)
    return {(row["path"], row.get("finding", "")): float(row["score"]) for row in rows}


@pytest.fixture(scope="module")
def parent(trained, tmp_path_factory):
    folder = tmp_path_factory.mktemp("folds") / "run"
    assert run(arguments(trained, folder, "--folds", str(FOLDS))) == 0
    return folder


@pytest.fixture
def unfinished(parent, tmp_path):
    """A copy, as if it was killed while the last fold chose its threshold."""
    folder = Path(shutil.copytree(parent, tmp_path / "run"))
    (folder / f"fold_{FOLDS - 1}" / "operating_point.json").unlink()
    shutil.rmtree(folder / "ensemble")
    return folder


def test_each_training_image_is_validated_once_and_no_fold_sees_the_calibration_images(parent):
    splits = [read_split(parent / f"fold_{index}" / "split.csv", "") for index in range(FOLDS)]
    names = [
        {
            split: {each.name for each in records if each.split == split}
            for split in ("train", "val", "calibration", "test")
        }
        for records in splits
    ]
    assert all(each["calibration"] == names[0]["calibration"] for each in names)
    assert all(each["test"] == names[0]["test"] for each in names)
    validated = [name for each in names for name in each["val"]]
    assert len(validated) == len(set(validated))
    assert set(validated) == names[0]["train"] | names[0]["val"]
    of_ensemble = read_split(parent / "ensemble" / "split.csv", "")
    assert {each.name for each in of_ensemble if each.split == "train"} == set(validated)
    assert {each.patient for each in of_ensemble if each.split == "calibration"}.isdisjoint(
        each.patient for each in of_ensemble if each.split == "train"
    )


def test_the_out_of_fold_scores_are_those_of_the_folds(parent):
    rows = table(parent / "predictions" / "out_of_fold.csv")
    folds = [scores(parent / f"fold_{index}" / "predictions" / "val.csv") for index in range(FOLDS)]
    assert len(rows) == sum(map(len, folds))
    assert all(float(row["score"]) == folds[int(row["fold"])][row["path"], ""] for row in rows)
    area = roc_auc_score([int(each["label"]) for each in rows], [float(r["score"]) for r in rows])
    ensemble = parent / "ensemble"
    assert finding(ensemble / "metrics" / "val.json")["roc_auc"]["value"] == pytest.approx(area)
    of_ensemble = table(ensemble / "predictions" / "val.csv")
    assert of_ensemble == [{k: v for k, v in row.items() if k != "fold"} for row in rows]


def test_the_table_of_folds_has_the_metrics_of_each_their_mean_and_their_deviation(parent):
    *folds, mean, std = table(parent / "folds.csv")
    areas = [
        finding(parent / f"fold_{index}" / "metrics" / "val.json")["roc_auc"]["value"]
        for index in range(FOLDS)
    ]
    assert [float(row["roc_auc"]) for row in folds] == areas
    assert (mean["fold"], std["fold"]) == ("mean", "std")
    assert float(mean["roc_auc"]) == pytest.approx(np.mean(areas))
    assert float(std["roc_auc"]) == pytest.approx(np.std(areas, ddof=1))


def test_the_ensemble_averages_the_folds_and_certifies_on_images_that_none_has_seen(parent):
    found = scores(parent / "ensemble" / "predictions" / "calibration.csv")
    folds = [
        scores(parent / f"fold_{index}" / "predictions" / "calibration.csv")
        for index in range(FOLDS)
    ]
    for name, score in found.items():
        assert score == pytest.approx(np.mean([each[name] for each in folds]), abs=1e-6)
    chosen = point(parent / "ensemble" / "operating_point.json")
    assert (chosen["status"], chosen["chosen_on"]) == ("certified", "calibration")
    # Fitted on scores of single members, they would not fit their mean.
    assert finding(parent / "ensemble" / "operating_point.json")["calibrators"] is None
    assert finding(parent / "fold_0" / "operating_point.json")["calibrators"] is not None


def test_every_command_takes_the_ensemble(parent, trained, tmp_path, capsys):
    ensemble = str(parent / "ensemble")
    settings = ["--explain.max_images", "1", "--explain.num_measured", "2"]
    assert run(["test", "--run", ensemble]) == 0
    assert run(["explain", "--run", ensemble, *settings]) == 0
    table_of_scores = str(tmp_path / "scores.csv")
    images = str(trained.parent / "images" / "test")
    assert run(["predict", "--run", ensemble, "--files", images, "--output", table_of_scores]) == 0
    tested = scores(parent / "ensemble" / "predictions" / "test.csv")
    predicted = {
        Path(row["path"]).name: float(row["score"]) for row in table(Path(table_of_scores))
    }
    assert predicted == {Path(name).name: score for (name, _), score in tested.items()}
    site = ["--name", "site", "--data.source.root", str(tmp_path / "site"), "--min_tnr", "0.5"]
    site += ["--data.source.seed", "5", "--data.source.num_train", "20", "--confidence", "0.6"]
    assert run(["recalibrate", "--run", ensemble, *site]) == 0
    assert run(["compare", ensemble, str(trained)]) == 0
    assert run(["report", "--run", ensemble]) == 0
    page = (parent / "ensemble" / "report.html").read_text()
    assert f"ensemble of {FOLDS} folds" in page
    assert all(f'<th scope="row">{name}</th>' in page for name in (0, 1, 2, "mean", "std"))
    capsys.readouterr()
    assert run(["validate", "--run", ensemble]) == 3
    error_line(capsys.readouterr().err, "val", "none", "folds")
    assert run(["fit", "--config", f"{ensemble}/recipe.yaml", "--resume", "auto"]) == 2
    error_line(capsys.readouterr().err, "ensemble", "cross_validate")


def test_a_resumed_one_repeats_only_what_is_not_finished(parent, unfinished, trained):
    before = (unfinished / "fold_0" / "checkpoints" / "last.pt").stat().st_mtime_ns
    again = arguments(trained, unfinished, "--folds", str(FOLDS), "--resume", "auto")
    assert run(again) == 0
    assert (unfinished / "fold_0" / "checkpoints" / "last.pt").stat().st_mtime_ns == before
    for name in SAME:
        same = (parent / "ensemble" / name).read_bytes()
        assert (unfinished / "ensemble" / name).read_bytes() == same, name
    written = (unfinished / "ensemble" / "operating_point.json").stat().st_mtime_ns
    assert run(again) == 0
    assert (unfinished / "ensemble" / "operating_point.json").stat().st_mtime_ns == written


@pytest.mark.parametrize(
    ("changed", "facts"),
    [
        (["--folds", "3"], ["3 folds", "--resume auto"]),
        (["--folds", "4", "--resume", "auto"], ["data.fold.count"]),
        (["--folds", "3", "--resume", "auto", "--seed", "4"], ["seed"]),
        (["--folds", "1", "--resume", "auto"], ["--folds", "2", "1"]),
        (["--jobs", "0"], ["--jobs", "1", "0"]),
        (["--resume", "last.pt"], ["--resume", "auto", "last.pt"]),
        (["--data.fold", "{index: 0, count: 5}"], ["data.fold", "--folds", "5"]),
    ],
    ids=["not resumed", "more folds", "another seed", "one fold", "no job", "a file", "a fold"],
)
def test_what_cannot_be_continued_is_refused(parent, trained, changed, facts, capsys):
    assert run(arguments(trained, parent, *changed)) == 2
    error_line(capsys.readouterr().err, *facts)


def test_the_epochs_of_a_start_that_the_folds_refused_do_not_count(tmp_path):
    (tmp_path / "fold_0").mkdir()
    (tmp_path / "fold_0" / "history.csv").touch()
    parent, text = RunFolder(tmp_path), "trainer: {max_epochs: %d}\n"
    parent.files.write(parent.recipe_path, (text % 2).encode())
    cross_validate._check_resume(parent, "auto", text % 1)
    with refused(RunFolderError, "seed"):
        cross_validate._check_resume(parent, "auto", text % 1 + "seed: 4\n")


def test_two_at_a_time_without_calibration_images_are_not_certified(command, trained, tmp_path):
    options = ["--folds", "2", "--jobs", "2", "--data.calibration_fraction", "0"]
    done = command(*arguments(trained, tmp_path / "run", *options))
    assert done.returncode == 0, done.stderr
    ensemble = tmp_path / "run" / "ensemble"
    chosen = point(ensemble / "operating_point.json")
    assert (chosen["status"], chosen["chosen_on"]) == ("empirical", "val")
    assert "data.calibration_fraction" in chosen["note"]
    assert not (ensemble / "reference.npz").exists()
    assert run(["test", "--run", str(ensemble)]) == 0
    assert finding(ensemble / "metrics" / "test.json")["shift"] is None


@pytest.fixture
def processes(monkeypatch):
    """The processes of folds, each a line of shell in place of `fit`."""
    started = []

    def begin(folder, argv, errors):
        started.append(subprocess.Popen(["sh", "-c", *argv], stderr=errors))
        return started[-1]

    monkeypatch.setattr(cross_validate, "_start", begin)
    return started


def test_a_fold_that_fails_ends_the_others_and_passes_on_its_error(processes, tmp_path):
    lines = ["echo 'cxrignite fit: error: too few images' >&2; exit 4", "exec sleep 60"]
    left = [(RunFolder(tmp_path / f"fold_{n}"), [line]) for n, line in enumerate(lines)]
    with refused(cross_validate.FoldError, "fold_0", "too few images") as caught:
        cross_validate._train_side_by_side(left, 2)
    assert caught.value.exit_code == 4
    assert [each.returncode for each in processes] == [4, -signal.SIGTERM]


def test_a_stop_ends_all_folds_and_waits_for_them(processes, tmp_path):
    left = [(RunFolder(tmp_path / f"fold_{n}"), ["exec sleep 60"]) for n in range(3)]
    threading.Timer(0.5, os.kill, (os.getpid(), signal.SIGTERM)).start()
    with stoppable(), pytest.raises(StopRequested):
        cross_validate._train_side_by_side(left, 2)
    assert [each.returncode for each in processes] == 2 * [-signal.SIGTERM]


@pytest.mark.parametrize("kind", ["trained_findings", "trained_classes"])
def test_several_findings_and_classes_have_an_ensemble(kind, request, tmp_path):
    shared = request.getfixturevalue(kind)
    options = ["--folds", "3", "--data.calibration_fraction", "0.2"]
    assert run(arguments(shared, tmp_path / "run", *options)) == 0
    runs = [tmp_path / "run" / name for name in ("ensemble", "fold_0", "fold_1", "fold_2")]
    found, *folds = (scores(each / "predictions" / "calibration.csv") for each in runs)
    for key, score in found.items():
        assert score == pytest.approx(np.mean([each[key] for each in folds]), abs=1e-6)
    assert run(["explain", "--run", str(runs[0]), "--explain.num_measured", "0"]) == 0
    assert run(["report", "--run", str(runs[0])]) == 0
    rows = table(tmp_path / "run" / "folds.csv")
    assert len(rows) == 5 * len({row["finding"] for row in rows}) > 5


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_ten_random_kills_lead_to_the_same_ensemble(parent, trained, start, tmp_path):
    """SIGKILL, and now and then SIGTERM; folds one by one and two at a time."""
    rng, folder, kills = random.Random(0), tmp_path / "run", 0
    options = ["--folds", str(FOLDS), "--resume", "auto"]
    begun = time.monotonic()
    whole = start(
        ["-m", "cxrignite", *arguments(trained, tmp_path / "whole", *options)], cwd=tmp_path
    )
    assert whole.wait() == 0, whole.errors
    duration = time.monotonic() - begun
    while kills < 10:
        argv = arguments(trained, folder, *options, "--jobs", str(1 + kills % 2))
        process = start(["-m", "cxrignite", *argv], cwd=tmp_path)
        time.sleep(rng.uniform(0.1, 0.5) * duration)
        if process.poll() is None:
            number = signal.SIGTERM if kills % 5 == 4 else signal.SIGKILL
            process.send_signal(number)
            assert process.wait(60) == (143 if number == signal.SIGTERM else -9), process.errors
            assert "Traceback" not in process.errors
            kills += 1
        else:
            assert process.returncode == 0, process.errors
            assert_same_ensemble(parent, folder)
            shutil.rmtree(folder)
    assert run(arguments(trained, folder, *options)) == 0
    assert_same_ensemble(parent, folder)


def assert_same_ensemble(first, second):
    for name in SAME:
        assert (first / "ensemble" / name).read_bytes() == (second / "ensemble" / name).read_bytes()
