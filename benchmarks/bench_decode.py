"""One film from its file to 224 x 224 pixels."""

import itertools

from cxrignite.data import Pipeline, read_image
from cxrignite.workflows.benchmark.plain_loop import PlainFilms

SIZE = (224, 224)


def test_pillow(benchmark, films):
    plain, index = PlainFilms(films, Pipeline(image_size=SIZE)), itertools.cycle(range(len(films)))
    benchmark(lambda: plain[next(index)])


def test_scaled_decode(benchmark, films):
    paths = itertools.cycle([film.path for film in films])
    benchmark(lambda: read_image(next(paths), SIZE))
