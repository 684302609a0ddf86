"""A recipe's parts write below its run folder."""

import pytest
from messages import refused

from cxrignite.cli.parsing import parse_recipe
from cxrignite.cli.written_paths import check_written_paths
from cxrignite.errors import RecipeError
from cxrignite.write_guard import WRITABLE


def settings_of(run_dir, handlers=(), preprocess=()):
    data = {"preprocess": list(preprocess), "augment": [], "batch_augment": []}
    handled = {"trainer": {"handlers": list(handlers)}, "validator": {"handlers": []}}
    return {"run_dir": run_dir, "data": data, **handled}


def handler(**init_args):
    return {"class_path": "my.Handler", "init_args": init_args}


@pytest.mark.parametrize(
    "setting",
    [
        {"path": "~/anything"},
        {"log_dir": "/somewhere"},
        {"output_dir": "./"},
        {"path": "RUN/../other"},
        {"layout": {"class_path": "my.Layout", "init_args": {"directory": "/somewhere"}}},
        {"filename": "history.csv"},
        {"output_dir": "RUN", "filename": "../history.csv"},
    ],
)
def test_a_place_outside_of_the_run_folder_is_refused(tmp_path, setting):
    run = tmp_path / "run"
    setting = {
        name: value.replace("RUN", str(run)) if isinstance(value, str) else value
        for name, value in setting.items()
    }
    with refused(RecipeError, "trainer.handlers[0]", run, WRITABLE):
        check_written_paths(settings_of(run, [handler(**setting)]))


def test_places_below_it_and_other_settings_are_allowed(tmp_path):
    run = tmp_path / "run"
    inside = handler(output_dir=str(run / "more"), filename="a.csv", name="anything", path=None)
    check_written_paths(settings_of(run, [inside], [handler(data_root_dir="", mode="nearest")]))


def test_a_link_out_of_the_run_folder_leads_outside(tmp_path):
    run = tmp_path / "run"
    run.mkdir()
    (run / "link").symlink_to(tmp_path)
    with refused(RecipeError, "data.preprocess[0].path", run / "link" / "a.csv"):
        check_written_paths(settings_of(run, preprocess=[handler(path=run / "link" / "a.csv")]))


def test_the_environment_allows_more(tmp_path, monkeypatch):
    monkeypatch.setenv(WRITABLE, f"/nowhere:{tmp_path}")
    check_written_paths(settings_of(tmp_path / "run", [handler(path=str(tmp_path / "a.csv"))]))


@pytest.mark.parametrize(
    ("key", "part"),
    [
        ("trainer.handlers", "{class_path: HistoryWriter, init_args: {"),
        ("data.preprocess", "{class_path: SaveImage, init_args: {"),
    ],
)
def test_nothing_is_written_before_a_recipe_is_refused(tmp_path, recipes_dir, key, part):
    place = "output_dir" if "Save" in part else "path"
    argv = ["--config", str(recipes_dir / "quickstart.yaml"), "--run_dir", str(tmp_path / "run")]
    argv += [f"--{key}", f"[{part}{place}: {tmp_path / 'elsewhere'}}}}}]"]
    with refused(RecipeError, f"{key}[0].{place}", WRITABLE):
        parse_recipe("fit", argv)
    assert list(tmp_path.iterdir()) == []


def test_a_part_that_writes_elsewhere_when_it_is_made_is_refused(
    tmp_path, recipes_dir, monkeypatch
):
    """No setting names the place."""
    (tmp_path / "writing_part.py").write_text(
        "class Writer:\n"
        "    def __init__(self, prefix: str) -> None:\n"
        "        open(prefix + 'x', 'w').close()\n"
        "    def attach(self, engine) -> None: ...\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    part = f"{{class_path: writing_part.Writer, init_args: {{prefix: {tmp_path}/}}}}"
    argv = ["--config", str(recipes_dir / "quickstart.yaml"), "--run_dir", str(tmp_path / "run")]
    with refused(RecipeError, tmp_path / "x", WRITABLE):
        parse_recipe("fit", [*argv, f"--trainer.handlers=[{part}]"])
    assert not (tmp_path / "x").exists()
