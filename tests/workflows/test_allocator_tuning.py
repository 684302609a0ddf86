"""Freed memory stays with the process while it is kept, and goes back at the end."""

import json
import resource
import sys
from pathlib import Path

import pytest
import torch

from cxrignite.workflows.allocator_tuning import _glibc, allocator_tuning

CPU = torch.device("cpu")
needs_glibc = pytest.mark.skipif(
    not sys.platform.startswith("linux") or _glibc() is None, reason="another C library"
)


# What other tests have freed in this process could take a tensor in without a fault.
IN_A_PROCESS_OF_ITS_OWN = """
import json, resource
import torch
from cxrignite.workflows.allocator_tuning import allocator_tuning

def page_faults_of_a_step():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    torch.ones(2**25)  # 128 MiB: 32,768 pages of 4 KiB
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

faults = {"before": page_faults_of_a_step()}
with allocator_tuning(torch.device("cuda")):
    faults["gpu"] = page_faults_of_a_step()
with allocator_tuning(torch.device("cpu")):
    # A hole takes the next tensor in once it has merged with its neighbour.
    faults["kept"] = min([page_faults_of_a_step() for _ in range(24)][12:])
faults["after"] = page_faults_of_a_step()
print(json.dumps(faults))
"""


def resident_bytes() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()


@needs_glibc
@pytest.mark.integration
def test_after_a_few_steps_no_page_is_faulted_in_but_for_a_gpu_that_has_its_own_cache(python):
    done = python("-c", IN_A_PROCESS_OF_ITS_OWN)
    assert done.returncode == 0, done.stderr
    faults = json.loads(done.stdout)
    assert faults["before"] > 1000
    assert faults["gpu"] > 1000
    assert faults["kept"] < 100
    assert faults["after"] > 1000


@needs_glibc
def test_what_was_kept_is_given_back():
    with allocator_tuning(CPU):
        torch.ones(2**25)
        kept = resident_bytes()
    assert kept - resident_bytes() > 100 * 2**20
