"""The command `export`, on tiny models: what it writes decides as the run does."""

import csv
import json
import signal
import sys
import time
from contextlib import suppress
from dataclasses import replace

import numpy as np
import onnxruntime
import pytest
import torch
import yaml
from messages import error_line, missing, refused, unwrapped
from results import rewrite_rule

from cxrignite.cli import run
from cxrignite.data import Pipeline, View
from cxrignite.errors import CheckpointError, CxrIgniteError
from cxrignite.runs.checked_files import CheckedFiles
from cxrignite.runs.exported_model import ExportedModel
from cxrignite.runs.run_folder import RunFolder
from cxrignite.workflows.export import export as workflow

pytestmark = pytest.mark.integration


def exported(run_dir, output, *options):
    """Export a run, and return what describes it."""
    assert run(["export", "--run", str(run_dir), "--output", str(output), *options]) == 0
    return ExportedModel.load(output)


def results(model, folder, paths, batch_size=7):
    """Score files with an exported model, without the package but for the reading."""
    file = str(folder / model.model_file)
    if model.kind == "onnx":
        session = onnxruntime.InferenceSession(file)
        call = lambda images: session.run(None, {"image": images})  # noqa: E731
    else:
        module = torch.export.load(file).module()
        call = lambda images: [each.numpy() for each in module(torch.from_numpy(images))]  # noqa: E731
    pipeline = Pipeline(image_size=model.reading.image_size)
    images = np.stack([pipeline.read(path).numpy() for path in paths])
    parts = [call(images[at : at + batch_size]) for at in range(0, len(images), batch_size)]
    return [np.concatenate(each) for each in zip(*parts, strict=True)]


def assert_equals_table(model, folder, root, table):
    """Compare an exported model with a table that `test` or `predict` wrote."""
    with table.open() as file:
        rows = list(csv.DictReader(file))
    num_findings = len(model.findings)
    paths = [root / row["path"] for row in rows[::num_findings]]
    score, probability, decision = results(model, folder, paths)
    for column, finding in enumerate(model.findings):
        own = rows[column::num_findings]
        assert {row.get("finding", finding.name) for row in own} == {finding.name}
        near = {"rtol": 0, "atol": 1e-5}
        np.testing.assert_allclose(score[:, column], [float(row["score"]) for row in own], **near)
        expected = [float(row["probability"] or "nan") for row in own]
        np.testing.assert_allclose(probability[:, column], expected, **near)
        words = [finding.decisions[each] if each >= 0 else "" for each in decision[:, column]]
        assert words == [row["decision"] for row in own]


@pytest.fixture(scope="module")
def onnx_folder(trained, tmp_path_factory):
    folder = tmp_path_factory.mktemp("exported") / "model"
    exported(trained, folder)
    return folder


def test_an_export_is_complete_and_scores_as_the_run(onnx_folder, trained):
    model = ExportedModel.load(onnx_folder)
    assert {path.name for path in onnx_folder.iterdir()} == {*model.files, "model.json"}
    (rule,) = RunFolder(trained).read_rules()
    (finding,) = model.findings
    assert (finding.name, finding.classes) == (rule.finding, ("NORMAL", "PNEUMONIA"))
    assert finding.point.threshold == rule.threshold
    assert finding.status == finding.point.status == rule.point.status
    assert finding.prior_shift.logit_shift == rule.prior_shift.logit_shift
    assert model.weights_sha256 == rule.weights_sha256
    assert model.parity.num_images == 64
    assert model.parity.score_difference[0] <= 1e-5
    assert model.parity.num_decisions_different == (0,)
    assert model.input.shape == ("N", 1, "H", "W")
    table = trained / "predictions" / "test.csv"
    assert_equals_table(model, onnx_folder, trained.parent / "images", table)


def test_the_file_names_no_folder_of_this_machine(onnx_folder, trained):
    for path in onnx_folder.iterdir():
        content = path.read_bytes()
        assert b"site-packages" not in content
        assert str(trained.parent).encode() not in content


