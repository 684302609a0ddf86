"""The MONAI bundle of a run: MONAI runs it without this package, and its scores are the run's."""

import ast
import io
import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import yaml
from linked_environment import linked_environment
from messages import missing
from PIL import Image
from results import rewrite_rule

from cxrignite.cli import run
from cxrignite.csv_text import CsvReader
from cxrignite.data import View
from cxrignite.data.phantom_rendering import render_phantom
from cxrignite.runs.checked_files import CheckedFiles
from cxrignite.runs.exported_model import ExportedModel
from cxrignite.runs.run_folder import RunFolder
from cxrignite.workflows.export.bundle import check_images

# MONAI warns of any configuration, and of what it does with it.
pytestmark = [pytest.mark.integration, pytest.mark.filterwarnings("ignore")]

CONFIGS = ["configs/inference.json", "configs/check.json"]
TEXTS = ["schema", "version", "monai_version", "pytorch_version", "numpy_version", "task"]
TEXTS += ["description", "authors", "copyright"]
OTHER_TEXTS = ["data_source", "data_type", "image_classes", "pred_classes", "intended_use"]
OF_TENSOR = {
    **{"type": "string", "format": "string", "num_channels": "integer", "spatial_shape": "array"},
    **{"dtype": "string", "value_range": "array"},
}
"""What MONAI's schema of July 2024 requires of a tensor; that schema is a download."""


def rules_of_monai():
    """The rules of that schema which a classifier of images has to obey, as a schema."""
    tensor = {"type": "object", "required": [*OF_TENSOR]}
    tensor["properties"] = {key: {"type": kind} for key, kind in OF_TENSOR.items()}
    tensor["properties"] |= {
        "is_patch_data": {"type": "boolean"},
        "channel_def": {"type": "object"},
    }
    tensors = {"type": "object", "additionalProperties": tensor, "minProperties": 1}
    form = {"type": "object", "required": ["inputs", "outputs"]}
    form["properties"] = {"inputs": tensors, "outputs": tensors}
    texts = {key: {"type": "string", "minLength": 1} for key in TEXTS + OTHER_TEXTS}
    objects = dict.fromkeys(("changelog", "required_packages_version", "eval_metrics"))
    properties = texts | {key: {"type": "object"} for key in objects}
    properties |= {"network_data_format": form, "references": {"type": "array"}}
    required = [*TEXTS, "required_packages_version", "network_data_format"]
    return {"type": "object", "required": required, "properties": properties}


def bundle_of(run_dir, folder, *options):
    fixed = ["--run", str(run_dir), "--format", "bundle", "--output", str(folder)]
    assert run(["export", *fixed, *options]) == 0
    return folder


def table(path):
    with Path(path).open() as file:
        return list(CsvReader(file))


@pytest.fixture(scope="module")
def bundle(trained, tmp_path_factory):
    return bundle_of(trained, tmp_path_factory.mktemp("bundle") / "model")


@pytest.fixture
def in_bundle(monkeypatch):
    """Run a bundle as MONAI does, in this process."""

    def start(folder, **changes):
        from monai.bundle import ConfigParser

        monkeypatch.chdir(folder)
        monkeypatch.syspath_prepend(str(folder))
        for name in [name for name in sys.modules if name.partition(".")[0] == "scripts"]:
            monkeypatch.delitem(sys.modules, name)
        parser = ConfigParser()
        parser.read_config([str(folder / each) for each in CONFIGS])
        parser.read_meta(str(folder / "configs/metadata.json"))
        for name, value in {"device": "$torch.device('cpu')", **changes}.items():
            parser[name] = value
        parser.get_parsed_content("run", eval_expr=True)
        return table(folder / "eval" / "scores.csv")

    yield start
    for name in [name for name in sys.modules if name.partition(".")[0] == "scripts"]:
        del sys.modules[name]


