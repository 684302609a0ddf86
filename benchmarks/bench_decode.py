"""Time to read an image file at 224 x 224 pixels."""

import itertools

from cxrignite.data import Pipeline, read_image
from cxrignite.workflows.benchmark.plain_loop import PlainImages

SIZE = (224, 224)


def test_pillow(benchmark, records):
    plain, index = (
        PlainImages(records, Pipeline(image_size=SIZE)),
        itertools.cycle(range(len(records))),
    )
    benchmark(lambda: plain[next(index)])


def test_scaled_decode(benchmark, records):
    paths = itertools.cycle([record.path for record in records])
    benchmark(lambda: read_image(next(paths), SIZE))
