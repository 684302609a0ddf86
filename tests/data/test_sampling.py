import itertools
from collections import Counter

import numpy as np
import pytest
import torch
from messages import refused
from scipy.stats import binom, chisquare
from torch.utils.data import SequentialSampler

from cxrignite.data.sampling import BalancedSampler, SeededDraws, balanced_sampler
from cxrignite.errors import DataError, RecipeError

LABELS = [0] * 30 + [1] * 90


def test_both_classes_come_up_equally_often():
    sampler = BalancedSampler(LABELS, seed=1, num_samples=40_000)
    positive = sum(LABELS[index] for index in sampler)
    low, high = binom.interval(0.9999, 40_000, 0.5)
    assert low <= positive <= high


def test_the_images_of_a_class_come_up_equally_often():
    counts = Counter(BalancedSampler(LABELS, seed=2, num_samples=60_000))
    for label in (0, 1):
        observed = [counts[index] for index in range(120) if LABELS[index] == label]
        assert chisquare(observed).pvalue > 1e-4


def test_an_epoch_is_as_long_as_the_labels_unless_reported():
    assert len(BalancedSampler(LABELS)) == len(list(BalancedSampler(LABELS))) == 120
    assert len(list(BalancedSampler(LABELS, num_samples=7))) == 7


def test_a_draw_is_a_function_of_seed_and_epoch():
    sampler = BalancedSampler(LABELS, seed=1)
    draws = {}
    for epoch in (0, 1, 2):
        sampler.set_epoch(epoch)
        draws[epoch] = list(sampler)
        assert list(sampler) == draws[epoch]
    fresh = BalancedSampler(LABELS, seed=1)
    fresh.set_epoch(2)
    assert list(fresh) == draws[2]
    assert len({tuple(draw) for draw in draws.values()}) == 3


def test_seed_and_epoch_do_not_make_up_for_each_other():
    draws = set()
    for seed, epoch in itertools.product(range(4), range(4)):
        sampler = BalancedSampler(LABELS, seed=seed)
        sampler.set_epoch(epoch)
        draws.add(tuple(sampler))
    assert len(draws) == 16


def test_global_random_state_is_neither_read_nor_changed():
    torch.manual_seed(1)
    before = torch.get_rng_state()
    first = list(BalancedSampler(LABELS, seed=3))
    assert torch.equal(torch.get_rng_state(), before)
    torch.manual_seed(2)
    assert list(BalancedSampler(LABELS, seed=3)) == first


@pytest.mark.parametrize(("num_samples", "num_replicas"), [(120, 4), (121, 4), (7, 2), (2, 5)])
def test_the_shares_of_all_processes_make_the_draw_of_one(num_samples, num_replicas):
    one = list(BalancedSampler(LABELS, seed=5, num_samples=num_samples))
    shares = [
        list(
            BalancedSampler(
                LABELS, seed=5, num_samples=num_samples, num_replicas=num_replicas, rank=rank
            )
        )
        for rank in range(num_replicas)
    ]
    assert len({len(share) for share in shares}) == 1
    joined = [index for step in zip(*shares, strict=True) for index in step]
    assert joined[:num_samples] == one
    assert len(joined) - num_samples < num_replicas


WRITE_SHARE = f"""
import os, sys
import numpy as np
from torch import distributed
from cxrignite.data.sampling import BalancedSampler, SeededDraws

rank, store = int(sys.argv[1]), f"file://{{os.getcwd()}}/store"
distributed.init_process_group("gloo", init_method=store, rank=rank, world_size=2)
draws = SeededDraws(BalancedSampler({LABELS}, seed=5, num_samples=121), seed=5)
draws.set_epoch(3)
np.save(f"{{rank}}.npy", np.array(list(draws)))
distributed.destroy_process_group()
"""