def assert_same(rows, run_dir, paths, tmp_path):
    """Compare the rows with what `predict` writes for the same folder."""
    output = tmp_path / "predicted.csv"
    files = ["--files", str(paths), "--output", str(output)]
    assert run(["predict", "--run", str(run_dir), *files]) == 0
    predicted = {
        (Path(row["path"]).name, row.get("finding", rows[0]["finding"])): row
        for row in table(output)
    }
    assert len(rows) == len(predicted) > 0
    for row in rows:
        other = predicted[Path(row["path"]).name, row["finding"]]
        assert abs(float(row["score"]) - float(other["score"])) <= 1e-5
        assert row["decision"] == other["decision"]
        if other["probability"]:
            assert float(row["probability"]) == pytest.approx(float(other["probability"]), abs=1e-5)
        else:
            assert row["probability"] == ""


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    """Files of several kinds and sizes: some are decoded at a fraction, turned or rescaled."""
    folder = tmp_path_factory.mktemp("images")
    for seed in range(6):
        grey = render_phantom(seed, size=160, positive=seed % 2 == 0).image
        Image.fromarray(grey).save(folder / f"grey {seed}.jpg")
        Image.fromarray(np.stack([grey, grey, 255 - grey], -1)).save(folder / f"colours_{seed}.jpg")
        Image.fromarray(grey.astype(np.uint16) * 200).save(folder / f"deep_{seed}.png")
    turned = Image.fromarray(grey[:, :120])
    exif = turned.getexif()
    exif[0x0112] = 6
    turned.save(folder / "turned.jpg", exif=exif)
    Image.fromarray(grey).save(folder / "=tiff.tif")
    return folder


def set_size(run_dir, **data):
    path = run_dir / "recipe.yaml"
    recipe = yaml.safe_load(path.read_text())
    recipe["data"] |= data
    CheckedFiles(run_dir).write(path, yaml.safe_dump(recipe).encode())


def test_a_bundle_has_the_files_that_monai_expects(bundle):
    for name in ("configs/metadata.json", "configs/inference.json", "docs/README.md", "LICENSE"):
        assert (bundle / name).is_file()
    model = ExportedModel.load(bundle / "models")
    assert (model.kind, set(model.files)) == ("torch", {"model.pt2"})
    assert "Apache License" in (bundle / "scripts" / "LICENSE").read_text()
    assert "Apache License" not in (bundle / "LICENSE").read_text()


def test_the_metadata_passes_monais_check(bundle, tmp_path):
    from monai.bundle import verify_metadata

    file, rules = bundle / "configs" / "metadata.json", tmp_path / "rules.json"
    # MONAI downloads its schema, unless the file is there.
    rules.write_text(json.dumps(rules_of_monai()))
    verify_metadata(str(file), filepath=str(rules))
    metadata = json.loads(file.read_text())
    assert all(metadata["required_packages_version"].values())
    (output,) = metadata["network_data_format"]["outputs"].values()
    assert output["num_channels"] == len(output["channel_def"]) == 3
    del metadata["network_data_format"]["inputs"]["image"]["dtype"]
    damaged = tmp_path / "metadata.json"
    damaged.write_text(json.dumps(metadata))
    with pytest.raises(ValueError, match="Failed validating"):
        verify_metadata(str(damaged), filepath=str(rules))


def test_the_code_of_a_bundle_does_not_import_this_package(bundle):
    scripts = list((bundle / "scripts").rglob("*.py"))
    modules = {".".join(path.relative_to(bundle).with_suffix("").parts) for path in scripts}
    for path in scripts:
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Import):
                names = [each.name for each in node.names]
            elif isinstance(node, ast.ImportFrom):
                names = [str(node.module)]
                if names[0].startswith("scripts"):
                    own = {f"{node.module}.{each.name}" for each in node.names}
                    assert node.module in modules or own <= modules, path
            else:
                continue
            assert not any(name.split(".")[0] == "cxrignite" for name in names), path


def test_no_file_names_a_folder_of_this_machine(bundle, trained):
    for path in bundle.rglob("*.*"):
        assert str(trained.parent).encode() not in path.read_bytes()


def test_the_check_of_a_bundle_passes_and_fails_with_another_table(bundle, in_bundle, tmp_path):
    rows = in_bundle(bundle)
    assert [row["path"].partition("_")[0] for row in rows] == ["16", "colours", "grey"]
    other = tmp_path / "other.csv"
    content = (bundle / "check" / "scores.csv").read_text()
    score = table(bundle / "check" / "scores.csv")[1]["score"]
    other.write_text(content.replace(score, str(float(score) + 2e-5)))
    with pytest.raises(Exception, match="compare_tables") as caught:
        in_bundle(bundle, reference=str(other))
    assert missing(str(caught.value.__cause__), ["1e-05", "2.0e-05", "0 other decisions"]) == []


def test_scores_are_those_of_predict_for_every_kind_of_file(run_dir, images, in_bundle, tmp_path):
    set_size(run_dir, image_size=[48, 40])
    folder = bundle_of(run_dir, tmp_path / "bundle")
    rows = in_bundle(folder, dataset_dir=str(images), run=["$@evaluator.run()"])
    assert_same(rows, run_dir, images, tmp_path)
    assert len({row["score"] for row in rows}) > 10


