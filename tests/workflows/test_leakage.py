"""What a run makes of films on two sides, and of folds and a test split of its own."""

import csv
import json
import shutil
from collections import Counter
from pathlib import Path

import pytest
import torch
import yaml

from cxrignite.cli import run
from cxrignite.data import ClassFolders, Film, Phantom
from cxrignite.data.leakage import leaked_pairs
from cxrignite.data.splits import read_split
from cxrignite.errors import DataError, RecipeError
from cxrignite.nn import LightCNN
from cxrignite.parsing import parse_recipe
from cxrignite.recipe import DataRecipe, Fold, Recipe
from cxrignite.workflows.films import check_leakage, list_leakage, split_films
from cxrignite.workflows.run_folder import RunFolder

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
  pack: 'off'
model: {class_path: LightCNN, init_args: {width: 4}}
optimizer: {class_path: AdamW, init_args: {lr: 1.0e-3}}
trainer: {max_epochs: 1, epoch_length: 2, precision: fp32}
validator:
  handlers:
    - class_path: ThresholdSearch
      init_args: {min_tnr: 0.5, min_threshold: 0.0, confidence: 0.8}
"""


def recipe_with(**keys) -> Recipe:
    data = DataRecipe(source=ClassFolders("nowhere"), **keys)
    return Recipe(data=data, model=LightCNN, optimizer=lambda each: torch.optim.AdamW(each))


def films_without_test(num_val: int = 0) -> list[Film]:
    """600 films of 300 patients, two thirds positive, some in a validation split."""
    return [
        Film(Path(name), name, int(n // 2 % 3 > 0), f"p{n // 2}", "val" if n < num_val else "train")
        for n, name in enumerate(map(str, range(600)))
    ]


def names_in(films: list[Film], split: str) -> set[str]:
    return {film.name for film in films if film.split == split}


CARVINGS = [
    {},
    {"val_fraction": 0.3},
    {"calibration_fraction": 0.2},
    *({"fold": Fold(index, 5)} for index in range(5)),
    {"fold": Fold(1, 3), "calibration_fraction": 0.1},
]


@pytest.mark.parametrize("num_val", [0, 100])
def test_the_test_split_does_not_depend_on_what_is_carved_after_it(num_val):
    films = films_without_test(num_val)
    splits = [split_films(recipe_with(test_fraction=0.2, **keys), films) for keys in CARVINGS]
    assert len({frozenset(names_in(each, "test")) for each in splits}) == 1
    assert len(names_in(splits[0], "test")) == pytest.approx(0.2 * (600 - num_val), rel=0.1)
    assert all(not leaked_pairs(each) for each in splits)


def test_over_all_folds_whatever_is_not_tested_is_validated_once():
    films = films_without_test(num_val=100)
    validated = Counter()
    for index in range(5):
        recipe = recipe_with(test_fraction=0.2, calibration_fraction=0.2, fold=Fold(index, 5))
        split = split_films(recipe, films)
        validated.update(names_in(split, "val"))
        shares = Counter(film.split for film in split)
        # 500 of the source's training films less 100 for the test, and its 100 of `val`.
        assert shares["val"] == pytest.approx(500 / 5, rel=0.1)
        assert shares["calibration"] == pytest.approx(0.2 / 0.64 * 400, rel=0.1)
    assert set(validated.values()) == {1}
    assert set(validated) == {film.name for film in films} - names_in(split, "test")


def test_a_source_s_own_validation_films_join_a_fold_and_the_log_says_so(caplog):
    caplog.set_level("INFO")
    split_films(recipe_with(fold=Fold(0, 5)), films_without_test(num_val=100))
    assert "val split is joined to train" in caplog.text


def test_shares_are_of_the_films_as_they_come():
    recipe = recipe_with(test_fraction=0.2, val_fraction=0.15, calibration_fraction=0.2)
    counts = Counter(film.split for film in split_films(recipe, films_without_test()))
    expected = {"test": 120, "val": 90, "calibration": 120, "train": 270}
    assert {split: pytest.approx(n, rel=0.1) for split, n in expected.items()} == counts


def test_a_second_test_split_is_refused():
    films = [*films_without_test(), Film(Path("t"), "t", 1, "t", "test")]
    with pytest.raises(RecipeError, match=r"must be 0 .* got 0.2 beside 1 test films"):
        split_films(recipe_with(test_fraction=0.2), films)


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({"test_fraction": 0.51}, r"data.test_fraction must be in \[0, 0.5\], got 0.51"),
        ({"test_fraction": -0.1}, r"data.test_fraction must be in \[0, 0.5\], got -0.1"),
        ({"test_fraction": 0.2, "val_fraction": 0.45}, "a half of what data.test_fraction leaves"),
        (
            {"test_fraction": 0.3, "val_fraction": 0.35},
            r"n \+ .* at most 0.6, got 0.65",
        ),
        ({"val_fraction": 0.3, "calibration_fraction": 0.4}, "at most 0.6, got 0.7"),
    ],
)
def test_shares_that_leave_too_little_are_refused(keys, message):
    with pytest.raises(ValueError, match=message):
        recipe_with(**keys)


@pytest.mark.parametrize(
    ("fold", "message"),
    [
        ((0, 1), "data.fold.count must be at least 2, got 1"),
        ((5, 5), r"data.fold.index must be in \[0, 5\), got 5"),
        ((-1, 5), r"data.fold.index must be in \[0, 5\), got -1"),
    ],
)
def test_a_fold_out_of_range_is_refused(fold, message):
    with pytest.raises(ValueError, match=message):
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
def test_whatever_a_recipe_allows_can_be_carved(keys):
    split = split_films(recipe_with(**keys), films_without_test())
    counts = Counter(film.split for film in split)
    for split_name in ("test", "calibration"):
        share = keys.get(f"{split_name}_fraction", 0)
        assert counts[split_name] == pytest.approx(600 * share, rel=0.15)


def test_leakage_is_refused_in_one_line_that_says_where_it_is(tmp_path):
    films = films_without_test()
    pairs = leaked_pairs([*films, films[0].moved("test")._replace(name="again")])
    folder = RunFolder(tmp_path / "run")
    with pytest.raises(DataError) as caught:
        check_leakage(recipe_with(), folder, pairs)
    assert caught.value.exit_code == 3
    assert str(caught.value) == (
        "leakage: 1 pair of films across splits (1 of one patient, 0 of identical files), "
        f"listed in {folder.leakage_path}; mend the splits, or train all the same with "
        "data.allow_leakage: true"
    )
    check_leakage(recipe_with(allow_leakage=True), folder, pairs)
    check_leakage(recipe_with(), folder, [])


@pytest.fixture(scope="module")
def clean_root(tmp_path_factory) -> Path:
    root = tmp_path_factory.mktemp("films") / "phantom"
    Phantom(root, num_train=96, num_test=12, size=32).films()
    return root


@pytest.fixture
def root(tmp_path, clean_root) -> Path:
    """Class folders of a test's own, to plant leaks in."""
    for split in ("train", "test"):
        shutil.copytree(clean_root / split, tmp_path / "films" / split)
    return tmp_path / "films"


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
    """Give the test split the same file under a new patient, or another film of its patient."""
    source = root / name
    if patient is None:
        patient = source.name.partition("_")[0]
        source = next((root / "test" / source.parent.name).iterdir())
    shutil.copy(source, root / "test" / source.parent.name / f"{patient}_99.png")


