"""The program of the page `without-this-package`, with numpy, Pillow and onnxruntime only."""

import csv
import json
import re
import shutil
import subprocess
import sys
import venv
from dataclasses import replace
from importlib import metadata
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from cxrignite.cli import run
from cxrignite.runs.exported_model import ExportedModel

pytestmark = pytest.mark.integration

PAGE = Path(__file__).resolve().parents[2] / "docs" / "guides" / "without-this-package.md"
NEEDED = ("numpy", "pillow", "onnxruntime")
# Runs the program and lists what it imported.
WATCHED = """
import json, runpy, sys
sys.argv = sys.argv[1:]
runpy.run_path(sys.argv[0], run_name="__main__")
print(json.dumps(sorted({"cxrignite", "torch", "monai", "ignite", "scipy"} & set(sys.modules))))
"""


@pytest.fixture(scope="module")
def program(tmp_path_factory):
    """The page's program as a file."""
    (block,) = re.findall(r"^```python\n(.*?)^```$", PAGE.read_text(), re.M | re.S)
    path = tmp_path_factory.mktemp("program") / "score.py"
    path.write_text(block)
    return path


@pytest.fixture(scope="module")
def exported(trained_findings, tmp_path_factory):
    folder = tmp_path_factory.mktemp("exported") / "model"
    assert run(["export", "--run", str(trained_findings), "--output", str(folder)]) == 0
    return folder


@pytest.fixture(scope="module")
def images(trained_findings, tmp_path_factory):
    """Images of the run as PNG, and grey and coloured JPEG, all of the model's size."""
    folder = tmp_path_factory.mktemp("images")
    found = sorted((trained_findings.parent / "images" / "test").rglob("*.png"))[:12]
    for number, path in enumerate(found):
        kind, mode = [("png", "L"), ("png", "RGB"), ("jpeg", "L"), ("jpeg", "RGB")][number % 4]
        with Image.open(path) as image:
            image.convert(mode).save(folder / f"p{number:02}.{kind}")
    return sorted(folder.iterdir())


@pytest.fixture(scope="module")
def expected(exported, images, tmp_path_factory):
    """Score, probability, decision and status by image and finding, of `predict --exported`."""
    table = tmp_path_factory.mktemp("table") / "scores.csv"
    argv = ["--exported", str(exported), "--output", str(table), "--files", *map(str, images)]
    assert run(["predict", *argv]) == 0
    with table.open(newline="") as file:
        columns = ("score", "probability", "decision", "status")
        return {
            (row["path"], row["finding"]): [row[each] for each in columns]
            for row in csv.DictReader(file)
        }


def results_of(lines):
    split = [line.split("\t") for line in lines]
    return {(path, finding): cells for path, finding, *cells in split}


def assert_same(found, expected):
    assert list(found) == list(expected)
    for key, (score, probability, *words) in found.items():
        other_score, other_probability, *other_words = expected[key]
        assert abs(float(score) - float(other_score)) < 1e-6
        assert abs(float(probability) - float(other_probability)) < 1e-6
        assert words == other_words


# A process of its own, since that of the tests has imported everything.
def test_its_results_are_those_of_predict(program, exported, images, expected):
    argv = [sys.executable, "-c", WATCHED, program, exported, *images]
    done = subprocess.run(argv, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    *lines, imported = done.stdout.splitlines()
    assert json.loads(imported) == []
    assert len(lines) == 12 * 3
    assert_same(results_of(lines), expected)
    assert len({cells[0] for cells in expected.values()}) > 30


@pytest.fixture
def here(program, exported, monkeypatch, capsys):
    """Run the program in this process."""

    def call(*paths, folder=exported):
        capsys.readouterr()
        monkeypatch.setattr(sys, "argv", [str(program), str(folder), *map(str, paths)])
        exec(compile(program.read_text(), program, "exec"), {})
        return results_of(capsys.readouterr().out.splitlines())

    return call


# The program ends there, and with it the open file.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_what_it_cannot_read_it_refuses(here, exported, tmp_path):
    Image.fromarray(np.zeros((48, 48), np.uint16)).save(tmp_path / "deep.png")
    with pytest.raises(AssertionError, match=r"deep\.png"):
        here(tmp_path / "deep.png")
    Image.new("L", (50, 48)).save(tmp_path / "wide.png")
    with pytest.raises(AssertionError, match=r"wide\.png"):
        here(tmp_path / "wide.png")
    exif = Image.Exif()
    exif[274] = 6
    Image.new("L", (48, 48)).save(tmp_path / "turned.jpeg", exif=exif)
    with pytest.raises(AssertionError, match=r"turned\.jpeg"):
        here(tmp_path / "turned.jpeg")
    changed = bytearray((exported / "model.onnx").read_bytes())
    changed[100] ^= 1
    (tmp_path / "model.onnx").write_bytes(changed)
    (tmp_path / "model.json").write_bytes((exported / "model.json").read_bytes())
    with pytest.raises(AssertionError, match="changed"):
        here(folder=tmp_path)


def test_a_large_jpeg_is_read_alike(exported, here, tmp_path):
    # As if the run's images were resized, and at sides of which both decode a quarter.
    folder, model = tmp_path / "model", ExportedModel.load(exported)
    shutil.copytree(exported, folder)
    described = replace(model, reading=replace(model.reading, image_size=model.reading.run_size))
    (folder / "model.json").write_bytes(described.to_json())
    rng = np.random.default_rng(0)
    for name, size in (("a", (203, 211)), ("b", (240, 370)), ("c", (48, 48))):
        pixels = rng.integers(0, 256, (8, 8), np.uint8)
        Image.fromarray(pixels).resize(size).convert("RGB").save(tmp_path / f"{name}.jpeg")
    paths = [tmp_path / f"{name}.jpeg" for name in "abc"]
    table = tmp_path / "scores.csv"
    argv = ["--exported", str(folder), "--output", str(table), "--files", *map(str, paths)]
    assert run(["predict", *argv]) == 0
    with table.open(newline="") as file:
        scores = {
            (row["path"], row["finding"]): float(row["score"]) for row in csv.DictReader(file)
        }
    found = here(*paths, folder=folder)
    assert {key: float(cells[0]) for key, cells in found.items()} == pytest.approx(scores, abs=1e-6)
    assert len({*scores.values()}) == 9


@pytest.mark.slow
def test_in_an_environment_with_three_packages(program, exported, images, expected, tmp_path):
    # Links to the installed packages stand for pip, since tests may not use the network.
    venv.create(tmp_path / "env", symlinks=True)
    (site,) = (tmp_path / "env" / "lib").glob("python*/site-packages")
    for name in NEEDED:
        for top in {file.parts[0] for file in metadata.files(name) or ()} - {".."}:
            if not (site / top).exists():
                (site / top).symlink_to(metadata.distribution(name).locate_file(top))
    python = tmp_path / "env" / "bin" / "python"
    listed = subprocess.run(
        [
            python,
            "-I",
            "-c",
            "import importlib.metadata as m; print(*(d.name for d in m.distributions()))",
        ],
        capture_output=True,
        text=True,
        check=True,
    )
    assert sorted(listed.stdout.lower().split()) == sorted(NEEDED)
    argv = [python, "-I", program, exported, *images]
    done = subprocess.run(argv, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert_same(results_of(done.stdout.splitlines()), expected)
