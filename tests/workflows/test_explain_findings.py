"""`explain` of some findings of a run."""

import pytest
from messages import error_line, missing

from cxrignite.cli import run

pytestmark = pytest.mark.integration

RECIPE = """\
run_dir: FOLDER/run
data:
  source:
    class_path: Phantom
    init_args:
      {root: FOLDER/images, num_train: 80, num_test: 20, size: 32, findings: [Opacity, Effusion]}
  val_fraction: 0.3
  batch_size: 16
  num_workers: 0
  cache: off
model: {class_path: LightCNN, init_args: {width: 4, stride: 8}}
optimizer: {class_path: AdamW, init_args: {lr: 1.0e-3}}
trainer: {max_epochs: 1}
explain: {max_images: 1, num_measured: 0, select: [random]}
"""


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    home = tmp_path_factory.mktemp("findings")
    (home / "recipe.yaml").write_text(RECIPE.replace("FOLDER", str(home)))
    assert run(["fit", "--config", str(home / "recipe.yaml")]) == 0
    return home


@pytest.mark.parametrize(
    ("options", "names"),
    [
        (["--findings=[Effusion]"], {"test_Effusion"}),
        (["--findings", "Opacity"], {"test_Opacity"}),
        (["--findings", "[Effusion, Opacity]", "--split", "val"], {"val_Effusion", "val_Opacity"}),
        (["--files", "images/test", "--findings=[Opacity]"], {"files_Opacity"}),
    ],
)
def test_only_the_named_findings_are_explained(home, options, names, monkeypatch, capsys):
    monkeypatch.chdir(home)
    folder = home / "run/explain"
    before = set(folder.glob("*"))
    code = run(["explain", "--run", "run", *options])
    assert code == 0, capsys.readouterr().err
    assert {path.name for path in {*folder.glob("*")} - before} == names
    assert missing(capsys.readouterr().out, names) == []


@pytest.mark.parametrize(
    ("value", "facts"),
    [
        ("Efusion", ["--findings", "'Efusion'", "'Effusion'"]),
        ("[Efusion]", ["--findings", "'Efusion'", "'Effusion'"]),
        ("[Opacity, none]", ["--findings", "'none'"]),
        ("[]", ["--findings", "[]"]),
    ],
)
def test_a_wrong_finding_is_refused_in_one_line(home, value, facts, monkeypatch, capsys):
    monkeypatch.chdir(home)
    assert run(["explain", "--run", "run", f"--findings={value}"]) == 2
    error_line(capsys.readouterr().err, "explain", *facts)
