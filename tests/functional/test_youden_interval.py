import math

import pytest
from messages import refused

from cxrignite.functional import Confusion
from cxrignite.functional.youden_interval import youden_interval


@pytest.mark.parametrize(
    ("tp", "positives", "fp", "negatives", "expected"),
    [  # table II of Newcombe 1998, method 10
        (56, 70, 48, 80, (0.0524, 0.3339)),
        (9, 10, 3, 10, (0.1705, 0.8090)),
        (5, 56, 0, 29, (-0.0381, 0.1926)),
        (0, 10, 0, 20, (-0.1611, 0.2775)),
        (10, 10, 0, 10, (0.6075, 1.0)),
    ],
)
def test_the_intervals_are_those_of_the_paper(tp, positives, fp, negatives, expected):
    cells = Confusion(tn=negatives - fp, fp=fp, fn=positives - tp, tp=tp)
    assert youden_interval(cells) == pytest.approx(expected, abs=6e-5)


def test_without_both_classes_there_is_none():
    assert all(map(math.isnan, youden_interval(Confusion(tn=3, fp=1, fn=0, tp=0))))
    assert all(map(math.isnan, youden_interval(Confusion(tn=0, fp=0, fn=1, tp=2))))


def test_a_confidence_out_of_range_is_refused():
    with refused(ValueError, "confidence", 1):
        youden_interval(Confusion(1, 1, 1, 1), confidence=1)
