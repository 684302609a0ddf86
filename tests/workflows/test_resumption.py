"""A run that cannot be resumed is refused before anything in its folder is changed."""

import json
import shlex
import shutil
from dataclasses import replace

import pytest
import yaml
from messages import error_line

from cxrignite.cli import run
from cxrignite.handlers import SafeSaver, load_checkpoint
from cxrignite.runs.run_folder import RunFolder

pytestmark = pytest.mark.integration


@pytest.fixture
def resume(trained, run_dir):
    """Resume a copy of the shared run for one more epoch; gives the exit code."""
    home = trained.parent
    caches = ["--data.cache", str(home / "cache"), "--trainer.max_epochs", "5"]
    argv = ["fit", "--config", str(home / "recipe.yaml"), "--run_dir", str(run_dir), *caches]
    return lambda *more: run([*argv, "--resume", "auto", *more])


@pytest.fixture
def unchanged(run_dir):
    """Check that nothing in the folder is other than now, but for the log and the lock."""

    def content():
        files = (path for path in run_dir.rglob("*") if path.is_file())
        return {path: path.read_bytes() for path in files if path.name[:4] != "run."}

    def mark():
        before = content()
        return lambda: content() == before

    return mark


def other_processes(run_dir):
    folder = RunFolder(run_dir)
    starts = json.loads(folder.environment_path.read_text())["starts"]
    starts[-1]["num_processes"] = 2
    content = {"starts": starts, "format": 1}
    folder.files.write(folder.environment_path, json.dumps(content).encode())
    folder.files.settle()
    return 2, ["2", "1", "torchrun"]


def rewrite(run_dir, name, change):
    """A checkpoint with other content and a manifest that fits it."""
    path = run_dir / "checkpoints" / name
    checkpoint = load_checkpoint(path)
    about = {"epoch": json.loads(path.with_suffix(".json").read_text())["epoch"]}
    SafeSaver(path.parent)(change(checkpoint) or checkpoint, name, about)


def other_steps(run_dir):
    rewrite(run_dir, "last.pt", lambda state: state["trainer"].update(epoch_length=999))
    return 3, [999]


def no_best_weights(run_dir):
    # Not by the digest of the operating point alone: an unfinished run has none.
    folder = RunFolder(run_dir)
    folder.files.remove(folder.operating_point_path)
    folder.files.settle()
    for path in (run_dir / "checkpoints").glob("best*.pt"):
        path.write_bytes(b"damaged")
    return 3, ["best.pt"]


@pytest.mark.parametrize("spoil", [other_processes, other_steps, no_best_weights])
def test_a_run_that_cannot_be_gone_on_with_is_refused_and_stays_as_it_is(
    spoil, run_dir, resume, unchanged, capsys
):
    code, facts = spoil(run_dir)
    is_as_it_was = unchanged()
    assert resume() == code
    error_line(capsys.readouterr().err, *facts)
    assert is_as_it_was()


@pytest.mark.parametrize(
    ("argv", "code"),
    [
        (["--resume", "nowhere.pt"], 3),
        (["--resume", "BEST"], 3),
        (["--optimizer.lr", "0.5"], 2),
        (["--trainer.max_epochs", "3"], 2),
        (["--trainer.device", "cuda"], 2),
        (["--data.source.root", "OTHERS"], 3),
        (["--explain.target_layer", "nowhere"], 2),
        (["--data.cache", "LOCK"], 1),
    ],
)
def test_a_refused_command_changes_nothing(
    argv, code, run_dir, resume, unchanged, tmp_path, capsys
):
    (tmp_path / "lock").write_text("a file")
    places = {"BEST": run_dir / "checkpoints" / "best.pt", "LOCK": tmp_path / "lock"}
    places["OTHERS"] = tmp_path
    is_as_it_was = unchanged()
    assert resume(*(str(places.get(part, part)) for part in argv)) == code
    error_line(capsys.readouterr().err)
    assert is_as_it_was()


def with_another_image(images, place, split):
    """A copy of a phantom in which an image of a split has the content of another."""
    images = shutil.copytree(images, place)
    one, other = sorted((images / split).rglob("*.png"))[:2]
    shutil.copy(one, other)
    split_summary = json.loads((images / "phantom.json").read_text())
    split_summary["sizes"][other.relative_to(images).as_posix()] = other.stat().st_size
    (images / "phantom.json").write_text(json.dumps(split_summary))
    return images, other


def test_a_image_that_changed_is_refused_and_the_run_stays_as_it_is(
    trained, run_dir, resume, unchanged, tmp_path, capsys
):
    images, changed = with_another_image(trained.parent / "images", tmp_path / "moved", "train")
    is_as_it_was = unchanged()
    assert resume("--data.source.root", str(images)) == 3
    error_line(capsys.readouterr().err, changed.name)
    assert is_as_it_was()


