"""`fit` from a pack: the same bits as from the files, and nothing stale, whatever the folder."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from cxrignite.cli import run
from cxrignite.data import Phantom
from cxrignite.handlers import load_checkpoint

RECIPE = {
    "seed": 3,
    "data": {
        "source": {"class_path": "ClassFolders", "init_args": {"patient_pattern": r"(p\d+)"}},
        "val_fraction": 0.25,
        "image_size": [48, 40],
        "batch_size": 8,
        "num_workers": 0,
    },
    "model": {"class_path": "LightCNN", "init_args": {"width": 4, "dropout": 0.3}},
    "optimizer": {"class_path": "AdamW", "init_args": {"lr": 1.0e-3}},
    "trainer": {"max_epochs": 2, "profile": "reproducible", "precision": "fp32"},
}


@pytest.fixture
def root(tmp_path):
    root = tmp_path / "films"
    Phantom(root=root, num_train=48, num_test=8, size=64).films()
    return root


@pytest.fixture
def fit(tmp_path, root):
    """Run `fit` in this process; gives its exit code."""
    path = tmp_path / "recipe.yaml"
    path.write_text(yaml.safe_dump(RECIPE))
    fixed = ["--config", str(path), "--data.source.root", str(root)]
    return lambda name, *argv: run(["fit", *fixed, "--run_dir", str(tmp_path / name), *argv])


def weights(run_dir: Path) -> list[bytes]:
    state = load_checkpoint(run_dir / "checkpoints" / "last.pt")["model"]
    return [tensor.numpy().tobytes() for tensor in state.values()]


def packs(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.glob("*.npy"))


def test_a_pack_changes_no_bit_whoever_keeps_it(fit, tmp_path):
    assert fit("off", "--data.pack", "off") == 0
    assert not (tmp_path / "packs").exists()
    assert fit("auto") == 0
    assert len(packs(tmp_path / "packs")) == 1
    assert fit("elsewhere", "--data.pack", str(tmp_path / "own"), "--data.num_workers", "1") == 0
    assert packs(tmp_path / "own") == packs(tmp_path / "packs")
    first = weights(tmp_path / "off")
    assert weights(tmp_path / "auto") == first
    assert weights(tmp_path / "elsewhere") == first
    for name in ("split.csv", "predictions/val.csv", "metrics/val.json"):
        contents = {(tmp_path / each / name).read_text() for each in ("off", "auto", "elsewhere")}
        assert len(contents) == 1, name


def test_an_edited_film_is_seen_by_the_next_run(fit, root, tmp_path):
    assert fit("first") == 0
    film = next((root / "train" / "NORMAL").iterdir())
    film.write_bytes(next((root / "train" / "PNEUMONIA").iterdir()).read_bytes())
    assert fit("second") == 0
    assert fit("unpacked", "--data.pack", "off") == 0
    assert weights(tmp_path / "second") == weights(tmp_path / "unpacked")
    assert weights(tmp_path / "second") != weights(tmp_path / "first")


def test_a_run_goes_on_from_another_pack_folder(fit, tmp_path):
    assert fit("whole") == 0
    assert fit("parts", "--trainer.max_epochs", "1") == 0
    argv = ["--resume", "auto", "--data.pack"]
    assert fit("parts", *argv, str(tmp_path / "moved")) == 0
    assert weights(tmp_path / "parts") == weights(tmp_path / "whole")


def test_unreadable_films_are_left_out_of_pack_and_run(fit, root, tmp_path, capsys):
    broken = sorted((root / "train" / "NORMAL").iterdir())[3]
    broken.write_bytes(broken.read_bytes()[:200])
    assert fit("run") == 3
    assert broken.name in capsys.readouterr().err
    for argv in ([], ["--trainer.max_epochs", "3", "--resume", "auto"]):
        assert fit("run", "--data.on_unreadable", "skip", *argv) == 0
        assert "1 of 56 images left out" in capsys.readouterr().err
    assert broken.name not in (tmp_path / "run" / "split.csv").read_text()
    assert len(packs(tmp_path / "packs")) == 1


def test_a_folder_that_cannot_keep_a_pack_is_an_error_if_named_and_a_warning_if_not(
    fit, tmp_path, capsys
):
    (tmp_path / "packs").write_text("no folder")
    assert fit("named", "--data.pack", str(tmp_path / "packs")) == 1
    error = capsys.readouterr().err
    assert f"cannot keep a pack in {tmp_path / 'packs'}" in error
    assert "Traceback" not in error
    assert fit("unnamed") == 0
    assert "not packed, so each epoch reads the films" in capsys.readouterr().err
    assert fit("off", "--data.pack", "off") == 0
    assert weights(tmp_path / "unnamed") == weights(tmp_path / "off")


@pytest.mark.parametrize("text", ["off", "'off'", "false"])
def test_off_is_off_however_yaml_takes_it(text, fit, tmp_path):
    overlay = tmp_path / "overlay.yaml"
    overlay.write_text(f"data: {{pack: {text}}}\n")
    assert fit("run", "--config", str(overlay), "--trainer.max_epochs", "1") == 0
    assert not (tmp_path / "packs").exists()
    recipe = yaml.safe_load((tmp_path / "run" / "recipe.yaml").read_text())
    assert recipe["data"]["pack"] in ("off", False)


def test_images_of_several_sizes_need_an_image_size(fit, capsys, root):
    from PIL import Image

    film = next((root / "train" / "NORMAL").iterdir())
    Image.new("L", (30, 20)).save(film)
    assert fit("run", "--data.image_size", "null") == 3
    assert "set data.image_size" in capsys.readouterr().err


def test_a_run_without_monai_transforms_never_imports_monai(tmp_path, root):
    program = (
        "import sys; from cxrignite.cli import run; code = run(sys.argv[1:]);"
        "sys.exit(code or 99 * ('monai' in sys.modules or 'torchvision' in sys.modules))"
    )
    (tmp_path / "recipe.yaml").write_text(yaml.safe_dump(RECIPE))
    argv = ["fit", "--config", "recipe.yaml", "--data.source.root", str(root), "--run_dir", "run"]
    done = subprocess.run(
        [sys.executable, "-c", program, *argv],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(Path(__file__).resolve().parents[2])},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