def point_of(run_dir: Path) -> dict:
    return json.loads((run_dir / "operating_point.json").read_text())


def split_of(tmp_path: Path, root: Path) -> list[Film]:
    """What a run on these films would carve; a film more in the test changes nothing of it."""
    options = ["--config", str(tmp_path / "recipe.yaml"), "--data.source.root", str(root)]
    recipe, _, _ = parse_recipe("fit", "", options)
    return split_films(recipe, recipe.data.source.films())


def test_fit_refuses_leakage_and_goes_on_where_it_is_allowed(tmp_path, root, fit, capsys):
    leaked = next(film for film in split_of(tmp_path, root) if film.split == "train")
    plant(root, leaked.name)
    assert fit("run") == 3
    run_dir = tmp_path / "run"
    (line,) = [each for each in capsys.readouterr().err.splitlines() if "allow_leakage" in each]
    assert "leakage: 1 pair of films across splits (1 of one patient, 0 of" in line
    assert str(run_dir / "leakage.csv") in line
    assert {path.name for path in run_dir.iterdir()} == {"leakage.csv", "run.lock", "run.log"}
    with (run_dir / "leakage.csv").open(newline="") as file:
        (row,) = csv.DictReader(file)
    assert (row["reason"], row["patient"]) == ("patient", leaked.patient)
    assert (row["first_split"], row["second_split"]) == ("train", "test")

    # In the very same folder.
    assert fit("run", "--data.allow_leakage", "true") == 0
    assert "leakage, allowed by the recipe: 1 pair" in (run_dir / "run.log").read_text()
    assert (run_dir / "leakage.csv").is_file()
    # The films that chose the threshold are in no pair: what was certified stands.
    assert point_of(run_dir)["verdict"] == "certified"
    assert run(["test", "--run", str(run_dir)]) == 0
    assert "the test films' figures flatter: 1 pair" in (run_dir / "run.log").read_text()
    assert run(["report", "--run", str(run_dir)]) == 0
    assert "Patients or films stand on two sides" in (run_dir / "report.html").read_text()
    assert fit("run", "--resume", "auto") == 2
    assert "these keys changed: data.allow_leakage" in capsys.readouterr().err


