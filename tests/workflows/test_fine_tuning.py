"""Frozen parts, rates by part, averaged weights and other weights at the start, through `fit`."""

import json
import math

import pytest
import torch
import yaml
from messages import error_line, line_with
from same_run import assert_same_run, history
from torch.optim.optimizer import register_optimizer_step_post_hook

from cxrignite.cli import run
from cxrignite.data import Phantom
from cxrignite.handlers import load_checkpoint
from cxrignite.workflows.training import Training

pytestmark = pytest.mark.integration

RECIPE = """\
seed: 3
data:
  source: {class_path: Phantom, init_args: {num_train: 64, num_test: 8, size: 32}}
  val_fraction: 0.25
  batch_size: 8
  num_workers: 0
  cache: "off"
model: {class_path: LightCNN, init_args: {width: 2, dropout: 0.3}}
optimizer: {class_path: AdamW, init_args: {lr: 1.0e-2}}
trainer: {max_epochs: 4, profile: reproducible, precision: fp32}
"""
FROZEN = {"frozen": ["backbone.0", "backbone.1.*"], "unfreeze_epoch": 3}
RATES = {"lr_factors": {"backbone.3": 0.1, "backbone.3.1": 0.5}, "layer_decay": 0.5}


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    root = tmp_path_factory.mktemp("images") / "phantom"
    Phantom(root=root, num_train=64, num_test=8, size=32).records()
    return root


@pytest.fixture
def fit(images, tmp_path):
    """Run `fit` with more keys than those of the recipe; gives its exit code."""

    def call(name: str, *argv: str, **groups: dict) -> int:
        recipe = yaml.safe_load(RECIPE)
        recipe["data"]["source"]["init_args"]["root"] = str(images)
        for group, keys in groups.items():
            recipe[group] = {**recipe.get(group, {}), **keys} if isinstance(keys, dict) else keys
        path = tmp_path / f"{name}.yaml"
        path.write_text(yaml.safe_dump(recipe))
        return run(["fit", "--config", str(path), "--run_dir", str(tmp_path / name), *argv])

    return call


def checkpoint(run_dir, name):
    return load_checkpoint(run_dir / "checkpoints" / f"{name}.pt")


@pytest.mark.parametrize(
    "groups",
    [
        {
            "fine_tuning": {**FROZEN, **RATES},
            "trainer": {"averaging": "ema", "lr_step": "iteration"},
            "lr_scheduler": "WarmupCosine",
            "monitor": {"mean_of": 2, "patience": 9},
        },
        {
            "fine_tuning": FROZEN,
            "trainer": {"averaging": "swa", "swa_start": 3},
            "lr_scheduler": {"class_path": "OneCycleLR", "init_args": {"max_lr": 0.01}},
        },
    ],
)
def test_a_run_stopped_after_each_epoch_equals_one_without_a_break(
    groups, fit, tmp_path, monkeypatch
):
    assert fit("whole", **groups) == 0
    save = Training.save_last

    def save_and_stop(training):
        save(training)
        if training.trainer.state.epoch:
            raise KeyboardInterrupt

    monkeypatch.setattr(Training, "save_last", save_and_stop)
    for epoch in range(1, 5):
        assert fit("parted", "--resume", "auto", **groups) == 130
        assert len(history(tmp_path / "parted")) == epoch
    monkeypatch.setattr(Training, "save_last", save)
    assert fit("parted", "--resume", "auto", **groups) == 0
    assert_same_run(tmp_path / "whole", tmp_path / "parted")


