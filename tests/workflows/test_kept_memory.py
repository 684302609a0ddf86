"""Freed memory stays with the process while it is kept, and goes back at the end."""

import resource
import sys
from pathlib import Path

import pytest
import torch

from cxrignite.workflows.kept_memory import _glibc, kept_memory

CPU = torch.device("cpu")
needs_glibc = pytest.mark.skipif(
    not sys.platform.startswith("linux") or _glibc() is None, reason="another C library"
)


def page_faults_of_a_step() -> int:
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    torch.ones(2**25)  # 128 MiB: 32,768 pages of 4 KiB
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before


def resident_bytes() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()


@needs_glibc
def test_after_a_few_steps_no_page_is_faulted_in():
    assert page_faults_of_a_step() > 1000
    with kept_memory(CPU):
        # A hole takes the next tensor in once it has merged with its neighbour.
        faults = [page_faults_of_a_step() for _ in range(24)]
    assert min(faults[12:]) < 100
    assert page_faults_of_a_step() > 1000


@needs_glibc
def test_what_was_kept_is_given_back():
    with kept_memory(CPU):
        page_faults_of_a_step()
        kept = resident_bytes()
    assert kept - resident_bytes() > 100 * 2**20


def test_a_gpu_has_a_cache_of_its_own():
    with kept_memory(torch.device("cuda")):
        assert page_faults_of_a_step() > 1000
