import json

import pytest
from messages import line_with, refused

from cxrignite import durable_write
from cxrignite.errors import DamagedRunError
from cxrignite.runs import checked_files
from cxrignite.runs.checked_files import CheckedFiles


@pytest.fixture
def files(tmp_path):
    files = CheckedFiles(tmp_path)
    files.write(tmp_path / "split.csv", b"path\n")
    files.write(tmp_path / "metrics" / "val.json", b"{}")
    return files


def test_what_was_written_last_is_believed_and_nothing_else(files):
    path = files.root / "split.csv"
    files.write(path, b"path\na.png\n")
    files.check(path, files.root / "metrics" / "val.json", files.root / "never_written.json")
    files.settle()
    for content in (b"path\n", b"path\na.png", b"", b"path\nb.png\n"):
        path.write_bytes(content)
        with refused(DamagedRunError, path, files.path):
            files.check(path)
    path.unlink()
    with refused(DamagedRunError, path, "missing"):
        files.check(path)


def test_a_file_that_no_command_wrote_is_refused(files):
    path = files.root / "metrics" / "mine.json"
    path.write_text("{}")
    with refused(DamagedRunError, path):
        files.check(path)


@pytest.mark.parametrize("change", ["write", "remove"])
def test_a_write_that_was_killed_at_any_step_leaves_a_file_that_is_believed(
    change, files, monkeypatch
):
    path = files.root / "split.csv"
    steps = 0
    for killed_at in range(1, 9):
        files.write(path, b"old")
        calls = iter(range(1, 99))

        def killed(*args, real, at=killed_at, calls=calls):
            if next(calls) == at:
                raise KeyboardInterrupt
            return real(*args)

        with monkeypatch.context() as patch:
            for module, name in ((durable_write.os, "replace"), (durable_write.os, "fsync")):
                real = getattr(module, name)
                patch.setattr(module, name, lambda *args, real=real: killed(*args, real=real))
            try:
                files.write(path, b"new") if change == "write" else files.remove(path)
                break
            except KeyboardInterrupt:
                steps += 1
        files.check(path)
        files.write(path, b"after it")
        files.settle()
        files.check(path)
        assert len(json.loads(files.path.read_text())["split.csv"]) == 1
    assert steps >= 3


@pytest.mark.parametrize("content", ["", "[]", '{"a": 1}', '{"a": []}', '{"a": [3]}', "\x00"])
def test_damaged_digests_are_refused_and_may_be_removed(content, files, caplog):
    files.path.write_text(content)
    with refused(DamagedRunError, files.path):
        files.check(files.root / "split.csv")
    files.path.unlink()
    files.check(files.root / "split.csv")
    files.warn_if_unchecked()
    line_with("\n".join(caplog.messages), files.root, files.path.name)


def test_a_folder_that_had_no_digests_gets_those_of_its_files_as_they_are(files):
    files.path.unlink()
    (files.root / "run.log").write_text("not believed")
    files.write(files.root / "evaluations.json", b"{}")
    files.settle()
    listed = json.loads(files.path.read_text())
    assert sorted(listed) == ["evaluations.json", "metrics/val.json", "split.csv"]
    assert checked_files.CheckedFiles(files.root).written_in(files.root / "metrics") == [
        files.root / "metrics" / "val.json"
    ]
