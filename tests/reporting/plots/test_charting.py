"""Names in figures are text, whatever stands in them."""

import numpy as np
from results import POINT

from cxrignite.functional import Confusion
from cxrignite.reporting.plots import run_figures as figures
from cxrignite.reporting.plots import score_figures
from cxrignite.reporting.plots.charting import draw

CELLS = Confusion(3, 1, 1, 3)


def drawn_as(name, instead):
    """True if every figure with a name draws the same pixels as with another text."""

    def pictures(word):
        counts = {"train": {word: 3, "b": 1}}
        image = np.zeros((4, 4), np.uint8)
        return [
            draw(figures.class_distribution(counts)),
            draw(figures.sample_grid([image], [word])),
            draw(score_figures.confusion_pair(CELLS, CELLS, POINT, (word, "b"))),
        ]

    return all(map(np.array_equal, pictures(name), pictures(instead)))


def test_dollars_are_drawn_as_they_stand():
    assert not drawn_as("$x$", "x")
    assert drawn_as(r"a_$b_{$", r"a_$b_{$")  # which is no mathematics


def test_a_name_that_is_not_utf_8_is_drawn_with_its_bytes_escaped():
    assert drawn_as("r\udcf6ntgen", r"r\xf6ntgen")
