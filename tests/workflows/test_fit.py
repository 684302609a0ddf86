"""What `fit` promises when things go wrong, on a tiny model, in real processes."""

import csv
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
import yaml

from cxrignite.cli import run
from cxrignite.handlers import load_checkpoint

RECIPE = """\
seed: 3
data:
  source: {class_path: Phantom, init_args: {num_train: 64, num_test: 24, size: 64}}
  val_fraction: 0.25
  batch_size: 8
  num_workers: 0
  sampler: BalancedSampler
  augment:
    - {class_path: RandAffine, init_args: {prob: 0.5, rotate_range: 0.1, translate_range: 3}}
model: {class_path: LightCNN, init_args: {width: 4, dropout: 0.3}}
loss: {class_path: SoftPosWeightBCE, init_args: {power: 0.5}}
optimizer: {class_path: AdamW, init_args: {lr: 1.0e-3}}
lr_scheduler: {class_path: CosineAnnealingLR, init_args: {T_max: 4}}
trainer: {max_epochs: 4, profile: reproducible, precision: fp32, handlers: [EpochTimer]}
validator:
  handlers:
    - {class_path: ThresholdSearch, init_args: {min_tnr: 0.9, min_threshold: 0.1}}
monitor: {metric: roc_auc, patience: 50}
"""
TIMED_STATE = {"seconds", "data_wait_seconds"}
TIMED = {"epoch_seconds", "images_per_second", "data_wait_seconds"}


@pytest.fixture(scope="module")
def films(tmp_path_factory):
    """One small phantom data set for the whole file."""
    from cxrignite.data import Phantom

    root = tmp_path_factory.mktemp("films") / "phantom"
    Phantom(root=root, num_train=64, num_test=24, size=64).films()
    return root


@pytest.fixture
def fit(tmp_path, films):
    """Run `fit` in this process; gives its exit code."""
    path = tmp_path / "recipe.yaml"
    path.write_text(RECIPE)

    def call(run_dir: Path, *argv: str) -> int:
        fixed = ["--config", str(path), "--data.source.root", str(films), "--run_dir", str(run_dir)]
        return run(["fit", *fixed, *argv])

    return call


@pytest.fixture
def start(tmp_path, films):
    """Start `fit` as a process of its own."""
    path = tmp_path / "recipe.yaml"
    path.write_text(RECIPE)

    def call(run_dir: Path, *argv: str) -> subprocess.Popen:
        fixed = ["--config", str(path), "--data.source.root", str(films), "--run_dir", str(run_dir)]
        return subprocess.Popen(
            [sys.executable, "-m", "cxrignite", "fit", *fixed, *argv],
            stderr=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            start_new_session=True,  # so that its group can be signalled alone
            env={**os.environ, "PYTHONPATH": str(Path(__file__).resolve().parents[2])},
        )

    return call


def largest_difference(first, second) -> float:
    """Of all numbers in two checkpoints, timings left out."""
    if isinstance(first, torch.Tensor):
        return float((first.double() - second.double()).abs().max()) if first.numel() else 0.0
    if isinstance(first, dict):
        assert first.keys() == second.keys()
        keys = [key for key in first if key not in {*TIMED_STATE, "recipe_hash"}]
        return max((largest_difference(first[key], second[key]) for key in keys), default=0.0)
    if isinstance(first, list | tuple):
        assert len(first) == len(second)
        pairs = zip(first, second, strict=True)
        return max((largest_difference(a, b) for a, b in pairs), default=0.0)
    if isinstance(first, int | float) and not isinstance(first, bool):
        return abs(first - second)
    assert first == second
    return 0.0


def history(run_dir: Path) -> list[dict[str, str]]:
    with (run_dir / "history.csv").open() as file:
        rows = list(csv.DictReader(file))
    return [{key: value for key, value in row.items() if key not in TIMED} for row in rows]


