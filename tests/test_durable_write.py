from __future__ import annotations

import errno
import os
import resource
import shutil
import subprocess

import pytest
from messages import refused

from cxrignite.durable_write import (
    duplicate_durably,
    sweep_temporaries,
    temporary_path,
    write_durably,
    write_folder_durably,
)
from cxrignite.errors import CxrIgniteError


def dead_pid() -> int:
    process = subprocess.Popen(["true"])
    process.wait()
    return process.pid


def test_a_file_is_replaced_and_folders_are_made(tmp_path):
    path = tmp_path / "a" / "b" / "file.txt"
    write_durably(path, b"old")
    write_durably(path, b"new")
    assert path.read_bytes() == b"new"
    assert list(path.parent.iterdir()) == [path]


@pytest.mark.parametrize("call", ["fsync", "replace"])
def test_a_disk_that_refuses_leaves_the_old_file_and_no_litter(call, tmp_path, monkeypatch):
    path = tmp_path / "file.txt"
    write_durably(path, b"old")

    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, call, full)
    with refused(CxrIgniteError, "file.txt", "3 bytes", "No space left") as caught:
        write_durably(path, b"new")
    assert caught.value.exit_code == 1
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]


def test_a_real_limit_on_the_file_size_acts_the_same(tmp_path):
    path = tmp_path / "file.txt"
    write_durably(path, b"old")
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, limits[1]))
    try:
        with refused(CxrIgniteError, "File too large"):
            write_durably(path, b"x" * 100_000)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]


def test_an_interrupt_leaves_the_old_file_and_no_litter(tmp_path, monkeypatch):
    path = tmp_path / "file.txt"
    write_durably(path, b"old")

    def interrupt(_):
        raise KeyboardInterrupt

    monkeypatch.setattr(os, "fsync", interrupt)
    with pytest.raises(KeyboardInterrupt):
        write_durably(path, b"new")
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]


def test_only_temporaries_of_dead_processes_are_swept(tmp_path):
    dead, alive = dead_pid(), os.getppid()
    names = [f".a.pt.{dead}.tmp", f".b.json.{dead}.tmp", f".a.pt.{os.getpid()}.tmp"]
    kept = [f".a.pt.{alive}.tmp", "a.tmp", ".a.tmp", ".a.x.tmp", f"a.pt.{dead}.tmp"]
    for name in names + kept:
        (tmp_path / name).touch()
    assert sorted(path.name for path in sweep_temporaries(tmp_path)) == sorted(names)
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(kept)


def test_writing_a_file_sweeps_its_own_stale_temporaries_only(tmp_path):
    dead = dead_pid()
    (tmp_path / f".a.{dead}.tmp").touch()
    (tmp_path / f".b.{dead}.tmp").touch()
    write_durably(tmp_path / "a", b"")
    assert sorted(path.name for path in tmp_path.iterdir()) == [f".b.{dead}.tmp", "a"]


@pytest.mark.parametrize("has_links", [True, False])
def test_a_duplicate_outlives_its_source(has_links, tmp_path, monkeypatch):
    def refuse(*_):
        raise OSError(errno.EPERM, "no hard links here")

    if not has_links:
        monkeypatch.setattr(os, "link", refuse)
    source, target = tmp_path / "a", tmp_path / "b"
    source.write_bytes(b"one")
    target.write_bytes(b"zero")
    duplicate_durably(source, target)
    duplicate_durably(source, target)
    write_durably(source, b"two")
    assert target.read_bytes() == b"one"
    assert sorted(tmp_path.iterdir()) == [source, target]


def test_a_temporary_is_hidden_and_lies_beside_its_file(tmp_path):
    assert temporary_path(tmp_path / "a.pt") == tmp_path / f".a.pt.{os.getpid()}.tmp"


FILES = {"a.bin": b"a" * 1000, "b.json": b"b"}


def content_of(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_a_folder_is_written_into_a_new_or_an_empty_one(tmp_path):
    for name in ("new/folder", "empty"):
        (tmp_path / "empty").mkdir(exist_ok=True)
        write_folder_durably(tmp_path / name, FILES)
        assert content_of(tmp_path / name) == FILES
        assert list((tmp_path / name).parent.glob(".*")) == []


def test_a_folder_with_files_stays_as_it_is(tmp_path):
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "notes.txt").write_text("mine")
    with refused(CxrIgniteError, "mine", "not empty"):
        write_folder_durably(tmp_path / "mine", FILES)
    assert content_of(tmp_path / "mine") == {"notes.txt": b"mine"}
    assert list(tmp_path.iterdir()) == [tmp_path / "mine"]


@pytest.mark.parametrize("is_killed", [False, True])
def test_a_folder_is_complete_or_absent_at_each_call_that_ends_the_writing(
    is_killed, tmp_path, monkeypatch
):
    """A full disk removes what was written; a killed process leaves it for the next one."""
    if is_killed:
        monkeypatch.setattr(shutil, "rmtree", lambda *_, **__: None)
    num_ended = 0
    for last in range(100):
        calls = 0

        def ending(original, last=last):
            def call(*arguments, **options):
                nonlocal calls
                calls += 1
                if calls > last:
                    raise OSError(errno.ENOSPC, "No space left on device")
                return original(*arguments, **options)

            return call

        with monkeypatch.context() as patch:
            for name in ("fsync", "replace", "mkdir"):
                patch.setattr(os, name, ending(getattr(os, name)))
            try:
                write_folder_durably(tmp_path / "folder", FILES)
            except CxrIgniteError as error:
                assert "folder" in str(error)  # noqa: PT017
                num_ended += 1
        if (tmp_path / "folder").exists():
            assert content_of(tmp_path / "folder") == FILES
            break
        assert is_killed or list(tmp_path.iterdir()) == []
    assert num_ended > 5
    monkeypatch.undo()
    write_folder_durably(tmp_path / "other" / "folder", FILES)
    if not is_killed:
        assert {path.name for path in tmp_path.iterdir()} == {"folder", "other"}


def test_folders_of_dead_processes_are_removed(tmp_path):
    left = tmp_path / f".folder.{dead_pid()}.tmp"
    left.mkdir()
    (left / "a.bin").write_bytes(b"a")
    write_folder_durably(tmp_path / "folder", FILES)
    assert list(tmp_path.iterdir()) == [tmp_path / "folder"]
