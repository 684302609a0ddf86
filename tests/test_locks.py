import errno
import fcntl
import os
import signal
import subprocess
import sys
import threading

import pytest
from messages import missing

from cxrignite.locks import hold_lock

HOLDER = (
    "import sys, time; from pathlib import Path; from cxrignite.locks import hold_lock\n"
    "lock = hold_lock(Path(sys.argv[1])); print('held', flush=True); time.sleep(60)"
)


def test_a_lock_names_its_process_and_goes_with_it(tmp_path):
    path = tmp_path / "lock"
    with hold_lock(path):
        with pytest.raises(BlockingIOError, match=f"in use by process {os.getpid()}"):
            hold_lock(path)
        assert path.read_text() == str(os.getpid())
    with hold_lock(path) as lock:
        lock.callback(path.unlink)
    assert not path.exists()


def test_a_lock_ends_with_its_process_while_a_forked_child_lives_on(tmp_path):
    path = tmp_path / "lock"
    with hold_lock(path):
        reader, writer = os.pipe()
        child = os.fork()
        if child == 0:
            os.write(writer, b"!")
            signal.pause()
        os.read(reader, 1)
        with pytest.raises(BlockingIOError):  # the child has not given up ours
            hold_lock(path)
    # Given back, as by the end of this process; the child is a worker that has not noticed.
    try:
        with hold_lock(path):
            pass
    finally:
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
        os.close(reader)
        os.close(writer)


@pytest.fixture
def holder(tmp_path):
    """Another process, which holds the lock."""
    command = [sys.executable, "-c", HOLDER, tmp_path / "lock"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "held\n"
        yield process
        process.kill()


def test_the_lock_of_a_killed_process_is_taken_over(tmp_path, holder):
    path = tmp_path / "lock"
    with pytest.raises(BlockingIOError, match=str(holder.pid)):
        hold_lock(path)
    holder.kill()
    holder.wait()
    with hold_lock(path):
        assert path.read_text() == str(os.getpid())


def test_a_process_waits_for_another_and_logs_it(tmp_path, caplog, holder):
    path = tmp_path / "lock"
    timer = threading.Timer(0.2, holder.kill)
    timer.start()
    with caplog.at_level("INFO", "cxrignite"), hold_lock(path, wait=True):
        assert path.read_text() == str(os.getpid())
    assert missing(caplog.text, [path, holder.pid]) == []


@pytest.mark.parametrize("number", [errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP])
def test_a_file_system_without_locks_is_named(tmp_path, monkeypatch, caplog, number):
    def refuse(*_):
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(fcntl, "flock", refuse)
    with pytest.raises(OSError, match=os.strerror(number)):
        hold_lock(tmp_path / "lock")
    with caplog.at_level("INFO", "cxrignite"), hold_lock(tmp_path / "lock", is_required=False):
        pass
    assert f"{tmp_path}: " in caplog.text
    assert "no locks" in caplog.text
