"""What `fit` promises when things go wrong, on a tiny model, in real processes."""

import contextlib
import csv
import errno
import json
import os
import random
import shutil
import signal
import subprocess
import time
from pathlib import Path

import pytest
import torch
import yaml
from messages import error_line, line_with
from results import finding, point
from same_run import assert_same_run, history
from sklearn.metrics import average_precision_score, confusion_matrix, roc_auc_score
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from cxrignite import durable_write
from cxrignite.cli import run
from cxrignite.data import Phantom
from cxrignite.handlers import SafeSaver, load_checkpoint
from cxrignite.nn import LightCNN
from cxrignite.write_guard import WRITABLE

pytestmark = pytest.mark.integration


@pytest.fixture
def arguments(trained):
    """Of a `fit` with the recipe of the shared run."""
    home = trained.parent
    return ["fit", "--config", str(home / "recipe.yaml"), "--data.cache", str(home / "cache")]


@pytest.fixture
def fit(arguments):
    """Run `fit` in this process; gives its exit code."""
    return lambda run_dir, *argv: run([*arguments, "--run_dir", str(run_dir), *argv])


@pytest.fixture
def begin(arguments, start, tmp_path):
    """Start `fit` as a process of its own, in a group that can be signalled alone."""

    def call(run_dir, *argv):
        return start(["-m", "cxrignite", *arguments, "--run_dir", run_dir, *argv], cwd=tmp_path)

    return call


@pytest.fixture
def unfinished(run_dir):
    """A copy of the shared run, as if it was killed after its last epoch."""
    (run_dir / "operating_point.json").unlink()
    return run_dir


def test_a_run_folder_holds_what_the_documentation_says(trained):
    names = {path.relative_to(trained).as_posix() for path in trained.rglob("*.*")}
    figures = ["class_distribution", "samples_train", "samples_test", "learning_curves"]
    for name in ("confusion", "roc", "precision_recall", "reliability"):
        figures += [f"{name}_val", f"{name}_calibration"]
    assert names >= {
        *("recipe.yaml", "environment.json", "split.csv", "history.csv", "run.log"),
        *(f"checkpoints/{name}.{kind}" for name in ("last", "best") for kind in ("pt", "json")),
        *("operating_point.json", "predictions/val.csv", "metrics/val.json"),
        *(f"figures/{name}.png" for name in (*figures, "epoch_times")),
    }
    environment = json.loads((trained / "environment.json").read_text())["starts"][0]
    assert environment["command"][:2] == ["cxrignite", "fit"]
    assert environment["packages"]["torch"] == torch.__version__.partition("+")[0]


def test_the_recipe_left_behind_repeats_the_run(trained, tmp_path):
    argv = ["fit", "--config", str(trained / "recipe.yaml"), "--run_dir", str(tmp_path / "again")]
    assert run([*argv, "--data.cache", str(trained.parent / "cache")]) == 0
    assert_same_run(trained, tmp_path / "again")