def test_frozen_parts_keep_weights_and_statistics_until_their_epoch(fit, tmp_path, capsys):
    assert fit("run", fine_tuning={**FROZEN, **RATES}, trainer={"max_epochs": 3}) == 0
    line_with(capsys.readouterr().err, "LightCNN", "3,975", "3,841", "epoch 3")
    start = json.loads((tmp_path / "run" / "environment.json").read_text())["starts"][0]
    assert (start["num_parameters"], start["num_trained"]) == (3975, 3841)
    third, second = (
        load_checkpoint(tmp_path / "run" / "checkpoints" / name)["model"]
        for name in ("last.pt", "last.previous.pt")
    )
    frozen = [name for name in second if name.startswith(("backbone.0.", "backbone.1."))]
    assert len(frozen) == 12
    for name in frozen:
        assert not torch.equal(second[name], third[name]), name
        if name.endswith(("running_mean", "num_batches_tracked")):
            assert not second[name].any(), name
    groups = checkpoint(tmp_path / "run", "last")["optimizer"]["param_groups"]
    rates = {round(group["lr"], 9) for group in groups}
    assert groups[0]["lr"] == 0.01
    assert {0.01, 0.01 * 0.5**4, 0.01 * 0.5**2 * 0.1, 0.01 * 0.5**2 * 0.5} <= rates
    assert {float(row["lr"]) for row in history(tmp_path / "run")} == {0.01}
    assert run(["report", "--run", str(tmp_path / "run")]) == 0
    assert "3,841 of them trained" in (tmp_path / "run" / "report.html").read_text()


@pytest.mark.parametrize(
    ("groups", "facts"),
    [
        ({"fine_tuning": {"frozen": ["backbon.0"]}}, ["fine_tuning.frozen", "'backbone.0'"]),
        ({"fine_tuning": {"lr_factors": {"haed": 2}}}, ["fine_tuning.lr_factors", "'head'"]),
        ({"fine_tuning": {"frozen": ["*"]}}, ["fine_tuning.frozen", "all"]),
        ({"fine_tuning": {"unfreeze_epoch": 3}}, ["fine_tuning.unfreeze_epoch", "frozen", 3]),
        ({"fine_tuning": {"start_from": "nowhere.pt"}}, ["fine_tuning.start_from", "nowhere.pt"]),
        ({"trainer": {"averaging": "swa"}}, ["trainer.swa_start", "1 to 4", "None"]),
        ({"trainer": {"averaging": "swa", "swa_start": 5}}, ["trainer.swa_start", "1 to 4", 5]),
        ({"monitor": {"mean_of": 5}}, ["monitor.mean_of", "trainer.max_epochs", 4, 5]),
        ({"lr_scheduler": {"class_path": "WarmupCosine", "init_args": {"warmup": 1}}}, ["warmup"]),
    ],
)
def test_a_wrong_setting_is_one_line_before_an_image_is_read(
    groups, facts, fit, monkeypatch, capsys
):
    def read(*_):
        raise AssertionError("an image was read")

    monkeypatch.setattr("cxrignite.workflows.fit.read_and_cache", read)
    assert fit("run", **groups) == 2
    error_line(capsys.readouterr().err, *facts)


def test_a_schedule_that_ignores_the_rates_of_parts_is_refused(fit, capsys):
    schedule = {"class_path": "OneCycleLR", "init_args": {"max_lr": 0.01}}
    assert fit("run", fine_tuning=RATES, lr_scheduler=schedule) == 2
    error_line(capsys.readouterr().err, "lr_scheduler", "OneCycleLR", "WarmupCosine")


def test_a_schedule_with_the_steps_of_the_run_is_not_resumed_for_longer(fit, tmp_path, capsys):
    groups = {"trainer": {"lr_step": "iteration", "max_epochs": 1}, "lr_scheduler": "WarmupCosine"}
    assert fit("run", **groups) == 0
    steps = len(history(tmp_path / "run")) * 6
    assert checkpoint(tmp_path / "run", "last")["lr_scheduler"]["total_steps"] == steps
    groups["trainer"]["max_epochs"] = 2
    assert fit("run", "--resume", "auto", **groups) == 2
    error_line(capsys.readouterr().err, "lr_scheduler.total_steps", 12, 6)


