"""Images for the benchmarks: real ones if available, else synthetic ones."""

import os
from pathlib import Path

import pytest
import torch

from cxrignite.data import ClassFolders, Phantom
from cxrignite.data.inspection import inspect_images


@pytest.fixture(scope="session")
def records(tmp_path_factory):
    """Full-size training images, from the folder `CXRIGNITE_FULL_SIZE` if it is set."""
    root = os.environ.get("CXRIGNITE_FULL_SIZE")
    source = (
        ClassFolders(Path(root))
        if root
        else Phantom(tmp_path_factory.mktemp("images"), num_train=64, num_test=8, size=1024)
    )
    found = [record for record in source.records() if record.split == "train"]
    return inspect_images(found).records


@pytest.fixture(autouse=True)
def _one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)
