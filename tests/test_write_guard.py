"""Parts of a recipe write below the run folder, whatever their settings are called."""

import os
import pickle
import shutil
import sqlite3
import sys
import tempfile
from pathlib import Path

import pytest
import torch
from messages import refused
from monai.transforms import SaveImage

from cxrignite.data.transforms import apply_transforms
from cxrignite.errors import RecipeError
from cxrignite.write_guard import WRITABLE, part_runs, parts_limited


@pytest.fixture
def run(tmp_path):
    folder = tmp_path / "run"
    folder.mkdir()
    (folder / "own").write_text("old")
    (tmp_path / "foreign").write_text("old")
    (tmp_path / "empty").mkdir()
    with parts_limited(folder):
        yield folder


def unchanged(tmp_path):
    return (tmp_path / "foreign").read_text() == "old" and {
        each.name for each in tmp_path.iterdir()
    } == {"run", "foreign", "empty"}


WAYS = {
    "open": lambda place: place.write_text("new"),
    "append": lambda place: place.open("a").close(),
    "descriptor": lambda place: os.open(place, os.O_WRONLY),
    "bytes": lambda place: os.open(os.fsencode(place), os.O_RDWR),
    "truncate": lambda place: os.truncate(place, 0),
    "remove": os.remove,
    "rename to": lambda place: os.replace(place.parent / "run" / "own", place),
    "rename from": lambda place: os.rename(place, place.parent / "run" / "new"),
    "second name": lambda place: os.link(place, place.parent / "run" / "new"),
    "rights": lambda place: os.chmod(place, 0),
    "folder": lambda place: os.makedirs(place.parent / "new" / "more"),
    "link": lambda place: os.symlink(place, place.parent / "new"),
    "removed folder": lambda place: os.rmdir(place.parent / "empty"),
    "removed tree": lambda place: shutil.rmtree(place.parent / "empty"),
    "database": lambda place: sqlite3.connect(place.parent / "new"),
    "through a link": lambda place: (place.parent / "run" / ".." / "foreign").write_text(""),
}


@pytest.mark.parametrize("way", WAYS)
def test_a_part_cannot_change_what_lies_elsewhere(run, tmp_path, way):
    with pytest.raises(RecipeError, match=WRITABLE), part_runs():
        WAYS[way](tmp_path / "foreign")
    assert unchanged(tmp_path)


def test_the_error_names_the_folder_the_variable_and_the_file(run, tmp_path):
    with refused(RecipeError, run, WRITABLE, tmp_path / "foreign"), part_runs():
        (tmp_path / "foreign").write_text("new")


def test_an_error_that_a_library_wraps_is_still_found(run, tmp_path):
    def wrapping():
        try:
            (tmp_path / "foreign").write_text("new")
        except OSError as error:
            raise RuntimeError("applying transform failed") from error

    with pytest.raises(RecipeError, match=WRITABLE), part_runs():
        wrapping()


def test_a_transform_that_tries_several_ways_is_refused(run, tmp_path):
    """MONAI joins the postfix to the path, and takes a refusal for a writer that is missing."""
    settings = {"output_ext": ".png", "writer": "PILWriter", "separate_folder": False}
    save = SaveImage(run, output_postfix="/../../../escaped", print_log=False, **settings)
    with refused(RecipeError, WRITABLE, "escaped.png"):
        apply_transforms([save], torch.zeros(1, 8, 8, dtype=torch.uint8), "a.png")
    assert list(tmp_path.parent.glob("escaped*")) == []


def test_a_library_can_do_without_a_file_that_is_refused(run, tmp_path):
    with part_runs():
        try:
            (tmp_path / "foreign").write_text("new")
        except PermissionError:
            (run / "instead").write_text("new")
    assert unchanged(tmp_path)


def test_a_part_may_read_everything_and_write_below_the_run_folder(run, tmp_path):
    with part_runs():
        assert (tmp_path / "foreign").read_text() == "old"
        (run / "more").mkdir()
        (run / "more" / "a.csv").write_text("new")
        os.replace(run / "more" / "a.csv", run / "own")
        shutil.rmtree(run / "more")
        with tempfile.TemporaryDirectory() as folder:
            Path(folder, "a").write_text("new")
        with open(os.devnull, "w") as nothing:
            nothing.write("new")
    assert (run / "own").read_text() == "new"


def test_the_environment_and_libraries_may_name_more(tmp_path, monkeypatch):
    monkeypatch.setenv(WRITABLE, os.pathsep.join(["/nowhere", str(tmp_path / "a")]))
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "b"))
    with parts_limited(tmp_path / "run"), part_runs():
        for name in ("run", "a", "b"):
            (tmp_path / name).mkdir()
            (tmp_path / name / "file").write_text("new")
        with pytest.raises(PermissionError, match=WRITABLE):
            (tmp_path / "c").mkdir()


def test_other_code_writes_where_it_likes(run, tmp_path):
    (tmp_path / "foreign").write_text("new")
    with part_runs():
        pass
    (tmp_path / "foreign").write_text("newer")


def test_without_a_limit_parts_are_not_guarded(tmp_path):
    with part_runs():
        (tmp_path / "foreign").write_text("new")
    assert (tmp_path / "foreign").read_text() == "new"


def test_a_forked_worker_is_guarded_too(run, tmp_path):
    reader, writer = os.pipe()
    with part_runs():
        pid = os.fork()
        if pid == 0:
            try:
                (tmp_path / "foreign").write_text("new")
            except BaseException as error:
                os.write(writer, pickle.dumps(type(error).__name__))
            os._exit(0)
    os.waitpid(pid, 0)
    os.close(writer)
    with os.fdopen(reader, "rb") as results:
        assert pickle.load(results) == "PermissionError"
    assert unchanged(tmp_path)


def test_only_one_hook_is_added(run, tmp_path, monkeypatch):
    added = []
    monkeypatch.setattr(sys, "addaudithook", added.append)
    with parts_limited(tmp_path / "other"):
        pass
    assert added == []
