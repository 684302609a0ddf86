"""The command line as its users meet it: real processes, and the sixty mistakes of promise 18."""

import itertools
import signal
import subprocess
import sys
import time

import pytest
import yaml

from cxrignite.cli import run

TINY = """\
seed: 1
run_dir: runs/tiny
data:
  source: {class_path: Phantom, init_args: {root: data/films, num_train: 48, num_test: 8, size: 64}}
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


@pytest.mark.parametrize(
    "argv", [["--help"], ["--version"], ["recipes", "list"], ["download", "--help"]]
)
def test_light_answers_come_within_a_second_and_without_torch(argv):
    # Shut out, so that an import of torch anywhere fails the command.
    started = time.perf_counter()
    code = "import sys; sys.modules['torch'] = None\n"
    code += "from cxrignite.cli import run; sys.exit(run(sys.argv[1:]))"
    done = subprocess.run([sys.executable, "-c", code, *argv], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout
    assert time.perf_counter() - started < 1.0


def test_help_of_fit_fits_on_a_few_screens(capsys):
    assert run(["fit", "--help"]) == 0
    assert len(capsys.readouterr().out.splitlines()) < 250


def test_no_arguments_show_the_help(capsys):
    assert run([]) == 0
    assert "verbs:" in capsys.readouterr().out


def test_an_unknown_verb_is_an_argument_error(capsys):
    assert run(["train"]) == 2
    assert "fit" in capsys.readouterr().err


def test_recipes_are_shown_and_copied(command, tmp_path):
    assert "Phantom" in command("recipes", "show", "quickstart").stdout
    assert command("recipes", "copy", "quickstart").returncode == 0
    assert (
        yaml.safe_load((tmp_path / "quickstart.yaml").read_text())["run_dir"] == "runs/quickstart"
    )
    again = command("recipes", "copy", "quickstart")
    assert again.returncode == 2
    assert "quickstart.yaml is there already" in again.stderr


def test_a_wrong_recipe_name_gets_the_nearest(command):
    done = command("recipes", "show", "resnet5O")
    assert done.returncode == 2
    assert "did you mean 'resnet50'?" in done.stderr


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
    ("max_epochs: 1", "max_epochs: one", ["'trainer.max_epochs' must be int, got one"]),
    ("max_epochs: 1", "max_epochs: 1.5", ["trainer.max_epochs"]),
    ("batch_size: 8", "batch_size: [8]", ["data.batch_size"]),
    ("seed: 1", "seed: true", ["seed"]),
    ("width: 4", "width: wide", ["'model': 'width' must be int, got wide"]),
    ("min_tnr: 0.9", "min_tnr: high", ["'min_tnr' must be float, got high"]),
    ("sampler: BalancedSampler", "sampler: 3", ["data.sampler"]),
    ("max_epochs: 1,", "max_epochs: 1, precision: half,", ["precision", "'bf16'", "got half"]),
    ("max_epochs: 1,", "max_epochs: 1, profile: quick,", ["profile"]),
    ("handlers: [EpochTimer]", "handlers: 3", ["trainer.handlers"]),
    ("num_workers: 0", "num_workers: null", ["data.num_workers"]),
    # values out of range
    ("max_epochs: 1", "max_epochs: 0", ["max_epochs", "at least 1, got 0"]),
    ("val_fraction: 0.25", "val_fraction: 1.5", ["(0, 0.5], got 1.5"]),
    ("batch_size: 8", "batch_size: 0", ["batch_size", "got 0"]),
    ("num_workers: 0", "num_workers: -1", ["got -1"]),
    ("min_tnr: 0.9", "min_tnr: 1.5", ["min_tnr must be in [0, 1], got 1.5"]),
    ("min_threshold: 0.5", "min_threshold: -1", ["min_threshold"]),
    ("power: 0.5", "power: 7", ["power"]),
    ("patience: 3", "patience: 0", ["patience"]),
    ("metric: roc_auc", "metric: auc", ["monitor.metric", "roc_auc"]),
    ("metric: roc_auc", "metric: loss", ["monitor.mode"]),
    ("seed: 1", "seed: -5", ["seed", "got -5"]),
    ("lr: 1.0e-3", "lr: -1", ["optimizer: Invalid learning rate: -1"]),
    ("T_max: 2", "T_max: 2, eta_min: x", ["'eta_min' must be float, got x"]),
    # what YAML lets pass, or does not
    ("seed: 1", "seed: 1\nseed: 2", ["recipe.yaml:2", "twice"]),
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

    monkeypatch.setattr("cxrignite.data.phantom.Phantom.films", reached)
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
    for words in says if elsewhere else [f"recipe.yaml:{line}: ", *says]:
        assert words in error
    assert not (tmp_path / "runs").exists()


def _with_same_signature(function):
    import functools

    from cxrignite.nn import LightCNN

    return functools.wraps(LightCNN.__init__)(function)


@pytest.mark.parametrize(
    ("argv", "says"),
    [
        (["--trainer.max_epoch", "3"], "did you mean '--trainer.max_epochs'?"),
        (["--lr_scheduler", "OneCycleLR"], "'lr_scheduler' needs max_lr"),
        (["--model.widht", "3"], "width"),
        (["--trainer.max_epochs", "x"], "trainer.max_epochs"),
        (["--config", "nowhere.yaml"], "nowhere.yaml"),
        (["--nonsense"], "--nonsense"),
        (["--data.batch_size", "0"], "data.batch_size must be at least 2, got 0"),
        (["surplus"], "surplus"),
    ],
)
def test_wrong_arguments_get_one_line(argv, says, tmp_path, capsys, monkeypatch):
    (tmp_path / "recipe.yaml").write_text(TINY)
    monkeypatch.chdir(tmp_path)
    assert run(["fit", "--config", "recipe.yaml", *argv]) == 2
    error = capsys.readouterr().err
    assert len(error.splitlines()) == 1, error
    assert says in error
    assert "recipe.yaml" not in error  # the file is innocent


@pytest.mark.parametrize("verb", ["fit", "validate", "test"])
def test_a_verb_without_arguments_says_what_it_needs(verb, capsys):
    assert run([verb]) == 2
    assert {"fit": "--config FILE"}.get(verb, "--run DIR") in capsys.readouterr().err


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
    started = time.perf_counter()
    assert run(["fit", "--config", str(path)]) == 2
    assert time.perf_counter() - started < 2.0
    assert len(capsys.readouterr().err.splitlines()) == 1


def test_test_needs_a_finished_run_and_keeps_to_its_recipe(command, tmp_path):
    missing = command("test", "--run", "runs/nothing")
    assert missing.returncode == 2
    assert "holds no run" in missing.stderr
    retuned = command("test", "--run", "runs/nothing", "--trainer.max_epochs", "3")
    assert retuned.returncode == 2
    assert "--trainer.max_epochs" in retuned.stderr


def test_a_missing_folder_is_a_data_problem(command, tmp_path, recipes_dir):
    done = command("fit", "--config", recipes_dir / "baseline_cnn.yaml")
    assert done.returncode == 3
    assert "data/chest_xray" in done.stderr
    assert "Traceback" not in done.stderr


def test_ctrl_c_before_training_leaves_no_traceback(tmp_path):
    (tmp_path / "recipe.yaml").write_text(TINY.replace("num_train: 48", "num_train: 4000"))
    process = subprocess.Popen(
        [sys.executable, "-m", "cxrignite", "fit", "--config", "recipe.yaml"],
        cwd=tmp_path,
        stderr=subprocess.PIPE,
        text=True,
        # A shell that runs the tests in the background hands down that Ctrl-C is ignored.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
    while process.poll() is None and not list(tmp_path.glob("data/*")):
        time.sleep(0.05)
    process.send_signal(signal.SIGINT)
    try:
        _, error = process.communicate(timeout=60)
    finally:
        process.kill()
    assert process.returncode == 130
    assert "Traceback" not in error
