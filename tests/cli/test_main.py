"""The command line as its users meet it: real processes, and the sixty mistakes of promise 18."""

import itertools
import os
import resource
import signal
import subprocess
import sys
import time

import pytest
import yaml
from messages import error_line

from cxrignite.cli import run

TINY = """\
seed: 1
run_dir: runs/tiny
data:
  source: {class_path: Phantom, init_args: {root: data/i, num_train: 48, num_test: 8, size: 64}}
  val_fraction: 0.25
  batch_size: 8
  num_workers: 0
  sampler: BalancedSampler
  augment:
    - {class_path: RandAffine, init_args: {prob: 0.5, rotate_range: 0.1}}
model: {class_path: LightCNN, init_args: {width: 4}}
loss: {class_path: SoftPosWeightBCE, init_args: {power: 0.5}}
optimizer: {class_path: AdamW, init_args: {lr: 1.0e-3}}
lr_scheduler: {class_path: CosineAnnealingLR, init_args: {T_max: 2}}
trainer: {max_epochs: 1, handlers: [EpochTimer]}
validator:
  handlers:
    - {class_path: ThresholdSearch, init_args: {min_tnr: 0.9, min_threshold: 0.5}}
monitor: {metric: roc_auc, patience: 3}
"""


def real(*argv, **settings):
    """`python -m cxrignite ...` in an interpreter of its own: few tests need one, and say why."""
    return subprocess.Popen(
        [sys.executable, "-m", "cxrignite", *argv],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        **settings,
    )


# What a forked process cannot show: how long the imports take that come before the first answer.
@pytest.mark.integration
def test_light_answers_come_within_a_second_and_without_torch(tmp_path):
    (tmp_path / "torch.py").write_text("raise ImportError('no light answer needs torch')\n")
    for argv in (["--help"], ["--version"], ["recipes", "list"], ["download", "--help"]):
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        process = real(*argv, cwd=tmp_path)
        out, error = process.communicate(timeout=60)
        assert process.returncode == 0, error
        assert out
        # Of the processor, so that other work beside it does not count.
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        assert after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime < 1.0


# What a forked process cannot show: that the package starts by itself, with no module imported.
@pytest.mark.integration
def test_a_new_interpreter_ends_with_the_same_words_and_code(tmp_path, command):
    argv = ["test", "--run", "runs/nowhere"]
    process = real(*argv, cwd=tmp_path)
    _, error = process.communicate(timeout=120)
    forked = command(*argv)
    assert (process.returncode, error) == (forked.returncode, forked.stderr)
    assert process.returncode == 2
    error_line(error, "runs/nowhere", "cxrignite fit")


def test_help_of_fit_fits_on_a_few_screens(capsys):
    assert run(["fit", "--help"]) == 0
    assert len(capsys.readouterr().out.splitlines()) < 250


def test_no_arguments_show_the_help(capsys):
    assert run([]) == 0
    shown = capsys.readouterr().out
    assert run(["--help"]) == 0
    assert shown == capsys.readouterr().out


