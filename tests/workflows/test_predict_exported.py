"""The command `predict` with an exported model, compared with the same command and the run."""

import csv
import hashlib
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import yaml
from messages import error_line, line_with
from PIL import Image

from cxrignite.cli import run
from cxrignite.data.patients import NewPatients
from cxrignite.runs.checked_files import CheckedFiles
from cxrignite.runs.exported_model import ExportedModel, PreprocessStep
from cxrignite.workflows.predict.onnx_model import OnnxModel

pytestmark = pytest.mark.integration


@pytest.fixture(scope="module")
def trained(trained, tmp_path_factory):
    """The shared run with class folders for a source, which read the patient from a file's name."""
    run_dir = Path(shutil.copytree(trained, tmp_path_factory.mktemp("trained") / "run"))
    folders = {"root": str(trained.parent / "images"), "patient_pattern": "^(p[0-9]+)_"}
    change_recipe(run_dir, source={"class_path": "ClassFolders", "init_args": folders})
    return run_dir


def change_recipe(run_dir, **data):
    recipe = yaml.safe_load((run_dir / "recipe.yaml").read_text())
    recipe["data"].update(data)
    CheckedFiles(run_dir).write(run_dir / "recipe.yaml", yaml.safe_dump(recipe).encode())


def exported_from(run_dir, folder, *options):
    assert run(["export", "--run", str(run_dir), "--output", str(folder), *options]) == 0
    return folder


@pytest.fixture(scope="module")
def exported(trained, tmp_path_factory):
    """The exported model of the run, for reading."""
    return exported_from(trained, tmp_path_factory.mktemp("exported") / "model")


@pytest.fixture(scope="module")
def images(trained):
    """The run's test images."""
    recipe = yaml.safe_load((trained / "recipe.yaml").read_text())
    return Path(recipe["data"]["source"]["init_args"]["root"]) / "test"


@pytest.fixture
def predict(tmp_path):
    """Run the command in this process."""

    def call(kind, model, *argv, output=None):
        table = tmp_path / (output or f"{kind}.csv")
        return run(["predict", f"--{kind}", str(model), "--output", str(table), *map(str, argv)])

    return call


@pytest.fixture
def both(trained, exported, predict, tmp_path, capsys):
    """Run both commands, compare what they write and print, and return their common exit code."""

    def call(*argv, run_dir=trained, folder=exported):
        shown, codes = {}, {}
        for kind, model in (("run", run_dir), ("exported", folder)):
            codes[kind] = predict(kind, model, *argv)
            out, err = capsys.readouterr()
            shown[kind] = [text.replace(f"/{kind}.", "/TABLE.") for text in (out, err)]
        assert codes["run"] == codes["exported"]
        # The width of a line that is broken depends on the length of the name.
        assert " ".join(shown["run"][0].split()) == " ".join(shown["exported"][0].split())
        assert shown["run"][1] == shown["exported"][1]
        assert_same_tables(tmp_path / "run.csv", tmp_path / "exported.csv")
        unreadable = [tmp_path / f"{kind}.unreadable.csv" for kind in ("run", "exported")]
        assert unreadable[0].exists() == unreadable[1].exists() == (codes["run"] == 3)
        if codes["run"] == 3:
            assert unreadable[0].read_text() == unreadable[1].read_text()
        return codes["run"]

    return call


def rows_of(path):
    with path.open(newline="", encoding="utf-8", errors="surrogateescape") as file:
        return list(csv.DictReader(file))


def assert_same_tables(first, second):
    numbers = {"score", "probability"}
    assert first.read_text().partition("\n")[0] == second.read_text().partition("\n")[0]
    for row, other in zip(rows_of(first), rows_of(second), strict=True):
        for column, cell in row.items():
            if column in numbers and cell:
                assert abs(float(cell) - float(other[column])) < 1e-5
            else:
                assert cell == other[column], column


def test_the_table_and_the_messages_are_those_of_the_run(both, images, tmp_path):
    assert both("--files", images) == 0
    rows = rows_of(tmp_path / "exported.csv")
    assert len(rows) == 80
    assert {row["decision"] for row in rows} == {"positive", "negative"}
    assert all(row["patient"] == row["path"].split("/")[-1].split("_")[0] for row in rows)
    settings = json.loads((tmp_path / "exported.json").read_text())
    assert settings["image_size"] == [64, 64]
    assert settings["exported_sha256"] != json.loads((tmp_path / "run.json").read_text())


