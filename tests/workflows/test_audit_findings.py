"""The audit of a data set with several findings, some labels of which are unknown."""

import contextlib
import csv
import io
import json
import shutil

import numpy as np
import pytest
from messages import line_with, missing
from PIL import Image

from cxrignite.cli.parsing import parse_recipe
from cxrignite.data.sources import UNKNOWN, ImageRecord
from cxrignite.data.survey import survey_images
from cxrignite.reporting.audit_text import finding_text, label_text, list_csv
from cxrignite.runs.audit_result import MAX_PROBED, AuditResult, conflicting
from cxrignite.runs.json_codec import from_json
from cxrignite.workflows.audit.audit import audit
from cxrignite.workflows.audit.checks import check_copies

FINDINGS = ["Atelectasis", "Cardiomegaly", "Effusion", "Hernia", "Mass", "Nodule", "Pneumonia"]
SHARES = [0.5, 0.45, 0.4, 0.15, 0.35, 0.3, 0.15]
COMMON = ["Atelectasis", "Cardiomegaly", "Effusion", "Mass", "Nodule"]
NUM_PATIENTS = 160


def table(labels):
    """A table of images with the labels by number of the patient."""
    head = ",".join(["path", "patient", "split", *FINDINGS])
    rows = [
        ",".join([f"{number}.png", f"p{number}", split, *cells])
        for number, (split, cells) in enumerate(labels)
    ]
    return "\n".join([head, *rows])


def labels_of(number):
    """Findings of different frequency; one label of every tenth image is unknown."""
    drawn = np.random.default_rng(number).random(len(FINDINGS))
    cells = [str(int(value < share)) for value, share in zip(drawn, SHARES, strict=True)]
    if number % 10 == 5:
        cells[1] = ""
    return "test" if number % 5 == 0 else "train", cells


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    root = tmp_path_factory.mktemp("findings")
    for number in range(NUM_PATIENTS):
        # Noise, of which no two images are alike.
        Image.effect_noise((64, 64), 60).save(root / f"{number}.png")
    (root / "images.csv").write_text(table([labels_of(number) for number in range(NUM_PATIENTS)]))
    return root


def recipe_of(root, *options, classes=FINDINGS):
    return parse_recipe(
        "audit",
        [
            *("--data.source", "Manifest", "--data.source.path", str(root / "images.csv")),
            f"--data.source.classes=[No Finding, {', '.join(classes)}]",
            "--data.source.columns={path: path, label: null, patient: patient, split: split}",
            "--data.source.labels={on_missing: unknown}",
            *options,
        ],
    )[0]


SEARCH = (
    "--validator.handlers+={class_path: ThresholdSearch, init_args: {min_tnr: 0.5, "
    "confidence: 0.9, per_finding: {Hernia: {min_tnr: 0.9, min_tpr: 0.3, confidence: 0.8}}}}"
)


@pytest.fixture(scope="module")
def audited(root, tmp_path_factory):
    """The folder of an audit, and what it printed."""
    folder, printed = tmp_path_factory.mktemp("audit"), io.StringIO()
    with contextlib.redirect_stdout(printed):
        audit(recipe_of(root, SEARCH, "--loss", "SoftPosWeightBCE"), folder, [])
    return folder, printed.getvalue()


@pytest.fixture(scope="module")
def result(audited):
    return from_json(AuditResult, (audited[0] / "audit.json").read_bytes())


