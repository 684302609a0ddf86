"""One process's surroundings for a run: seed, device, processes, and the declared profile."""

from __future__ import annotations

import gc
import logging
import os
import random
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass

import ignite.distributed as idist
import numpy as np
import torch

from cxrignite.engines.resource_errors import resource_errors_in_one_line
from cxrignite.errors import CxrIgniteError, RecipeError

JOIN_SECONDS = 300.0
"""As long as a process waits for those that were started with it."""

_logger = logging.getLogger(__name__)
_OF_TORCHRUN = ("RANK", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT")
_INTERACTIVE = {"SLURM_PTY_PORT", "SLURM_PTY_WIN_COL", "SLURM_PTY_WIN_ROW"}  # of `srun --pty`


@dataclass(frozen=True)
class Session:
    """Where this process computes.

    Attributes:
        device: The device of this process.
        reason: Why this one, for a log.
        rank: This process, from 0.
        world_size: Processes in all.
    """

    device: torch.device
    reason: str = "asked for"
    rank: int = 0
    world_size: int = 1

    @property
    def is_main_process(self) -> bool:
        """Whether this process writes the files and speaks."""
        return self.rank == 0


@contextmanager
def open_session(device: str, profile: str) -> Iterator[Session]:
    """Choose the device, join other processes where a launcher started several, set the profile.

    Args:
        device: `auto`, `cpu` or `cuda`.
        profile: `fast` lets cuDNN try kernels and keep the fastest; `reproducible` takes only
            kernels that give the same bits again.

    Raises:
        RecipeError: `cuda` was asked for and there is none.
        CxrIgniteError: Memory ran out in the block, or a worker process was ended.
    """
    if device == "cuda" and not torch.cuda.is_available():
        raise RecipeError("trainer.device is cuda, and this machine has no CUDA device")
    on_cuda = device == "cuda" or (device == "auto" and torch.cuda.is_available())
    several = _num_launched(os.environ) > 1
    if several:
        with _torchrun_first():
            _join("nccl" if on_cuda else "gloo", _num_launched(os.environ))
    before = (
        torch.backends.cudnn.benchmark,
        torch.backends.cudnn.deterministic,
        torch.are_deterministic_algorithms_enabled(),
    )
    reproducible = profile == "reproducible"
    if reproducible and on_cuda:
        # cuBLAS reads this when its first handle is made; without it torch refuses to multiply.
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    torch.backends.cudnn.benchmark = not reproducible
    torch.backends.cudnn.deterministic = reproducible
    torch.use_deterministic_algorithms(reproducible)
    try:
        chosen = idist.device() if several else torch.device("cuda" if on_cuda else "cpu")
        if not on_cuda:
            chosen = torch.device("cpu")
        if idist.get_rank() > 0:
            logging.getLogger("cxrignite").setLevel(logging.WARNING)
        reason = _why(device, chosen)
        with resource_errors_in_one_line():
            yield Session(chosen, reason, idist.get_rank(), idist.get_world_size())
        idist.barrier()  # nobody leaves while another still speaks to it
    finally:
        torch.backends.cudnn.benchmark, torch.backends.cudnn.deterministic = before[:2]
        torch.use_deterministic_algorithms(before[2])
        if several:
            idist.finalize()
            # Engines and their handlers refer to each other, and one of them to the wrapped model.
            # As long as that lives, so do gloo's threads; one that is still there when the
            # interpreter ends may bring the process down (SIGABRT, seen once in CI).
            gc.collect()


def _why(asked: str, chosen: torch.device) -> str:
    if chosen.type == "cpu":
        return "there is no CUDA device" if asked == "auto" else "asked for"
    name = torch.cuda.get_device_name(chosen)
    return f"there is a CUDA device, {name}" if asked == "auto" else f"{name}, asked for"


@contextmanager
def _torchrun_first() -> Iterator[None]:
    """Hide SLURM where `torchrun` has said which process this is.

    Ignite (0.5.5) reads SLURM's variables wherever there are some, and refuses a `torchrun` that
    `srun` started on several nodes.
    """
    job = "SLURM_JOB_ID"
    hidden = os.environ.pop(job, None) if "TORCHELASTIC_RUN_ID" in os.environ else None
    try:
        yield
    finally:
        if hidden is not None:
            os.environ[job] = hidden


def _num_launched(environment: Mapping[str, str]) -> int:
    """Processes that `torchrun` or SLURM's `srun` started together; 1 if neither did.

    Not by `SLURM_NTASKS`, which a batch script has too: there one process runs, and would wait for
    tasks that nobody starts.

    Raises:
        RecipeError: A variable is no number, or `WORLD_SIZE` comes without the others.
    """
    names = [each for each in ("WORLD_SIZE", "SLURM_STEP_NUM_TASKS") if each in environment]
    if not names:
        return 1
    name, value = names[0], environment[names[0]]
    if not (value.isdecimal() and int(value) >= 1):
        raise RecipeError(f"{name} must be a number of processes, got {value!r}; unset it")
    number = int(value)
    if name == "WORLD_SIZE":
        missing = [each for each in _OF_TORCHRUN if each not in environment]
        if number > 1 and missing:
            raise RecipeError(
                f"WORLD_SIZE is {number}, and {', '.join(missing)} not set: start the processes "
                "with torchrun, or unset WORLD_SIZE"
            )
    elif _INTERACTIVE & environment.keys() and any(map(os.isatty, range(3))):
        # The shell is the one task that was started. An `srun` in it starts others, which inherit
        # its variables and have no terminal.
        return 1
    return number


def _join(backend: str, number: int) -> None:
    """Meet the other processes.

    In a thread, since torch waits in C++: a signal would come to nothing, and the time it waits is
    the time that it gives every later exchange, which may have to be long.

    Raises:
        CxrIgniteError: They do not come, or cannot be reached.
    """
    failures: list[BaseException] = []
    device: list[int] = []

    def initialize() -> None:
        try:
            idist.initialize(backend)
            if backend == "nccl":
                device.append(torch.cuda.current_device())  # which each thread has of its own
        except BaseException as error:
            failures.append(error)

    thread = threading.Thread(target=initialize, daemon=True)
    thread.start()
    thread.join(min(JOIN_SECONDS, 10))
    if thread.is_alive():
        _logger.info("waiting for the other of %d processes, %g s at most", number, JOIN_SECONDS)
        thread.join(JOIN_SECONDS - min(JOIN_SECONDS, 10))
    if thread.is_alive():
        raise CxrIgniteError(
            f"{number} processes must be started together, and the others have not come in "
            f"{JOIN_SECONDS:g} s; start them with torchrun or srun, or unset WORLD_SIZE and "
            "SLURM_STEP_NUM_TASKS to train in one"
        )
    for error in failures:
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise CxrIgniteError(f"the {number} processes cannot meet: {reason}") from error
    for index in device:
        torch.cuda.set_device(index)


def seed_everything(seed: int, epoch: int = 0) -> None:
    """Seed torch, numpy and random from the run's seed and the epoch.

    Done at the start of every epoch, a resumed run draws what an uninterrupted one would have
    drawn, and no random state has to be stored.

    Args:
        seed: The recipe's seed.
        epoch: The epoch that begins, from 1; 0 before training.
    """
    mixed = (seed * 100_003 + epoch) % 2**63
    torch.manual_seed(mixed)
    np.random.seed(mixed % 2**32)  # noqa: NPY002  transforms of other libraries draw from it
    random.seed(mixed)