@pytest.mark.integration
def test_two_gloo_processes_share_the_draw_of_one(tmp_path, start):
    both = [start(["-c", WRITE_SHARE, rank], cwd=tmp_path) for rank in range(2)]
    assert [process.wait() for process in both] == [0, 0], both[0].errors + both[1].errors
    shares = [np.load(tmp_path / f"{rank}.npy") for rank in range(2)]
    one = BalancedSampler(LABELS, seed=5, num_samples=121)
    one.set_epoch(3)
    indices = np.stack([share[:, 0] for share in shares], axis=1).ravel()
    assert indices[:121].tolist() == list(one)
    assert len(shares[0]) == len(shares[1]) == 61
    seeds = np.concatenate([share[:, 1] for share in shares])
    assert len(np.unique(seeds)) == 122


def test_one_class_only_is_refused():
    for labels in ([0, 0], [1], []):
        with refused(DataError, labels.count(0), labels.count(1)):
            balanced_sampler(labels)


@pytest.mark.parametrize(
    ("settings", "facts"),
    [
        ({"seed": -1}, ["seed", "0", "-1"]),
        ({"num_samples": 0}, ["num_samples", "1", "0"]),
        ({"num_replicas": 2, "rank": 2}, ["rank", "[0, num_replicas)", "2"]),
        ({"num_replicas": 0, "rank": 0}, ["rank", "[0, num_replicas)", "0"]),
    ],
)
def test_settings_out_of_range_are_refused(settings, facts):
    with refused(RecipeError, *facts):
        BalancedSampler(LABELS, **settings)


def test_draws_keep_the_order_and_add_a_seed_each():
    draws = list(SeededDraws(BalancedSampler(LABELS, seed=1), seed=9))
    assert [index for index, _ in draws] == list(BalancedSampler(LABELS, seed=1))
    seeds = [seed for _, seed in draws]
    assert len(set(seeds)) == 120
    assert all(isinstance(seed, int) and 0 <= seed < 2**32 for seed in seeds)


def test_draw_seeds_fill_the_32_bits_evenly():
    seeds = np.array([seed for _, seed in SeededDraws(SequentialSampler(range(20_000)), seed=0)])
    assert chisquare(np.histogram(seeds, bins=64, range=(0, 2**32))[0]).pvalue > 1e-4
    bits = (seeds[:, None] >> np.arange(32)) & 1
    low, high = binom.interval(1 - 1e-6, 20_000, 0.5)
    assert np.all((bits.sum(axis=0) >= low) & (bits.sum(axis=0) <= high))


def test_an_epoch_changes_the_seeds_and_the_order_and_comes_back():
    draws = SeededDraws(BalancedSampler(LABELS, seed=1), seed=1)
    epochs = []
    for epoch in (1, 2, 1):
        draws.set_epoch(epoch)
        epochs.append(list(draws))
    assert epochs[0] == epochs[2]
    assert [seed for _, seed in epochs[0]] != [seed for _, seed in epochs[1]]
    assert [index for index, _ in epochs[0]] != [index for index, _ in epochs[1]]


def test_a_sampler_without_epochs_will_do():
    draws = SeededDraws(SequentialSampler(range(3)), seed=1)
    draws.set_epoch(5)
    assert [index for index, _ in draws] == [0, 1, 2]


@pytest.mark.parametrize(
    ("num_draws", "batch_size", "expected"),
    [(9, 4, 10), (8, 4, 8), (10, 4, 10), (3, 1, 3), (1, 4, 2)],
)
def test_the_last_batch_is_never_a_single_image(num_draws, batch_size, expected):
    draws = SeededDraws(SequentialSampler(range(num_draws)), seed=1, batch_size=batch_size)
    given = list(draws)
    assert len(draws) == len(given) == expected
    assert [index for index, _ in given[:num_draws]] == list(range(num_draws))
    assert all(index == 0 for index, _ in given[num_draws:])


def test_a_negative_seed_of_draws_is_refused():
    with refused(RecipeError, "seed", "0", "-3"):
        SeededDraws(SequentialSampler(range(3)), seed=-3)


def test_an_epoch_below_0_is_refused():
    with refused(RecipeError, "epoch", "0", "-1"):
        BalancedSampler([0, 1]).set_epoch(-1)
