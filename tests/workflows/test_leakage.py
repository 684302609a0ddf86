"""What a run makes of images on two sides, and of folds and a test split of its own."""

import csv
import re
import shutil
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from messages import error_line, line_with, missing, refused
from results import point as stored_point

from cxrignite.cli import run
from cxrignite.cli.parsing import parse_recipe
from cxrignite.data import ClassFolders, ImageRecord, Phantom
from cxrignite.data.leakage import leaked_pairs
from cxrignite.data.splits import read_split
from cxrignite.errors import DataError, RecipeError
from cxrignite.handlers import ThresholdSearch
from cxrignite.nn import LightCNN
from cxrignite.recipe import DataRecipe, Fold, Recipe
from cxrignite.runs.run_folder import RunFolder
from cxrignite.runs.scores import SplitScores
from cxrignite.workflows.fit import choose_point
from cxrignite.workflows.records import check_leakage, list_leakage, split_records

RECIPE = """\
seed: 3
data:
  source:
    class_path: ClassFolders
    init_args: {patient_pattern: '(p\\d+)_'}
  val_fraction: 0.2
  calibration_fraction: 0.25
  batch_size: 8
  num_workers: 0
  cache: 'off'
model: {class_path: LightCNN, init_args: {width: 4}}
optimizer: {class_path: AdamW, init_args: {lr: 1.0e-3}}
trainer: {max_epochs: 1, epoch_length: 2, precision: fp32}
validator:
  handlers:
    - class_path: ThresholdSearch
      init_args: {min_tnr: 0.5, min_threshold: 0.0, confidence: 0.8}
"""


def assigned(recipe: Recipe, records: list[ImageRecord]) -> list[ImageRecord]:
    return split_records(recipe.data, records, recipe.seed)


def recipe_with(**keys) -> Recipe:
    data = DataRecipe(source=ClassFolders("nowhere"), **keys)
    return Recipe(data=data, model=LightCNN, optimizer=lambda each: torch.optim.AdamW(each))