def assert_same_run(first: Path, second: Path) -> None:
    for name in ("last.pt", "best.pt"):
        checkpoints = [load_checkpoint(each / "checkpoints" / name) for each in (first, second)]
        assert largest_difference(*checkpoints) == 0.0
    assert history(first) == history(second)
    for name in ("operating_point.json", "predictions/val.csv", "metrics/val.json", "split.csv"):
        assert (first / name).read_bytes() == (second / name).read_bytes(), name


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory, films):
    """Four epochs at once."""
    folder = tmp_path_factory.mktemp("uninterrupted")
    (folder / "recipe.yaml").write_text(RECIPE)
    fixed = ["--config", str(folder / "recipe.yaml"), "--data.source.root", str(films)]
    assert run(["fit", *fixed, "--run_dir", str(folder / "run")]) == 0
    return folder / "run"


def test_a_run_folder_holds_what_the_documentation_says(uninterrupted):
    names = {path.relative_to(uninterrupted).as_posix() for path in uninterrupted.rglob("*.*")}
    assert names >= {
        "recipe.yaml",
        "environment.json",
        "split.csv",
        "checkpoints/last.pt",
        "checkpoints/last.json",
        "checkpoints/best.pt",
        "checkpoints/best.json",
        "operating_point.json",
        "history.csv",
        "predictions/val.csv",
        "metrics/val.json",
        "figures/class_distribution.png",
        "figures/samples_train.png",
        "figures/samples_test.png",
        "figures/confusion_val.png",
        "figures/roc_val.png",
        "figures/precision_recall_val.png",
        "figures/reliability_val.png",
        "figures/learning_curves.png",
        "figures/epoch_times.png",
        "run.log",
    }
    environment = json.loads((uninterrupted / "environment.json").read_text())["starts"][0]
    assert environment["command"][:2] == ["cxrignite", "fit"]
    assert environment["packages"]["torch"] == torch.__version__.partition("+")[0]


def test_the_recipe_left_behind_repeats_the_run(uninterrupted, tmp_path):
    recipe = str(uninterrupted / "recipe.yaml")
    assert run(["fit", "--config", recipe, "--run_dir", str(tmp_path / "again")]) == 0
    assert_same_run(uninterrupted, tmp_path / "again")


def test_history_and_metrics_agree_with_sklearn_on_the_predictions(uninterrupted):
    from sklearn.metrics import average_precision_score, confusion_matrix, roc_auc_score

    with (uninterrupted / "predictions" / "val.csv").open() as file:
        rows = list(csv.DictReader(file))
    y_true = [int(row["label"]) for row in rows]
    y_score = [float(row["score"]) for row in rows]
    metrics = json.loads((uninterrupted / "metrics" / "val.json").read_text())
    best = max(history(uninterrupted), key=lambda row: float(row["val_roc_auc"]))
    assert metrics["roc_auc"] == pytest.approx(roc_auc_score(y_true, y_score), abs=1e-12)
    assert metrics["roc_auc"] == pytest.approx(float(best["val_roc_auc"]), abs=1e-12)
    precision = average_precision_score(y_true, y_score)
    assert metrics["average_precision"] == pytest.approx(precision, abs=1e-12)
    threshold = json.loads((uninterrupted / "operating_point.json").read_text())["threshold"]
    decisions = [int(score >= threshold) for score in y_score]
    assert [int(row["decision"]) for row in rows] == decisions
    tn, fp, fn, tp = confusion_matrix(y_true, decisions, labels=[0, 1]).ravel()
    stored = metrics["at_threshold"]
    assert (stored["tn"], stored["fp"], stored["fn"], stored["tp"]) == (tn, fp, fn, tp)


def test_tensorboard_has_scalars_curves_and_figures(uninterrupted):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(uninterrupted / "tensorboard")).Reload()
    tags = events.Tags()
    assert {"train/loss", "val/loss", "val/roc_auc", "train/epoch_seconds"} <= set(tags["scalars"])
    assert any("lr" in tag for tag in tags["scalars"])
    assert [event.step for event in events.Scalars("val/roc_auc")] == [1, 2, 3, 4]
    assert {f"figures/{name}" for name in ("confusion_val", "samples_train")} <= set(tags["images"])
    assert "val/precision_recall" in tags["tensors"]


@pytest.mark.parametrize("num_workers", ["0", "2"])
def test_a_resumed_run_equals_an_uninterrupted_one(num_workers, fit, uninterrupted, tmp_path):
    workers = ("--data.num_workers", num_workers)
    assert fit(tmp_path / "run", *workers, "--trainer.max_epochs", "2") == 0
    assert fit(tmp_path / "run", *workers, "--resume", "auto") == 0
    assert_same_run(uninterrupted, tmp_path / "run")


