"""A data set in which things are wrong, and what the audit says of it."""

import csv
import json
import re
import shutil
from dataclasses import replace

import numpy as np
import pytest
from messages import error_line, line_with, missing, refused
from PIL import Image

from cxrignite.cli.parsing import parse_recipe
from cxrignite.data.class_folders import ClassFolders
from cxrignite.data.survey import survey_images
from cxrignite.errors import DataError, RecipeError
from cxrignite.functional import Interval, ShiftCheck
from cxrignite.reporting.audit_text import auc_text, certificate_title, finding_text, list_csv
from cxrignite.runs.audit_result import SEVERITIES, AuditResult, Finding, Probe
from cxrignite.runs.json_codec import from_json, to_json
from cxrignite.workflows.audit.audit import audit
from cxrignite.workflows.audit.checks import check_copies, check_files, check_patients

SIDE = 96
NUM_TRAIN, NUM_TEST = 30, 24


def record(seed):
    """A smooth scene with fine grain, unlike any other."""
    rng = np.random.default_rng(seed)
    coarse = Image.fromarray(rng.integers(20, 230, (6, 6), dtype=np.uint8))
    grain = Image.fromarray(rng.normal(0, 40, (SIDE // 3, SIDE // 3)).astype(np.float32))
    size = (SIDE, SIDE)
    pixels = np.asarray(coarse.resize(size, Image.Resampling.BICUBIC), dtype=float)
    pixels = pixels + np.asarray(grain.resize(size, Image.Resampling.BICUBIC))
    return Image.fromarray(np.clip(pixels, 0, 255).astype(np.uint8))


def opened(path):
    with Image.open(path) as image:
        return image.copy()


@pytest.fixture(scope="module")
def clean_root(tmp_path_factory):
    """A data set with nothing wrong in it; two images a patient now and then."""
    root = tmp_path_factory.mktemp("clean")
    seed = 0
    for split, number in (("train", NUM_TRAIN), ("test", NUM_TEST)):
        for class_name, stem in (
            ("NORMAL", "IM-{}{:03}-{}"),
            ("PNEUMONIA", "person{}{:03}_virus_{}"),
        ):
            folder = root / split / class_name
            folder.mkdir(parents=True)
            for patient in range(number):
                for view in range(1 + patient % 2):
                    seed += 1
                    name = stem.format(int(split == "test"), patient, view)
                    record(seed).save(folder / f"{name}-1.png")
    return root


@pytest.fixture
def root(clean_root, tmp_path):
    """The same, to be spoilt."""
    return shutil.copytree(clean_root, tmp_path / "images")


@pytest.fixture
def without_page(monkeypatch):
    """Leave out the page, whose figures take half of the time."""
    monkeypatch.setattr("cxrignite.workflows.audit.audit.audit_page", lambda *_: b"")


def recipe_of(root, *options):
    source = ["--data.source", "ClassFolders", "--data.source.root", str(root)]
    return parse_recipe("audit", [*source, *options])[0]


def found(root, check=check_copies):
    survey = survey_images(ClassFolders(root).records())
    return {finding.kind: finding for finding in check(survey)}


def files(root):
    return found(root, lambda survey: check_files(survey, None))


def test_a_clean_data_set_gives_no_finding(clean_root, tmp_path, capsys):
    assert audit(recipe_of(clean_root), tmp_path) == ()
    table = capsys.readouterr().out
    line_with(table)  # that nothing is wrong
    assert sorted(path.name for path in tmp_path.iterdir()) == ["audit.html", "audit.json"]
    content = json.loads((tmp_path / "audit.json").read_text())
    assert content["findings"] == []
    assert content["num_images"] == 2 * (45 + 36)
    assert [row["split"] for row in content["splits"]] == ["train", "val", "test"]
    normal = [row["classes"][0] for row in content["splits"]]
    assert sum(row["num_images"] for row in normal) == 81
    assert (normal[-1]["name"], normal[-1]["num_patients"]) == ("NORMAL", NUM_TEST)
    of_labels, of_splits = content["shortcut_probes"], content["shift_probes"]
    assert (len(of_labels), len(of_splits)) == (5, 4)
    assert of_labels[0]["check"] is None  # by size and aspect, which are all alike


def test_a_patient_on_both_sides_is_found(root):
    shutil.move(root / "train/NORMAL/IM-0005-1-1.png", root / "test/NORMAL/IM-0005-1-1.png")
    finding = found(root)["patient_leakage"]
    assert (finding.count, finding.severity) == (1, "problem")
    assert finding.rows[0].first.name == "train/NORMAL/IM-0005-0-1.png"
    assert finding.rows[0].second.name == "test/NORMAL/IM-0005-1-1.png"
    line_with(finding_text(finding), "IM-0005")


def test_a_copied_file_on_both_sides_is_found(root):
    shutil.copy(root / "train/NORMAL/IM-0007-0-1.png", root / "test/NORMAL/IM-1900-0-1.png")
    findings = found(root)
    assert findings["content_leakage"].count == 1
    assert findings["content_leakage"].rows[0].second.name == "test/NORMAL/IM-1900-0-1.png"
    assert "near_leakage" not in findings


@pytest.mark.parametrize(
    "change",
    [
        pytest.param(lambda image, path: image.save(path, quality=40), id="compressed"),
        pytest.param(lambda image, path: image.resize((64, 64)).save(path), id="smaller"),
        pytest.param(
            lambda image, path: image.point(lambda v: v * 0.7 + 20).save(path), id="paler"
        ),
        pytest.param(
            lambda image, path: image.transpose(Image.Transpose.FLIP_LEFT_RIGHT).save(path),
            id="mirrored",
        ),
        pytest.param(lambda image, path: image.point(lambda v: 255 - v).save(path), id="inverted"),
    ],
)
def test_a_changed_copy_on_both_sides_is_found(root, change):
    image = opened(root / "train/NORMAL/IM-0007-0-1.png")
    change(image, root / "test/NORMAL/IM-1900-0-1.jpeg")
    findings = found(root)
    assert findings["near_leakage"].count == 1
    assert "content_leakage" not in findings


def test_copies_within_a_split_are_counted_as_groups(root):
    source = root / "train/NORMAL/IM-0007-0-1.png"
    for name in ("IM-0900-0-1.png", "IM-0901-0-1.png"):
        shutil.copy(source, source.with_name(name))
    finding = found(root)["duplicate"]
    assert (finding.count, finding.severity) == (1, "warning")
    text = line_with(finding_text(finding))
    assert sorted(re.findall(r"\d+", text)) == ["1", "3", "3"]  # groups, files, pairs
    assert {row.group for row in finding.rows} == {1}


@pytest.mark.parametrize("quality", [None, 60])
def test_one_picture_with_both_labels_is_found(root, quality):
    source, copy = (
        root / "train/NORMAL/IM-0007-0-1.png",
        root / "train/PNEUMONIA/person9_virus_1.jpeg",
    )
    if quality:
        opened(source).save(copy, quality=quality)
    else:
        shutil.copy(source, copy)
    finding = found(root)["label_conflict"]
    assert finding.count == 1
    assert {row.record.label for row in finding.rows} == {0, 1}


def test_files_that_cannot_be_read_are_listed_with_their_reasons(root):
    folder = root / "train/NORMAL"
    (folder / "IM-0001-0-1.png").write_bytes(b"")
    (folder / "IM-0002-0-1.png").write_text("<html>gone</html>")
    whole = (folder / "IM-0003-0-1.png").read_bytes()
    (folder / "IM-0003-0-1.png").write_bytes(whole[: len(whole) // 2])
    finding = files(root)["unreadable"]
    assert finding.count == 3
    reasons = {row.record.name.rpartition("/")[2]: row.error for row in finding.rows}
    line_with(reasons["IM-0001-0-1.png"], "empty")
    assert set(reasons) == {f"IM-000{number}-0-1.png" for number in (1, 2, 3)}


@pytest.mark.parametrize(
    ("kind", "spoil", "facts"),
    [
        ("blank", lambda image: Image.new("L", image.size, 90), ["0.0"]),
        ("narrow_range", lambda image: image.point(lambda v: 100 + v * 0.1), ["98 %"]),
        ("colour", lambda image: Image.merge("RGB", [image, image.rotate(180), image]), ["levels"]),
        ("odd_size", lambda image: image.resize((300, 100)), ["100 x 300"]),
        ("odd_size", lambda image: image.resize((40, 40)), ["40 x 40", "64 x 64"]),
    ],
)
def test_an_image_that_looks_like_no_other_is_found(root, kind, spoil, facts):
    path = root / "train/NORMAL/IM-0004-0-1.png"
    spoil(opened(path)).save(path)
    findings = files(root)
    assert set(findings) == {kind}
    [row] = csv.DictReader(list_csv(findings[kind], []).decode().splitlines())
    line_with(row["reason"], *facts)
    assert [row.record.name for row in findings[kind].rows] == ["train/NORMAL/IM-0004-0-1.png"]


def test_a_file_called_what_it_is_not_is_found(root):
    path = root / "train/NORMAL/IM-0004-0-1.png"
    opened(path).save(path, "JPEG")
    finding = files(root)["wrong_suffix"]
    assert finding.count == 1
    assert finding.rows[0].facts.format == "JPEG"
    line_with(finding_text(finding), 1, "train/NORMAL/IM-0004-0-1.png", "JPEG")


def test_images_smaller_than_they_will_be_read_at_are_found(clean_root):
    survey = survey_images(ClassFolders(clean_root).records())
    assert check_files(survey, (SIDE, SIDE)) == []
    finding = check_files(survey, (SIDE + 1, SIDE))[0]
    line_with(finding_text(finding), "96 x 96", "97 x 96")
    assert (finding.kind, finding.count) == ("odd_size", len(survey.records))


def test_unknown_patients_are_a_finding(clean_root):
    pattern = "no such name"
    survey = survey_images(ClassFolders(clean_root, patient_pattern=pattern).records())
    assert [finding.kind for finding in check_patients(survey)] == ["unknown_patient"]
    assert check_patients(survey_images(ClassFolders(clean_root).records())) == []


def test_of_many_images_those_without_a_patient_are_counted(root):
    (root / "train/NORMAL/IM-0004-0-1.png").rename(root / "train/NORMAL/scan.png")
    finding = found(root, check_patients)["unknown_patient"]
    assert finding.count == 1
    line_with(finding_text(finding), 1, "train/NORMAL/scan.png")


@pytest.mark.parametrize("left", ["test", "nothing readable"])
def test_a_data_set_with_nothing_to_learn_from_is_reported_without_a_traceback(
    root, tmp_path, left
):
    if left == "test":
        shutil.rmtree(root / "train")
    else:
        for path in root.rglob("*.png"):
            path.write_bytes(b"nothing")
    findings = {each.kind: each for each in audit(recipe_of(root), tmp_path / "out", [])}
    assert (tmp_path / "out/audit.html").is_file()
    if left == "test":
        assert "cannot_split" in findings
    else:
        assert findings["unreadable"].count == 162


def test_two_hundred_planted_faults_are_all_found(clean_root, tmp_path):
    """Promises 12, 13 and 22: leaks, copies and broken files, each at a random place."""
    root = shutil.copytree(clean_root, tmp_path / "images")
    rng = np.random.default_rng(7)
    sources = sorted((root / "train").rglob("*.png"))
    expected = {
        "content_leakage": set(),
        "near_leakage": set(),
        "unreadable": set(),
        "patient_leakage": set(),
    }
    for number in range(200):
        source = sources[rng.integers(len(sources))]
        class_name, kind = source.parent.name, list(expected)[number % 4]
        stem = f"IM-8{number:03}-0-1" if class_name == "NORMAL" else f"person8{number:03}_virus_1"
        target = root / "test" / class_name / f"{stem}.png"
        if kind == "content_leakage":
            shutil.copy(source, target)
        elif kind == "near_leakage":
            image = opened(source).point(lambda value, by=number: value * (0.6 + by / 600))
            target = target.with_suffix(".jpeg")
            image.save(target, quality=int(rng.integers(30, 90)))
        elif kind == "unreadable":
            content = source.read_bytes()
            spoilt = [b"", content[: rng.integers(1, len(content) - 20)], b"<html>" + content]
            target.write_bytes(spoilt[rng.integers(3)])
        else:
            patient = (
                source.stem.split("-")[1] if class_name == "NORMAL" else source.stem.split("_")[0]
            )
            mark = "IM-" + patient if class_name == "NORMAL" else patient
            joint = "-" if class_name == "NORMAL" else "_virus_"
            target = target.with_name(f"{mark}{joint}9{number:03}.png")
            record(10_000 + number).save(target)
        expected[kind].add(target.relative_to(root).as_posix())
    survey = survey_images(ClassFolders(root).records())
    findings = {each.kind: each for each in [*check_copies(survey), *check_files(survey, None)]}
    seen = {
        kind: {
            (row.second if hasattr(row, "second") else row.record).name
            for row in findings[kind].rows
        }
        for kind in expected
    }
    # A changed copy is also near the copies of the same image that were planted in the test split.
    assert seen["content_leakage"] == expected["content_leakage"]
    assert seen["unreadable"] == expected["unreadable"]
    assert seen["patient_leakage"] == expected["patient_leakage"]
    near = findings["near_leakage"].rows
    paths = {side.name for row in near for side in (row.first, row.second)}
    assert paths >= expected["near_leakage"]


def test_what_is_on_the_list_ends_the_audit_and_all_is_written_before(root, tmp_path, capsys):
    shutil.copy(root / "train/NORMAL/IM-0007-0-1.png", root / "test/NORMAL/IM-1900-0-1.png")
    out = tmp_path / "out"
    with refused(DataError, 1, "content_leakage", out):
        audit(recipe_of(root), out)
    with (out / "content_leakage.csv").open() as file:
        assert len(list(csv.DictReader(file))) == 1
    assert json.loads((out / "audit.json").read_text())["findings"][0]["kind"] == "content_leakage"
    assert "IM-1900-0-1.png" in (out / "audit.html").read_text()
    line_with(capsys.readouterr().out, "!!", "content_leakage")


@pytest.mark.usefixtures("without_page")
def test_what_is_not_on_the_list_does_not_end_it_and_old_lists_go(root, tmp_path):
    copy = root / "test/NORMAL/IM-1900-0-1.png"
    shutil.copy(root / "train/NORMAL/IM-0007-0-1.png", copy)
    out = tmp_path / "out"
    findings = audit(recipe_of(root), out, ["unreadable", "blank"])
    assert [finding.kind for finding in findings] == ["content_leakage"]
    copy.unlink()
    (out / "blank.csv").write_text("a file of the user")
    audit(recipe_of(root), out, [])
    assert not (out / "content_leakage.csv").exists()
    assert (out / "blank.csv").read_text() == "a file of the user"


def test_a_file_in_place_of_the_folder_is_refused_before_anything_is_read(tmp_path):
    (tmp_path / "out").touch()
    with refused(RecipeError, "--output_dir", tmp_path / "out"):
        audit(recipe_of(tmp_path / "nowhere"), tmp_path / "out")


def test_an_unknown_kind_is_refused_before_anything_is_read(tmp_path):
    with refused(RecipeError, "--fail_on", "'leaks'", "problem", *SEVERITIES):
        audit(recipe_of(tmp_path / "nowhere"), tmp_path, ["leaks"])


@pytest.mark.usefixtures("without_page")
def test_what_sampler_loss_and_certificate_make_of_it_is_reported(clean_root, tmp_path, capsys):
    recipe = recipe_of(
        clean_root,
        *("--data.sampler", "BalancedSampler", "--loss", "SoftPosWeightBCE"),
        "--validator.handlers+={class_path: ThresholdSearch, "
        "init_args: {min_tnr: 0.93, confidence: 0.95}}",
        "--validator.handlers+={class_path: ThresholdSearch, "
        "init_args: {min_tnr: 0.5, confidence: 0.9, min_tpr: 0.4, joint: true}}",
        "--validator.handlers+={class_path: ThresholdSearch, init_args: {min_tnr: 1.0}}",
    )
    findings = audit(recipe, tmp_path, [])
    assert [finding.kind for finding in findings] == ["too_few_negatives"]
    line_with(finding_text(findings[0]), "0.93", "95 %", 42, "val", 5)
    result = from_json(AuditResult, (tmp_path / "audit.json").read_bytes())
    # The requested certificates and the usual ones, each once.
    assert [
        (each.rate, each.minimum, each.num_needed, each.num_allowed) for each in result.certificates
    ] == [
        *(("tnr", 0.5, 5, 0), ("tnr", 0.9, 29, None), ("tnr", 0.93, 42, None)),
        *(("tnr", 0.95, 59, None), ("tpr", 0.4, 4, 0)),
    ]
    assert {(each.split, each.rate, each.num_patients) for each in result.certificates} == {
        *(("val", "tnr", 5), ("val", "tpr", 4))
    }
    printed = capsys.readouterr().out
    line_with(printed, certificate_title(result))
    line_with(printed, "TNR 0.5", "95 %", 5, 0)
    line_with(printed, "TPR 0.4", "95 %", 4, 0)
    line_with(printed, "0.93", "95 %", 42, "too few")
    table = " ".join(printed.split())
    facts = ["50.6%", "PNEUMONIA", f"{result.prior_shifts[0].seen_prevalence:.1%}", "0.900"]
    assert missing(table, [*facts, "data.calibration_fraction"]) == []


@pytest.mark.usefixtures("without_page")
def test_an_audit_is_read_back_as_it_was_and_another_form_is_refused(root, tmp_path):
    shutil.copy(root / "train/NORMAL/IM-0007-0-1.png", root / "test/NORMAL/IM-1900-0-1.png")
    findings = audit(recipe_of(root), tmp_path / "out", [])
    path = tmp_path / "out/audit.json"
    result, content = from_json(AuditResult, path.read_bytes()), json.loads(path.read_text())
    assert result.findings == findings
    assert result.findings[0].list_file == "content_leakage.csv"
    assert json.loads(to_json(result)) == content
    split = content["splits"][0]
    for change, facts in (
        ({"format": 0}, ["format"]),
        ({"num_images": "many"}, ["num_images"]),
        ({"more": 1}, ["more"]),
        ({"splits": [{**split, "num_images": 1.5}]}, ["splits.0.num_images"]),
        ({"classes": ["one"]}, ["classes"]),
    ):
        path.write_text(json.dumps({**content, **change}))
        with refused(ValueError, *facts):
            from_json(AuditResult, path.read_bytes())


@pytest.mark.usefixtures("without_page")
def test_size_that_gives_the_label_away_is_a_shortcut(root, tmp_path):
    for path in sorted((root / "train/PNEUMONIA").iterdir()):
        opened(path).resize((SIDE + 40, SIDE + 20)).save(path)
    findings = audit(recipe_of(root), tmp_path / "out", [])
    assert "shortcut" in {finding.kind for finding in findings}
    assert SEVERITIES["shortcut"] == "warning"


def test_what_the_files_of_each_class_are_like_is_reported(root, tmp_path, capsys):
    for path in sorted((root / "train/PNEUMONIA").iterdir())[:5]:
        opened(path).convert("RGB").save(path)
    audit(recipe_of(root), tmp_path / "out", [])
    printed = capsys.readouterr().out
    line_with(printed, "NORMAL", "96 x 96", "81 PNG L")
    line_with(printed, "PNEUMONIA", "96 x 96", "76 PNG L", "5 PNG RGB")
    content = json.loads((tmp_path / "out/audit.json").read_text())
    assert content["files"][1]["modes"] == {"PNG L": 76, "PNG RGB": 5}
    assert "76 PNG L, 5 PNG RGB" in (tmp_path / "out/audit.html").read_text()


@pytest.mark.usefixtures("without_page")
def test_test_images_of_another_kind_are_a_shift(root, tmp_path):
    for path in sorted((root / "test/NORMAL").iterdir()):
        pixels = np.asarray(opened(path)).astype(float)
        pixels[:, : SIDE // 3] = pixels[:, : SIDE // 3] * 0.3
        Image.fromarray(pixels.astype(np.uint8)).save(path)
    findings = {finding.kind: finding for finding in audit(recipe_of(root), tmp_path / "out", [])}
    text = line_with(finding_text(findings["shift"]), "NORMAL", "AUC")
    assert "PNEUMONIA" not in text


@pytest.mark.usefixtures("without_page")
def test_a_data_set_that_cannot_be_split_is_reported_and_looked_at_all_the_same(root, tmp_path):
    for path in sorted((root / "train/NORMAL").iterdir())[2:]:
        path.unlink()
    findings = {finding.kind: finding for finding in audit(recipe_of(root), tmp_path / "out", [])}
    line_with(finding_text(findings["cannot_split"]), "val", 2)


@pytest.mark.integration
def test_the_command_line_ends_with_3_in_one_line(root, command):
    (root / "train/NORMAL/IM-0001-0-1.png").write_text("<html>")
    source = ["--data.source", "ClassFolders", "--data.source.root", root]
    failed = command("audit", *source, "--output_dir", "out")
    assert failed.returncode == 3
    error_line(failed.stderr, "audit", 1, "unreadable", "out")


def test_what_is_marked_in_the_table_is_a_finding():
    separated = ShiftCheck(0.88, Interval(0.83, 0.92), 60, 117, 60, 117, is_detected=True)
    assert auc_text(Probe("size and aspect", separated)).endswith("!")
    for harmless in ({"may_be_disease": True}, {"is_control": True}):
        probe = Probe("grey levels", separated, **harmless)
        assert not probe.is_finding
        assert not auc_text(probe).endswith("!")


@pytest.mark.parametrize(
    ("finding", "facts"),
    [
        (Finding("not_compared", 123_456), ["123,456", "100,000"]),
        (Finding("corrected_twice", 1), ["sampler", "loss"]),
        (Finding("shortcut", 1, image_size=(224, 192)), ["224 x 192"]),
    ],
)
def test_a_finding_without_a_list_is_described_by_its_facts(finding, facts):
    if finding.kind == "shortcut":
        check = ShiftCheck(0.88, Interval(0.83, 0.92), 60, 117, 60, 117, is_detected=True)
        finding = replace(finding, probes=(Probe("size and aspect", check),))
        facts = [*facts, "size and aspect", "0.880"]
    line_with(finding_text(finding), *facts)
