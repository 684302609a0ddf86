import numpy as np
import pytest
import torch

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
        (
            lambda: torch.empty(2**50),
            "out of memory: can't allocate memory: you tried to allocate 4503599627370496 bytes",
            "data.batch_size",
        ),
        (lambda: np.ones(2**50), "out of memory: Unable to allocate 8.00 PiB", "data.image_size"),
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


def test_other_failures_pass_as_they_are():
    error = RuntimeError("shapes do not match")
    with pytest.raises(RuntimeError) as raised, open_session("cpu", "fast"):
        fail(error)
    assert raised.value is error
