import numpy as np
import pytest
from scipy import stats

from cxrignite.data.batch_augment import NUM_UNIFORMS, seeded_uniforms

MASK = 2**64 - 1


def split_mix(state: int, number: int) -> list[int]:
    """The published generator, in integers of any size."""
    words = []
    for _ in range(number):
        state = (state + 0x9E3779B97F4A7C15) & MASK
        words.append(mixed(state))
    return words


def mixed(word: int) -> int:
    word = ((word ^ (word >> 30)) * 0xBF58476D1CE4E5B9) & MASK
    word = ((word ^ (word >> 27)) * 0x94D049BB133111EB) & MASK
    return word ^ (word >> 31)


def test_seed_0_of_the_first_transform_gives_the_published_sequence():
    published = [0xE220A8397B1DCDAF, 0x6E789E6AA1B965F4, 0x06C45D188009454F, 0xF88BB8A8724C81EC]
    found = seeded_uniforms(np.array([0]), 1)[0][0]
    assert found[:4].tolist() == [(word >> 11) / 2**53 for word in published]


@pytest.mark.parametrize(("seed", "transform"), [(1, 0), (0, 1), (7, 5), (2**32 - 1, 11)])
def test_seed_and_transform_start_a_sequence_of_their_own(seed, transform):
    words = split_mix(mixed(seed << 32 | transform), NUM_UNIFORMS)
    found = seeded_uniforms(np.array([3, seed]), 12)[transform][1]
    assert found.tolist() == [(word >> 11) / 2**53 for word in words]


def test_draws_depend_on_neither_the_batch_nor_the_length_of_the_list():
    seeds = np.array([5, 2**32 - 1, 9, 5])
    batch = seeded_uniforms(seeds, 4)
    assert len(batch) == 4
    for place, seed in enumerate(seeds):
        alone = seeded_uniforms(np.array([seed]), 2)
        for transform in range(2):
            np.testing.assert_array_equal(batch[transform][place], alone[transform][0])


def test_nothing_to_draw_gives_nothing():
    assert seeded_uniforms(np.array([1, 2]), 0) == []
    assert seeded_uniforms(np.empty(0, dtype=np.int64), 1)[0].shape == (0, NUM_UNIFORMS)


@pytest.mark.parametrize("step", [1, 2, 1024, 65_537])
def test_draws_of_seeds_in_a_row_are_even_and_know_nothing_of_each_other(step):
    count = 20_000
    first, second = seeded_uniforms(np.arange(count) * step, 2)
    assert first.min() >= 0
    assert first.max() < 1
    columns = np.hstack([first, second])
    assert min(stats.kstest(column, "uniform").pvalue for column in columns.T) > 1e-4
    # Each number against each other one, of the same image and of the next images.
    for lag in (0, 1, 2, 32):
        rows, later = columns[: count - 32], columns[lag : count - 32 + lag]
        correlations = np.corrcoef(rows.T, later.T)[: len(rows.T), len(rows.T) :]
        if lag == 0:
            np.fill_diagonal(correlations, 0)
        assert np.abs(correlations).max() < 5 / np.sqrt(count)
