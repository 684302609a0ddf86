"""`fit` from a pack: the same bits as from the files, and nothing stale, whatever the folder."""

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
from cxrignite.workflows.films import read_and_pack
from cxrignite.workflows.parts import build_pipeline

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


def make_films(folder: Path) -> Path:
    """56 films, one of which cannot be read."""
    Phantom(root=folder / "films", num_train=48, num_test=8, size=64).films()
    broken = broken_film(folder / "films")
    broken.write_bytes(broken.read_bytes()[:200])
    (folder / "recipe.yaml").write_text(yaml.safe_dump(RECIPE))
    return folder / "films"


def broken_film(root: Path) -> Path:
    return sorted((root / "train" / "NORMAL").iterdir())[3]


@pytest.fixture
def root(tmp_path):
    return make_films(tmp_path)


@pytest.fixture
def parsed(tmp_path, root):
    """The recipe with these settings, and its text."""

    def call(*settings: str):
        fixed = ["--config", str(tmp_path / "recipe.yaml"), "--data.source.root", str(root)]
        fixed += ["--run_dir", str(tmp_path / "run")]
        return parse_recipe("fit", "", [*fixed, *settings])[:2]

    return call


@pytest.fixture
def fit(tmp_path, root):
    """Run `fit` in this process; gives its exit code."""
    fixed = ["--config", str(tmp_path / "recipe.yaml"), "--data.source.root", str(root)]
    fixed += ["--run_dir", str(tmp_path / "run")]
    return lambda *settings: run(["fit", *fixed, *settings])


def packs(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.glob("*.npy"))


def read(recipe):
    return read_and_pack(
        recipe.data, recipe.data.source.films(), build_pipeline(recipe.data), recipe.run_dir
    )


def assert_true(pack, films, pipeline):
    """It holds what the files hold now."""
    for film in films:
        assert torch.equal(pack.image(film), pipeline.read(film.path)), film.name


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """One run that can pack nowhere, and one from two packs; gives their folders."""
    home = tmp_path_factory.mktemp("runs")
    films = make_films(home)
    fixed = ["fit", "--config", str(home / "recipe.yaml"), "--data.source.root", str(films)]
    unpacked, packed = home / "no" / "run", home / "yes" / "run"
    (home / "no").mkdir()
    (home / "no" / "packs").write_text("no folder")
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).resolve().parents[2])}
    argv = [sys.executable, "-c", PROGRAM, *fixed, "--run_dir", str(unpacked)]
    done = subprocess.run(argv, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    (home / "no" / "errors").write_text(done.stderr)
    fixed += ["--run_dir", str(packed)]
    assert run([*fixed, "--trainer.max_epochs", "1"]) == 0
    elsewhere = ["--data.pack", str(home / "own"), "--data.num_workers", "1"]
    assert run([*fixed, "--resume", "auto", *elsewhere]) == 0
    return unpacked, packed


def test_a_pack_changes_no_bit_whoever_keeps_it(runs):
    unpacked, packed = runs
    states = [load_checkpoint(each / "checkpoints" / "last.pt")["model"] for each in runs]
    assert list(states[0]) == list(states[1])
    for name, tensor in states[0].items():
        assert tensor.numpy().tobytes() == states[1][name].numpy().tobytes(), name
    for name in ("split.csv", "predictions/val.csv", "metrics/val.json"):
        assert (unpacked / name).read_text() == (packed / name).read_text(), name
    (name,) = packs(packed.parent / "packs")
    assert packs(packed.parent.parent / "own") == [name]


def test_a_folder_that_can_keep_no_pack_is_a_warning_where_nobody_named_it(runs):
    told = (runs[0].parent / "errors").read_text()
    line_with(told, runs[0].parent / "packs")
    assert (runs[0].parent / "packs").read_text() == "no folder"


def test_unreadable_films_are_left_out_of_pack_and_run(runs):
    for run_dir in runs:
        split = (run_dir / "split.csv").read_text()
        assert len(split.splitlines()) == 56
        assert broken_film(run_dir.parent.parent / "films").name not in split
        told = [each for each in (run_dir / "run.log").read_text().splitlines() if "WARN" in each]
        assert any(not missing(each, ["1 of 56"]) for each in told)


def test_what_cannot_be_had_ends_a_run_before_it_begins(fit, root, tmp_path, capsys):
    assert fit("--data.on_unreadable", "raise") == 3
    error_line(capsys.readouterr().err, broken_film(root), "data.on_unreadable: skip")
    (tmp_path / "file").touch()
    assert fit("--data.pack", str(tmp_path / "file")) == 1
    error_line(capsys.readouterr().err, tmp_path / "file")
    film = min((root / "train" / "NORMAL").iterdir())
    Image.new("L", (30, 20)).save(film)
    assert fit("--data.image_size", "null") == 3
    error_line(capsys.readouterr().err, "20 x 30", "64 x 64", "data.image_size")
    assert not (tmp_path / "run" / "history.csv").exists()


def test_an_edited_film_is_seen_by_the_next_run(parsed, root, tmp_path):
    recipe, _ = parsed()
    first = read(recipe)
    assert_true(first.pack, first.films, build_pipeline(recipe.data))
    film = min((root / "train" / "NORMAL").iterdir())
    film.write_bytes(min((root / "train" / "PNEUMONIA").iterdir()).read_bytes())
    second = read(recipe)
    assert second.pack.path != first.pack.path
    assert_true(second.pack, second.films, build_pipeline(recipe.data))
    assert packs(tmp_path / "packs") == sorted([first.pack.path.name, second.pack.path.name])


@pytest.mark.parametrize("text", ["off", "'off'", "false"])
def test_off_is_off_however_yaml_takes_it(text, parsed, tmp_path):
    overlay = tmp_path / "overlay.yaml"
    overlay.write_text(f"data: {{pack: {text}}}\n")
    recipe, kept = parsed("--config", str(overlay))
    found = read(recipe)
    assert (found.pack, len(found.films)) == (None, 55)
    assert not (tmp_path / "packs").exists()
    assert yaml.safe_load(kept)["data"]["pack"] in ("off", False)


@pytest.mark.parametrize("pack", ["auto", "off"])
def test_films_that_are_nearly_blank_are_reported_in_one_line(parsed, root, caplog, pack):
    films = sorted((root / "train" / "PNEUMONIA").iterdir())[:5]
    for number, film in enumerate(films):
        values = np.arange(64 * 64, dtype=np.uint16).reshape(64, 64) // 2 + number
        Image.fromarray(values).save(film)
    for scaling, num_blank in (("stored", 5), ("file", 0)):
        caplog.clear()
        read(parsed("--data.pack", pack, "--data.grey_scaling", scaling)[0])
        lines = [line for line in caplog.messages if "nearly blank" in line]
        assert len(lines) == bool(num_blank)
        if lines:
            first = [film.relative_to(root).as_posix() for film in films[:3]]
            line_with(lines[0], "5 of 55", "5 %", *first, "data.grey_scaling", "stored")
            assert films[3].name not in lines[0]
