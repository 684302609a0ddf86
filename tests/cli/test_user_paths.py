from pathlib import Path

import pytest
from messages import refused

from cxrignite.cli.parsing import parse_recipe
from cxrignite.cli.shipped_recipes import recipe_path
from cxrignite.cli.user_paths import user_path
from cxrignite.errors import RecipeError


@pytest.fixture(autouse=True)
def environment(monkeypatch, tmp_path):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("IMAGES", "/images")
    monkeypatch.delenv("NOBODY", raising=False)
    monkeypatch.chdir(tmp_path)


@pytest.mark.parametrize(
    ("written", "meant"),
    [
        ("~/x.png", "HOME/x.png"),
        ("$IMAGES/x", "/images/x"),
        ("${IMAGES}/**/*.png", "/images/**/*.png"),
        ("a/$NOBODY/x", "a/$NOBODY/x"),
        ("a/~/$", "a/~/$"),
    ],
)
def test_a_path_is_as_a_shell_would_have_it(written, meant, tmp_path):
    assert user_path(written) == Path(meant.replace("HOME", str(tmp_path)))


def test_a_file_that_is_called_so_is_meant(tmp_path):
    (tmp_path / "$IMAGES").mkdir()
    assert user_path("$IMAGES") == Path("$IMAGES")


def test_paths_of_recipes_and_options_are_expanded_and_the_recipe_keeps_them(tmp_path):
    (tmp_path / "more.yaml").write_text(
        "run_dir: $IMAGES/run\n"
        "data: {source: {class_path: ClassFolders, init_args: {root: ~/images}}, cache: ~/caches}\n"
        "model: {class_path: TransferClassifier, init_args: {arch: resnet18, weights: ~/w.pt}}\n"
    )
    recipe, text, options = parse_recipe(
        "audit", ["--config=~/more.yaml", "--output_dir", "$IMAGES/audit"]
    )
    assert recipe.data.source.root == tmp_path / "images"
    assert (recipe.run_dir, recipe.data.cache) == (Path("/images/run"), tmp_path / "caches")
    assert options["output_dir"] == Path("/images/audit")
    assert recipe.model.keywords["weights"] == f"{tmp_path}/w.pt"
    for kept in (f"root: {tmp_path}/images", f"cache: {tmp_path}/caches", "run_dir: /images/run"):
        assert kept in text


def source_of(*argv):
    return parse_recipe("audit", list(argv))[0].data.source


def test_a_source_of_another_class_does_not_take_over_the_root(tmp_path):
    quickstart = ("--config", str(recipe_path("quickstart")))
    other = tmp_path / "other.yaml"
    other.write_text("data: {source: {class_path: ClassFolders, init_args: {classes: [A, B]}}}\n")
    for argv in (
        ("--data.source", "ClassFolders"),
        ("--data.source.class_path=ClassFolders",),
        ("--config", str(other)),
    ):
        with refused(RecipeError, "data.source", "--data.source.root"):
            source_of(*quickstart, *argv)
    assert source_of(*quickstart, "--data.source", "Phantom").root == Path("data/phantom")
    (tmp_path / "a.csv").touch()
    manifest = f"{{class_path: Manifest, init_args: {{path: {tmp_path / 'a.csv'}}}}}"
    assert source_of(*quickstart, "--data.source", manifest).root == tmp_path
    chosen = source_of(*quickstart, "--data.source", "ClassFolders", "--data.source.root", "x")
    assert chosen.root == Path("x")
    other.write_text("data: {source: {class_path: ClassFolders, init_args: {root: y}}}\n")
    assert source_of(*quickstart, "--config", str(other)).root == Path("y")
