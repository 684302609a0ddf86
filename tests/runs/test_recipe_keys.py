import pytest

from cxrignite.runs.recipe_keys import flatten_recipe, may_change


@pytest.mark.parametrize(
    "key",
    [
        *("explain", "explain.threshold", "explain.kinds.0", "run_dir", "trainer.max_epochs"),
        *("data.num_workers", "data.prefetch_factor", "data.worker_timeout"),
        *("data.source.init_args.root", "data.source.init_args.path"),
    ],
)
def test_what_does_not_belong_to_the_run_may_change(key):
    assert may_change(key)


@pytest.mark.parametrize(
    "key",
    [
        "data.source.class_path",
        "data.source.init_args.classes.0",
        "data.allow_leakage",
        "data.fold",
        "data.fold.index",
        "data.test_fraction",
    ],
)
def test_what_divides_the_images_belongs_to_the_run(key):
    assert not may_change(key)


@pytest.mark.parametrize(
    "key", ["", "explainer", "data", "data.cached", "trainer", "trainer.max_epochs_2", "seed"]
)
def test_a_key_that_only_begins_alike_may_not(key):
    assert not may_change(key)


def test_every_leaf_has_its_dotted_key():
    recipe = {"a": {"b": {"c": None}}, "d": [1, {"e": [2.5, "x"]}], "f": False}
    assert flatten_recipe(recipe) == {
        "a.b.c": None,
        "d.0": 1,
        "d.1.e.0": 2.5,
        "d.1.e.1": "x",
        "f": False,
    }


def test_an_empty_part_is_a_leaf_so_that_filling_it_is_a_change():
    assert flatten_recipe({"a": {}, "b": {"c": []}}) == {"a": {}, "b.c": []}


def test_a_part_of_a_recipe_stands_under_its_own_key():
    assert flatten_recipe({"max_epochs": 3}, "trainer") == {"trainer.max_epochs": 3}
    assert flatten_recipe(7, "seed") == {"seed": 7}
