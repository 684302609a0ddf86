"""A pack of films: built, opened again, and read."""

import itertools

import pytest
import torch

from cxrignite.data import Pipeline, open_pack

SIZE = (224, 224)

PIPELINE = Pipeline(image_size=SIZE)


@pytest.fixture
def pack(films, tmp_path):
    return open_pack(tmp_path, films, PIPELINE)


def test_build(benchmark, films, tmp_path):
    folders = (tmp_path / str(number) for number in itertools.count())
    benchmark.pedantic(lambda: open_pack(next(folders), films, PIPELINE), rounds=3)


def test_open(benchmark, films, pack):
    benchmark(lambda: open_pack(pack.path.parent, films, PIPELINE))


def test_batch_of_32(benchmark, films, pack):
    split, index = pack.split(films), torch.randint(len(films), (32,))
    benchmark(lambda: split.images(index))