@pytest.mark.parametrize("name", ["trained_findings", "trained_classes"])
def test_of_several_findings_too(name, both, tmp_path, request, capsys):
    run_dir = request.getfixturevalue(name)
    folder = exported_from(run_dir, tmp_path / "model")
    capsys.readouterr()
    test_images = run_dir.parent / "images" / "test"
    assert both("--files", test_images, run_dir=run_dir, folder=folder) == 0
    rows = rows_of(tmp_path / "exported.csv")
    assert ("highest_class" in rows[0]) is (name == "trained_classes")
    assert len({row["finding"] for row in rows}) == (2 if name == "trained_classes" else 3)


def test_unreadable_images_are_listed_alike(both, images, tmp_path):
    folder = tmp_path / "mixed"
    shutil.copytree(images / "NORMAL", folder)
    whole = min(folder.iterdir())
    (folder / "cut.png").write_bytes(whole.read_bytes()[:300])
    (folder / "empty.png").write_bytes(b"")
    Image.new("L", (60, 48)).save(folder / "wide.png")
    assert both("--files", folder, tmp_path / "missing.png") == 3
    reasons = {
        Path(row["path"]).name: row["reason"]
        for row in rows_of(tmp_path / "exported.unreadable.csv")
    }
    line_with(reasons["wide.png"], "64 x 64", "48 x 60")
    assert list(reasons) == ["cut.png", "empty.png", "wide.png", "missing.png"]


def test_a_manifest_and_a_prevalence_are_read_alike(both, images, tmp_path):
    named = sorted(images.rglob("*.png"))[:5]
    table = tmp_path / "ward.csv"
    lines = [f"{path},{person}" for path, person in zip(named, ["7", "", "=1", "8", "7"])]  # noqa: B905
    table.write_text("\n".join(["file,person", *lines, lines[0]]))
    argv = ("--manifest", table, "--path_column", "file", "--patient_column", "person")
    assert both(*argv, "--prevalence", 0.05) == 0
    assert [row["patient"] for row in rows_of(tmp_path / "exported.csv")] == [
        "7",
        "",
        "'=1",
        "8",
        "7",
    ]
    assert max(float(row["probability"]) for row in rows_of(tmp_path / "exported.csv")) < 1


def changed(exported, folder, **fields):
    """Write the folder with another description, as another run would have it."""
    shutil.copytree(exported, folder)
    described = replace(ExportedModel.load(exported), **fields)
    if described.kind == "torch":
        (folder / "model.onnx").rename(folder / "model.pt2")
        described = replace(described, files={"model.pt2": described.files["model.onnx"]})
    (folder / "model.json").write_bytes(described.to_json())
    return folder


def test_patients_that_the_run_hashes_are_not_written(exported, images, predict, tmp_path, capsys):
    reading = replace(ExportedModel.load(exported).reading, patients=NewPatients(cells="hidden"))
    folder = changed(exported, tmp_path / "model", reading=reading)
    (tmp_path / "ward.csv").write_text(f"path,patient\n{min(images.rglob('*.png'))},Smith\n")
    assert predict("exported", folder, "--manifest", tmp_path / "ward.csv") == 0
    assert [row["patient"] for row in rows_of(tmp_path / "exported.csv")] == [""]
    line_with(capsys.readouterr().err, "patient", "hashes")


def test_transforms_of_a_run_are_applied(trained, exported, images, both, tmp_path):
    settings = {"sigma": 2.0}
    run_dir = Path(shutil.copytree(trained, tmp_path / "smooth"))
    smooth = {"class_path": "monai.transforms.GaussianSmooth", "init_args": settings}
    change_recipe(run_dir, preprocess=[smooth])
    steps = (PreprocessStep("monai.transforms.GaussianSmooth", settings),)
    reading = replace(ExportedModel.load(exported).reading, preprocess=steps)
    folder = changed(exported, tmp_path / "model", reading=reading)
    assert both("--files", images / "NORMAL", run_dir=run_dir, folder=folder) == 0


PROGRAM = """
import json, sys
from cxrignite.cli import run
from cxrignite.data.patients import NewPatients
code = run(sys.argv[1:])
unwanted = "torch monai ignite torchvision timm jsonargparse matplotlib sklearn onnx"
print(json.dumps([code, sorted(set(unwanted.split()) & set(sys.modules))]))
"""


