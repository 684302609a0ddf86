"""Workers that hang, and machines that give them little."""

import multiprocessing
import os
import signal
import time
from pathlib import Path

import pytest
import torch
from messages import refused
from torch.utils.data import Dataset

from cxrignite.data.worker_loading import WorkerLoader, note
from cxrignite.errors import CxrIgniteError


class Images(Dataset):
    """Batches of images, one of which is on a disk that has stalled."""

    def __init__(self, stalled=None):
        self.stalled = stalled

    def __len__(self):
        return 12

    def __getitems__(self, numbers):
        for number in numbers:
            note(f"{number}.png")
            if number == self.stalled:
                time.sleep(1000)
        return torch.tensor(numbers, dtype=torch.float32)


def test_a_worker_that_hangs_is_named_with_its_file_and_ended():
    loader = WorkerLoader(Images(stalled=7), batch_size=2, num_workers=2, worker_timeout=0.5)
    batches = iter(loader)
    assert [next(batches).tolist() for _ in range(3)] == [[0, 1], [2, 3], [4, 5]]
    with refused(CxrIgniteError, "worker 1", "7.png", "0.5 s", "data.worker_timeout"):
        next(batches)
    assert multiprocessing.active_children() == []
    # Not only in the first pass: what is left of one is waited for when the next begins.
    assert next(iter(loader)).tolist() == [0, 1]
    with refused(CxrIgniteError, "worker 1", "7.png", "data.worker_timeout"):
        list(loader)
    assert multiprocessing.active_children() == []


def test_a_slow_worker_is_waited_for_and_a_pass_can_be_repeated():
    loader = WorkerLoader(Images(), batch_size=2, num_workers=2, worker_timeout=60)
    assert [batch.tolist()[0] for batch in loader] == [0, 2, 4, 6, 8, 10]
    assert next(iter(loader)).tolist() == [0, 1]
    assert len(list(loader)) == 6
    loader.close()
    assert multiprocessing.active_children() == []


LITTLE = """
import resource
from test_worker_loading import Images
from cxrignite.data.worker_loading import WorkerLoader, note
resource.setrlimit(resource.RLIMIT_NOFILE, (32, 32))
loader = WorkerLoader(Images(), batch_size=1, num_workers=2, prefetch_factor=4)
kept = [batch for _ in range(4) for batch in loader]
print(len(kept), int(sum(kept)))
"""


@pytest.mark.integration
def test_batches_need_neither_descriptors_nor_sockets_with_long_names(python, tmp_path):
    # In a process of its own, as the limit is of the whole process.
    long = tmp_path / ("a" * 60) / ("b" * 60)
    long.mkdir(parents=True)
    paths = os.pathsep.join([str(Path(__file__).parent), os.environ.get("PYTHONPATH", "")])
    done = python("-c", LITTLE, timeout=60, TMPDIR=str(long), PYTHONPATH=paths)
    assert (done.returncode, done.stdout) == (0, "48 264\n"), done.stderr


HUNG = """
import sys
from ignite.engine import Engine, Events
from test_worker_loading import Images
from cxrignite.data.worker_loading import WorkerLoader, note
from cxrignite.handlers import GracefulStop, StopRequested
loader = WorkerLoader(Images(stalled=0), batch_size=2, num_workers=2)
engine = Engine(lambda engine, batch: None)
GracefulStop().attach(engine)
@engine.on(Events.GET_BATCH_STARTED)
def tell():
    print(*[worker.pid for worker in loader._iterator._workers], flush=True)
try:
    engine.run(loader)
except StopRequested as stop:
    sys.exit(128 + stop.signal_number)
"""


@pytest.mark.integration
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_a_signal_ends_the_wait_for_a_worker_that_hangs_and_the_worker(start, number, tmp_path):
    paths = os.pathsep.join([str(Path(__file__).parent), os.environ.get("PYTHONPATH", "")])
    process = start(["-c", HUNG], cwd=tmp_path, environment={"PYTHONPATH": paths})
    process.wait_for_output("\n")
    workers = process.output.split()
    process.send_signal(number)
    assert process.wait(10) == (143 if number == signal.SIGTERM else -signal.SIGKILL)
    end = time.monotonic() + 10
    while any(Path(f"/proc/{worker}").exists() for worker in workers):
        assert time.monotonic() < end
        time.sleep(0.05)
