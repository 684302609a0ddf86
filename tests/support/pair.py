"""Two real processes of one gloo group, forked from the server."""

import inspect
import time
from collections.abc import Callable
from contextlib import ExitStack, closing
from pathlib import Path
from typing import Any

import torch
from forked import Forked

# As `torch.multiprocessing.spawn` does it; the function is looked up in its file, not pickled.
PROGRAM = """
import runpy, sys
import torch, torch.distributed as dist

file, name, folder, rank, support = sys.argv[1:]
sys.path.insert(0, support)
dist.init_process_group("gloo", f"file://{folder}/store", rank=int(rank), world_size=2)
torch.save(runpy.run_path(file)[name](int(rank)), f"{folder}/{rank}.pt")
dist.destroy_process_group()
"""


def run_pair(function: Callable[[int], Any], folder: Path) -> list[Any]:
    """Call a function of a test module with the rank in each of two processes.

    The test needs the fixture `_server`.

    Args:
        function: What it returns can be loaded by `torch.load` with weights only.
        folder: An empty one, the working folder of both.

    Returns:
        What the first and what the second process has returned.
    """
    support = Path(__file__).parent
    with ExitStack() as stack:
        both = []
        for rank in (0, 1):
            words = [inspect.getfile(function), function.__name__, folder, rank, support]
            settings = {"cwd": folder, "environment": {"GLOO_SOCKET_IFNAME": "lo"}}
            both.append(stack.enter_context(closing(Forked(["-c", PROGRAM, *words], **settings))))
        end = time.monotonic() + 120
        # Where one has failed the other would wait for it for long.
        while sum(process.poll() == 0 for process in both) < 2:
            errors = "\n".join(process.errors for process in both)
            assert not any(process.returncode for process in both), errors
            assert time.monotonic() < end, f"two minutes are over\n{errors}"
            time.sleep(0.01)
    return [torch.load(folder / f"{rank}.pt", weights_only=True) for rank in (0, 1)]