def test_preprocessing_views_and_referrals_are_inside(run_dir, images, in_bundle, tmp_path):
    steps = [{"class_path": "Flip", "init_args": {"spatial_axis": 1}}]
    steps += [{"class_path": "GaussianSmooth", "init_args": {"sigma": 0.7}}]
    set_size(run_dir, image_size=[64, 64], views=[{"gamma": 0.8}], preprocess=steps)
    (rule,) = RunFolder(run_dir).read_rules()
    point = replace(rule.point, lower_threshold=rule.threshold / 2)
    rewrite_rule(run_dir, views=(View(gamma=0.8),), point=point)
    folder = bundle_of(run_dir, tmp_path / "bundle")
    rows = in_bundle(folder, dataset_dir=str(images), run=["$@evaluator.run()"])
    assert_same(rows, run_dir, images, tmp_path)


@pytest.mark.parametrize("kind", ["trained_findings", "trained_classes"])
def test_each_finding_has_a_row(kind, request, in_bundle, tmp_path):
    run_dir = request.getfixturevalue(kind)
    folder = bundle_of(run_dir, tmp_path / "bundle")
    part = run_dir.parent / "images" / "test"
    rows = in_bundle(folder, dataset_dir=str(part), run=["$@evaluator.run()"])
    assert_same(rows, run_dir, part, tmp_path)


def test_a_changed_model_is_refused(trained, in_bundle, tmp_path):
    folder = bundle_of(trained, tmp_path / "bundle")
    path = folder / "models" / "model.pt2"
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(bytes(content))
    with pytest.raises(Exception, match="ExportedNetwork") as caught:
        in_bundle(folder)
    assert missing(str(caught.value.__cause__), ["model.pt2", "sha256"]) == []


def test_the_licence_of_the_weights_is_copied(trained, tmp_path, capsys):
    licence = tmp_path / "licence.txt"
    licence.write_text("MIT License\n\nPermission is hereby granted\n")
    folder = bundle_of(trained, tmp_path / "bundle", "--licence", str(licence))
    assert (folder / "LICENSE").read_text() == licence.read_text()
    assert "license: mit" in (folder / "docs" / "README.md").read_text()
    other = ["--run", str(trained), "--output", str(tmp_path / "other"), "--licence"]
    assert run(["export", *other, str(tmp_path / "missing.txt")]) == 2
    assert "missing.txt" in capsys.readouterr().err


def test_made_up_images_are_larger_than_the_input_if_they_are_resized():
    sizes = [
        {Image.open(io.BytesIO(content)).size for content in files.values()}
        for files in (
            check_images((40, 60), is_resized=True),
            check_images((40, 60), is_resized=False),
        )
    ]
    assert sizes == [{(90, 60)}, {(60, 40)}]


@pytest.mark.slow
def test_monai_alone_runs_a_bundle_with_the_scores_of_the_run(bundle, trained, tmp_path):
    """An interpreter of its own: in this one, the package could be imported."""
    packages = ("monai", "pytorch-ignite", "fire", "pillow", "simplejpeg", "pydicom", "pyyaml")
    python = linked_environment(tmp_path / "environment", *packages)

    def alone(*argv):
        # Nothing of this environment, such as PYTHONPATH.
        environment = {"PATH": os.defpath, "HOME": str(tmp_path), "OMP_NUM_THREADS": "1"}
        return subprocess.run(
            [python, *argv], cwd=bundle, capture_output=True, text=True, env=environment
        )

    assert "ModuleNotFoundError" in alone("-c", "import cxrignite").stderr
    part = trained.parent / "images" / "test"
    output = tmp_path / "predicted.csv"
    files = ["--files", str(part), "--output", str(output)]
    assert run(["predict", "--run", str(trained), *files]) == 0
    commands = [
        ["run", "--meta_file", "configs/metadata.json", "--config_file", str(CONFIGS)],
        ["verify_net_in_out", "network_def", "--meta_file", "configs/metadata.json"],
    ]
    commands.append([*commands[0], "--dataset_dir", str(part), "--reference", str(output)])
    commands[1] += ["--config_file", CONFIGS[0], "--any", "64", "--device", "cpu"]
    for command in commands:
        done = alone("-m", "monai.bundle", *command)
        assert done.returncode == 0, done.stderr
    assert "80 scores compared" in done.stdout
