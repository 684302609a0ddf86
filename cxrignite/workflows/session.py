"""One process's surroundings for a run: seed, device, processes, and the declared profile."""

from __future__ import annotations

import gc
import logging
import os
import random
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass

import ignite.distributed as idist
import numpy as np
import torch

from cxrignite.errors import RecipeError
from cxrignite.workflows.shortages import shortages_in_one_line


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
    def leads(self) -> bool:
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
            idist.initialize("nccl" if on_cuda else "gloo")
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
        with shortages_in_one_line():
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
    """Processes that `torchrun` or SLURM's `srun` started together; 1 where neither did.

    Not by `SLURM_NTASKS`, which a batch script has too: there one process runs, and would wait for
    tasks that nobody starts.
    """
    for name in ("WORLD_SIZE", "SLURM_STEP_NUM_TASKS"):
        if name in environment:
            return int(environment[name])
    return 1


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