def test_a_run_starts_from_the_best_weights_of_another(fit, tmp_path, capsys):
    assert fit("first", trainer={"max_epochs": 1}) == 0
    tuning = {"start_from": str(tmp_path / "first"), "frozen": ["backbone"]}
    assert fit("second", fine_tuning=tuning, trainer={"max_epochs": 2}) == 0
    line_with(capsys.readouterr().err, "start", tmp_path / "first" / "checkpoints" / "best.pt")
    first, second = (checkpoint(tmp_path / name, "best")["model"] for name in ("first", "second"))
    assert all(torch.equal(first[name], second[name]) for name in first if "backbone" in name)
    assert not all(torch.equal(first[name], second[name]) for name in first)
    manifest = json.loads((tmp_path / "first" / "checkpoints" / "best.json").read_text())
    # With another seed, images that it was trained on are validated.
    for place in ("", "checkpoints/best.pt"):
        start = {"start_from": str(tmp_path / "first" / place)}
        capsys.readouterr()
        assert fit("apart", fine_tuning=start, seed=4) == 3
        error_line(capsys.readouterr().err, "fine_tuning.start_from", tmp_path / "first", "val")
    # Resumed without the file.
    (tmp_path / "first").rename(tmp_path / "gone")
    assert fit("second", "--resume", "auto", fine_tuning=tuning, trainer={"max_epochs": 3}) == 0
    starts = json.loads((tmp_path / "second" / "environment.json").read_text())["starts"]
    assert [each["start_from_sha256"] for each in starts] == [manifest["sha256"]] * 2
    assert run(["test", "--run", str(tmp_path / "second")]) == 0


def test_averaged_weights_are_validated_and_kept(fit, tmp_path):
    """The average is computed again from the weights after each step."""
    decay = {"averaging": "ema", "ema_decay": 0.3, "max_epochs": 1, "accumulation_steps": 2}
    steps = []

    def note(optimizer, *_):
        [group] = optimizer.param_groups
        steps.append([each.detach().clone() for each in group["params"]])

    hook = register_optimizer_step_post_hook(note)
    try:
        assert fit("run", trainer=decay) == 0
    finally:
        hook.remove()
    assert len(steps) == 3
    average = steps[0]
    for count, weights in enumerate(steps[1:], start=1):
        kept = min(0.3, (1 + count) / (10 + count))
        average = [kept * a + (1 - kept) * b for a, b in zip(average, weights, strict=True)]
    best, last = checkpoint(tmp_path / "run", "best"), checkpoint(tmp_path / "run", "last")
    assert best["model"].keys() == last["model"].keys()
    assert best["score"] == float(history(tmp_path / "run")[0]["val_roc_auc"])
    parameters = [name for name in best["model"] if name.endswith(("weight", "bias"))]
    for name, expected, trained in zip(parameters, average, steps[-1], strict=True):
        torch.testing.assert_close(best["model"][name], expected)
        assert torch.equal(last["model"][name], trained)
        assert torch.equal(last["averaged"][f"module.{name}"], best["model"][name])
    assert run(["validate", "--run", str(tmp_path / "run")]) == 0


def test_weights_are_validated_as_they_are_before_their_average_begins(fit, tmp_path):
    swa = {"averaging": "swa", "swa_start": 3}
    assert fit("plain") == 0
    assert fit("averaged", trainer=swa) == 0
    plain, averaged = (history(tmp_path / name) for name in ("plain", "averaged"))
    assert plain[:2] == averaged[:2]
    assert plain[3]["loss"] == averaged[3]["loss"]
    assert plain[3]["val_loss"] != averaged[3]["val_loss"]
    assert checkpoint(tmp_path / "averaged", "last")["averaged"]["n_averaged"] == 12


def test_equal_values_of_the_monitor_go_to_the_lower_loss(fit, tmp_path, monkeypatch):
    validate = Training._validate

    def saturated(training, trainer):
        validate(training, trainer)
        trainer.state.metrics["val_roc_auc"] = 1.0
        trainer.state.metrics["val_loss"] = [0.4, 0.3, 0.35, 0.3][trainer.state.epoch - 1]

    monkeypatch.setattr(Training, "_validate", saturated)
    assert fit("run", monitor={"patience": 2}) == 0
    assert checkpoint(tmp_path / "run", "best")["epoch"] == 2
    assert len(history(tmp_path / "run")) == 4
    assert math.isclose(checkpoint(tmp_path / "run", "best")["score"], 1.0)