def test_the_image_at_the_threshold_keeps_its_decision(onnx_folder, trained):
    model = ExportedModel.load(onnx_folder)
    with (trained / "predictions" / "calibration.csv").open() as file:
        scores = sorted(float(row["score"]) for row in csv.DictReader(file))
    point = model.findings[0].point
    assert point.threshold in scores  # it was chosen by this image
    below = scores[scores.index(point.threshold) - 1]
    assert below < point.graph_threshold < point.threshold
    table = trained / "predictions" / "calibration.csv"
    assert_equals_table(model, onnx_folder, trained.parent / "images", table)


def test_the_command_prints_the_rule_and_the_parity(trained, tmp_path, capsys):
    images = trained.parent / "images" / "test"
    folder = tmp_path / "model"
    model = exported(trained, folder, "--format", "torch", "--check", str(images))
    printed = unwrapped(capsys.readouterr().out)
    facts = [folder, "model.pt2", "model.json", "64 images", "80 images", "--check"]
    assert missing(printed, [*facts, "PNEUMONIA", "decisions that differ", "TNR"]) == []
    assert (model.parity.num_images, model.parity.num_checked) == (64, 80)
    assert model.parity.runtime.startswith("torch ")


def test_the_command_says_first_that_a_certificate_does_not_hold(run_dir, tmp_path, capsys):
    folder = RunFolder(run_dir)
    found = folder.find_evaluations("test")
    (evaluation,) = found.findings
    failed = replace(evaluation.certificate, is_below_min_tnr=True)
    assert failed.is_invalid
    assert not evaluation.is_invalid
    changed = replace(evaluation, certificate=failed)
    folder.write_evaluations("test", replace(found, findings=(changed,)))
    exported(run_dir, tmp_path / "model")
    first = unwrapped(capsys.readouterr().out).partition("model.onnx")[0]
    assert missing(first, ["!!", "guarantee", "test images"]) == []


def test_half_weights_make_a_file_of_about_half_the_size(trained, onnx_folder, tmp_path):
    small = tmp_path / "small"
    model = exported(trained, small, "--dtype", "fp16")
    assert model.weights_dtype == "fp16"
    # Tiny weights: the graph itself takes most of the file.
    sizes = [(folder / "model.onnx").stat().st_size for folder in (small, onnx_folder)]
    assert sizes[0] < sizes[1]
    assert 1e-6 < model.parity.score_difference[0] < 0.01


def test_findings_side_by_side_are_columns(trained_findings, tmp_path):
    model = exported(trained_findings, tmp_path / "model")
    assert [finding.name for finding in model.findings] == ["Opacity", "Effusion", "Nodule"]
    assert not model.exclusive
    root, table = trained_findings.parent / "images", trained_findings / "predictions" / "test.csv"
    assert_equals_table(model, tmp_path / "model", root, table)


@pytest.mark.parametrize("kind", ["onnx", "torch"])
def test_exclusive_classes_are_a_softmax(trained_classes, tmp_path, kind):
    model = exported(trained_classes, tmp_path / "model", "--format", kind)
    assert model.exclusive
    assert model.classes == ("NORMAL", "BACTERIAL", "VIRAL")
    assert {finding.prior_shift.logit_shift for finding in model.findings} == {None}
    root, table = trained_classes.parent / "images", trained_classes / "predictions" / "test.csv"
    assert_equals_table(model, tmp_path / "model", root, table)


def set_recipe(run_dir, **data):
    path = run_dir / "recipe.yaml"
    recipe = yaml.safe_load(path.read_text())
    recipe["data"] |= data
    CheckedFiles(run_dir).write(path, yaml.safe_dump(recipe).encode())


