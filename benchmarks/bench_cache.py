"""Time to build, open and read an image cache."""

import itertools

import pytest
import torch

from cxrignite.data import Pipeline, open_cache

SIZE = (224, 224)

PIPELINE = Pipeline(image_size=SIZE)


@pytest.fixture
def cache(records, tmp_path):
    return open_cache(tmp_path, records, PIPELINE)


def test_build(benchmark, records, tmp_path):
    folders = (tmp_path / str(number) for number in itertools.count())
    benchmark.pedantic(lambda: open_cache(next(folders), records, PIPELINE), rounds=3)


def test_open(benchmark, records, cache):
    benchmark(lambda: open_cache(cache.path.parent, records, PIPELINE))


def test_batch_of_32(benchmark, records, cache):
    split, index = cache.split(records), torch.randint(len(records), (32,))
    benchmark(lambda: split.images(index))
