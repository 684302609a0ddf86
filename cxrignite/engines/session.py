"""Environment of a process for a run: device, other processes, profile and seed."""

from __future__ import annotations

import gc
import logging
import os
import random
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import ignite.distributed as idist
import numpy as np
import torch

from cxrignite.engines.resource_errors import resource_errors_in_one_line
from cxrignite.errors import CxrIgniteError, RecipeError

JOIN_SECONDS = 300.0
"""Maximum time that a process waits for the other processes at the start."""

DEVICE = re.compile(r"auto|cpu|mps|cuda(:\d+)?")
"""Values of `trainer.device`."""

_logger = logging.getLogger(__name__)
_OF_TORCHRUN = ("RANK", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT")
_INTERACTIVE = {"SLURM_PTY_PORT", "SLURM_PTY_WIN_COL", "SLURM_PTY_WIN_ROW"}  # of `srun --pty`


@dataclass(frozen=True)
class Session:
    """Device and rank of this process.

    Attributes:
        device: Device of this process.
        reason: Reason of the choice of the device, for the log.
        rank: Rank of this process, from 0.
        world_size: Number of processes.
    """

    device: torch.device
    reason: str = "requested"
    rank: int = 0
    world_size: int = 1

    @property
    def is_main_process(self) -> bool:
        """True on rank 0, the only process that writes files and logs."""
        return self.rank == 0


@contextmanager
def open_session(device: str, profile: str) -> Iterator[Session]:
    """Choose the device, connect to other processes if a launcher started any, set the profile.

    Args:
        device: `auto`, `cpu`, `cuda`, one GPU as `cuda:1`, or `mps`.
        profile: `fast` lets cuDNN benchmark its kernels and use the fastest; `reproducible` uses
            only deterministic kernels.

    Raises:
        RecipeError: If this machine lacks the device, or several processes shall use one GPU.
        CxrIgniteError: If memory runs out in the block, or a worker process is killed.
    """
    several = num_launched() > 1
    chosen = _find(device, several=several)
    on_cuda = chosen.type == "cuda"
    if several:
        with _torchrun_first():
            _join("nccl" if on_cuda else "gloo", num_launched())
    before = (
        torch.backends.cudnn.benchmark,
        torch.backends.cudnn.deterministic,
        torch.are_deterministic_algorithms_enabled(),
    )
    reproducible = profile == "reproducible"
    if reproducible and on_cuda:
        # cuBLAS reads this when it creates its first handle. Without it torch refuses matrix
        # products in deterministic mode.
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    torch.backends.cudnn.benchmark = not reproducible
    torch.backends.cudnn.deterministic = reproducible
    torch.use_deterministic_algorithms(reproducible)
    try:
        if several and on_cuda:
            chosen = idist.device()
        elif on_cuda and chosen.index is not None:
            torch.cuda.set_device(chosen)  # what has no device of its own uses the current one
        if idist.get_rank() > 0:
            logging.getLogger("cxrignite").setLevel(logging.WARNING)
        reason = _reason(device, chosen)
        with resource_errors_in_one_line():
            yield Session(chosen, reason, idist.get_rank(), idist.get_world_size())
        idist.barrier()  # no process may end while another still communicates with it
    finally:
        torch.backends.cudnn.benchmark, torch.backends.cudnn.deterministic = before[:2]
        torch.use_deterministic_algorithms(before[2])
        if several:
            idist.finalize()
            # Engines and handlers form reference cycles that hold the wrapped model, and the model
            # holds gloo's threads. A thread that is alive at the exit of the interpreter may abort
            # the process (SIGABRT, seen once in CI).
            gc.collect()


def _find(device: str, *, several: bool) -> torch.device:
    """Return the requested device if this machine has it."""
    if device == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    found, number = torch.device(device), device.partition(":")[2]
    if several and (number or found.type == "mps"):
        raise RecipeError(
            f"trainer.device must be auto, cpu or cuda with several processes, each of which has "
            f"its own GPU, got {device}"
        )
    if found.type == "mps":
        count = int(torch.backends.mps.is_available())
    else:
        count = torch.cuda.device_count() if found.type == "cuda" else 1
    if int(number or 0) >= count:
        has = f"has {count} of that kind" if count else f"has no {found.type.upper()} device"
        raise RecipeError(f"trainer.device is {device}, but this machine {has}; set it to auto")
    return found


def _reason(requested: str, chosen: torch.device) -> str:
    if chosen.type != "cuda":
        return "there is no CUDA device" if requested == "auto" else "requested"
    name = torch.cuda.get_device_name(chosen)
    return f"there is a CUDA device, {name}" if requested == "auto" else f"{name}, requested"


@contextmanager
def _torchrun_first() -> Iterator[None]:
    """Hide SLURM's variables if `torchrun` has set the rank of this process.

    Ignite (0.5.5) always prefers SLURM's variables, and refuses a `torchrun` that `srun` started on
    several nodes.
    """
    job = "SLURM_JOB_ID"
    hidden = os.environ.pop(job, None) if "TORCHELASTIC_RUN_ID" in os.environ else None
    try:
        yield
    finally:
        if hidden is not None:
            os.environ[job] = hidden


def num_launched() -> int:
    """Return the number of processes that `torchrun` or SLURM's `srun` started; 1 without them.

    `SLURM_NTASKS` is not used, since it is also set in a batch script. There only one process runs,
    and it would wait for tasks that are never started.

    Raises:
        RecipeError: If a variable is not a number, or `WORLD_SIZE` is set without the others.
    """
    environment = os.environ
    names = [each for each in ("WORLD_SIZE", "SLURM_STEP_NUM_TASKS") if each in environment]
    if not names:
        return 1
    name, value = names[0], environment[names[0]]
    if not (value.isdecimal() and int(value) >= 1):
        raise RecipeError(f"{name} must be the number of processes, got {value!r}; unset it")
    number = int(value)
    if name == "WORLD_SIZE":
        missing = [each for each in _OF_TORCHRUN if each not in environment]
        if number > 1 and missing:
            raise RecipeError(
                f"WORLD_SIZE is {number}, but these variables are not set: {', '.join(missing)}; "
                "start the processes with torchrun, or unset WORLD_SIZE"
            )
    elif _INTERACTIVE & environment.keys() and any(map(os.isatty, range(3))):
        # An interactive shell is the only task. An `srun` in it starts other tasks, which inherit
        # its variables but have no terminal.
        return 1
    return number


def _join(backend: str, number: int) -> None:
    """Connect to the other processes, with a time limit.

    This runs in a thread because torch waits in C++, where signals have no effect. Torch's own
    timeout is not used, since it also applies to every later collective call.

    Raises:
        CxrIgniteError: If the others do not start in time, or cannot be reached.
    """
    failures: list[BaseException] = []
    device: list[int] = []

    def initialize() -> None:
        try:
            idist.initialize(backend)
            if backend == "nccl":
                device.append(torch.cuda.current_device())  # the current device is thread-local
        except BaseException as error:
            failures.append(error)

    thread = threading.Thread(target=initialize, daemon=True)
    thread.start()
    thread.join(min(JOIN_SECONDS, 10))
    if thread.is_alive():
        _logger.info("waiting for all %d processes, at most %g s", number, JOIN_SECONDS)
        thread.join(JOIN_SECONDS - min(JOIN_SECONDS, 10))
    if thread.is_alive():
        raise CxrIgniteError(
            f"{number} processes must be started together, but the others have not connected "
            f"within {JOIN_SECONDS:g} s; start them with torchrun or srun, or unset WORLD_SIZE and "
            "SLURM_STEP_NUM_TASKS to train in one process"
        )
    for error in failures:
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise CxrIgniteError(f"the {number} processes cannot connect: {reason}") from error
    for index in device:
        torch.cuda.set_device(index)


def seed_everything(seed: int, epoch: int = 0) -> None:
    """Seed torch, numpy and random from the run's seed and the epoch.

    Call it at the start of every epoch. A resumed run then draws the same numbers as an
    uninterrupted one, and no random state has to be stored.

    Args:
        seed: Seed of the recipe.
        epoch: Number of the epoch, from 1; 0 before training.
    """
    mixed = (seed * 100_003 + epoch) % 2**63
    torch.manual_seed(mixed)
    np.random.seed(mixed % 2**32)  # noqa: NPY002  transforms of other libraries use it
    random.seed(mixed)
