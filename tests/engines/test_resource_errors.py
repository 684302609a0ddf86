import threading

import pytest
import torch
from messages import line_with, missing, refused
from torch.utils.data import DataLoader, Dataset

from cxrignite.engines.session import open_session
from cxrignite.errors import CxrIgniteError

# As torch 2.14 words it on a GPU.
CUDA = (
    "CUDA out of memory. Tried to allocate 20.00 GiB. GPU 0 has a total capacity of 7.78 GiB of "
    "which 6.51 GiB is free. Process 7 has 1.2 GiB memory in use.\nSee documentation"
)
LOADER = (
    "DataLoader worker (pid 12) is killed by signal: Bus error. It is possible that dataloader's "
    "workers are out of shared memory. Please try to raise your shared memory limit."
)
# The same, where its silence is noticed before the signal.
EXITED = "DataLoader worker (pid(s) 12) exited unexpectedly"
OF_WORKER = "Caught MemoryError in DataLoader worker process 0.\nOriginal Traceback:\nMemoryError\n"


def fail(error):
    raise error


@pytest.mark.parametrize(
    ("error", "facts", "left_out"),
    [
        (
            torch.OutOfMemoryError(CUDA),
            ["CUDA", "20.00 GiB", "data.batch_size", "trainer.accumulation_steps"],
            "7.78 GiB",
        ),
        (RuntimeError(LOADER), ["(pid 12)", "data.num_workers"], "Please"),
        (RuntimeError(EXITED), ["(pid 12)", "data.num_workers"], "unexpectedly"),
        (MemoryError(), ["MemoryError", "data.batch_size", "data.num_workers"], None),
        (RuntimeError("could not create a memory object"), ["memory object", "batch_size"], None),
        (RuntimeError("could not create a primitive"), ["primitive", "data.batch_size"], None),
        (OSError(12, "Cannot allocate memory"), ["allocate memory", "data.num_workers"], None),
        (MemoryError(OF_WORKER), ["MemoryError", "data.batch_size"], "Caught"),
    ],
)
def test_what_a_machine_cannot_give_is_one_line_that_says_what_to_lower(error, facts, left_out):
    with refused(CxrIgniteError, *facts) as caught, open_session("cpu", "fast"):
        fail(error)
    assert left_out is None or left_out not in str(caught.value)
    assert caught.value.exit_code == 1


class Broken(Dataset):
    """Images whose reading has a mistake of its own."""

    def __len__(self):
        return 2

    def __getitem__(self, index):
        raise RuntimeError("my transform")


@pytest.mark.integration
def test_a_mistake_in_the_code_that_a_worker_runs_is_no_shortage():
    with pytest.raises(RuntimeError, match="my transform"), open_session("cpu", "fast"):
        list(DataLoader(Broken(), num_workers=1))


@pytest.mark.integration
def test_a_killed_worker_is_not_taken_by_code_that_blames_what_it_works_on(python):
    # In a process of its own, whose worker is killed while it does something else.
    script = """
import os, signal, time, torch
from torch.utils.data import DataLoader
from cxrignite.errors import CxrIgniteError
from cxrignite.engines.session import open_session
try:
    with open_session("cpu", "fast"):
        batches = iter(DataLoader(torch.zeros(999, 1), num_workers=1))
        os.kill(batches._workers[0].pid, signal.SIGKILL)
        for _ in range(100):
            try:
                time.sleep(0.1)
            except Exception as error:
                print("this image is damaged:", error)
except CxrIgniteError as error:
    print(error)
"""
    done = python("-c", script)
    assert done.returncode == 0, done.stderr
    (printed,) = done.stdout.splitlines()
    line_with(printed, "worker", "data.num_workers")


@pytest.mark.integration
def test_memory_that_the_machine_does_not_have_is_one_line(python):
    # In a process of its own: after a refusal glibc takes other arenas, for as long as it lives.
    script = """
import numpy, torch
from cxrignite.errors import CxrIgniteError
from cxrignite.engines.session import open_session
for asks in (lambda: torch.empty(2**50), lambda: numpy.ones(2**50)):
    try:
        with open_session("cpu", "fast"):
            asks()
    except CxrIgniteError as error:
        print(error)
"""
    done = python("-c", script)
    assert done.returncode == 0, done.stderr
    printed = done.stdout.splitlines()
    remedies = ["data.batch_size", "data.num_workers", "data.image_size"]
    for line, amount in zip(printed, ("4503599627370496 bytes", "8.00 PiB"), strict=True):
        assert missing(line, [amount, *remedies]) == []


@pytest.mark.integration
def test_a_disk_that_is_full_under_the_event_file_is_reported_once(python, tmp_path):
    # In a process of its own, as the limit is of the whole process.
    script = """
import resource, sys
from cxrignite.errors import CxrIgniteError
from cxrignite.handlers import TensorBoardWriter
from cxrignite.engines.session import open_session
resource.setrlimit(resource.RLIMIT_FSIZE, (2000, 2000))
board = TensorBoardWriter(sys.argv[1])
try:
    with open_session("cpu", "fast"):
        for step in range(10_000):
            board.add_scalar("loss", 1.0, step)
except CxrIgniteError as error:
    board.close()
    sys.exit(str(error))
"""
    done = python("-c", script, tmp_path / "board")
    assert done.returncode == 1
    line_with(done.stderr.splitlines()[-1], tmp_path / "board", "free")
    assert "Traceback" not in done.stderr
    assert sum(not missing(line, ["free"]) for line in done.stderr.splitlines()) == 1


def test_failures_of_other_threads_are_reported(monkeypatch):
    printed = []
    monkeypatch.setattr(threading, "excepthook", printed.append)
    error = OSError("of another thread")
    with open_session("cpu", "fast"):
        thread = threading.Thread(target=fail, args=[error])
        thread.start()
        thread.join()
    assert [failure.exc_value for failure in printed] == [error]
    assert threading.excepthook == printed.append


def test_other_failures_pass_as_they_are():
    error = RuntimeError("shapes do not match")
    with pytest.raises(RuntimeError) as raised, open_session("cpu", "fast"):
        fail(error)
    assert raised.value is error
