"""What the audit says of ChestXRay2017: the known facts of it, found without being told."""

import json
import os
from pathlib import Path

import pytest
from messages import missing

from cxrignite.data.class_folders import ClassFolders
from cxrignite.data.survey import survey_images
from cxrignite.reporting.audit_text import finding_text
from cxrignite.workflows.audit.checks import check_copies, check_files, check_patients
from cxrignite.workflows.audit.probes import shift_probes, shortcut_probes

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def survey(chest_xray):
    return survey_images(ClassFolders(chest_xray).records())


@pytest.fixture(scope="module")
def full_size(chest_xray):
    root = Path(
        os.environ.get("CXRIGNITE_FULL_SIZE", chest_xray.with_name("chest_xray_full_sample"))
    )
    if not root.is_dir():
        pytest.skip(f"no full-size X-rays: set CXRIGNITE_FULL_SIZE or provide {root.name}")
    return survey_images(ClassFolders(root).records())


def test_copies_are_those_that_sha256_finds_and_none_is_across_splits(survey):
    digests = [record.sha256 for record in survey.records]
    groups = sum(digests.count(each) > 1 for each in set(digests))
    findings = {finding.kind: finding for finding in check_copies(survey)}
    assert set(findings) == {"duplicate"}
    assert findings["duplicate"].count == groups == 28
    assert missing(finding_text(findings["duplicate"]), [58, 32]) == []


def test_no_file_is_broken_strange_or_without_a_patient(survey):
    assert check_files(survey, (224, 224)) == []
    assert check_patients(survey) == []


def test_healthy_children_of_the_test_split_are_of_another_kind(survey):
    probes = {
        (probe.name.partition(":")[0], probe.is_control): probe
        for probe in shift_probes(survey, ("NORMAL", "PNEUMONIA"), (1,), 42)
    }
    areas = {key: probe.check.roc_auc for key, probe in probes.items()}
    assert areas["NORMAL", False] >= 0.8
    assert areas["PNEUMONIA", False] < 0.65
    assert areas["NORMAL", True] == pytest.approx(0.5, abs=0.06)
    assert [key for key, probe in probes.items() if probe.is_detected] == [("NORMAL", False)]


def test_size_and_aspect_give_the_label_away_at_full_size(full_size):
    (size,) = [
        probe
        for probe in shortcut_probes(full_size, ("NORMAL", "PNEUMONIA"), (1,), 42)
        if "size" in probe.name
    ]
    assert size.check.roc_auc > 0.7
    assert size.is_detected
    modes = {
        (record.label, facts.mode)
        for record, facts in zip(full_size.records, full_size.facts, strict=True)
    }
    assert modes == {(0, "L"), (1, "L"), (1, "RGB")}


def test_the_whole_audit_ends_well_within_a_minute(chest_xray, command, tmp_path):
    source = ["--data.source", "ClassFolders", "--data.source.root", chest_xray]
    done = command("audit", *source, "--output_dir", "out", timeout=60)
    assert done.returncode == 0, done.stderr
    content = json.loads((tmp_path / "out/audit.json").read_text())
    kinds = [each["kind"] for each in content["findings"]]
    assert kinds == ["duplicate", "shift"]
    files = {row["name"]: row for row in content["files"]}
    assert files["NORMAL"]["median_width"] == files["PNEUMONIA"]["median_width"] == 224