@pytest.mark.parametrize("kind", ["onnx", "torch"])
def test_views_and_referrals_are_inside(run_dir, trained, tmp_path, kind):
    views = (View(shift=(0.03, -0.02), scale=1.05), View(gamma=0.8))
    set_recipe(run_dir, views=[{"shift": [0.03, -0.02], "scale": 1.05}, {"gamma": 0.8}])
    (rule,) = RunFolder(run_dir).read_rules()
    lower = rule.threshold / 2
    rewrite_rule(run_dir, views=views, point=replace(rule.point, lower_threshold=lower))
    assert run(["test", "--run", str(run_dir)]) == 0
    model = exported(run_dir, tmp_path / "model", "--format", kind)
    assert model.findings[0].decisions == ("negative", "refer", "positive")
    assert [view["gamma"] for view in model.views] == [1.0, 0.8]
    table = run_dir / "predictions" / "test.csv"
    assert_equals_table(model, tmp_path / "model", trained.parent / "images", table)
    assert "refer" in table.read_text()


def test_a_site_has_its_own_threshold_and_batch_statistics(run_dir, trained, tmp_path):
    site = ["--data.source.root", str(tmp_path / "site"), "--data.source.seed", "9"]
    site += ["--data.source.num_test", "160"]
    adapt = ["--name", "ward", "--adapt_batch_norm", "true", "--min_tnr", "0.6"]
    assert run(["recalibrate", "--run", str(run_dir), *site, *adapt]) == 0
    model = exported(run_dir, tmp_path / "model", "--operating_point", "ward", "--format", "torch")
    folder = RunFolder(run_dir)
    (rule,) = folder.read_rules("ward")
    assert model.operating_point == "ward"
    assert model.batch_norm_sha256 == rule.batch_norm.sha256
    assert model.findings[0].point.chosen_on == "ward"
    assert model.findings[0].point.threshold == rule.threshold
    assert model.findings[0].status == "empirical"
    output = tmp_path / "scores.csv"
    images = trained.parent / "images"
    files = ["--files", str(images / "test"), "--output", str(output)]
    assert run(["predict", "--run", str(run_dir), "--operating_point", "ward", *files]) == 0
    assert_equals_table(model, tmp_path / "model", images, output)


def test_images_are_resized_to_one_size(run_dir, tmp_path, trained):
    set_recipe(run_dir, image_size=[48, 40])
    model = exported(run_dir, tmp_path / "model", "--format", "torch")
    assert model.input.shape == ("N", 1, 48, 40)
    assert model.reading.image_size == (48, 40)
    assert missing(" ".join(model.reading.rules), [48, 40, "BILINEAR"]) == []


def refusal(argv, capsys, *facts, code=2):
    assert run(["export", *map(str, argv)]) == code
    return error_line(capsys.readouterr().err, *facts)


def test_wrong_arguments_are_refused_before_the_run_is_read(trained, tmp_path, capsys):
    fixed = ["--run", trained, "--output", tmp_path / "model"]
    refusal([*fixed, "--format", "onx"], capsys, "--format", "onnx", "torch", "onx")
    refusal([*fixed, "--dtype", "int8"], capsys, "--dtype", "fp32", "fp16", "int8")
    refusal(fixed[:2], capsys, "--output")
    refusal([*fixed, "--data.image_size", "[9, 9]"], capsys, "--data.image_size")
    refusal([*fixed, "--operating_point", "ward"], capsys, "ward")
    assert not list(tmp_path.iterdir())


def test_a_folder_with_files_is_not_overwritten(trained, tmp_path, capsys):
    (tmp_path / "notes.txt").write_text("mine")
    refusal(["--run", trained, "--output", tmp_path], capsys, "--output", "not empty")
    refusal(["--run", trained, "--output", tmp_path / "notes.txt"], capsys, "not a folder")
    assert [path.name for path in tmp_path.iterdir()] == ["notes.txt"]


def test_a_missing_package_names_the_extra(trained, tmp_path, capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, "onnxscript", None)
    fixed = ["--run", trained, "--output", tmp_path / "model"]
    refusal(fixed, capsys, "onnxscript", "pip install '.[onnx]'")
    assert not list(tmp_path.iterdir())