def test_a_run_that_goes_on_for_longer_shows_its_new_recipe(fit, tmp_path):
    assert fit(tmp_path / "run", "--trainer.max_epochs", "1") == 0
    assert fit(tmp_path / "run", "--trainer.max_epochs", "2", "--resume", "auto") == 0
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(tmp_path / "run" / "tensorboard")).Reload()
    shown = events.Tensors("recipe/text_summary")
    texts = [each.tensor_proto.string_val[0].decode() for each in shown]
    assert [each.step for each in shown] == [0, 1]
    assert ["max_epochs: 1" in text for text in texts] == [True, False]
    assert ["max_epochs: 2" in text for text in texts] == [False, True]


def test_a_finished_run_is_left_alone(fit, uninterrupted, capsys):
    before = {path: path.stat().st_mtime_ns for path in uninterrupted.rglob("*.pt")}
    assert fit(uninterrupted, "--resume", "auto") == 0
    assert "finished" in capsys.readouterr().err
    assert {path: path.stat().st_mtime_ns for path in uninterrupted.rglob("*.pt")} == before


def test_a_folder_that_holds_a_run_is_not_overwritten(fit, uninterrupted, capsys):
    assert fit(uninterrupted) == 2
    assert "--resume auto" in capsys.readouterr().err


def test_a_changed_recipe_is_refused_with_the_changed_keys(fit, uninterrupted, capsys):
    changes = ("--data.batch_size", "4", "--optimizer.lr", "0.1")
    assert fit(uninterrupted, "--resume", "auto", *changes) == 2
    error = capsys.readouterr().err
    assert "data.batch_size" in error
    assert "optimizer.init_args.lr" in error
    assert "max_epochs" not in error


def test_fewer_epochs_are_refused_on_resume(fit, uninterrupted, capsys):
    assert fit(uninterrupted, "--resume", "auto", "--trainer.max_epochs", "2") == 2
    assert "not shrink from 4 to 2" in capsys.readouterr().err


def test_resume_in_an_empty_folder_begins_a_run(fit, tmp_path):
    assert fit(tmp_path / "run", "--resume", "auto", "--trainer.max_epochs", "1") == 0
    assert len(history(tmp_path / "run")) == 1


def test_a_foreign_folder_is_not_written_into(fit, tmp_path, capsys):
    (tmp_path / "thesis").mkdir()
    (tmp_path / "thesis" / "chapter.tex").write_text("words")
    assert fit(tmp_path / "thesis") == 2
    assert "no run folder" in capsys.readouterr().err
    assert [path.name for path in (tmp_path / "thesis").iterdir()] == ["chapter.tex"]


def test_a_folder_in_use_is_refused_with_the_pid(fit, tmp_path, capsys):
    holder = "import fcntl, sys, os, time; f = open(sys.argv[1], 'w'); fcntl.flock(f, 2); "
    holder += "f.write(str(os.getpid())); f.flush(); print('held', flush=True); time.sleep(60)"
    (tmp_path / "run").mkdir()
    lock = tmp_path / "run" / "run.lock"
    process = subprocess.Popen(
        [sys.executable, "-c", holder, lock], stdout=subprocess.PIPE, text=True
    )
    try:
        assert process.stdout.readline() == "held\n"
        assert fit(tmp_path / "run") == 2
        assert f"in use by process {process.pid}" in capsys.readouterr().err
    finally:
        process.kill()
        process.communicate()