# A process of its own, since that of the tests has imported everything.
def test_torch_is_not_imported(exported, images, tmp_path):
    argv = ["predict", "--exported", exported, "--files", images, "--output", tmp_path / "s.csv"]
    program = [sys.executable, "-c", PROGRAM, *map(str, argv)]
    done = subprocess.run(program, capture_output=True, text=True, check=True)
    assert json.loads(done.stdout.splitlines()[-1]) == [0, []], done.stderr
    assert len(rows_of(tmp_path / "s.csv")) == 80


def test_cut_anywhere_the_table_is_completed(exported, images, predict, tmp_path):
    few = sorted(images.rglob("*.png"))[:19]
    argv = ("--files", *few)
    assert predict("exported", exported, *argv, output="whole.csv") == 0
    whole = (tmp_path / "whole.csv").read_bytes()
    for cut in (0, 40, len(whole) // 3, len(whole) // 2, len(whole) - 1):
        shutil.copy(tmp_path / "whole.json", tmp_path / "cut.json")
        (tmp_path / "cut.csv").write_bytes(whole[:cut])
        assert predict("exported", exported, *argv, output="cut.csv") == 0
        assert (tmp_path / "cut.csv").read_bytes() == whole


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_stops_and_the_same_command_resumes(
    number, code, start, predict, exported, images, tmp_path
):
    folder = tmp_path / "blocked"
    folder.mkdir()
    for index, path in enumerate(sorted(images.rglob("*.png"))[:60]):
        shutil.copy(path, folder / f"p{index:02d}_1.png")
    pipe = folder / "p50_1.png"  # nobody writes to it, so its reader waits
    content = pipe.read_bytes()
    pipe.unlink()
    os.mkfifo(pipe)
    argv = ["predict", "--exported", exported, "--files", str(folder / "*.png")]
    process = start(["-m", "cxrignite", *argv, "--output", tmp_path / "exported.csv"], cwd=tmp_path)
    table = tmp_path / "exported.csv"
    for _ in range(1200):
        if table.exists() and table.read_bytes().count(b"\n") > 40:
            break
        time.sleep(0.05)
    process.send_signal(number)
    with suppress(OSError):  # the thread that reads it ends, and with it the process
        descriptor = os.open(pipe, os.O_WRONLY)
        os.close(descriptor)
    assert process.wait() == code
    line_with(process.errors, f"signal {number.value}", "again")
    num_rows = len(rows_of(table))
    assert num_rows >= 40
    pipe.unlink()
    pipe.write_bytes(content)
    files = ("--files", folder / "*.png")
    assert predict("exported", exported, *files) == 0
    assert predict("exported", exported, *files, output="whole.csv") == 0
    assert table.read_bytes() == (tmp_path / "whole.csv").read_bytes()


@pytest.mark.parametrize("name", ["model.onnx", "model.json"])
def test_a_changed_byte_is_refused(name, exported, images, predict, tmp_path, capsys):
    folder = Path(shutil.copytree(exported, tmp_path / "changed"))
    content = bytearray((folder / name).read_bytes())
    content[len(content) // 2] ^= 1
    (folder / name).write_bytes(content)
    assert predict("exported", folder, "--files", images) == 3
    error_line(capsys.readouterr().err, folder / name)
    assert not (tmp_path / "exported.csv").exists()


def test_tables_of_a_run_and_of_its_export_are_not_mixed(
    trained, exported, images, predict, capsys
):
    assert predict("run", trained, "--files", images / "NORMAL", output="scores.csv") == 0
    argv = ("--files", images, "--data.batch_size", 4)
    capsys.readouterr()
    assert predict("exported", exported, "--files", images, output="scores.csv") == 2
    error_line(capsys.readouterr().err, "scores.csv", "exported_sha256")
    assert (
        predict("exported", exported, "--files", images, "--overwrite", "true", output="scores.csv")
        == 0
    )
    capsys.readouterr()
    assert predict("run", trained, *argv, output="scores.csv") == 2
    error_line(capsys.readouterr().err, "exported_sha256")


@pytest.mark.parametrize(
    ("options", "facts"),
    [
        (["--run", "RUN", "--files", "IMAGES"], ["--run", "--exported"]),
        (["--files", "IMAGES", "--maps", "true"], ["--maps", "--run"]),
        (["--files", "IMAGES", "--explain", "true"], ["--explain", "maps"]),
        (["--files", "IMAGES", "--operating_point", "ward"], ["--operating_point", "--run"]),
        (["--files", "IMAGES", "--data.batch_size", "2"], ["--data.batch_size", "--run"]),
        (["--files", "IMAGES", "--fils", "2"], ["--fils", "--files"]),
        (["--files", "IMAGES", "--overwrite", "maybe"], ["--overwrite", "maybe"]),
        (["--files", "IMAGES", "--prevalence", "2"], ["--prevalence", "2"]),
        (["--files", "IMAGES", "--prevalence", "x"], ["--prevalence", "x"]),
        (["--files", "IMAGES", "--path_column", "x"], ["--path_column", "--manifest"]),
        ([], ["--files", "--manifest"]),
    ],
)
def test_mistakes_get_one_line(options, facts, exported, images, predict, tmp_path, capsys):
    places = {"RUN": str(tmp_path), "IMAGES": str(images)}
    options = [places.get(word, word) for word in options]
    assert predict("exported", exported, *options) == 2
    error_line(capsys.readouterr().err, *facts)
    assert not (tmp_path / "exported.csv").exists()


def test_a_folder_that_is_no_export_is_refused(predict, images, tmp_path, capsys):
    assert predict("exported", tmp_path / "none", "--files", images) == 3
    error_line(capsys.readouterr().err, tmp_path / "none" / "model.json")


def test_another_format_is_refused(exported, images, predict, tmp_path, capsys):
    folder = changed(exported, tmp_path / "model", kind="torch")
    assert predict("exported", folder, "--files", images) == 2
    error_line(capsys.readouterr().err, folder, "torch", "--format onnx")


def test_a_model_that_onnxruntime_cannot_read_is_refused(
    exported, images, predict, tmp_path, capsys
):
    content = b"no model"
    files = {"model.onnx": hashlib.sha256(content).hexdigest()}
    folder = changed(exported, tmp_path / "model", files=files)
    (folder / "model.onnx").write_bytes(content)
    assert predict("exported", folder, "--files", images) == 3
    error_line(capsys.readouterr().err, folder / "model.onnx", "onnxruntime")


def test_without_onnxruntime_the_way_out_is_named(exported, images, predict, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    assert predict("exported", exported, "--files", images) == 2
    error_line(capsys.readouterr().err, "onnxruntime", "pip install")


@pytest.mark.parametrize("case", ["exclusive", "unknown"])
def test_a_prevalence_at_which_probabilities_are_unknown_is_refused(
    case, exported, images, predict, tmp_path, capsys
):
    (finding,) = ExportedModel.load(exported).findings
    shift = replace(finding.prior_shift, pos_weight=None, logit_shift=None)
    fields = {"findings": (replace(finding, prior_shift=shift),)}
    if case == "exclusive":
        fields = {"exclusive": True}
    folder = changed(exported, tmp_path / "model", **fields)
    assert predict("exported", folder, "--files", images, "--prevalence", 0.1) == 2
    error_line(capsys.readouterr().err, "--prevalence", case)


def test_transforms_other_than_monais_are_not_made(exported, images, predict, tmp_path, capsys):
    steps = (PreprocessStep("os.system", {"command": "touch made"}),)
    reading = replace(ExportedModel.load(exported).reading, preprocess=steps)
    folder = changed(exported, tmp_path / "model", reading=reading)
    assert predict("exported", folder, "--files", images) == 2
    error_line(capsys.readouterr().err, "os.system", "monai.transforms")


def test_a_score_does_not_depend_on_the_other_images_of_its_batch(exported):
    model = ExportedModel.load(exported)
    scorer = OnnxModel(exported, model, batch_size=8, num_threads=2)
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (8, 1, 64, 64), np.uint8)
    whole = scorer(images)
    assert whole.score.shape == whole.decision.shape == (8, 1)
    for few in (images[3:4], images[2:5], images[[7, 3]]):
        assert scorer(few).score[-1 if len(few) < 3 else 1] == whole.score[3]


def test_help_lists_the_options(capsys):
    assert run(["predict", "--exported", "x", "--help"]) == 0
    shown = capsys.readouterr().out
    assert re.search(r"--manifest MANIFEST", shown)
    assert "--maps" not in shown
