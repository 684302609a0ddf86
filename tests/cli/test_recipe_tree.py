from pathlib import Path

import pytest
from messages import refused

from cxrignite.cli.recipe_tree import Node, lay_over, option_node, options_of, read_recipe_file
from cxrignite.errors import RecipeError, suggestion

CLASS_KEYS = ["optimizer", "trainer.handlers"]


@pytest.fixture
def tree(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("a.yaml").write_text(
        "optimizer:\n  class_path: AdamW\n  init_args:\n    lr: 0.1\ntrainer: {handlers: [A]}\n"
    )
    return read_recipe_file(Path("a.yaml"))


def test_each_value_has_its_line(tree):
    assert tree.place_of("lr") == "a.yaml:4: "
    assert tree.place_of("optimizer.unknown") == "a.yaml:1: "
    assert tree.place_of("nothing") == ""


def test_an_option_is_laid_over_a_file_and_takes_its_place(tree):
    tree = lay_over(tree, option_node("optimizer.lr", "0.2", CLASS_KEYS))
    optimizer = {"class_path": "AdamW", "init_args": {"lr": "0.2"}}
    assert tree.plain()["optimizer"] == optimizer
    assert tree.place_of("lr") == tree.place_of("optimizer") == ""


def test_settings_of_another_class_are_inherited(tree):
    tree = lay_over(tree, option_node("optimizer", "SGD", CLASS_KEYS))
    found = dict(tree.below())
    assert found["optimizer.class_path"].value == "SGD"
    assert found["optimizer.init_args.lr"].inherited


@pytest.mark.parametrize("text", ["B", "[B]"])
def test_a_plus_appends_to_a_list_that_may_not_be_there(text, tree):
    option = option_node("trainer.handlers+", text, CLASS_KEYS)
    assert lay_over(tree, option).plain()["trainer"] == {"handlers": ["A", "B"]}
    assert lay_over(Node({}), option).plain() == {"trainer": {"handlers": ["B"]}}


def test_a_setting_of_a_list_goes_to_its_last_class(tree):
    tree = lay_over(tree, option_node("trainer.handlers.n", "3", CLASS_KEYS))
    [handler] = tree.plain()["trainer"]["handlers"]
    assert handler == {"class_path": "A", "init_args": {"n": "3"}}


def split(*argv):
    return options_of(argv, ["help"], ["files"], ["help", "files", "seed"], CLASS_KEYS)


def test_a_command_line_is_split_into_options():
    argv = ("--seed=3", "--files", "a", "b", "--optimizer.lr", "-1", "--help")
    options = [("seed", ["3"]), ("files", ["a", "b"]), ("optimizer.lr", ["-1"]), ("help", [])]
    assert split(*argv) == options


@pytest.mark.parametrize(
    ("argv", "facts"),
    [
        (["--sede", "3"], ["'--sede'", "'--seed'"]),
        (["-seed", "3"], ["'-seed'", "'--seed'"]),
        (["--seed"], ["--seed", "value"]),
        (["--seed", "3", "4"], ["'4'"]),
    ],
)
def test_a_word_that_is_no_option_is_refused(argv, facts):
    with refused(RecipeError, *facts):
        split(*argv)


def test_the_nearest_name_is_suggested_or_all_are_listed():
    assert suggestion("epochs", ["trainer.max_epochs"], "--").endswith("'--trainer.max_epochs'?")
    assert suggestion("SEED", ["seed"]).endswith("'seed'?")
    assert suggestion("x", ["b", "a"]) == "; available: a, b"
    assert suggestion("x", ["b", "a"], lists=False) == ""
    assert suggestion("conv", ["b.1.conv", "a.conv"]).endswith("'a.conv'?")
    assert suggestion("x", [f"name{at}" for at in range(13)]).endswith(", ...")
