import os
import random
import time

import numpy as np
import pytest
import torch
from messages import refused

from cxrignite.engines import session
from cxrignite.engines.session import _torchrun_first, open_session, seed_everything
from cxrignite.errors import CxrIgniteError, DataError, RecipeError


def draws():
    return torch.rand(3).tolist(), np.random.rand(3).tolist(), random.random()  # noqa: NPY002


def test_the_same_seed_and_epoch_draw_the_same():
    seed_everything(7, 2)
    first = draws()
    seed_everything(7, 2)
    assert draws() == first


@pytest.mark.parametrize(("seed", "epoch"), [(7, 3), (8, 2)])
def test_another_seed_or_epoch_draws_something_else(seed, epoch):
    seed_everything(7, 2)
    first = draws()
    seed_everything(seed, epoch)
    assert all(a != b for a, b in zip(first, draws(), strict=True))


def test_the_reproducible_profile_is_left_again():
    assert not torch.are_deterministic_algorithms_enabled()
    with open_session("cpu", "reproducible") as opened:
        assert torch.are_deterministic_algorithms_enabled()
        assert torch.backends.cudnn.deterministic
        assert not torch.backends.cudnn.benchmark
        assert opened.is_main_process
    assert not torch.are_deterministic_algorithms_enabled()


def test_the_fast_profile_lets_cudnn_try_kernels():
    with open_session("cpu", "fast"):
        assert torch.backends.cudnn.benchmark
    assert not torch.backends.cudnn.benchmark


@pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has a CUDA device")
def test_cuda_is_refused_where_there_is_none():
    with refused(RecipeError, "trainer.device", "cuda"), open_session("cuda", "fast"):
        pass


@pytest.mark.parametrize("device", ["mps", "cuda:99"])
def test_a_device_that_is_not_there_is_refused(device, monkeypatch):
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)
    with refused(RecipeError, "trainer.device", device), open_session(device, "fast"):
        pass


@pytest.mark.parametrize("device", ["mps", "cuda:1"])
def test_several_processes_do_not_share_one_gpu(device, monkeypatch):
    for name, value in {"WORLD_SIZE": "2", "RANK": "0", "LOCAL_RANK": "0"}.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("MASTER_ADDR", "127.0.0.1")
    monkeypatch.setenv("MASTER_PORT", "1")
    with refused(RecipeError, "trainer.device", device), open_session(device, "fast"):
        pass


def test_a_batch_script_of_slurm_waits_for_nobody(monkeypatch):
    # `sbatch -n 2` runs the script once; only `srun` in it starts two tasks.
    monkeypatch.setenv("SLURM_JOB_ID", "1")
    monkeypatch.setenv("SLURM_NTASKS", "2")
    with open_session("cpu", "fast") as opened:
        assert opened.world_size == 1


def test_an_interactive_shell_of_slurm_is_one_process(monkeypatch):
    for name in ("SLURM_JOB_ID", "SLURM_NTASKS", "SLURM_STEP_NUM_TASKS", "SLURM_PTY_PORT"):
        monkeypatch.setenv(name, "2")
    monkeypatch.setattr(os, "isatty", lambda descriptor: True)
    with open_session("cpu", "fast") as opened:
        assert opened.world_size == 1


@pytest.mark.parametrize(
    ("variables", "facts"),
    [
        ({"WORLD_SIZE": "abc"}, ["WORLD_SIZE", "'abc'"]),
        ({"WORLD_SIZE": ""}, ["WORLD_SIZE", "''"]),
        ({"WORLD_SIZE": "0"}, ["WORLD_SIZE", "'0'"]),
        ({"SLURM_STEP_NUM_TASKS": "2(x3)"}, ["SLURM_STEP_NUM_TASKS", "'2(x3)'"]),
        ({"WORLD_SIZE": "2"}, [2, "RANK, LOCAL_RANK, MASTER_ADDR, MASTER_PORT", "torchrun"]),
    ],
)
def test_half_a_launcher_is_refused(monkeypatch, variables, facts):
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    with refused(RecipeError, *facts), open_session("cpu", "fast"):
        pass


@pytest.mark.parametrize(
    ("initialize", "facts"),
    [
        (lambda backend: time.sleep(5), [2, "0.2 s", "torchrun"]),
        (lambda backend: int("no route"), [2, "no route"]),
    ],
)
def test_the_wait_for_other_processes_has_a_limit(monkeypatch, initialize, facts):
    for name in ("RANK", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT"):
        monkeypatch.setenv(name, "0")
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setattr(session, "JOIN_SECONDS", 0.2)
    monkeypatch.setattr(session.idist, "initialize", initialize)
    with refused(CxrIgniteError, *facts), open_session("cpu", "fast"):
        pass


@pytest.mark.parametrize(("launcher", "seen"), [("TORCHELASTIC_RUN_ID", False), ("OTHER", True)])
def test_torchrun_under_slurm_says_which_process_this_is(monkeypatch, launcher, seen):
    monkeypatch.setenv("SLURM_JOB_ID", "7")
    monkeypatch.setenv(launcher, "run")
    with _torchrun_first():
        assert ("SLURM_JOB_ID" in os.environ) is seen
    assert os.environ["SLURM_JOB_ID"] == "7"


def test_processes_that_read_other_images_are_refused(monkeypatch):
    from cxrignite.data import ImageRecord
    from cxrignite.workflows import records

    # A stand-in for the second process, which has read another file.
    monkeypatch.setattr(records.idist, "get_world_size", lambda: 2)
    monkeypatch.setattr(records.idist, "all_gather", lambda mine: [mine, theirs or mine])
    record = ImageRecord("a.png", "a.png", 0, "a", "train", {}, "ab")
    theirs = None
    records.check_same_everywhere([record])
    theirs = "another"
    with refused(DataError, 2, "processes"):
        records.check_same_everywhere([record])