def test_images_to_check_must_be_readable(trained, tmp_path, capsys):
    damaged = tmp_path / "damaged.png"
    damaged.write_bytes(b"no image")
    fixed = ["--run", trained, "--output", tmp_path / "model", "--check", damaged]
    refusal(fixed, capsys, "damaged.png", code=3)


def test_a_moved_run_needs_images_to_check(run_dir, trained, tmp_path, capsys):
    path = run_dir / "recipe.yaml"
    recipe = yaml.safe_load(path.read_text())
    recipe["data"]["source"] = {
        "class_path": "ClassFolders",
        "init_args": {"root": str(tmp_path / "gone")},
    }
    CheckedFiles(run_dir).write(path, yaml.safe_dump(recipe).encode())
    fixed = ["--run", run_dir, "--output", tmp_path / "model", "--format", "torch"]
    refusal(fixed, capsys, "--check", "read", code=3)
    images = str(trained.parent / "images" / "test")
    model = exported(run_dir, tmp_path / "model", "--format", "torch", "--check", images)
    assert (model.parity.num_images, model.parity.num_checked) == (0, 80)


def test_own_code_that_reads_images_is_refused(run_dir, tmp_path, capsys, monkeypatch):
    (tmp_path / "own_transform.py").write_text(
        "from monai.transforms import Transform\n\n\n"
        "class Invert(Transform):\n    def __call__(self, image):\n        return 1 - image\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    set_recipe(run_dir, preprocess=[{"class_path": "own_transform.Invert"}])
    fixed = ["--run", run_dir, "--output", tmp_path / "model"]
    refusal(fixed, capsys, "data.preprocess", "own_transform.Invert", "MONAI")


def test_transforms_of_monai_are_described(run_dir, tmp_path):
    steps = [{"class_path": "Flip", "init_args": {"spatial_axis": 1}}]
    set_recipe(run_dir, preprocess=steps)
    model = exported(run_dir, tmp_path / "model", "--format", "torch")
    (step,) = model.reading.preprocess
    assert (step.class_path, step.init_args["spatial_axis"]) == ("monai.transforms.Flip", 1)
    assert "Flip" in " ".join(model.reading.rules)


def test_an_export_that_decides_otherwise_is_not_written(trained, tmp_path, capsys, monkeypatch):
    original = workflow.make_graph

    def other(*args, **settings):
        graph = original(*args, **settings)

        def flipped(images):
            score, probability, decision = graph.run(images)
            return score, probability, 1 - decision

        return graph._replace(run=flipped)

    monkeypatch.setattr(workflow, "make_graph", other)
    fixed = ["--run", trained, "--output", tmp_path / "model", "--format", "torch"]
    refusal(fixed, capsys, "64 of 64", "decisions", "nothing was written", code=1)
    assert not list(tmp_path.iterdir())


def test_other_scores_are_refused_even_if_no_decision_differs(onnx_folder):
    model = ExportedModel.load(onnx_folder)

    def check(is_exact=True, **changes):
        parity = replace(model.parity, **changes)
        workflow._check_parity(parity, model.findings, is_exact=is_exact)

    check()
    with refused(CxrIgniteError, "0.0001", "0.01", "nothing was written"):
        check(score_difference=(0.01,))
    check(score_difference=(0.01,), is_exact=False)  # half weights
    check(score_difference=(0.01,), reference="bf16 on cuda")
    for name in ("score_difference", "probability_difference"):
        with refused(CxrIgniteError, "nothing was written"):
            check(**{name: (np.inf,)}, is_exact=False)
    with refused(CxrIgniteError, "2 of 64", "--dtype fp32"):
        check(num_decisions_different=(2,), is_exact=False)


def test_two_hundred_changed_folders_are_refused_or_equal(onnx_folder, tmp_path):
    """Cut, flip, zero and swap bytes of the files, and mix them with those of another export."""
    rng = np.random.default_rng(0)
    whole = {path.name: path.read_bytes() for path in onnx_folder.iterdir()}
    model = ExportedModel.load(onnx_folder)
    num_refused = 0
    for number in range(200):
        name = sorted(whole)[number % len(whole)]
        content = bytearray(whole[name])
        first, second = sorted(rng.integers(0, len(content), 2).tolist())
        kind = number // 2 % 5
        if kind == 0:
            content[first] ^= 1 << rng.integers(8)
        elif kind == 1:
            del content[first:]
        elif kind == 2:
            content[first : second + 1] = bytes(second + 1 - first)
        elif kind == 3:
            content[first], content[second] = content[second], content[first]
        else:
            content[first:first] = bytes(content[first:second])
        changed = tmp_path / str(number)
        changed.mkdir()
        for each, original in {**whole, name: bytes(content)}.items():
            (changed / each).write_bytes(original)
        if bytes(content) == whole[name]:
            assert ExportedModel.load(changed) == model
            continue
        with pytest.raises(CheckpointError) as caught:
            ExportedModel.load(changed)
        assert "\n" not in str(caught.value)
        num_refused += 1
    assert num_refused > 190  # a swap of equal bytes changes nothing


def test_the_model_of_another_export_is_refused(onnx_folder, trained_findings, tmp_path):
    mixed = tmp_path / "mixed"
    exported(trained_findings, mixed)
    (mixed / "model.onnx").write_bytes((onnx_folder / "model.onnx").read_bytes())
    with refused(CheckpointError, "model.onnx", "another export"):
        ExportedModel.load(mixed)
    (mixed / "model.onnx").unlink()
    with refused(CheckpointError, "model.onnx", "No such file"):
        ExportedModel.load(mixed)


def test_the_description_is_plain_json(onnx_folder):
    content = json.loads((onnx_folder / "model.json").read_text())
    assert content["format"] == 1
    assert content["outputs"][2] == {"name": "decision", "dtype": "int64", "shape": ["N", 1]}


@pytest.mark.slow
@pytest.mark.parametrize("which", ["trained", "trained_findings"])
def test_an_ensemble_of_five_folds_is_one_model(which, request, tmp_path):
    """Those of one finding and of three; both formats."""
    shared = request.getfixturevalue(which)
    recipe = ["--config", str(shared.parent / "recipe.yaml"), "--trainer.max_epochs", "1"]
    folds = [*recipe, "--run_dir", str(tmp_path / "folds"), "--folds", "5"]
    assert run(["cross_validate", *folds]) == 0
    ensemble = tmp_path / "folds" / "ensemble"
    assert run(["test", "--run", str(ensemble)]) == 0
    for kind in ("onnx", "torch"):
        model = exported(ensemble, tmp_path / kind, "--format", kind)
        assert max(model.parity.score_difference) <= 1e-5
        root, table = shared.parent / "images", ensemble / "predictions" / "test.csv"
        assert_equals_table(model, tmp_path / kind, root, table)


@pytest.mark.slow
def test_a_killed_export_has_written_everything_or_nothing(trained, tmp_path, start):
    """Killed at any time, after a start that takes about as long as the export itself."""
    states = set()
    rng = np.random.default_rng(0)
    argv = ["-m", "cxrignite", "export", "--run", str(trained), "--format", "torch", "--output"]
    began = time.perf_counter()
    whole = start([*argv, "whole"], cwd=tmp_path)
    whole.wait(timeout=240)
    assert whole.returncode == 0, whole.errors
    seconds = time.perf_counter() - began
    for number in range(20):
        process = start([*argv, f"model_{number}"], cwd=tmp_path)
        # Most of the kills come around the writing, at the end.
        time.sleep(seconds * rng.uniform(0.5, 1.2))
        with suppress(ProcessLookupError):  # it may have ended
            process.send_signal(signal.SIGKILL)
        process.wait(timeout=60)
        folder = tmp_path / f"model_{number}"
        if folder.exists():
            ExportedModel.load(folder)
        states.add(folder.exists())
    assert states == {True, False}
