"""`trainer.compile` through the whole of `fit`, with a real compiler; and what a step costs."""

import csv
import sys
from collections import Counter
from pathlib import Path

import pytest
import torch
import yaml
from ignite.engine import Engine, Events
from messages import missing

from cxrignite.cli import run
from cxrignite.handlers import load_checkpoint

pytestmark = pytest.mark.integration

# 48 training images by 7 and 16 validation images by 14: the last batches are smaller.
RECIPE = """\
seed: 3
data:
  source: {class_path: Phantom, init_args: {num_train: 64, num_test: 8, size: 32}}
  val_fraction: 0.25
  batch_size: 7
  num_workers: 0
  cache: "off"
model: {class_path: LightCNN, init_args: {width: 2, dropout: 0.3}}
optimizer: {class_path: AdamW, init_args: {lr: 1.0e-3}}
trainer: {max_epochs: 2, profile: reproducible, precision: fp32}
validator:
  handlers:
    - {class_path: ThresholdSearch, init_args: {min_tnr: 0.5, min_threshold: 0.1}}
"""


@pytest.fixture(scope="module")
def records(tmp_path_factory):
    from cxrignite.data import Phantom

    root = tmp_path_factory.mktemp("images") / "phantom"
    Phantom(root=root, num_train=64, num_test=8, size=32).records()
    return root


@pytest.fixture
def fit(tmp_path, records, monkeypatch):
    """Run `fit` in this process, with nothing compiled yet; gives its exit code."""
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path / "kernels"))
    recipe = yaml.safe_load(RECIPE)
    recipe["data"]["source"]["init_args"]["root"] = str(records)
    path = tmp_path / "recipe.yaml"
    path.write_text(yaml.safe_dump(recipe))

    def call(run_dir: Path, *argv: str) -> int:
        torch.compiler.reset()
        return run(["fit", "--config", str(path), "--run_dir", str(run_dir), *argv])

    yield call
    torch.compiler.reset()


def weights(run_dir: Path, name: str) -> dict[str, torch.Tensor]:
    return load_checkpoint(run_dir / "checkpoints" / name)["model"]


def history(run_dir: Path) -> list[dict[str, str]]:
    with (run_dir / "history.csv").open(newline="") as file:
        return list(csv.DictReader(file))


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_a_compiled_run_learns_as_a_plain_one_and_resumes_exactly(fit, tmp_path):
    plain, whole, parted = (tmp_path / name for name in ("plain", "whole", "parted"))
    assert fit(plain) == 0
    assert fit(whole, "--trainer.compile", "true") == 0
    assert list(weights(whole, "best.pt")) == list(weights(plain, "best.pt"))
    # Dropout draws other numbers in compiled code, so the two agree in kind alone.
    for ours, theirs in zip(history(whole), history(plain), strict=True):
        assert float(ours["val_loss"]) == pytest.approx(float(theirs["val_loss"]), rel=0.2)

    assert fit(parted, "--trainer.compile", "true", "--trainer.max_epochs", "1") == 0
    assert fit(parted, "--trainer.compile", "true", "--resume", "auto") == 0
    assert history(parted) == history(whole)
    for name, value in weights(whole, "last.pt").items():
        assert torch.equal(weights(parted, "last.pt")[name], value), name
    # Features and scores come from the plain model, whichever trained it.
    assert run(["test", "--run", str(whole)]) == 0


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_a_compiler_that_fails_is_a_mistake_in_the_recipe(fit, tmp_path, capsys):
    from torch._inductor import config

    nowhere = str(tmp_path / "no-compiler")
    with config.patch({"cpp.cxx": (None, nowhere)}):
        assert fit(tmp_path / "run", "--trainer.compile", "true") == 2
    error = capsys.readouterr().err
    assert "Traceback" not in error
    # It holds the compiler's own words.
    assert missing(error.strip().splitlines()[-1], ["trainer.compile", nowhere, "false"]) == []


MOST_CALLS = 42


def test_a_step_costs_few_calls_of_engines_and_handlers(fit, tmp_path, monkeypatch):
    from cxrignite.workflows import training

    calls: Counter[str] = Counter()
    package = str(Path(training.__file__).parents[1])
    ours = tuple(f"{package}/{part}/" for part in ("engines", "handlers", "workflows"))

    def count(frame, event, argument):
        code = frame.f_code
        if event in ("call", "c_call") and code.co_filename.startswith(ours):
            called = argument.__name__ if event == "c_call" else ""
            calls[f"{code.co_qualname} {called}"] += 1

    def watch(trainer: Engine) -> None:
        if trainer.state.iteration in (2, 6):
            sys.setprofile(count if trainer.state.iteration == 2 else None)

    def watched(*args, **kwargs):
        trainer = create_trainer(*args, **kwargs)
        trainer.add_event_handler(Events.ITERATION_COMPLETED, watch)
        return trainer

    create_trainer = training.create_trainer
    monkeypatch.setattr(training, "create_trainer", watched)
    timed = "--trainer.handlers", "[EpochTimer]", "--trainer.max_epochs", "1"
    assert fit(tmp_path / "run", *timed) == 0
    assert "EpochTimer._step " in calls
    a_step = {name: number / 4 for name, number in calls.most_common()}
    assert sum(a_step.values()) <= MOST_CALLS, a_step