def test_run_and_images_may_be_moved_and_the_lock_may_be_lost(
    trained, run_dir, tmp_path, capsys, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    images = shutil.copytree(trained.parent / "images", tmp_path / "moved images")
    moved = run_dir.rename(tmp_path / "moved run")
    (moved / "run.lock").unlink()
    (moved / "operating_point.json").unlink()
    assert run(["test", "--run", str(moved)]) == 2
    advice = (
        error_line(capsys.readouterr().err, moved).partition("`cxrignite ")[2].partition("`")[0]
    )
    more = ["--data.source.root", str(images), "--data.cache", str(trained.parent / "cache")]
    assert run([*shlex.split(advice), *more]) == 0
    first, second = (each / "operating_point.json" for each in (trained, moved))
    assert first.read_bytes() == second.read_bytes()
    # The images where they are now are the run's own, by their content.
    assert run(["test", "--run", str(moved), "--data.source.root", str(images)]) == 0
    assert run(["test", "--run", str(run_dir.parent / "moved run")]) == 0


def test_other_images_are_not_taken_for_those_that_moved(trained, run_dir, tmp_path, capsys):
    images, changed = with_another_image(trained.parent / "images", tmp_path / "images", "test")
    assert run(["test", "--run", str(run_dir), "--data.source.root", str(images)]) == 3
    error_line(capsys.readouterr().err, changed.name)


CHANGED_MODEL = """\
from torch import nn
from cxrignite.nn import LightCNN

class Net(LightCNN):
    def __init__(self, width: int = 8, stride: int = 8, dropout: float = 0.1) -> None:
        super().__init__(width=width, stride=stride, dropout=dropout)
        CHANGE
"""


@pytest.mark.parametrize(
    ("change", "width", "facts"),
    [
        ("self.extra = nn.Linear(2, 2)", 4, ["extra.weight", "backbone.0.0.weight"]),
        ("self.forward = lambda images, age: images", 8, ["Net fails", "age"]),
    ],
)
def test_a_model_whose_code_has_changed_is_refused_in_one_line(
    change, width, facts, trained, run_dir, unchanged, tmp_path, command
):
    # Found by the commands in their folder; in this process every later help would name it.
    (tmp_path / "changed_model.py").write_text(CHANGED_MODEL.replace("CHANGE", change))
    folder = RunFolder(run_dir)
    recipe = yaml.safe_load(folder.recipe_path.read_text())
    recipe["model"]["class_path"] = "changed_model.Net"
    recipe["model"]["init_args"] = {"width": width, "stride": 8, "dropout": 0.1}
    folder.files.write(folder.recipe_path, yaml.safe_dump(recipe).encode())
    folder.files.settle()
    last = folder.checkpoints_dir / "last.pt"
    state = {**load_checkpoint(last), "recipe_hash": folder.recipe_hash()}
    SafeSaver(last.parent)(state, last.name, {"epoch": 4})
    is_as_it_was = unchanged()
    image = str(next((trained.parent / "images" / "test").rglob("*.png")))
    resume = f"fit --config {folder.recipe_path} --run_dir {run_dir} --resume auto"
    for line in (
        f"test --run {run_dir}",
        f"explain --run {run_dir}",
        f"predict --run {run_dir} --files {image} --output {tmp_path}/a.csv",
        f"{resume} --trainer.max_epochs 5",
    ):
        done = command(*line.split())
        assert done.returncode == 3, line
        error_line(done.stderr, *facts)
        assert is_as_it_was(), line


def forged(checkpoint):
    """States of a training that no run has saved, each with the name of what is wrong."""
    yield "model", {"model": None}
    yield "model", {"model": {"a": 1}}
    yield "trainer.iteration", {"trainer": 3}
    yield "trainer.iteration", {"trainer": {"iteration": "x", "epoch_length": 3}}
    yield "trainer.epoch_length", {"trainer": {"iteration": 1, "epoch_length": 0}}
    yield "best", {"best": {}}
    yield "best", {"best": {"best_epoch": 4, "best_score": "high"}}
    yield "early_stopping.counter", {"early_stopping": {"counter": None}}
    yield "optimizer", {"optimizer": {}}
    optimizer = checkpoint["optimizer"]
    groups = optimizer["param_groups"]
    yield "optimizer", {"optimizer": {"state": {}, "param_groups": [{"params": [0]}]}}
    without = [{key: group[key] for key in group if key != "lr"} for group in groups]
    yield "optimizer", {"optimizer": {**optimizer, "param_groups": without}}
    with_text = [{**group, "lr": "fast"} for group in groups]
    yield "lr", {"optimizer": {**optimizer, "param_groups": with_text}}
    state = {
        at: {**kept, "exp_avg": kept["exp_avg"].flatten()[:1]}
        for at, kept in optimizer["state"].items()
    }
    yield "exp_avg", {"optimizer": {**optimizer, "state": state}}
    yield "base_lrs", {"lr_scheduler": {**checkpoint["lr_scheduler"], "base_lrs": "x"}}
    yield "lr_scheduler", {"lr_scheduler": {**checkpoint["lr_scheduler"], "step": 1}}
    yield "lr_scheduler", {"lr_scheduler": []}
    yield "recipe", {"recipe_hash": 3}


def test_a_state_that_no_run_has_saved_is_refused_and_nothing_is_changed(
    run_dir, resume, unchanged, capsys
):
    path = run_dir / "checkpoints" / "last.pt"
    whole = load_checkpoint(path)
    for fact, change in forged(whole):
        SafeSaver(path.parent)({**whole, **change}, path.name, {"epoch": 4})
        is_as_it_was = unchanged()
        assert resume() == 3, change
        error_line(capsys.readouterr().err, fact)
        assert is_as_it_was(), change


@pytest.mark.parametrize("change", [{"epoch": "x"}, {"model": None}, {"model": {"a": 1}}])
def test_best_weights_that_no_run_has_saved_are_refused(change, run_dir, capsys):
    folder = RunFolder(run_dir)
    whole = load_checkpoint(folder.best_path)
    SafeSaver(folder.checkpoints_dir)({**whole, **change}, "best.pt", {"epoch": 4})
    folder.write_rules([replace(folder.find_rules()[0], weights_sha256=folder.weights_sha256())])
    assert run(["test", "--run", str(run_dir)]) == 3
    error_line(capsys.readouterr().err, next(iter(change)))
