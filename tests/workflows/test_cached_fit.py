"""`fit` from a cache: the same bits as from the files, and nothing stale, whatever the folder."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from messages import error_line, line_with, missing
from PIL import Image

from cxrignite.cli import run
from cxrignite.cli.parsing import parse_recipe
from cxrignite.data import Phantom
from cxrignite.handlers import load_checkpoint
from cxrignite.workflows.parts import build_pipeline
from cxrignite.workflows.records import read_and_cache

pytestmark = pytest.mark.integration

RECIPE = {
    "seed": 3,
    "data": {
        "source": {"class_path": "ClassFolders", "init_args": {"patient_pattern": r"(p\d+)"}},
        "val_fraction": 0.25,
        "image_size": [48, 40],
        "batch_size": 8,
        "num_workers": 0,
        "on_unreadable": "skip",
    },
    "model": {"class_path": "LightCNN", "init_args": {"width": 4, "dropout": 0.3}},
    "optimizer": {"class_path": "AdamW", "init_args": {"lr": 1.0e-3}},
    "trainer": {"max_epochs": 2, "profile": "reproducible", "precision": "fp32"},
}
# A whole run, in an interpreter of its own: it is also to be one that never imports these.
PROGRAM = """
import sys
from cxrignite.cli import run
code = run(sys.argv[1:])
sys.exit(code or 99 * ("monai" in sys.modules or "torchvision" in sys.modules))
"""


def make_images(folder: Path) -> Path:
    """56 images, one of which cannot be read."""
    Phantom(root=folder / "images", num_train=48, num_test=8, size=64).records()
    broken = broken_image(folder / "images")
    broken.write_bytes(broken.read_bytes()[:200])
    (folder / "recipe.yaml").write_text(yaml.safe_dump(RECIPE))
    return folder / "images"


def broken_image(root: Path) -> Path:
    return sorted((root / "train" / "NORMAL").iterdir())[3]


@pytest.fixture
def root(tmp_path):
    return make_images(tmp_path)


@pytest.fixture
def parsed(tmp_path, root):
    """The recipe with these settings, and its text."""

    def call(*settings: str):
        fixed = ["--config", str(tmp_path / "recipe.yaml"), "--data.source.root", str(root)]
        fixed += ["--run_dir", str(tmp_path / "run")]
        return parse_recipe("fit", [*fixed, *settings])[:2]

    return call


@pytest.fixture
def fit(tmp_path, root):
    """Run `fit` in this process; gives its exit code."""
    fixed = ["--config", str(tmp_path / "recipe.yaml"), "--data.source.root", str(root)]
    fixed += ["--run_dir", str(tmp_path / "run")]
    return lambda *settings: run(["fit", *fixed, *settings])


def caches(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.glob("*.npy"))


def read(recipe):
    return read_and_cache(
        recipe.data, recipe.data.source.records(), build_pipeline(recipe.data), recipe.run_dir
    )


def assert_true(cache, records, pipeline):
    """It holds what the files hold now."""
    for record in records:
        assert torch.equal(cache.image(record), pipeline.read(record.path)), record.name


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """One run that can cache nowhere, and one from two caches; gives their folders."""
    home = tmp_path_factory.mktemp("runs")
    records = make_images(home)
    fixed = ["fit", "--config", str(home / "recipe.yaml"), "--data.source.root", str(records)]
    unpacked, cached = home / "no" / "run", home / "yes" / "run"
    (home / "no").mkdir()
    (home / "no" / "cache").write_text("no folder")
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).resolve().parents[2])}
    argv = [sys.executable, "-c", PROGRAM, *fixed, "--run_dir", str(unpacked)]
    done = subprocess.run(argv, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    (home / "no" / "errors").write_text(done.stderr)
    fixed += ["--run_dir", str(cached)]
    assert run([*fixed, "--trainer.max_epochs", "1"]) == 0
    elsewhere = ["--data.cache", str(home / "own"), "--data.num_workers", "1"]
    assert run([*fixed, "--resume", "auto", *elsewhere]) == 0
    return unpacked, cached


def test_a_cache_changes_no_bit_whoever_keeps_it(runs):
    unpacked, cached = runs
    states = [load_checkpoint(each / "checkpoints" / "last.pt")["model"] for each in runs]
    assert list(states[0]) == list(states[1])
    for name, tensor in states[0].items():
        assert tensor.numpy().tobytes() == states[1][name].numpy().tobytes(), name
    for name in ("split.csv", "predictions/val.csv", "metrics/val.json"):
        assert (unpacked / name).read_text() == (cached / name).read_text(), name
    (name,) = caches(cached.parent / "cache")
    assert caches(cached.parent.parent / "own") == [name]


def test_a_folder_that_can_keep_no_cache_is_a_warning_where_nobody_named_it(runs):
    printed = (runs[0].parent / "errors").read_text()
    line_with(printed, runs[0].parent / "cache")
    assert (runs[0].parent / "cache").read_text() == "no folder"


def test_unreadable_images_are_left_out_of_cache_and_run(runs):
    for run_dir in runs:
        split = (run_dir / "split.csv").read_text()
        assert len(split.splitlines()) == 56
        assert broken_image(run_dir.parent.parent / "images").name not in split
        printed = [
            each for each in (run_dir / "run.log").read_text().splitlines() if "WARN" in each
        ]
        assert any(not missing(each, ["1 of 56"]) for each in printed)


def test_what_cannot_be_had_ends_a_run_before_it_begins(fit, root, tmp_path, capsys):
    assert fit("--data.on_unreadable", "raise") == 3
    error_line(capsys.readouterr().err, broken_image(root), "data.on_unreadable: skip")
    (tmp_path / "file").touch()
    assert fit("--data.cache", str(tmp_path / "file")) == 1
    error_line(capsys.readouterr().err, tmp_path / "file")
    record = min((root / "train" / "NORMAL").iterdir())
    Image.new("L", (30, 20)).save(record)
    assert fit("--data.image_size", "null") == 3
    error_line(capsys.readouterr().err, "20 x 30", "64 x 64", "data.image_size")
    assert not (tmp_path / "run" / "history.csv").exists()


def test_an_edited_image_is_seen_by_the_next_run(parsed, root, tmp_path):
    recipe, _ = parsed()
    first = read(recipe)
    assert_true(first.cache, first.records, build_pipeline(recipe.data))
    record = min((root / "train" / "NORMAL").iterdir())
    record.write_bytes(min((root / "train" / "PNEUMONIA").iterdir()).read_bytes())
    second = read(recipe)
    assert second.cache.path != first.cache.path
    assert_true(second.cache, second.records, build_pipeline(recipe.data))
    assert caches(tmp_path / "cache") == sorted([first.cache.path.name, second.cache.path.name])


@pytest.mark.parametrize("text", ["off", "'off'", "false"])
def test_off_is_off_however_yaml_takes_it(text, parsed, tmp_path):
    overlay = tmp_path / "overlay.yaml"
    overlay.write_text(f"data: {{cache: {text}}}\n")
    recipe, kept = parsed("--config", str(overlay))
    found = read(recipe)
    assert (found.cache, len(found.records)) == (None, 55)
    assert not (tmp_path / "cache").exists()
    assert yaml.safe_load(kept)["data"]["cache"] in ("off", False)


@pytest.mark.parametrize("cache", ["auto", "off"])
def test_images_that_are_nearly_blank_are_reported_in_one_line(parsed, root, caplog, cache):
    records = sorted((root / "train" / "PNEUMONIA").iterdir())[:5]
    for number, record in enumerate(records):
        values = np.arange(64 * 64, dtype=np.uint16).reshape(64, 64) // 2 + number
        Image.fromarray(values).save(record)
    for scaling, num_blank in (("stored", 5), ("file", 0)):
        caplog.clear()
        read(parsed("--data.cache", cache, "--data.grey_scaling", scaling)[0])
        lines = [line for line in caplog.messages if "nearly blank" in line]
        assert len(lines) == bool(num_blank)
        if lines:
            first = [record.relative_to(root).as_posix() for record in records[:3]]
            line_with(lines[0], "5 of 55", "5 %", *first, "data.grey_scaling", "stored")
            assert records[3].name not in lines[0]
