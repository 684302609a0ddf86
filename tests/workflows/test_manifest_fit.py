"""A recipe with a manifest: its mistakes in one line, and a run from the table to another site."""

import csv

import pytest
import yaml
from messages import refused
from results import finding

from cxrignite import cli
from cxrignite.cli.parsing import parse_recipe
from cxrignite.data import Phantom
from cxrignite.errors import RecipeError

RECIPE = """\
model: {class_path: LightCNN, init_args: {width: 4}}
optimizer: {class_path: AdamW, init_args: {lr: 1.0e-3}}
data:
  source:
    class_path: Manifest
    init_args:
      path: images.csv
"""


@pytest.fixture
def recipe_of(tmp_path):
    """A recipe whose source has these further settings."""

    def write(*settings: str):
        path = tmp_path / "recipe.yaml"
        path.write_text(RECIPE + "".join(f"      {line}\n" for line in settings))
        return path

    return write


@pytest.mark.parametrize(
    ("setting", "facts"),
    [
        ("columns: {lable: x}", ["'columns.lable'", "'columns.label'"]),
        (
            "labels: {valuse: {NORMAL: [0]}}",
            ["'labels.valuse'", "'labels.values'"],
        ),
        ("patients: {salt: x}", ["'patients.salt'", "'patients.salt_file'"]),
        ("wher: {a: [1]}", ["'wher'", "'where'"]),
        ("labels: {values: {NORMEL: [0]}}", ["'NORMEL'", "'NORMAL'"]),
        ("labels: {on_other: skp}", ["'labels.on_other'", "'raise'", "'skip'", "'negative'"]),
        ("labels: {values: {NORMAL: 0}}", ["'labels.values'"]),
        ("where: [view]", ["'where'", "['view']"]),
        ("columns: label", ["'columns'", "label"]),
        ("columns: {path: 'a{b'}", ["columns.path", "'a{b'"]),
        ("patients: {from_header: true}", ["patients.from_header", "salt_file"]),
        ("classes: [A, A]", ["classes", "A"]),
    ],
)
def test_a_mistake_in_a_recipe_is_reported_in_one_line_that_names_the_place(
    recipe_of, setting, facts
):
    with refused(RecipeError, *facts) as caught:
        parse_recipe("fit", ["--config", str(recipe_of("root: images", setting))])
    assert "recipe.yaml:9: " in str(caught.value)


@pytest.mark.parametrize(
    ("option", "facts"),
    [
        (["--data.source.columns.lable", "x"], ["'columns.lable'", "'columns.label'"]),
        (["--data.source.labels.on_other", "skp"], ["'data.source'", "'labels.on_other'"]),
    ],
)
def test_a_mistake_on_the_command_line_names_no_file(recipe_of, option, facts):
    with refused(RecipeError, *facts) as caught:
        parse_recipe("fit", ["--config", str(recipe_of()), *option])
    assert ".yaml" not in str(caught.value)


def test_a_recipe_read_back_from_its_dump_is_the_same(recipe_of, tmp_path):
    written = recipe_of(
        "classes: [N, P]",
        "columns: {path: 'x/{id}.png', label: L, patient: pid, attributes: [a, b c]}",
        "labels: {values: {N: [0, No, normal], P: [1, 1.5, p]}, separator: '|', uncertain: [-1]}",
        "where: {View Position: [PA, AP], a.b: [1]}",
        "root: images",
        "patients: {salt_file: salt.txt}",
    )
    recipe, text, _ = parse_recipe("fit", ["--config", str(written)])
    dumped = tmp_path / "dump.yaml"
    dumped.write_text(text)
    again, text_again, _ = parse_recipe("fit", ["--config", str(dumped)])
    assert text_again == text
    assert vars(again.data.source) == vars(recipe.data.source)


@pytest.mark.integration
@pytest.mark.slow  # `test_guide.py` takes the same way
def test_a_run_on_a_table_goes_from_fit_to_another_site(recipes_dir, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    salt = tmp_path / "salt.txt"
    salt.write_text("no patient can be told without this")
    for site, seed in (("home", 0), ("other", 1)):
        phantom = Phantom(tmp_path / site, num_train=48, num_test=16, size=64, seed=seed)
        records = phantom.records()
        with (tmp_path / site / "images.csv").open("w", newline="") as file:
            writer = csv.writer(file, delimiter=";")
            writer.writerow(["File", "Finding", "MRN", "Split", "Side"])
            for number, record in enumerate(records):
                words = ("normal", "pneumonia")[record.label]
                side = "left" if number % 2 else "right"
                writer.writerow([record.name, words, f"MRN{record.patient}", record.split, side])
    recipe = tmp_path / "table.yaml"
    recipe.write_text(
        "data:\n  source:\n    class_path: Manifest\n    init_args:\n"
        "      path: home/images.csv\n"
        "      root: null\n"
        "      columns: {path: File, label: Finding, patient: MRN, attributes: [Side]}\n"
        "      labels: {values: {NORMAL: [normal], PNEUMONIA: [pneumonia]}}\n"
        "      patients: {salt_file: salt.txt}\n"
    )
    configs = (recipes_dir / "quickstart.yaml", recipes_dir / "overlays/smoke.yaml", recipe)
    laid = [word for path in configs for word in ("--config", str(path))]
    assert cli.run(["fit", *laid, "--run_dir", "run"]) == 0
    with (tmp_path / "run/split.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 64
    assert {row["attr_Side"] for row in rows} == {"left", "right"}
    written = yaml.safe_load((tmp_path / "run/recipe.yaml").read_text())
    assert written["data"]["source"]["init_args"]["columns"]["label"] == "Finding"

    assert cli.run(["test", "--run", "run"]) == 0
    other = ["--data.source.path", "other/images.csv", "--name", "other"]
    assert cli.run(["test", "--run", "run", *other]) == 0
    new = ["--manifest", "other/images.csv", "--path_column", "File", "--patient_column", "MRN"]
    assert cli.run(["predict", "--run", "run", *new, "--output", "run/new/scores.csv"]) == 0
    figures = finding(tmp_path / "run/metrics/other.json")
    assert figures["num_images"] == 16
    assert cli.run(["report", "--run", "run"]) == 0
    # A miss is shown as it lies in the data set, which is where the table is.
    assert "data:image/jpeg;base64," in (tmp_path / "run/report.html").read_text()
    for path in (tmp_path / "run").rglob("*"):
        if path.is_file():
            content = path.read_bytes()
            assert b"MRNp" not in content, path
            assert b"without this" not in content, path
