"""Time of an epoch with a plain loader, and with the library's loader and a cache."""

from pathlib import Path

import pytest
from torch.utils.data import DataLoader

from cxrignite.cli.parsing import parse_recipe
from cxrignite.data import LoaderSettings, Pipeline, RandomAffine, XrayData, open_cache
from cxrignite.workflows.benchmark.plain_loop import PlainImages
from cxrignite.workflows.parts import build_pipeline

SIZE = (224, 224)

RECIPES = Path(__file__).resolve().parent.parent / "recipes"


def whole_augmentation():
    argv = ["--config", str(RECIPES / "efficientnet_lite0.yaml")]
    return build_pipeline(parse_recipe("fit", argv)[0].data)


PIPELINES = {
    "no augmentation": lambda: Pipeline(image_size=SIZE),
    "one affine": lambda: Pipeline(image_size=SIZE, batch_augment=[RandomAffine(prob=1.0)]),
    "that of efficientnet_lite0.yaml": whole_augmentation,
}


@pytest.fixture(params=PIPELINES)
def pipeline(request):
    return PIPELINES[request.param]()


def test_plain(benchmark, records, pipeline):
    loader = DataLoader(PlainImages(records, pipeline), 32, shuffle=True)
    benchmark.pedantic(lambda: sum(1 for _ in loader), rounds=2)


def test_cached(benchmark, records, pipeline, tmp_path):
    cache = open_cache(tmp_path, records, pipeline)
    settings = LoaderSettings(32, num_workers=0)
    data = XrayData(records, ("A", "B"), pipeline=pipeline, cache=cache, loader=settings)
    benchmark(lambda: sum(1 for _ in data.train_loader()))