def test_each_finding_is_counted_in_each_split(result):
    sizes = {row.split: {each.name: each for each in row.classes} for row in result.splits}
    assert list(sizes["test"]) == ["No Finding", *FINDINGS]
    num_of = {name: sum(row[name].num_images for row in sizes.values()) for name in sizes["test"]}
    expected = [labels_of(number)[1] for number in range(NUM_PATIENTS)]
    for place, name in enumerate(FINDINGS):
        assert num_of[name] == sum(cells[place] == "1" for cells in expected)
    assert num_of["No Finding"] == expected.count(["0"] * len(FINDINGS))
    unknown = {name: sum(row[name].num_unknown for row in sizes.values()) for name in FINDINGS}
    assert unknown == {**dict.fromkeys(FINDINGS, 0), "Cardiomegaly": NUM_PATIENTS // 10}
    assert sizes["test"]["Effusion"].num_patients == sizes["test"]["Effusion"].num_images


def test_each_finding_has_its_prior_and_its_certificates(result):
    assert len(result.prior_shifts) == len(FINDINGS)
    prevalences = [shift.prevalence for shift in result.prior_shifts]
    assert prevalences[0] > prevalences[-1] > 0
    requested = [
        (each.finding, each.rate, each.minimum, each.confidence) for each in result.certificates
    ]
    assert requested == [
        (name, *limits)
        for name in FINDINGS
        for limits in (
            [("tnr", 0.9, 0.8), ("tpr", 0.3, 0.8)] if name == "Hernia" else [("tnr", 0.5, 0.9)]
        )
    ]
    of_hernia = [each for each in result.certificates if each.finding == "Hernia"]
    [val] = [row for row in result.splits if row.split == "val"]
    assert of_hernia[0].num_patients == val.num_images - val.classes[4].num_images
    assert of_hernia[1].num_patients == val.classes[4].num_images


def test_only_the_commonest_findings_are_probed(result):
    assert result.probed == tuple(COMMON)
    of_one = [each for each in result.shortcut_probes if each.name.startswith("Effusion: ")]
    assert (len(of_one), len(result.shortcut_probes)) == (5, 5 * MAX_PROBED)
    compared = {each.name.partition(": ")[0] for each in result.shift_probes}
    assert compared == {"No Finding", *COMMON}


def test_text_and_page_have_a_row_for_each_finding(audited, result):
    folder, printed = audited
    assert max(map(len, printed.splitlines()[1:])) <= 100
    for number, name in enumerate(FINDINGS, start=1):
        train = result.splits[0].classes[number]
        shift = result.prior_shifts[number - 1]
        line_with(printed, f"  {name} ", f"{train.num_images} ({train.num_patients})")
        line_with(printed, f"  {name} ", f"{shift.prevalence:.1%}", f"{shift.seen_prevalence:.1%}")
        line_with(printed, f"  {name} ", "TNR", "%")
    line_with(printed, "Cardiomegaly, ", "unknown")
    line_with(printed, "Hernia", "TPR 0.3", "80 %")
    page = (folder / "audit.html").read_text()
    assert missing(page, [*FINDINGS, "TPR 0.3", *result.probed]) == []


def test_only_known_labels_conflict(root, tmp_path):
    labels = [labels_of(number)[1] for number in range(2)]
    opposite = [str(1 - int(cell)) for cell in labels[0]]
    partly_unknown = ["", *labels[1][1:]]
    images = [*labels, opposite, partly_unknown]
    (tmp_path / "images.csv").write_text(table([("train", cells) for cells in images]))
    for number in range(4):
        shutil.copy(root / f"{number % 2}.png", tmp_path / f"{number}.png")
    survey = survey_images(recipe_of(tmp_path).data.source.records())
    [finding] = [each for each in check_copies(survey) if each.kind == "label_conflict"]
    assert (finding.count, finding.severity) == (1, "problem")
    classes = ["No Finding", *FINDINGS]
    rows = list(csv.DictReader(list_csv(finding, classes).decode().splitlines()))
    found = {row["path"]: [row[f"label:{name}"] for name in FINDINGS] for row in rows}
    assert found == {"0.png": labels[0], "2.png": opposite}
    line_with(finding_text(finding, classes), "0.png", "2.png", *(f"{name} 1" for name in FINDINGS))


def test_an_unknown_label_is_no_conflict():
    def record(*labels):
        return ImageRecord("a.png", "a.png", labels, "p", "train")

    assert conflicting([record(1, 0, UNKNOWN), record(1, UNKNOWN, 0)]) == []
    assert conflicting([record(1, 0, UNKNOWN), record(UNKNOWN, 1, 0), record(0, 0, 1)]) == [0, 1, 2]


def test_exclusive_classes_are_counted_and_compared(tmp_path, capsys):
    root = tmp_path / "images"
    for number in range(120):
        name = ("NORMAL", "BACTERIAL", "VIRAL")[number % 3]
        path = root / name / f"person{number}_x_1.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.effect_noise((64 + 8 * (number % 3), 64), 60).save(path)
    recipe = parse_recipe(
        "audit",
        [
            *("--data.source", "ClassFolders", "--data.source.root", str(root)),
            "--data.source.classes=[NORMAL, BACTERIAL, VIRAL]",
            *("--data.source.patient_pattern", r"(person\d+)_", "--loss", "SoftClassWeightCE"),
        ],
    )[0]
    findings = {each.kind: each for each in audit(recipe, tmp_path / "out", [])}
    content = json.loads((tmp_path / "out/audit.json").read_text())
    assert content["classes"] == ["NORMAL", "BACTERIAL", "VIRAL"]
    for row in content["splits"]:
        assert sum(each["num_images"] for each in row["classes"]) == row["num_images"]
    # The usual certificates, because the recipe requests none.
    assert [each["minimum"] for each in content["certificates"]] == [0.9, 0.93, 0.95] * 2
    sizes = [probe.name for probe in findings["shortcut"].probes]
    assert "VIRAL: size and aspect" in sizes
    output = capsys.readouterr().out
    line_with(output, "VIRAL", "80 x 64")
    assert content["exclusive"]
    # The loss weighs classes of the same size equally, so nothing shifts.
    for shift in content["prior_shifts"]:
        assert shift["pos_weight"] == pytest.approx(1)
    line_with(output, "VIRAL", "33.3%", "33.3%")
    assert "a score of" not in output


@pytest.mark.parametrize(
    ("label", "classes", "words"),
    [
        (0, ["NORMAL", "PNEUMONIA"], "NORMAL"),
        ((0, 0, 0), ["None", "A", "B", "C"], "None"),
        ((1, 0, 1), ["None", "A", "B", "C"], "A and C"),
        ((UNKNOWN, 0, 1), ["None", "A", "B", "C"], "C and 1 unknown"),
        ((UNKNOWN, UNKNOWN, 0), ["None", "A", "B", "C"], "2 unknown"),
    ],
)
def test_label_of_an_image_is_named(label, classes, words):
    assert label_text(ImageRecord("a.png", "a.png", label, "p", "train"), classes) == words
