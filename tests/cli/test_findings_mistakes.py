"""Recipes of several findings: what they may name, and mistakes that end in one line."""

import numpy as np
import pytest
from messages import error_line
from PIL import Image

from cxrignite.cli import run
from cxrignite.cli.parsing import parse_recipe

FINDINGS = ["Effusion", "Nodule", "Mass"]
NUM_TRAIN, NUM_TEST = 40, 12
RECIPE = """\
run_dir: run
data:
  source:
    class_path: Manifest
    init_args:
      path: images.csv
      classes: [No Finding, Effusion, Nodule, Mass]
      columns: {path: path, label: null, patient: patient, split: split}
      labels: {on_missing: unknown}
  val_fraction: 0.3
  batch_size: 8
  num_workers: 0
  cache: off
model: {class_path: LightCNN, init_args: {width: 4}}
optimizer: {class_path: AdamW, init_args: {lr: 1.0e-3}}
trainer: {max_epochs: 1}
validator:
  handlers:
    - {class_path: ThresholdSearch, init_args: {min_tnr: 0.5}}
"""
MODEL = """\
from torch import nn
from cxrignite.nn import BinaryClassifier, ImageNormalizer

def parts(number):
    net = nn.Sequential(nn.Conv2d(1, 4, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    return ImageNormalizer([0.5], [0.5], num_channels=1), net, nn.Linear(4, number)

class Fixed(BinaryClassifier):
    def __init__(self, width: int = 4):
        super().__init__(*parts(1))

class Forgetful(BinaryClassifier):
    def __init__(self, num_findings: int = 1):
        super().__init__(*parts(num_findings))

class Narrow(BinaryClassifier):
    def __init__(self, num_findings: int = 1):
        super().__init__(*parts(2), num_findings=num_findings)
"""


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    folder = tmp_path_factory.mktemp("images")
    for number in range(NUM_TRAIN + NUM_TEST):
        Image.effect_noise((32, 32), 60).save(folder / f"{number}.png")
    return folder


@pytest.fixture
def folder(images, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "recipe.yaml").write_text(RECIPE)
    (tmp_path / "findings_models.py").write_text(MODEL)
    for path in images.iterdir():
        (tmp_path / path.name).symlink_to(path)
    write_table(tmp_path, labels())
    return tmp_path


def labels():
    """All labels as text, half of them 1."""
    drawn = np.random.default_rng(1).integers(0, 2, (NUM_TRAIN + NUM_TEST, len(FINDINGS)))
    return drawn.astype(str).astype(object)


def write_table(folder, cells):
    rows = [
        f"{number}.png,p{number},{'train' if number < NUM_TRAIN else 'test'},{','.join(row)}"
        for number, row in enumerate(cells)
    ]
    text = "\n".join([f"path,patient,split,{','.join(FINDINGS)}", *rows])
    (folder / "images.csv").write_text(text)


SEARCH = "--validator.handlers=[{class_path: ThresholdSearch, init_args: {%s}}]"
SOURCE = "--data.source.init_args"
COLUMNS = f"{SOURCE}.columns={{path: path, label: null, findings: {{Efusion: E}}}}"


@pytest.mark.parametrize(
    "metric",
    [
        *("loss", "roc_auc", "roc_auc_micro", "roc_auc/Effusion", "average_precision/Mass"),
        *("threshold/Nodule", "tnr_lower_bound/Mass"),
    ],
)
def test_a_metric_of_one_finding_may_select_the_checkpoint(folder, metric):
    options = ["--monitor.metric", metric, "--monitor.mode", "min" if metric == "loss" else "max"]
    recipe, _, _ = parse_recipe("fit", ["--config", "recipe.yaml", *options])
    assert recipe.monitor.metric == metric
    # Before training, since the level of a familywise certificate depends on their number.
    assert list(recipe.validator.handlers[0].findings) == FINDINGS


@pytest.mark.parametrize(
    ("options", "facts"),
    [
        (["--monitor.metric", "roc_auc/Efusion"], ["monitor.metric", "roc_auc/Effusion"]),
        (["--monitor.metric", "auc"], ["monitor.metric", "roc_auc"]),
        (["--monitor.metric", "threshold"], ["monitor.metric", "'threshold/"]),
        ([SEARCH % "per_finding: {Nodul: {min_tnr: 0.9}}"], ["per_finding", "'Nodul'", "'Nodule'"]),
        ([SEARCH % "per_finding: {Nodule: {tnr: 0.9}}"], ["per_finding", "Nodule", "min_tnr"]),
        (
            [f"{SOURCE}.labels={{on_missing: unknown, per_finding: {{Efusion: {{}}}}}}"],
            ["per_finding", "Efusion", "Effusion"],
        ),
        (
            [f"{SOURCE}.labels={{on_missing: unknown, values: {{Efusion: [e]}}}}"],
            ["values", "Efusion"],
        ),
        (
            [COLUMNS],
            ["columns.findings", "Efusion", "Effusion"],
        ),
        (["--model.init_args.num_findings", "5"], ["num_findings", 3, 5]),
        (["--model", "findings_models.Fixed"], ["num_findings", 3, "Fixed"]),
        (["--model", "findings_models.Forgetful"], ["num_findings", 3, 1]),
        (["--model", "findings_models.Narrow"], [3, "[1, 2]"]),
        (
            ["--loss=SoftPosWeightBCE", "--loss.finding_weights=[1.0, 2.0]"],
            ["one weight", 3, 2],
        ),
    ],
)
@pytest.mark.integration
def test_a_wrong_name_or_model_is_one_line(folder, options, facts, capsys):
    assert run(["fit", "--config", "recipe.yaml", *options]) == 2
    error_line(capsys.readouterr().err, "fit", *facts)
    assert not (folder / "run/checkpoints").exists()


def without_positives(cells):
    cells[:NUM_TRAIN, 1] = "0"


def one_positive(cells):
    cells[:NUM_TRAIN, 1] = "0"
    cells[3, 1] = "1"


def all_unknown(cells):
    cells[:, 1] = ""


def unknown_in_train(cells):
    cells[:NUM_TRAIN, 1] = ""


def nothing_known(cells):
    cells[:] = ""


@pytest.mark.parametrize(
    ("change", "options", "facts"),
    [
        (without_positives, [], ["Nodule", 0]),
        (one_positive, [], ["Nodule", 1]),
        (all_unknown, [], ["Nodule"]),
        (unknown_in_train, [], ["Nodule", 0]),
        (unknown_in_train, ["--loss", "SoftPosWeightBCE"], ["Nodule", 0]),
        (nothing_known, [], ["images.csv"]),
    ],
)
@pytest.mark.integration
def test_a_finding_without_labels_is_refused_before_training(
    folder, change, options, facts, capsys, monkeypatch
):
    cells = labels()
    change(cells)
    write_table(folder, cells)
    monkeypatch.setattr("cxrignite.workflows.fit.Training", None)  # is not reached
    assert run(["fit", "--config", "recipe.yaml", *options]) == 3
    error_line(capsys.readouterr().err, "fit", *facts)
    assert not (folder / "run/checkpoints").exists()
