"""The description of an exported model, which is read without torch."""

import hashlib
import json
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest
from messages import refused
from results import rule_of

from cxrignite.data.patients import NewPatients
from cxrignite.errors import CheckpointError
from cxrignite.runs.exported_model import ExportedModel, Parity, Reading, TensorSpec
from cxrignite.workflows.export.description import describe_findings, output_specs
from cxrignite.workflows.export.export import write_export
from cxrignite.workflows.export.scoring_model import Limits

FILES = {"model.onnx": bytes(range(256)) * 4, "MODEL_CARD.md": b"# A model\n"}


def described(rule, limits):
    return ExportedModel(
        kind="onnx",
        weights_dtype="fp32",
        findings=describe_findings([rule], [limits], ("NORMAL", "PNEUMONIA")),
        exclusive=False,
        classes=("NORMAL", "PNEUMONIA"),
        operating_point=None,
        rule_sha256="12" * 32,
        weights_sha256=rule.weights_sha256,
        batch_norm_sha256=None,
        views=({"shift": [0.1, 0.0], "scale": 1.0, "gamma": 0.9},),
        reading=Reading((64, 48), "file", (), ("read it",), (64, 48), NewPatients()),
        input=TensorSpec("image", "uint8", ("N", 1, 64, 48)),
        outputs=output_specs(1),
        run="run",
        versions={"cxrignite": "0.1.0"},
        parity=Parity(64, 0, (1, 7), "fp32 on cpu", "test 1", (1e-7,), (None,), (0,)),
        files={},
    )


@pytest.fixture
def folder(tmp_path):
    rule = rule_of(threshold=0.9, lower_threshold=0.4)
    write_export(tmp_path / "model", described(rule, Limits(0.9 - 1e-6, 0.4)), FILES)
    return tmp_path / "model"


def test_what_is_written_is_read_again(folder):
    model = ExportedModel.load(folder)
    assert model.files.keys() == FILES.keys()
    (finding,) = model.findings
    assert finding.decisions == ("negative", "refer", "positive")
    assert (finding.point.threshold, finding.point.graph_threshold) == (0.9, 0.9 - 1e-6)
    assert (finding.point.lower_threshold, finding.point.graph_lower_threshold) == (0.4, 0.4)
    assert finding.point.num_negative_patients == 70
    assert finding.status == "certified"
    assert "TNR" in finding.description
    assert model.to_json() == (folder / "model.json").read_bytes()
    assert model.read_file(folder, "MODEL_CARD.md") == FILES["MODEL_CARD.md"]


def test_a_finding_without_a_threshold_has_no_words(tmp_path):
    write_export(tmp_path / "model", described(rule_of(point=None), None), FILES)
    (finding,) = ExportedModel.load(tmp_path / "model").findings
    assert (finding.decisions, finding.point, finding.status) == ((), None, "")


def test_the_own_digest_can_be_computed_by_anyone(folder):
    content = (folder / "model.json").read_bytes()
    digest = json.loads(content)["sha256"].encode()
    blank = content.replace(digest, b"0" * 64)
    assert hashlib.sha256(blank).hexdigest().encode() == digest


def test_every_byte_of_every_file_is_covered(folder):
    rng = np.random.default_rng(0)
    num_bytes = 0
    for path in folder.iterdir():
        content = path.read_bytes()
        for at in range(0, len(content), max(1, len(content) // 400)):
            changed = bytearray(content)
            changed[at] ^= 1 << rng.integers(8)
            path.write_bytes(changed)
            with pytest.raises(CheckpointError) as caught:
                ExportedModel.load(folder)
            assert "\n" not in str(caught.value)
            num_bytes += 1
        path.write_bytes(content)
    assert num_bytes > 800
    ExportedModel.load(folder)


def rewritten(folder, **changes):
    """Write `model.json` with other values, and a digest that fits."""
    model = replace(ExportedModel.load(folder), **changes)
    (folder / "model.json").write_bytes(model.to_json())


def test_names_that_lead_out_of_the_folder_are_refused(folder):
    for name in ("../model.onnx", "/etc/passwd", "model.json", ".."):
        digests = ExportedModel.load(folder).files
        rewritten(folder, files={**digests, name: "00" * 32})
        with refused(CheckpointError, "model.json", "files of its folder"):
            ExportedModel.load(folder)
        rewritten_content = json.loads((folder / "model.json").read_text())
        assert name in rewritten_content["files"]
        write_again(folder)


def write_again(folder):
    for path in folder.iterdir():
        path.unlink()
    rule = rule_of(threshold=0.9, lower_threshold=0.4)
    write_export(folder, described(rule, Limits(0.9, 0.4)), FILES)


def test_the_model_must_be_listed(folder):
    rewritten(folder, files={})
    with refused(CheckpointError, "model.json"):
        ExportedModel.load(folder)


def test_another_format_is_refused(folder):
    rewritten(folder, format=2)
    with refused(CheckpointError, "model.json", "format", "another version"):
        ExportedModel.load(folder)


def test_a_folder_without_a_description_is_refused(tmp_path):
    with refused(CheckpointError, "model.json", "No such file"):
        ExportedModel.load(tmp_path)


def test_a_file_that_is_no_description_is_refused(tmp_path):
    (tmp_path / "model.json").write_text('{"format": 1}\n')
    with refused(CheckpointError, "model.json", "sha256"):
        ExportedModel.load(tmp_path)


def test_it_is_read_without_torch(folder):
    # A new interpreter, since the fork server has imported torch.
    code = (
        "import sys; from pathlib import Path\n"
        "from cxrignite.runs.exported_model import ExportedModel\n"
        f"ExportedModel.load(Path({str(folder)!r}))\n"
        "print({'torch', 'numpy', 'scipy', 'onnxruntime'} & {*sys.modules})"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
    assert (done.stdout.strip(), done.stderr) == ("set()", "")
