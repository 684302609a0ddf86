"""Freed memory stays with the process while it is kept, and goes back at the end."""

import json
import os
import resource
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from cxrignite.workflows.kept_memory import _glibc, kept_memory

CPU = torch.device("cpu")
needs_glibc = pytest.mark.skipif(
    not sys.platform.startswith("linux") or _glibc() is None, reason="another C library"
)


# What other tests have freed in this process could take a tensor in without a fault.
IN_A_FRESH_PROCESS = """
import json, resource
import torch
from cxrignite.workflows.kept_memory import kept_memory

def page_faults_of_a_step():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    torch.ones(2**25)  # 128 MiB: 32,768 pages of 4 KiB
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

faults = {"before": page_faults_of_a_step()}
with kept_memory(torch.device("cuda")):
    faults["gpu"] = page_faults_of_a_step()
with kept_memory(torch.device("cpu")):
    # A hole takes the next tensor in once it has merged with its neighbour.
    faults["kept"] = min([page_faults_of_a_step() for _ in range(24)][12:])
faults["after"] = page_faults_of_a_step()
print(json.dumps(faults))
"""


@pytest.fixture(scope="module")
def faults():
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).resolve().parents[2])}
    done = subprocess.run(
        [sys.executable, "-c", IN_A_FRESH_PROCESS],
        capture_output=True,
        text=True,
        check=True,
        env=environment,
    )
    return json.loads(done.stdout)


def resident_bytes() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()


@needs_glibc
def test_after_a_few_steps_no_page_is_faulted_in(faults):
    assert faults["before"] > 1000
    assert faults["kept"] < 100
    assert faults["after"] > 1000


@needs_glibc
def test_what_was_kept_is_given_back():
    with kept_memory(CPU):
        torch.ones(2**25)
        kept = resident_bytes()
    assert kept - resident_bytes() > 100 * 2**20


def test_a_gpu_has_a_cache_of_its_own(faults):
    assert faults["gpu"] > 1000