def test_a_damaged_checkpoint_is_found_and_the_previous_one_taken(
    fit, uninterrupted, tmp_path, capsys
):
    assert fit(tmp_path / "run", "--trainer.max_epochs", "3") == 0
    last = tmp_path / "run" / "checkpoints" / "last.pt"
    content = bytearray(last.read_bytes())
    content[len(content) // 2] ^= 1
    last.write_bytes(content)
    assert fit(tmp_path / "run", "--resume", "auto") == 0
    assert "damaged" in capsys.readouterr().err
    assert_same_run(uninterrupted, tmp_path / "run")


@pytest.mark.parametrize(
    ("name", "code", "says"),
    [
        ("best.pt", 3, "no training state"),
        ("nowhere.pt", 3, "does not exist"),
    ],
)
def test_what_is_no_training_state_is_refused(name, code, says, fit, uninterrupted, capsys):
    path = uninterrupted / "checkpoints" / name
    assert fit(uninterrupted, "--resume", str(path), "--trainer.max_epochs", "5") == code
    assert says in capsys.readouterr().err


def test_another_runs_checkpoint_is_refused(fit, uninterrupted, tmp_path, capsys):
    assert fit(tmp_path / "run", "--seed", "4", "--trainer.max_epochs", "1") == 0
    other = str(uninterrupted / "checkpoints" / "last.pt")
    more = ("--seed", "4", "--trainer.max_epochs", "9")
    assert fit(tmp_path / "run", "--resume", other, *more) == 3
    assert "another recipe" in capsys.readouterr().err
    assert (tmp_path / "run" / "operating_point.json").is_file()


def test_test_refuses_other_weights_than_the_threshold_was_chosen_for(fit, tmp_path, capsys):
    assert fit(tmp_path / "run", "--trainer.max_epochs", "2") == 0
    best = tmp_path / "run" / "checkpoints" / "best.pt"
    content = bytearray(best.read_bytes())
    content[-100] ^= 1
    best.write_bytes(content)
    assert run(["test", "--run", str(tmp_path / "run")]) == 3
    assert "best.pt is damaged" in capsys.readouterr().err


def test_the_best_weights_are_those_of_the_best_epoch_that_counts(fit, uninterrupted, tmp_path):
    from cxrignite.handlers import SafeSaver

    assert fit(tmp_path / "run") == 0
    # As if killed after saving the best of an epoch that then came out worse.
    checkpoints = tmp_path / "run" / "checkpoints"
    discarded = {**load_checkpoint(checkpoints / "best.pt"), "epoch": 99}
    SafeSaver(checkpoints)(discarded, "best.pt", {"epoch": 99})
    (tmp_path / "run" / "operating_point.json").unlink()
    assert fit(tmp_path / "run", "--resume", "auto") == 0
    assert_same_run(uninterrupted, tmp_path / "run")


def test_a_scheduler_by_iteration_steps_as_torch_says(fit, tmp_path):
    one_cycle = ("--lr_scheduler", "OneCycleLR", "--lr_scheduler.max_lr", "0.01")
    unit = ("--lr_scheduler.total_steps", "12", "--trainer.lr_step", "iteration")
    assert fit(tmp_path / "run", *one_cycle, *unit, "--trainer.max_epochs", "2") == 0
    optimizer = torch.optim.AdamW([torch.nn.Parameter(torch.zeros(1))], lr=1e-3)
    scheduler = torch.optim.lr_scheduler.OneCycleLR(optimizer, max_lr=0.01, total_steps=12)
    expected = []
    for step in range(1, 13):
        optimizer.step()
        scheduler.step()
        if step in (6, 12):
            expected.append(optimizer.param_groups[0]["lr"])
    assert [float(row["lr"]) for row in history(tmp_path / "run")] == expected


def test_a_run_goes_on_from_a_named_checkpoint(fit, uninterrupted, tmp_path):
    assert fit(tmp_path / "run", "--trainer.max_epochs", "3") == 0
    previous = tmp_path / "run" / "checkpoints" / "last.previous.pt"
    assert fit(tmp_path / "run", "--resume", str(previous)) == 0
    assert_same_run(uninterrupted, tmp_path / "run")


@pytest.mark.parametrize(
    ("argv", "says"),
    [
        (("--model.dropout", "1.5"), "model: dropout must be in [0, 1), got 1.5"),
        (("--trainer.precision", "fp16", "--trainer.device", "cpu"), "fp16 needs a CUDA device"),
        (
            (
                *("--lr_scheduler", "OneCycleLR", "--lr_scheduler.max_lr", "0.01"),
                *("--lr_scheduler.total_steps", "3", "--trainer.lr_step", "iteration"),
            ),
            "lr_scheduler.total_steps must be at least the 24 of this run, got 3",
        ),
    ],
)
def test_a_setting_that_cannot_work_here_is_one_line(argv, says, fit, tmp_path, capsys):
    assert fit(tmp_path / "run", *argv) == 2
    error = capsys.readouterr().err
    assert says in error
    assert "Traceback" not in error


def test_a_full_disk_keeps_the_checkpoint_before_and_names_path_and_space(
    fit, tmp_path, capsys, monkeypatch
):
    import errno

    from cxrignite import durable_write

    fsync, saved = os.fsync, tmp_path / "run" / "history.csv"

    def no_space(descriptor):
        if saved.exists() and len(history(tmp_path / "run")) == 2:  # it is written before last.pt
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        fsync(descriptor)

    monkeypatch.setattr(durable_write.os, "fsync", no_space)
    assert fit(tmp_path / "run") == 1
    error = capsys.readouterr().err.splitlines()[-1]
    assert "No space left on device" in error
    assert "free" in error
    assert str(tmp_path / "run") in error
    last = load_checkpoint(tmp_path / "run" / "checkpoints" / "last.pt")
    assert last["trainer"]["iteration"] == 6
    assert not [path for path in (tmp_path / "run").rglob("*") if ".tmp" in path.name]


def test_an_infeasible_constraint_ends_well_and_test_repeats_it(fit, tmp_path, capsys, monkeypatch):
    from cxrignite.nn import LightCNN

    forward = LightCNN.forward
    # One score for all: no threshold parts the classes.
    monkeypatch.setattr(LightCNN, "forward", lambda self, images: 0 * forward(self, images))
    assert fit(tmp_path / "run", "--trainer.max_epochs", "1") == 0
    fitted = capsys.readouterr()
    stored = json.loads((tmp_path / "run" / "operating_point.json").read_text())
    assert stored["verdict"] == "infeasible"
    assert stored["tnr"] == 0.0
    assert "infeasible" in fitted.out
    assert "no threshold meets the constraints" in fitted.err
    assert run(["test", "--run", str(tmp_path / "run")]) == 0
    assert "infeasible" in capsys.readouterr().out


def test_test_scores_each_test_film_with_the_stored_threshold(uninterrupted, capsys):
    stored = (uninterrupted / "operating_point.json").read_bytes()
    assert run(["test", "--run", str(uninterrupted)]) == 0
    assert "test: 24 films" in capsys.readouterr().out
    metrics = json.loads((uninterrupted / "metrics" / "test.json").read_text())
    assert metrics["num_images"] == 24
    assert metrics["at_threshold"]["threshold"] == json.loads(stored)["threshold"]
    assert (uninterrupted / "operating_point.json").read_bytes() == stored
    with (uninterrupted / "predictions" / "test.csv").open() as file:
        assert len(list(csv.DictReader(file))) == 24


def test_test_does_not_ask_for_the_pretrained_weights_again(fit, tmp_path):
    from torchvision.models import resnet18

    weights = tmp_path / "resnet18.pth"
    torch.save(resnet18().state_dict(), weights)
    model = ("--model", "TransferClassifier", "--model.arch", "resnet18")
    short = ("--trainer.max_epochs", "1", "--trainer.epoch_length", "1")
    assert fit(tmp_path / "run", *model, "--model.weights", str(weights), *short) == 0
    weights.unlink()
    assert run(["test", "--run", str(tmp_path / "run")]) == 0


def test_validate_repeats_what_fit_found(uninterrupted):
    predictions = (uninterrupted / "predictions" / "val.csv").read_bytes()
    assert run(["validate", "--run", str(uninterrupted)]) == 0
    assert (uninterrupted / "predictions" / "val.csv").read_bytes() == predictions


def test_other_films_need_a_name_of_their_own(uninterrupted, films, tmp_path, capsys):
    from cxrignite.data import Phantom

    Phantom(root=tmp_path / "site", num_train=8, num_test=8, size=64, seed=5).films()
    source = ("--data.source.root", str(tmp_path / "site"), "--data.source.seed", "5")
    counts = ("--data.source.num_train", "8", "--data.source.num_test", "8")
    assert run(["test", "--run", str(uninterrupted), *source, *counts]) == 2
    assert "--name" in capsys.readouterr().err
    assert run(["test", "--run", str(uninterrupted), *source, *counts, "--name", "site"]) == 0
    assert json.loads((uninterrupted / "metrics" / "site.json").read_text())["num_images"] == 8


@pytest.mark.parametrize("name", ["val", "../evil", "a b"])
def test_a_name_stays_in_the_run_folder_and_off_its_own_results(name, uninterrupted, capsys):
    source = ("--data.source.seed", "5", "--name", name)
    assert run(["test", "--run", str(uninterrupted), *source]) == 2
    assert "--name" in capsys.readouterr().err


def test_a_name_without_other_films_is_refused(uninterrupted, capsys):
    assert run(["test", "--run", str(uninterrupted), "--name", "site"]) == 2
    assert "--name goes with --data.source" in capsys.readouterr().err


def test_films_of_the_training_are_not_scored_as_other_films(uninterrupted, films, capsys):
    source = ("--data.source.root", str(films), "--name", "site")
    assert run(["validate", "--run", str(uninterrupted), *source]) == 3
    assert "64 of 88 films took part" in capsys.readouterr().err


def wait_for_epoch(run_dir: Path, process: subprocess.Popen, epoch: int) -> None:
    for _ in range(1200):
        path = run_dir / "history.csv"
        if path.exists() and len(history(run_dir)) >= epoch:
            return
        assert process.poll() is None, process.communicate()
        time.sleep(0.05)
    raise AssertionError("training never got there")


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_a_signal_stops_after_the_batch_and_the_run_goes_on_exactly(
    number, code, start, fit, uninterrupted, tmp_path
):
    process = start(tmp_path / "run", "--data.num_workers", "2")
    wait_for_epoch(tmp_path / "run", process, 1)
    process.send_signal(number)
    sent = time.perf_counter()
    _, error = process.communicate(timeout=60)
    assert process.returncode == code, error
    # Five seconds, of a machine that has a core for each process that wants one.
    crowd = max(1, os.getloadavg()[0] / len(os.sched_getaffinity(0)))
    assert time.perf_counter() - sent < 5 * crowd
    assert "Traceback" not in error
    assert "--resume auto" in error
    assert "Traceback" not in (tmp_path / "run" / "run.log").read_text()
    assert fit(tmp_path / "run", "--data.num_workers", "2", "--resume", "auto") == 0
    assert_same_run(uninterrupted, tmp_path / "run")


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_a_signal_to_all_processes_of_a_job_is_a_stop_like_any_other(
    number, code, start, fit, uninterrupted, tmp_path
):
    process = start(tmp_path / "run", "--data.num_workers", "2")
    wait_for_epoch(tmp_path / "run", process, 1)
    os.killpg(process.pid, number)  # as SLURM, `timeout` and a terminal do
    _, error = process.communicate(timeout=60)
    assert process.returncode == code, error
    assert "Traceback" not in error
    assert "--resume auto" in error
    assert fit(tmp_path / "run", "--data.num_workers", "2", "--resume", "auto") == 0
    assert_same_run(uninterrupted, tmp_path / "run")


def test_a_worker_that_is_killed_ends_the_run_in_one_line_and_it_goes_on_exactly(
    start, fit, uninterrupted, tmp_path
):
    process = start(tmp_path / "run", "--data.num_workers", "2")
    wait_for_epoch(tmp_path / "run", process, 1)
    children = Path(f"/proc/{process.pid}/task/{process.pid}/children")
    os.kill(int(children.read_text().split()[0]), signal.SIGKILL)  # as the system out of memory
    _, error = process.communicate(timeout=60)
    assert process.returncode == 1, error
    assert "Traceback" not in error
    assert "error: DataLoader worker (pid" in error
    assert "lower data.num_workers" in error
    fewer = ("--data.num_workers", "0", "--data.prefetch_factor", "1")  # as the line advises
    assert fit(tmp_path / "run", *fewer, "--resume", "auto") == 0
    assert_same_run(uninterrupted, tmp_path / "run")


def test_a_killed_run_goes_on_exactly_and_leaves_no_litter(start, fit, uninterrupted, tmp_path):
    process = start(tmp_path / "run")
    wait_for_epoch(tmp_path / "run", process, 2)
    process.kill()
    process.communicate()
    assert fit(tmp_path / "run", "--resume", "auto") == 0
    assert_same_run(uninterrupted, tmp_path / "run")
    assert not [path for path in (tmp_path / "run").rglob("*") if ".tmp" in path.name]
    assert run(["test", "--run", str(tmp_path / "run")]) == 0


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_fifty_kills_at_random_moments(start, uninterrupted, tmp_path):
    """Promises 3 and 4: killed again and again, the run ends as if nothing had happened."""
    import random

    moments = random.Random(0)
    kills = 0
    while kills < 50:
        process = start(tmp_path / "run", "--resume", "auto")
        try:
            process.communicate(timeout=moments.uniform(3.5, 7.5))
        except subprocess.TimeoutExpired:
            process.kill()
            process.communicate()
            kills += 1
        else:
            assert process.returncode == 0
            assert_same_run(uninterrupted, tmp_path / "run")
            for path in sorted((tmp_path / "run").rglob("*"), reverse=True):
                path.unlink() if path.is_file() else path.rmdir()
    process = start(tmp_path / "run", "--resume", "auto")
    process.communicate()
    assert process.returncode == 0
    assert_same_run(uninterrupted, tmp_path / "run")
    assert not [path for path in (tmp_path / "run").rglob("*") if ".tmp" in path.name]


@pytest.mark.parametrize("where", ["loss", "weight", "gradient"])
def test_nan_stops_within_a_step_and_names_the_files(where, fit, tmp_path, capsys, monkeypatch):
    from cxrignite.nn import LightCNN

    forward = LightCNN.forward
    calls = {"training": 0}

    def poisoned(self, images):
        calls["training"] += self.training
        now = self.training and calls["training"] == 14  # 6 batches an epoch: the second of epoch 3
        if now and where == "weight":
            with torch.no_grad():
                next(self.parameters()).fill_(float("nan"))
        logits = forward(self, images)
        if now and where == "gradient":
            logits.register_hook(lambda gradient: gradient * float("nan"))
        return logits * float("nan") if now and where == "loss" else logits

    monkeypatch.setattr(LightCNN, "forward", poisoned)
    assert fit(tmp_path / "run") == 1
    error = capsys.readouterr().err
    assert "Traceback" not in error
    assert "epoch 3" in error
    assert ".png" in error
    assert calls["training"] == 14
    best = load_checkpoint(tmp_path / "run" / "checkpoints" / "best.pt")
    assert all(tensor.isfinite().all() for tensor in best["model"].values())
    assert len(history(tmp_path / "run")) == 2


def test_an_unreadable_image_is_named_or_counted(tmp_path, capsys):
    import shutil

    from cxrignite.data import Phantom

    root = tmp_path / "films"
    Phantom(root=root, num_train=48, num_test=8, size=64).films()
    broken = sorted((root / "train" / "NORMAL").iterdir())[3]
    broken.write_bytes(broken.read_bytes()[:200])
    shutil.rmtree(root / "masks", ignore_errors=True)
    folders = yaml.safe_load(RECIPE)
    folders["data"]["source"] = {"class_path": "ClassFolders", "init_args": {"root": str(root)}}
    folders["data"]["source"]["init_args"]["patient_pattern"] = r"(p\d+)"
    folders["trainer"]["max_epochs"] = 1
    path = tmp_path / "folders.yaml"
    path.write_text(yaml.safe_dump(folders))
    argv = ["fit", "--config", str(path), "--run_dir", str(tmp_path / "run")]
    assert run(argv) == 3
    assert broken.name in capsys.readouterr().err
    assert run([*argv, "--data.on_unreadable", "skip"]) == 0
    error = capsys.readouterr().err
    assert broken.name in error
    assert "1 of 56 images left out" in error
    assert broken.name not in (tmp_path / "run" / "split.csv").read_text()
    assert run(["test", "--run", str(tmp_path / "run")]) == 0


def test_training_that_goes_on_after_an_explanation_is_the_same(uninterrupted, fit, tmp_path):
    run_dir = tmp_path / "run"
    assert fit(run_dir, "--trainer.max_epochs", "2") == 0
    options = ["--explain.max_images", "2", "--explain.num_measured", "2"]
    assert run(["explain", "--run", str(run_dir), "--split", "val", *options]) == 0
    assert fit(run_dir, "--trainer.max_epochs", "4", "--resume", "auto") == 0
    assert_same_run(uninterrupted, run_dir)