def records_without_test(num_val: int = 0) -> list[ImageRecord]:
    """600 images of 300 patients, two thirds positive, some in a validation split."""
    return [
        ImageRecord(
            Path(name), name, int(n // 2 % 3 > 0), f"p{n // 2}", "val" if n < num_val else "train"
        )
        for n, name in enumerate(map(str, range(600)))
    ]


def names_in(records: list[ImageRecord], split: str) -> set[str]:
    return {record.name for record in records if record.split == split}


ASSIGNMENTS = [
    {},
    {"val_fraction": 0.3},
    {"calibration_fraction": 0.2},
    *({"fold": Fold(index, 5)} for index in range(5)),
    {"fold": Fold(1, 3), "calibration_fraction": 0.1},
]


@pytest.mark.parametrize("num_val", [0, 100])
def test_the_test_split_does_not_depend_on_what_is_split_after_it(num_val):
    records = records_without_test(num_val)
    splits = [assigned(recipe_with(test_fraction=0.2, **keys), records) for keys in ASSIGNMENTS]
    assert len({frozenset(names_in(each, "test")) for each in splits}) == 1
    assert len(names_in(splits[0], "test")) == pytest.approx(0.2 * (600 - num_val), rel=0.1)
    assert all(not leaked_pairs(each) for each in splits)


def test_over_all_folds_the_images_of_no_other_split_are_validated_once():
    records = records_without_test(num_val=100)
    validated, calibrations = Counter(), set()
    for index in range(5):
        recipe = recipe_with(test_fraction=0.2, calibration_fraction=0.2, fold=Fold(index, 5))
        split = assigned(recipe, records)
        validated.update(names_in(split, "val"))
        calibrations.add(frozenset(names_in(split, "calibration")))
        shares = Counter(record.split for record in split)
        # 500 of the source's training images less 100 for the test, and its 100 of `val`.
        assert shares["calibration"] == pytest.approx(0.2 / 0.8 * 500, rel=0.1)
        assert shares["val"] == pytest.approx((1 - 0.2 / 0.8) * 500 / 5, rel=0.1)
    (calibration,) = calibrations
    assert set(validated.values()) == {1}
    others = names_in(split, "test") | calibration
    assert set(validated) == {record.name for record in records} - others


def test_a_source_s_own_validation_images_join_a_fold_and_the_log_says_so(caplog):
    caplog.set_level("INFO")
    assigned(recipe_with(fold=Fold(0, 5)), records_without_test(num_val=100))
    line_with("\n".join(caplog.messages), "val", "train")


def test_shares_are_of_the_images_as_they_come():
    recipe = recipe_with(test_fraction=0.2, val_fraction=0.15, calibration_fraction=0.2)
    counts = Counter(record.split for record in assigned(recipe, records_without_test()))
    expected = {"test": 120, "val": 90, "calibration": 120, "train": 270}
    assert {split: pytest.approx(n, rel=0.1) for split, n in expected.items()} == counts


def test_a_second_test_split_is_refused():
    records = [*records_without_test(), ImageRecord(Path("t"), "t", 1, "t", "test")]
    with refused(RecipeError, "data.test_fraction", 0.2, 1, "test"):
        assigned(recipe_with(test_fraction=0.2), records)


@pytest.mark.parametrize(
    ("keys", "facts"),
    [
        ({"test_fraction": 0.51}, ["data.test_fraction", "[0, 0.5]", "0.51"]),
        ({"test_fraction": -0.1}, ["data.test_fraction", "[0, 0.5]", "-0.1"]),
        ({"test_fraction": 0.2, "val_fraction": 0.45}, ["data.test_fraction"]),
        (
            {"test_fraction": 0.3, "val_fraction": 0.35},
            ["0.6", "0.65"],
        ),
        ({"val_fraction": 0.3, "calibration_fraction": 0.4}, ["0.6", "0.7"]),
        ({"calibration_fraction": 0.5}, ["data.calibration_fraction", "[0, 0.4]", "0.5"]),
    ],
)
def test_shares_that_leave_too_little_are_refused(keys, facts):
    with refused(ValueError, *facts):
        recipe_with(**keys)


@pytest.mark.parametrize(
    ("fold", "facts"),
    [
        ((0, 1), ["data.fold.count", "2", "1"]),
        ((5, 5), ["data.fold.index", "[0, 5)", "5"]),
        ((-1, 5), ["data.fold.index", "[0, 5)", "-1"]),
    ],
)
def test_a_fold_out_of_range_is_refused(fold, facts):
    with refused(ValueError, *facts):
        Fold(*fold)


@pytest.mark.parametrize(
    "keys",
    [
        {"test_fraction": 0.5, "val_fraction": 0.1},
        {"test_fraction": 0.1, "val_fraction": 0.45},
        {"test_fraction": 0.2, "val_fraction": 0.4},
        {"test_fraction": 0.1, "val_fraction": 0.1, "calibration_fraction": 0.4},
        {"val_fraction": 0.2, "calibration_fraction": 0.4},
        {"test_fraction": 0.2, "fold": Fold(0, 2)},
        {"test_fraction": 0.5, "fold": Fold(0, 10)},
        {"fold": Fold(0, 5), "calibration_fraction": 0.4},
    ],
)
def test_whatever_a_recipe_allows_can_be_split(keys):
    split = assigned(recipe_with(**keys), records_without_test())
    counts = Counter(record.split for record in split)
    for split_name in ("test", "calibration"):
        share = keys.get(f"{split_name}_fraction", 0)
        assert counts[split_name] == pytest.approx(600 * share, rel=0.15)


def test_leakage_is_refused_in_one_line_that_says_where_it_is(tmp_path):
    records = records_without_test()
    pairs = leaked_pairs([*records, records[0].moved("test")._replace(name="again")])
    folder = RunFolder(tmp_path / "run")
    with refused(DataError, 1, 0, folder.leakage_path, "data.allow_leakage: true") as caught:
        check_leakage(folder, pairs, is_allowed=False)
    assert caught.value.exit_code == 3
    check_leakage(folder, pairs, is_allowed=True)
    check_leakage(folder, [], is_allowed=False)


@pytest.fixture(scope="module")
def clean_root(tmp_path_factory) -> Path:
    root = tmp_path_factory.mktemp("images") / "phantom"
    Phantom(root, num_train=96, num_test=12, size=32).records()
    return root


@pytest.fixture
def root(tmp_path, clean_root) -> Path:
    """Class folders of a test's own, to plant leaks in."""
    for split in ("train", "test"):
        shutil.copytree(clean_root / split, tmp_path / "images" / split)
    return tmp_path / "images"


@pytest.fixture
def fit(tmp_path, root):
    """Run `fit` in this process; gives its exit code."""
    path = tmp_path / "recipe.yaml"
    path.write_text(RECIPE)

    def call(name: str, *argv: str) -> int:
        fixed = ["--data.source.root", str(root), "--run_dir", str(tmp_path / name)]
        return run(["fit", "--config", str(path), *fixed, *argv])

    return call


def plant(root: Path, name: str, patient: str | None = None) -> None:
    """Give the test split the same file under a new patient, or another image of its patient."""
    source = root / name
    if patient is None:
        patient = source.name.partition("_")[0]
        source = next((root / "test" / source.parent.name).iterdir())
    shutil.copy(source, root / "test" / source.parent.name / f"{patient}_99.png")


def split_of(tmp_path: Path, root: Path) -> list[ImageRecord]:
    """What a run on these images would carve; an image more in the test changes nothing of it."""
    options = ["--config", str(tmp_path / "recipe.yaml"), "--data.source.root", str(root)]
    recipe, _, _ = parse_recipe("fit", options)
    return assigned(recipe, recipe.data.source.records())


@pytest.mark.integration
def test_fit_refuses_leakage_and_goes_on_where_it_is_allowed(tmp_path, root, fit, capsys):
    split = split_of(tmp_path, root)
    learnt = [
        record for record in split if record.split == "train" and record.name.endswith("_1.png")
    ]
    chose = next(record for record in split if record.split == "calibration")
    for record in learnt[:2]:
        plant(root, record.name)
    plant(root, chose.name, "p99999")
    run_dir = tmp_path / "run"
    assert fit("run") == 3
    # Three pairs: two of one patient, one of identical files.
    facts = (3, 2, 1, run_dir / "leakage.csv", "data.allow_leakage: true")
    error_line(capsys.readouterr().err, *facts)
    assert {path.name for path in run_dir.iterdir()} == {"leakage.csv", "run.lock", "run.log"}
    with (run_dir / "leakage.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert Counter((row["reason"], row["first_split"], row["second_split"]) for row in rows) == {
        ("patient", "train", "test"): 2,
        ("content", "calibration", "test"): 1,
    }
    patients = {row["patient"] for row in rows if row["reason"] == "patient"}
    assert patients == {record.patient for record in learnt[:2]}

    # In the very same folder.
    assert fit("run", "--data.allow_leakage", "true") == 0
    printed = line_with(capsys.readouterr().err, 3, 2, 1, run_dir / "leakage.csv")
    assert printed in (run_dir / "run.log").read_text()
    assert (run_dir / "leakage.csv").is_file()
    # One of the images that chose the threshold is in a pair.
    chosen = stored_point(run_dir / "operating_point.json")
    assert (chosen["status"], chosen["chosen_on"]) == ("empirical", "calibration")
    line_with(chosen["note"], "calibration", 1, "leakage.csv")
    assert run(["test", "--run", str(run_dir)]) == 0
    line_with(capsys.readouterr().err, "test", 3, 2, 1)
    assert run(["report", "--run", str(run_dir)]) == 0
    assert "leakage.csv" in (run_dir / "report.html").read_text()
    capsys.readouterr()
    assert fit("run", "--resume", "auto") == 2
    error_line(capsys.readouterr().err, run_dir, "data.allow_leakage")


@pytest.mark.parametrize(
    ("chosen_on", "leak", "status", "facts"),
    [
        ("calibration", None, "certified", []),
        ("calibration", ("train", "test"), "certified", []),
        ("calibration", ("train", "calibration"), "empirical", ["calibration", 1, "leakage.csv"]),
        ("calibration", ("calibration", "test"), "empirical", ["calibration", 1, "leakage.csv"]),
        ("val", None, "empirical", ["data.calibration_fraction"]),
    ],
)
def test_nothing_is_certified_on_images_that_others_know(chosen_on, leak, status, facts):
    records = [record.moved(chosen_on) for record in records_without_test()[:60]]
    labels = np.array([record.label for record in records])
    scores = SplitScores(records, ("N", "P"), 0.2 + 0.6 * labels, labels, np.zeros((60, 1)))
    search = ThresholdSearch(min_tnr=0.5, min_threshold=0.0, confidence=0.8)
    pairs = leaked_pairs([records[0].moved(split) for split in leak or ()])
    point = choose_point(search, scores, chosen_on, pairs)
    assert point.status == status
    if facts:
        line_with(point.note, *facts)
    else:
        assert point.note == ""


def test_a_list_of_an_earlier_start_goes_where_the_leak_is_mended(tmp_path):
    folder, records = RunFolder(tmp_path), records_without_test()
    list_leakage(folder, [])
    list_leakage(folder, leaked_pairs([*records, records[0].moved("test")]))
    assert folder.leakage_path.is_file()
    list_leakage(folder, [])
    assert not folder.leakage_path.exists()


@pytest.mark.integration
def test_a_fold_and_a_test_split_of_its_own_are_scored_from_the_list_of_images(
    tmp_path, root, fit, capsys
):
    shutil.rmtree(root / "test")
    keys = ["--data.test_fraction", "0.2", "--data.calibration_fraction", "0"]
    assert fit("run", *keys, "--data.fold", "{index: 1, count: 4}") == 0
    run_dir = tmp_path / "run"
    # The images that picked the checkpoint cannot certify.
    chosen = stored_point(run_dir / "operating_point.json")
    assert (chosen["status"], chosen["chosen_on"]) == ("empirical", "val")
    assert missing(chosen["note"], ["data.calibration_fraction"]) == []
    assert chosen["note"] in " ".join(capsys.readouterr().out.split())
    assert run(["test", "--run", str(run_dir)]) == 0
    listed = read_split(run_dir / "split.csv", root)
    assert Counter(record.split for record in listed) == {
        split: pytest.approx(number, rel=0.15)
        for split, number in {"train": 58, "val": 19, "test": 19}.items()
    }
    with (run_dir / "predictions" / "test.csv").open(newline="") as file:
        assert {row["path"] for row in csv.DictReader(file)} == names_in(listed, "test")
    written = yaml.safe_load((run_dir / "recipe.yaml").read_text())["data"]
    assert (written["fold"], written["test_fraction"]) == ({"index": 1, "count": 4}, 0.2)
    assert run(["report", "--run", str(run_dir)]) == 0
    page = (run_dir / "report.html").read_text()
    assert re.search(r"fold\D{1,20}1\D{1,20}4\b", page)
    assert "leakage.csv" not in page


@pytest.mark.integration
def test_a_test_fraction_beside_a_test_split_is_refused_before_images_are_read(
    tmp_path, root, fit, capsys
):
    (root / "train" / "NORMAL" / "p1_1.png").write_bytes(b"no image")
    assert fit("run", "--data.test_fraction", "0.1") == 2
    error_line(capsys.readouterr().err, "data.test_fraction", 0.1, 12, "test")
