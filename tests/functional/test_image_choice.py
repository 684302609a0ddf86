from typing import get_args

import numpy as np
import pytest
from messages import refused

from cxrignite.functional import UNKNOWN_LABEL, ImageChoice, ImageKind

KINDS = get_args(ImageKind)


def called_by_index(choice, y_score, y_true, index):
    """What is chosen, by index instead of position; dictionaries of another order differ."""
    chosen = choice.of(y_score, y_true, index)
    return [(int(index[position]), kinds) for position, kinds in chosen.items()]


def scripted(seed):
    """Images in random order with many ties, some without a label, and a choice among them."""
    random = np.random.default_rng(seed)
    count = int(random.integers(1, 40))
    index = random.permutation(count + 3)[:count]
    y_score = random.integers(0, 11, count) / 10
    y_true = random.integers(UNKNOWN_LABEL, 2, count)
    choice = ImageChoice(
        threshold=float(random.choice([0.0, 0.3, 0.5, 1.0])),
        kinds=[str(kind) for kind in random.permutation(KINDS)[: random.integers(0, 5)]],
        max_images=int(random.integers(1, 6)),
        indices=random.integers(0, count + 3, random.integers(0, 4)).tolist(),
        seed=int(random.integers(0, 9)),
    )
    return choice, (y_score, y_true, index), random


@pytest.mark.parametrize("seed", range(60))
def test_choosing_batch_by_batch_is_choosing_at_once(seed):
    choice, images, random = scripted(seed)
    count = len(images[0])
    cuts = np.sort(random.integers(0, count + 1, random.integers(0, 8)))
    kept = np.zeros(0, dtype=int)
    for batch in np.split(np.arange(count), cuts):
        pool = np.r_[kept, batch]
        kept = pool[list(choice.of(*(part[pool] for part in images)))]
    at_once = called_by_index(choice, *images)
    assert called_by_index(choice, *(part[kept] for part in images)) == at_once
    assert len(kept) <= len(choice.kinds) * choice.max_images + len(choice.indices) or count == 0


@pytest.mark.parametrize("seed", range(20))
def test_the_choice_does_not_depend_on_the_order_of_the_images(seed):
    choice, images, random = scripted(seed)
    order = random.permutation(len(images[0]))
    expected = called_by_index(choice, *images)
    assert called_by_index(choice, *(part[order] for part in images)) == expected


def test_each_kind_is_what_it_says():
    y_score = [0.95, 0.55, 0.45, 0.30, 0.05, 0.80]
    y_true = [1, 0, 0, 1, 1, 1]
    expected = {"errors": [1, 4, 3], "most_sure": [0, 4, 5], "least_sure": [1, 2, 3]}
    for kind, positions in expected.items():
        choice = ImageChoice(kinds=(kind,), max_images=3)
        assert choice.of(y_score, y_true, range(6)) == {key: [kind] for key in positions}


def test_of_the_wrong_decisions_positives_and_negatives_take_turns_until_one_side_is_used_up():
    y_score, y_true = [0.9, 0.8, 0.7, 0.6, 0.1], [0, 0, 0, 0, 1]
    chosen = ImageChoice(kinds=("errors",), max_images=4).of(y_score, y_true, range(5))
    assert list(chosen) == [0, 4, 1, 2]


def test_a_score_at_the_threshold_is_called_positive():
    choice = ImageChoice(threshold=0.25, kinds=("errors",))
    assert choice.of([0.25, 0.25], [0, 1], [0, 1]) == {0: ["errors"]}


@pytest.mark.parametrize("kind", ["errors", "most_sure", "least_sure"])
def test_of_equal_scores_the_lower_index_comes_first(kind):
    choice = ImageChoice(kinds=(kind,), max_images=2)
    assert list(choice.of([0.9] * 4, [0] * 4, [7, 3, 9, 1])) == [3, 1]


def test_an_image_without_a_label_is_no_miss():
    choice = ImageChoice(kinds=("errors", "most_sure"))
    assert choice.of([0.9, 0.1], [UNKNOWN_LABEL] * 2, [0, 1]) == {
        0: ["most_sure"],
        1: ["most_sure"],
    }


def test_an_image_chosen_twice_says_so_and_comes_once():
    choice = ImageChoice(kinds=("errors", "most_sure"), indices=(6,))
    assert choice.of([0.9], [0], [6]) == {0: ["fixed", "errors", "most_sure"]}


def test_fixed_images_come_first_by_index_and_beyond_the_limit():
    choice = ImageChoice(kinds=("random",), max_images=1, indices=(8, 2, 5, 99))
    names = [name for name, kinds in called_by_index(choice, [0.5] * 4, [0] * 4, [8, 5, 2, 1])]
    assert names[:3] == [2, 5, 8]


def test_random_images_are_another_draw_with_another_seed_and_look_at_no_score():
    index = np.arange(100)
    draws = [
        list(ImageChoice(kinds=("random",), seed=seed).of(scores, np.zeros(100), index))
        for seed, scores in ((0, index / 100), (0, 1 - index / 100), (1, index / 100))
    ]
    assert draws[0] == draws[1] != draws[2]
    assert len(set(draws[0])) == 8


def test_each_image_is_as_likely_to_be_drawn():
    index, nothing, drawn = np.arange(20), np.zeros(20), np.zeros(20)
    for seed in range(400):
        choice = ImageChoice(kinds=("random",), max_images=5, seed=seed)
        drawn[list(choice.of(nothing, nothing, index))] += 1
    # A count of 400 draws with probability 1/4 has a deviation of 8.7.
    assert abs(drawn - 100).max() < 40


def test_of_no_images_none_is_chosen():
    assert ImageChoice(indices=(1,)).of([], [], []) == {}
    assert ImageChoice(kinds=()).of([0.9], [0], [0]) == {}


@pytest.mark.parametrize(
    ("settings", "facts"),
    [
        ({"threshold": 1.5}, ["threshold", "[0, 1]", "1.5"]),
        ({"threshold": -0.1}, ["threshold", "[0, 1]", "-0.1"]),
        ({"threshold": float("nan")}, ["threshold", "[0, 1]", "nan"]),
        ({"kinds": ("errors", "worst")}, ["kinds", "most_sure", "'worst'"]),
        ({"kinds": "errors"}, ["kinds", "most_sure", "'e'"]),
        ({"max_images": 0}, ["max_images", "1", "0"]),
    ],
)
def test_settings_out_of_range_are_refused(settings, facts):
    with refused(ValueError, *facts):
        ImageChoice(**settings)


def test_a_referred_image_is_neither_wrong_nor_sure_and_near_either_threshold():
    choice = ImageChoice(
        threshold=0.8, lower=0.4, kinds=("errors", "most_sure", "least_sure"), max_images=2
    )
    y_score, y_true = [0.1, 0.39, 0.6, 0.79, 0.95], [1, 0, 1, 0, 0]
    chosen = choice.of(y_score, y_true, range(5))
    assert {place: reasons for place, reasons in chosen.items() if "errors" in reasons} == {
        4: ["errors", "most_sure"],
        0: ["errors", "most_sure"],
    }
    assert [place for place, reasons in chosen.items() if "least_sure" in reasons] == [1, 3]
    assert 2 not in chosen


def test_crossed_thresholds_are_refused():
    with refused(ValueError, "lower", "0.5", "0.9"):
        ImageChoice(threshold=0.5, lower=0.9)
