import subprocess
import sys
import threading

import pytest
import torch
from torch.utils.data import DataLoader, Dataset

from cxrignite.errors import CxrIgniteError
from cxrignite.workflows.session import open_session

# As torch 2.14 words it on a GPU.
CUDA = (
    "CUDA out of memory. Tried to allocate 20.00 GiB. GPU 0 has a total capacity of 7.78 GiB of "
    "which 6.51 GiB is free. Process 7 has 1.2 GiB memory in use.\nSee documentation"
)
LOADER = (
    "DataLoader worker (pid 12) is killed by signal: Bus error. It is possible that dataloader's "
    "workers are out of shared memory. Please try to raise your shared memory limit."
)


def fail(error):
    raise error


@pytest.mark.parametrize(
    ("act", "starts", "says"),
    [
        (
            lambda: fail(torch.OutOfMemoryError(CUDA)),
            "CUDA out of memory. Tried to allocate 20.00 GiB; lower data.batch_size",
            "trainer.accumulation_steps",
        ),
        (
            lambda: fail(RuntimeError(LOADER)),
            "DataLoader worker (pid 12) is killed by signal: Bus error; ",
            "data.num_workers",
        ),
        (lambda: fail(MemoryError()), "out of memory: MemoryError; lower", "data.num_workers"),
    ],
)
def test_what_a_machine_cannot_give_is_one_line_that_says_what_to_lower(act, starts, says):
    with pytest.raises(CxrIgniteError) as raised, open_session("cpu", "fast"):
        act()
    message = str(raised.value)
    assert message.startswith(starts)
    assert says in message
    assert "\n" not in message
    assert raised.value.exit_code == 1


class Broken(Dataset):
    """Films whose reading has a mistake of its own."""

    def __len__(self):
        return 2

    def __getitem__(self, index):
        raise RuntimeError("my transform is wrong")


def test_a_mistake_in_the_code_that_a_worker_runs_is_no_shortage():
    with pytest.raises(RuntimeError, match="my transform is wrong"), open_session("cpu", "fast"):
        list(DataLoader(Broken(), num_workers=1))


@pytest.mark.parametrize(
    ("asks", "says"),
    [
        (
            "torch.empty(2**50)",
            "can't allocate memory: you tried to allocate 4503599627370496 bytes",
        ),
        ("numpy.ones(2**50)", "Unable to allocate 8.00 PiB"),
    ],
)
def test_memory_that_the_machine_does_not_have_is_one_line(asks, says):
    # In a process of its own: after a refusal glibc takes other arenas, for as long as it lives.
    script = f"""
import numpy, torch
from cxrignite.workflows.session import open_session
with open_session("cpu", "fast"):
    {asks}
"""
    ended = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, timeout=120
    )
    last = ended.stderr.splitlines()[-1]
    assert last.startswith(f"cxrignite.errors.CxrIgniteError: out of memory: {says}")
    assert last.endswith("lower data.batch_size, data.num_workers or data.image_size")


def test_a_disk_that_is_full_under_the_event_file_is_told_once(tmp_path):
    # In a process of its own, as the limit is of the whole process.
    script = """
import resource, sys
from torch.utils import tensorboard  # before files are limited, byte code too
from cxrignite.errors import CxrIgniteError
from cxrignite.handlers import BoardWriter
from cxrignite.workflows.session import open_session
resource.setrlimit(resource.RLIMIT_FSIZE, (2000, 2000))
board = BoardWriter(sys.argv[1])
try:
    with open_session("cpu", "fast"):
        for step in range(10_000):
            board.add_scalar("loss", 1.0, step)
except CxrIgniteError as error:
    board.close()
    sys.exit(str(error))
"""
    ended = subprocess.run(
        [sys.executable, "-B", "-c", script, str(tmp_path)],
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert ended.returncode == 1
    assert "Traceback" not in ended.stderr
    assert ended.stderr.splitlines()[-1].startswith(f"cannot write into {tmp_path} (")


def test_failures_of_other_threads_are_told(monkeypatch):
    told = []
    monkeypatch.setattr(threading, "excepthook", told.append)
    with open_session("cpu", "fast"):
        thread = threading.Thread(target=fail, args=[OSError("of a thread of its own")])
        thread.start()
        thread.join()
    assert [str(failure.exc_value) for failure in told] == ["of a thread of its own"]
    assert threading.excepthook == told.append


def test_other_failures_pass_as_they_are():
    error = RuntimeError("shapes do not match")
    with pytest.raises(RuntimeError) as raised, open_session("cpu", "fast"):
        fail(error)
    assert raised.value is error