def test_recipes_are_shown_and_copied(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert run(["recipes", "show", "quickstart"]) == 0
    assert "Phantom" in capsys.readouterr().out
    assert run(["recipes", "copy", "quickstart"]) == 0
    copied = yaml.safe_load((tmp_path / "quickstart.yaml").read_text())
    assert copied["run_dir"] == "runs/quickstart"
    assert run(["recipes", "copy", "quickstart"]) == 2
    error_line(capsys.readouterr().err, "quickstart.yaml")


def test_a_wrong_recipe_name_gets_the_nearest(capsys):
    assert run(["recipes", "show", "resnet5O"]) == 2
    error_line(capsys.readouterr().err, "'resnet5O'", "'resnet50'")


# Each mutation: what to replace in TINY, by what, and what the one line must say.
MUTATIONS = [
    # keys that do not exist
    ("max_epochs: 1", "max_epoch: 1", ["trainer.max_epochs"]),
    ("seed: 1", "sede: 1", ["'seed'"]),
    ("run_dir:", "rundir:", ["run_dir"]),
    ("val_fraction:", "val_fracton:", ["data.val_fraction"]),
    ("batch_size:", "batchsize:", ["data.batch_size"]),
    ("num_workers:", "workers:", ["data.num_workers"]),
    ("  sampler:", "  samplers:", ["data.sampler"]),
    ("  augment:", "  augmentation:", ["data.augment"]),
    ("monitor:", "monitr:", ["'monitor'"]),
    ("metric: roc_auc", "metrics: roc_auc", ["monitor.metric"]),
    ("patience: 3", "pateince: 3", ["monitor.patience"]),
    ("validator:", "validation:", ["'validator'"]),
    ("lr_scheduler:", "scheduler:", ["lr_scheduler"]),
    ("optimizer:", "optimiser:", ["'optimizer'"]),
    ("trainer:", "Trainer:", ["'trainer'"]),
    ("handlers: [EpochTimer]", "handler: [EpochTimer]", ["trainer.handlers"]),
    # classes that do not exist
    ("LightCNN", "LigthCNN", ["LightCNN"]),
    ("LightCNN", "lightcnn", ["LightCNN"]),
    ("SoftPosWeightBCE", "SoftPosWeightBC", ["SoftPosWeightBCE"]),
    ("AdamW", "AdmaW", ["AdamW"]),
    ("CosineAnnealingLR", "CosineAnealingLR", ["CosineAnnealingLR"]),
    ("BalancedSampler", "BalanceSampler", ["BalancedSampler"]),
    ("EpochTimer", "EpochTime", ["EpochTimer"]),
    ("ThresholdSearch", "TresholdSearch", ["ThresholdSearch"]),
    ("class_path: Phantom", "class_path: Fantom", ["Phantom"]),
    ("RandAffine", "RandomAffine", ["RandAffine"]),
    ("class_path: LightCNN", "class_path: torch.nn.Linear", ["model"]),
    ("class_path: LightCNN", "class_path: nowhere.Model", ["nowhere"]),
    ("EpochTimer", "torch.nn.ReLU", ["trainer.handlers"]),
    # settings that do not exist
    ("{width: 4}", "{widht: 4}", ["width", "LightCNN"]),
    ("{power: 0.5}", "{pwoer: 0.5}", ["power"]),
    ("{lr: 1.0e-3}", "{learning_rate: 1.0e-3}", ["learning_rate", "AdamW"]),
    ("{T_max: 2}", "{Tmax: 2}", ["T_max"]),
    ("min_tnr: 0.9", "min_tn: 0.9", ["min_tnr"]),
    ("num_train: 48", "n_train: 48", ["num_train"]),
    ("rotate_range: 0.1", "rotation: 0.1", ["rotation"]),
    # values of the wrong type
    ("max_epochs: 1", "max_epochs: one", ["'trainer.max_epochs'", "integer", "one"]),
    ("max_epochs: 1", "max_epochs: 1.5", ["trainer.max_epochs"]),
    ("batch_size: 8", "batch_size: [8]", ["data.batch_size"]),
    ("seed: 1", "seed: true", ["seed"]),
    ("width: 4", "width: wide", ["'model'", "'width'", "integer", "wide"]),
    ("min_tnr: 0.9", "min_tnr: high", ["'min_tnr'", "number", "high"]),
    ("sampler: BalancedSampler", "sampler: 3", ["data.sampler"]),
    ("max_epochs: 1,", "max_epochs: 1, precision: half,", ["precision", "'bf16'", "half"]),
    ("max_epochs: 1,", "max_epochs: 1, profile: quick,", ["profile"]),
    ("handlers: [EpochTimer]", "handlers: 3", ["trainer.handlers"]),
    ("num_workers: 0", "num_workers: null", ["data.num_workers"]),
    # values out of range
    ("max_epochs: 1", "max_epochs: 0", ["max_epochs", "1", "0"]),
    ("val_fraction: 0.25", "val_fraction: 1.5", ["(0, 0.5]", "1.5"]),
    ("batch_size: 8", "batch_size: 0", ["batch_size", "0"]),
    ("num_workers: 0", "num_workers: -1", ["num_workers", "-1"]),
    ("min_tnr: 0.9", "min_tnr: 1.5", ["min_tnr", "[0, 1]", "1.5"]),
    ("min_threshold: 0.5", "min_threshold: -1", ["min_threshold"]),
    ("power: 0.5", "power: 7", ["power"]),
    ("patience: 3", "patience: 0", ["patience"]),
    ("metric: roc_auc", "metric: auc", ["monitor.metric", "roc_auc"]),
    ("metric: roc_auc", "metric: loss", ["monitor.mode"]),
    ("seed: 1", "seed: -5", ["seed", "-5"]),
    ("lr: 1.0e-3", "lr: -1", ["optimizer", "-1.0"]),
    ("T_max: 2", "T_max: 2, eta_min: x", ["'eta_min'", "number", "x"]),
    # what YAML lets pass, or does not
    ("seed: 1", "seed: 1\nseed: 2", ["recipe.yaml:2", "'seed'"]),
    ("trainer: {", "trainer: {{", ["recipe.yaml:16", "YAML"]),
    ("seed: 1", "\tseed: 1", ["YAML"]),
    ("seed: 1", "seed: !!python/object/apply:os.getpid []", ["python"]),
    # missing
    ("model: {class_path: LightCNN, init_args: {width: 4}}\n", "", ["model"]),
    ("optimizer: {class_path: AdamW, init_args: {lr: 1.0e-3}}\n", "", ["optimizer"]),
    # hostile
    ("class_path: LightCNN", "class_path: subprocess.Popen", ["subprocess"]),
    ("class_path: LightCNN", "class_path: os.system", ["os.system"]),
    ("class_path: LightCNN", "class_path: torch.hub.load", ["torch.hub"]),
]


def test_there_are_sixty_mutations():
    assert len(MUTATIONS) >= 60


@pytest.mark.parametrize(("old", "new", "says"), MUTATIONS)
def test_a_wrong_recipe_gets_one_line_before_anything_is_read_or_built(
    old, new, says, tmp_path, capsys, monkeypatch
):
    def reached(*_args, **_settings):
        raise AssertionError("the run began")

    monkeypatch.setattr("cxrignite.data.phantom.Phantom.records", reached)
    monkeypatch.setattr("cxrignite.nn.LightCNN.__init__", _with_same_signature(reached))
    assert old in TINY
    path = tmp_path / "recipe.yaml"
    path.write_text(TINY.replace(old, new, 1))
    monkeypatch.chdir(tmp_path)
    assert run(["fit", "--config", "recipe.yaml"]) == 2
    error = capsys.readouterr().err
    assert len(error.splitlines()) == 1, error
    assert len(error) < 450
    # The line of the mistake, unless the key is missing or the mutation says another line.
    line = TINY[: TINY.index(old)].count("\n") + 1
    elsewhere = not new or any(words.startswith("recipe.yaml") for words in says)
    error_line(error, *(says if elsewhere else [f"recipe.yaml:{line}", *says]))
    assert not (tmp_path / "runs").exists()


def _with_same_signature(function):
    import functools

    from cxrignite.nn import LightCNN

    return functools.wraps(LightCNN.__init__)(function)


@pytest.mark.parametrize(
    ("argv", "says"),
    [
        (["--trainer.max_epoch", "3"], "'--trainer.max_epochs'"),
        (["--lr_scheduler", "OneCycleLR"], "max_lr"),
        (["--model.widht", "3"], "width"),
        (["--trainer.max_epochs", "x"], "trainer.max_epochs"),
        (["--config", "nowhere.yaml"], "nowhere.yaml"),
        (["--nonsense"], "--nonsense"),
        (["--data.batch_size", "0"], "data.batch_size"),
        (["surplus"], "surplus"),
    ],
)
def test_wrong_arguments_get_one_line(argv, says, tmp_path, capsys, monkeypatch):
    (tmp_path / "recipe.yaml").write_text(TINY)
    monkeypatch.chdir(tmp_path)
    assert run(["fit", "--config", "recipe.yaml", *argv]) == 2
    error = capsys.readouterr().err
    assert len(error.splitlines()) == 1, error
    assert "recipe.yaml" not in error_line(error, says)  # the file is innocent


@pytest.mark.parametrize("command", ["fit", "validate", "test"])
def test_a_command_without_arguments_says_what_it_needs(command, capsys):
    assert run([command]) == 2
    assert {"fit": "--config FILE"}.get(command, "--run DIR") in capsys.readouterr().err


def test_help_of_test_shows_only_what_test_takes(capsys):
    assert run(["test", "--help"]) == 0
    shown = capsys.readouterr().out
    assert "--run" in shown
    assert "--data.source" in shown
    assert "--optimizer" not in shown


LETTERS = "abcdefgh"
ANCHOR_BOMB = "a: &a [x, x, x, x, x, x, x, x, x]\n" + "".join(
    f"{new}: &{new} [{', '.join([f'*{old}'] * 9)}]\n" for old, new in itertools.pairwise(LETTERS)
)


@pytest.mark.parametrize("text", [ANCHOR_BOMB, "a: &a [*a]\n", "data: &d {source: *d}\n"])
def test_a_recipe_without_end_is_refused_at_once(text, tmp_path, capsys):
    path = tmp_path / "recipe.yaml"
    path.write_text(text)
    started = time.process_time()
    assert run(["fit", "--config", str(path)]) == 2
    assert time.process_time() - started < 2.0
    assert len(capsys.readouterr().err.splitlines()) == 1


def test_test_keeps_to_the_recipe_of_the_run(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert run(["test", "--run", "runs/nothing", "--trainer.max_epochs", "3"]) == 2
    error_line(capsys.readouterr().err, "--trainer.max_epochs")


def test_a_missing_folder_is_a_data_problem(tmp_path, recipes_dir, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert run(["fit", "--config", str(recipes_dir / "baseline_cnn.yaml")]) == 3
    error_line(capsys.readouterr().err, "data/chest_xray")


# What a forked process cannot show: a signal to a real process group, from its first line on.
@pytest.mark.integration
def test_ctrl_c_before_training_leaves_no_traceback(tmp_path):
    (tmp_path / "recipe.yaml").write_text(TINY.replace("num_train: 48", "num_train: 4000"))
    process = real(
        *("fit", "--config", "recipe.yaml"),
        cwd=tmp_path,
        start_new_session=True,
        # A shell that runs the tests in the background hands down that Ctrl-C is ignored.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
    while process.poll() is None and not list(tmp_path.glob("data/*")):
        time.sleep(0.05)
    os.killpg(process.pid, signal.SIGINT)
    try:
        _, error = process.communicate(timeout=60)
    finally:
        process.kill()
    assert process.returncode == 130
    assert "Traceback" not in error