def test_nothing_is_certified_where_leakage_touches_the_films_that_chose_the_threshold(
    tmp_path, root, fit
):
    leaked = next(film for film in split_of(tmp_path, root) if film.split == "calibration")
    plant(root, leaked.name, "p99999")
    assert fit("run", "--data.allow_leakage", "true") == 0
    point = point_of(tmp_path / "run")
    assert point["verdict"] == "empirical"
    assert "files of the calibration split are in others too: 1 in leakage.csv" in point["note"]


def test_a_list_of_an_earlier_start_goes_where_the_leak_is_mended(tmp_path):
    folder, films = RunFolder(tmp_path), films_without_test()
    list_leakage(folder, [])
    list_leakage(folder, leaked_pairs([*films, films[0].moved("test")]))
    assert folder.leakage_path.is_file()
    list_leakage(folder, [])
    assert not folder.leakage_path.exists()


def test_a_fold_and_a_test_split_of_its_own_are_scored_from_the_passport(tmp_path, root, fit):
    shutil.rmtree(root / "test")
    keys = ["--data.test_fraction", "0.2", "--data.calibration_fraction", "0"]
    assert fit("run", *keys, "--data.fold", "{index: 1, count: 4}") == 0
    run_dir = tmp_path / "run"
    assert run(["test", "--run", str(run_dir)]) == 0
    passport = read_split(run_dir / "split.csv", root)
    assert Counter(film.split for film in passport) == {
        split: pytest.approx(number, rel=0.15)
        for split, number in {"train": 58, "val": 19, "test": 19}.items()
    }
    with (run_dir / "predictions" / "test.csv").open(newline="") as file:
        assert {row["path"] for row in csv.DictReader(file)} == names_in(passport, "test")
    written = yaml.safe_load((run_dir / "recipe.yaml").read_text())["data"]
    assert (written["fold"], written["test_fraction"]) == ({"index": 1, "count": 4}, 0.2)
    assert run(["report", "--run", str(run_dir)]) == 0
    page = (run_dir / "report.html").read_text()
    assert "fold 1 of 4" in page
    assert "stand on two sides" not in page


def test_a_test_fraction_beside_a_test_split_is_refused_before_films_are_read(
    tmp_path, root, fit, capsys
):
    (root / "train" / "NORMAL" / "p1_1.png").write_bytes(b"no image")
    assert fit("run", "--data.test_fraction", "0.1") == 2
    assert "data.test_fraction must be 0 where the source has" in capsys.readouterr().err