def test_a_handler_that_writes_outside_of_the_run_folder_ends_the_run(
    fit, tmp_path, monkeypatch, capsys
):
    """No setting names the place."""
    (tmp_path / "writing_handler.py").write_text(
        "from ignite.engine import Events\n"
        "class Writer:\n"
        "    def __init__(self, prefix: str) -> None:\n"
        "        self.prefix = prefix\n"
        "    def attach(self, engine) -> None:\n"
        "        engine.add_event_handler(Events.ITERATION_COMPLETED, self.write)\n"
        "    def write(self) -> None:\n"
        "        open(self.prefix + 'x', 'w').close()\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    part = f"{{class_path: writing_handler.Writer, init_args: {{prefix: {tmp_path}/}}}}"
    assert fit(tmp_path / "run", f"--trainer.handlers=[{part}]") == 2
    error_line(capsys.readouterr().err, tmp_path / "x", WRITABLE)
    assert not (tmp_path / "x").exists()


def test_history_and_metrics_agree_with_sklearn_on_the_predictions(trained):
    with (trained / "predictions" / "val.csv").open() as file:
        rows = list(csv.DictReader(file))
    y_true = [int(row["label"]) for row in rows]
    y_score = [float(row["score"]) for row in rows]
    metrics = finding(trained / "metrics" / "val.json")
    best = max(history(trained), key=lambda row: float(row["val_roc_auc"]))
    assert metrics["roc_auc"]["value"] == pytest.approx(roc_auc_score(y_true, y_score), abs=1e-12)
    assert metrics["roc_auc"]["value"] == pytest.approx(float(best["val_roc_auc"]), abs=1e-12)
    precision = average_precision_score(y_true, y_score)
    assert metrics["average_precision"]["value"] == pytest.approx(precision, abs=1e-12)
    threshold = point(trained / "operating_point.json")["threshold"]
    decisions = [int(score >= threshold) for score in y_score]
    assert [int(row["decision"] == "positive") for row in rows] == decisions
    tn, fp, fn, tp = confusion_matrix(y_true, decisions, labels=[0, 1]).ravel()
    stored = metrics["at_threshold"]
    assert (stored["tn"], stored["fp"], stored["fn"], stored["tp"]) == (tn, fp, fn, tp)


def test_tensorboard_has_scalars_curves_and_figures(trained):
    events = EventAccumulator(str(trained / "tensorboard")).Reload()
    tags = events.Tags()
    assert {"train/loss", "val/loss", "val/roc_auc", "train/epoch_seconds"} <= set(tags["scalars"])
    assert any("lr" in tag for tag in tags["scalars"])
    assert [event.step for event in events.Scalars("val/roc_auc")] == [1, 2, 3, 4]
    assert {f"figures/{name}" for name in ("confusion_val", "samples_train")} <= set(tags["images"])
    assert "val/precision_recall" in tags["tensors"]


def test_a_run_that_goes_on_for_longer_after_an_explanation_equals_one_without_a_break(
    fit, trained, tmp_path
):
    folder = tmp_path / "run"
    assert fit(folder, "--trainer.max_epochs", "2") == 0
    options = ["--explain.max_images", "2", "--explain.num_measured", "2"]
    assert run(["explain", "--run", str(folder), "--split", "val", *options]) == 0
    assert fit(folder, "--resume", "auto") == 0
    assert_same_run(trained, folder)
    # TensorBoard shows the recipe of each start.
    shown = EventAccumulator(str(folder / "tensorboard")).Reload().Tensors("recipe/text_summary")
    texts = [each.tensor_proto.string_val[0].decode() for each in shown]
    assert [each.step for each in shown] == [0, 2]
    assert ["max_epochs: 2" in text for text in texts] == [True, False]
    assert ["max_epochs: 4" in text for text in texts] == [False, True]


def test_a_finished_run_is_left_alone(fit, run_dir, capsys):
    before = {path: path.stat().st_mtime_ns for path in run_dir.rglob("*.pt")}
    assert fit(run_dir, "--resume", "auto") == 0
    line_with(capsys.readouterr().err, run_dir, "finished")
    assert {path: path.stat().st_mtime_ns for path in run_dir.rglob("*.pt")} == before


@pytest.mark.parametrize(
    ("argv", "facts"),
    [
        ((), ["--resume auto"]),
        (
            ("--resume", "auto", "--data.batch_size", "4", "--optimizer.lr", "0.1"),
            ["data.batch_size", "optimizer.init_args.lr"],
        ),
        (("--resume", "auto", "--trainer.max_epochs", "2"), ["trainer.max_epochs", "4", "2"]),
    ],
)
def test_what_does_not_fit_a_finished_run_is_refused(argv, facts, fit, run_dir, capsys):
    assert fit(run_dir, *argv) == 2
    line = error_line(capsys.readouterr().err, *facts)
    assert ("trainer.max_epochs" in line) == ("trainer.max_epochs" in facts)


def test_a_foreign_folder_is_not_written_into(fit, tmp_path, capsys):
    (tmp_path / "thesis").mkdir()
    (tmp_path / "thesis" / "chapter.tex").write_text("words")
    assert fit(tmp_path / "thesis") == 2
    error_line(capsys.readouterr().err, tmp_path / "thesis", "run_dir")
    assert [path.name for path in (tmp_path / "thesis").iterdir()] == ["chapter.tex"]


def test_a_folder_in_use_is_refused_with_the_pid(fit, start, tmp_path, capsys):
    holder = "import fcntl, sys, os, time; f = open(sys.argv[1], 'w'); fcntl.flock(f, 2); "
    holder += "f.write(str(os.getpid())); f.flush(); print('held', flush=True); time.sleep(60)"
    (tmp_path / "run").mkdir()
    process = start(["-c", holder, tmp_path / "run" / "run.lock"], cwd=tmp_path)
    process.wait_for_output("held")
    assert fit(tmp_path / "run") == 2
    error_line(capsys.readouterr().err, tmp_path / "run", process.pid)


def test_a_damaged_checkpoint_is_found_and_the_previous_one_taken(fit, trained, unfinished, capsys):
    last = unfinished / "checkpoints" / "last.pt"
    content = bytearray(last.read_bytes())
    content[len(content) // 2] ^= 1
    last.write_bytes(content)
    assert fit(unfinished, "--resume", "auto") == 0
    line_with(capsys.readouterr().err, "last.pt", "damaged", "last.previous.pt")
    assert_same_run(trained, unfinished)


def test_a_run_is_resumed_from_a_named_checkpoint(fit, trained, unfinished):
    previous = unfinished / "checkpoints" / "last.previous.pt"
    assert fit(unfinished, "--resume", str(previous)) == 0
    assert_same_run(trained, unfinished)


@pytest.mark.parametrize("name", ["best.pt", "nowhere.pt"])
def test_what_is_no_training_state_is_refused(name, fit, run_dir, capsys):
    path = run_dir / "checkpoints" / name
    assert fit(run_dir, "--resume", str(path), "--trainer.max_epochs", "5") == 3
    error_line(capsys.readouterr().err, name)


def test_resume_in_an_empty_folder_begins_a_run_and_takes_no_checkpoint_of_another(
    fit, trained, tmp_path, capsys
):
    folder = tmp_path / "run"
    assert fit(folder, "--resume", "auto", "--seed", "4", "--trainer.max_epochs", "1") == 0
    assert len(history(folder)) == 1
    other = str(trained / "checkpoints" / "last.pt")
    assert fit(folder, "--resume", other, "--seed", "4", "--trainer.max_epochs", "9") == 3
    error_line(capsys.readouterr().err, "checkpoint", "recipe")
    assert (folder / "operating_point.json").is_file()


def test_test_refuses_other_weights_than_the_threshold_was_chosen_for(run_dir, capsys):
    best = run_dir / "checkpoints" / "best.pt"
    content = bytearray(best.read_bytes())
    content[-100] ^= 1
    best.write_bytes(content)
    assert run(["test", "--run", str(run_dir)]) == 3
    error_line(capsys.readouterr().err, "best.pt", "damaged")


def test_the_best_weights_are_those_of_the_best_epoch_that_counts(fit, trained, unfinished):
    # As if killed after saving the best of an epoch that then came out worse.
    checkpoints = unfinished / "checkpoints"
    best = load_checkpoint(checkpoints / "best.pt")
    other = {name: torch.zeros_like(value) for name, value in best["model"].items()}
    SafeSaver(checkpoints)({**best, "model": other, "epoch": 99}, "best.pt", {"epoch": 99})
    assert load_checkpoint(checkpoints / "best.previous.pt")["epoch"] == best["epoch"]
    assert fit(unfinished, "--resume", "auto") == 0
    assert_same_run(trained, unfinished)
    restored = load_checkpoint(checkpoints / "best.pt")
    assert restored["epoch"] == best["epoch"]
    assert all(torch.equal(restored["model"][name], best["model"][name]) for name in other)


def test_a_scheduler_by_iteration_steps_as_torch_says(fit, tmp_path):
    one_cycle = ("--lr_scheduler", "OneCycleLR", "--lr_scheduler.max_lr", "0.01")
    unit = ("--lr_scheduler.total_steps", "12", "--trainer.lr_step", "iteration")
    short = ("--trainer.max_epochs", "2", "--trainer.epoch_length", "6")
    assert fit(tmp_path / "run", *one_cycle, *unit, *short) == 0
    optimizer = torch.optim.AdamW([torch.nn.Parameter(torch.zeros(1))], lr=1e-2)
    scheduler = torch.optim.lr_scheduler.OneCycleLR(optimizer, max_lr=0.01, total_steps=12)
    expected = []
    for step in range(1, 13):
        optimizer.step()
        scheduler.step()
        if step in (6, 12):
            expected.append(optimizer.param_groups[0]["lr"])
    assert [float(row["lr"]) for row in history(tmp_path / "run")] == expected


@pytest.mark.parametrize(
    ("argv", "facts"),
    [
        (("--model.dropout", "1.5"), ["model", "dropout", "[0, 1)", "1.5"]),
        (("--trainer.precision", "fp16", "--trainer.device", "cpu"), ["fp16", "CUDA", "cpu"]),
        (
            (
                *("--lr_scheduler", "OneCycleLR", "--lr_scheduler.max_lr", "0.01"),
                *("--lr_scheduler.total_steps", "3", "--trainer.lr_step", "iteration"),
            ),
            ["lr_scheduler.total_steps", "32", "3"],
        ),
    ],
)
def test_a_setting_that_cannot_work_here_is_one_line(argv, facts, fit, tmp_path, capsys):
    assert fit(tmp_path / "run", *argv) == 2
    error_line(capsys.readouterr().err, *facts)


def test_a_full_disk_keeps_the_checkpoint_before_and_names_path_and_space(
    fit, tmp_path, capsys, monkeypatch
):
    fsync, folder = os.fsync, tmp_path / "run"

    def no_space(descriptor):
        # The history is written before last.pt.
        if (folder / "history.csv").exists() and len(history(folder)) == 2:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        fsync(descriptor)

    monkeypatch.setattr(durable_write.os, "fsync", no_space)
    assert fit(folder) == 1
    error_line(capsys.readouterr().err, folder / "history.csv", "free", "No space left")
    assert load_checkpoint(folder / "checkpoints" / "last.pt")["trainer"]["iteration"] == 8
    assert not litter(folder)


def test_an_infeasible_constraint_ends_well_and_test_repeats_it(fit, tmp_path, capsys, monkeypatch):
    forward = LightCNN.forward
    # One score for all: no threshold parts the classes.
    monkeypatch.setattr(LightCNN, "forward", lambda self, images: 0 * forward(self, images))
    uncertified = ("--data.calibration_fraction", "0", "--validator.handlers.confidence", "null")
    assert fit(tmp_path / "run", "--trainer.max_epochs", "1", *uncertified) == 0
    fitted = capsys.readouterr()
    stored = point(tmp_path / "run" / "operating_point.json")
    assert (stored["status"], stored["tnr"]) == ("infeasible", 0.0)
    line_with(fitted.out, "threshold", "infeasible")
    line_with(fitted.err, "threshold", "val")
    assert run(["test", "--run", str(tmp_path / "run")]) == 0
    line_with(capsys.readouterr().out, "infeasible")


def test_test_scores_each_test_image_with_the_stored_threshold(trained):
    stored = point(trained / "operating_point.json")
    line_with((trained.parent / "test.txt").read_text(), "test", "80", "NORMAL", "PNEUMONIA")
    metrics = finding(trained / "metrics" / "test.json")
    assert metrics["num_images"] == 80
    assert metrics["at_threshold"]["threshold"] == stored["threshold"]
    with (trained / "predictions" / "test.csv").open() as file:
        assert len(list(csv.DictReader(file))) == 80


def test_test_does_not_ask_for_the_pretrained_weights_again(fit, tmp_path):
    from torchvision.models import mobilenet_v3_small

    weights = tmp_path / "mobilenet.pth"
    torch.save(mobilenet_v3_small().state_dict(), weights)
    model = ("--model", "TransferClassifier", "--model.arch", "mobilenet_v3_small")
    short = ("--trainer.max_epochs", "1", "--trainer.epoch_length", "1")
    assert fit(tmp_path / "run", *model, "--model.weights", str(weights), *short) == 0
    weights.unlink()
    assert run(["test", "--run", str(tmp_path / "run")]) == 0


def test_validate_repeats_what_fit_found(run_dir):
    names = ["operating_point.json", "predictions/val.csv", "predictions/test.csv"]
    before = [(run_dir / name).read_bytes() for name in names]
    assert run(["validate", "--run", str(run_dir)]) == 0
    assert [(run_dir / name).read_bytes() for name in names] == before


def test_other_images_need_a_name_of_their_own(run_dir, tmp_path, capsys):
    Phantom(root=tmp_path / "site", num_train=8, num_test=8, size=64, seed=5).records()
    settings = {"root": tmp_path / "site", "seed": 5, "num_train": 8, "num_test": 8}
    settings["positive_fraction"] = 0.5
    source = [part for key in settings for part in (f"--data.source.{key}", str(settings[key]))]
    assert run(["test", "--run", str(run_dir), *source]) == 2
    error_line(capsys.readouterr().err, "--data.source", "--name")
    assert run(["test", "--run", str(run_dir), *source, "--name", "site"]) == 0
    assert finding(run_dir / "metrics" / "site.json")["num_images"] == 8


@pytest.mark.parametrize("name", ["val", "../evil", "a b"])
def test_a_name_stays_in_the_run_folder_and_off_its_own_results(name, run_dir, capsys):
    source = ("--data.source.seed", "5", "--name", name)
    assert run(["test", "--run", str(run_dir), *source]) == 2
    error_line(capsys.readouterr().err, "--name", f"'{name}'")


def test_a_name_without_other_images_is_refused(run_dir, capsys):
    assert run(["test", "--run", str(run_dir), "--name", "site"]) == 2
    error_line(capsys.readouterr().err, "--name", "--data.source")


def test_images_of_the_training_are_not_scored_as_other_images(trained, run_dir, capsys):
    source = ("--data.source.root", str(trained.parent / "images"), "--name", "site")
    assert run(["validate", "--run", str(run_dir), *source]) == 3
    error_line(capsys.readouterr().err, "240 of 320")


def litter(folder):
    return [path for path in folder.rglob("*") if ".tmp" in path.name]


def wait_for_epoch(run_dir, process, epoch):
    for _ in range(2400):
        if (run_dir / "history.csv").exists() and len(history(run_dir)) >= epoch:
            return
        assert process.poll() is None, process.errors
        time.sleep(0.025)
    raise AssertionError("training never got there")


@pytest.mark.parametrize(
    ("number", "code", "to_group"),
    [
        (signal.SIGTERM, 143, False),
        (signal.SIGINT, 130, True),  # as SLURM, `timeout` and a terminal do
        pytest.param(signal.SIGTERM, 143, True, marks=pytest.mark.slow),
        pytest.param(signal.SIGINT, 130, False, marks=pytest.mark.slow),
    ],
)
def test_a_signal_stops_after_the_batch_and_the_run_is_resumed_exactly(
    number, code, to_group, begin, fit, trained, tmp_path
):
    folder = tmp_path / "run"
    process = begin(folder, "--data.num_workers", "2")
    wait_for_epoch(folder, process, 1)
    (process.send_signal_to_group if to_group else process.send_signal)(number)
    sent = time.perf_counter()
    _, error = process.communicate(timeout=60)
    assert process.returncode == code, error
    # Five seconds, of a machine that has a core for each process that wants one.
    crowd = max(1, os.getloadavg()[0] / len(os.sched_getaffinity(0)))
    assert time.perf_counter() - sent < 5 * crowd
    assert "Traceback" not in error
    assert "Traceback" not in (folder / "run.log").read_text()
    line_with(error, "--resume auto")
    assert fit(folder, "--data.num_workers", "2", "--resume", "auto") == 0
    assert_same_run(trained, folder)


def test_a_worker_that_is_killed_ends_the_run_in_one_line_and_it_is_resumed_exactly(
    begin, fit, trained, tmp_path
):
    process = begin(tmp_path / "run", "--data.num_workers", "2")
    wait_for_epoch(tmp_path / "run", process, 1)
    children = Path(f"/proc/{process.pid}/task/{process.pid}/children")
    os.kill(int(children.read_text().split()[0]), signal.SIGKILL)  # as the system out of memory
    _, error = process.communicate(timeout=60)
    assert process.returncode == 1, error
    error_line(error, "worker", "data.num_workers")
    fewer = ("--data.num_workers", "0", "--data.prefetch_factor", "1")  # as the line advises
    assert fit(tmp_path / "run", *fewer, "--resume", "auto") == 0
    assert_same_run(trained, tmp_path / "run")


def test_a_killed_run_is_resumed_exactly_and_leaves_no_litter(begin, fit, trained, tmp_path):
    process = begin(tmp_path / "run")
    wait_for_epoch(tmp_path / "run", process, 2)
    process.kill()
    process.wait()
    assert fit(tmp_path / "run", "--resume", "auto") == 0
    assert_same_run(trained, tmp_path / "run")
    assert not litter(tmp_path / "run")


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.parametrize(("workers", "most"), [("0", 50), ("2", 20)])
def test_kills_at_random_moments(workers, most, begin, trained, tmp_path):
    """Promises 3 and 4: killed again and again, the run ends as if nothing had happened."""
    folder, moments, kills = tmp_path / "run", random.Random(0), 0
    while True:
        process = begin(folder, "--resume", "auto", "--data.num_workers", workers)
        if kills < most:
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(timeout=moments.uniform(0.5, 6))
        else:
            process.wait()
        if process.poll() is None:
            process.kill()
            process.wait()
            kills += 1
            continue
        assert process.returncode == 0, process.errors
        assert_same_run(trained, folder)
        assert not litter(folder)
        if kills >= most:
            return
        shutil.rmtree(folder)


@pytest.mark.parametrize("where", ["loss", "weight", "gradient"])
def test_nan_stops_within_a_step_and_names_the_files(where, fit, tmp_path, capsys, monkeypatch):
    forward = LightCNN.forward
    calls = {"training": 0}

    def poisoned(self, images):
        calls["training"] += self.training
        now = (
            self.training and calls["training"] == 5
        )  # of 3 batches an epoch the second of epoch 2
        if now and where == "weight":
            with torch.no_grad():
                next(self.parameters()).fill_(float("nan"))
        logits = forward(self, images)
        if now and where == "gradient":
            logits.register_hook(lambda gradient: gradient * float("nan"))
        return logits * float("nan") if now and where == "loss" else logits

    monkeypatch.setattr(LightCNN, "forward", poisoned)
    assert fit(tmp_path / "run", "--trainer.epoch_length", "3") == 1
    assert ".png" in error_line(capsys.readouterr().err, "epoch 2", "step 5")
    assert calls["training"] == 5
    best = load_checkpoint(tmp_path / "run" / "checkpoints" / "best.pt")
    assert all(tensor.isfinite().all() for tensor in best["model"].values())
    assert len(history(tmp_path / "run")) == 1


def test_an_unreadable_image_is_named_or_counted(trained, tmp_path, capsys):
    root = tmp_path / "images"
    for split in ("train", "test"):
        shutil.copytree(trained.parent / "images" / split, root / split, copy_function=os.link)
    broken = sorted((root / "train" / "NORMAL").iterdir())[3]
    content = broken.read_bytes()[:200]
    broken.unlink()
    broken.write_bytes(content)
    folders = yaml.safe_load((trained.parent / "recipe.yaml").read_text())
    settings = {"root": str(root), "patient_pattern": r"(p\d+)"}
    folders["data"]["source"] = {"class_path": "ClassFolders", "init_args": settings}
    folders["trainer"]["max_epochs"] = 1
    path = tmp_path / "folders.yaml"
    path.write_text(yaml.safe_dump(folders))
    argv = ["fit", "--config", str(path), "--run_dir", str(tmp_path / "run")]
    assert run(argv) == 3
    error_line(capsys.readouterr().err, broken, "data.on_unreadable: skip")
    assert run([*argv, "--data.on_unreadable", "skip"]) == 0
    error = capsys.readouterr().err
    assert broken.name in error
    line_with(error, "1 of 320")
    assert broken.name not in (tmp_path / "run" / "split.csv").read_text()
    assert run(["test", "--run", str(tmp_path / "run")]) == 0
