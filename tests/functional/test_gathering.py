import logging
from logging.handlers import BufferingHandler

import pytest
import torch
from messages import line_with, refused
from pair import run_pair

from cxrignite.functional import gather_rows
from cxrignite.functional.gathering import NO_INDEX, gather_images, image_index

SHARES = {
    "uneven": (3, 5),
    "one without rows": (0, 4),
    "none with rows": (0, 0),
}


def rows_of(rank: int, count: int, dtype: torch.dtype, trailing: tuple[int, ...]) -> torch.Tensor:
    size = torch.Size((count, *trailing))
    return (torch.arange(size.numel()).reshape(size) + 100 * rank).to(dtype)


def gather_in_process(rank: int) -> dict:
    results = {}
    for name, counts in SHARES.items():
        for dtype in (torch.float32, torch.float64, torch.int64, torch.bool):
            for trailing in ((), (3,)):
                rows = rows_of(rank, counts[rank], dtype, trailing)
                results[f"{name} {dtype} {trailing}"] = gather_rows(rows)
    with_gradient = torch.ones(rank + 1, requires_grad=True)
    results["gradient"] = gather_rows(with_gradient)
    # 7 images over 2 processes, which a sampler fills up with the first.
    index = (torch.arange(8) % 7)[rank::2]
    log = BufferingHandler(100)
    logging.getLogger("cxrignite").addHandler(log)
    results["images"] = gather_images(10.0 * index[:, None].repeat(1, 2), index)
    results["warnings"] = len(log.buffer)
    unknown = index if rank else torch.full((4,), NO_INDEX)
    # A process without rows does not know the number of columns.
    results["columns"] = gather_rows(torch.ones(0, 2) if rank else torch.ones(3, 6))
    results["one process does not know"] = gather_images(10.0 * index, unknown)
    return results


@pytest.fixture(scope="module")
def results(_server, tmp_path_factory):
    return run_pair(gather_in_process, tmp_path_factory.mktemp("gather"))


@pytest.mark.integration
@pytest.mark.parametrize("trailing", [(), (3,)], ids=str)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.int64, torch.bool], ids=str)
@pytest.mark.parametrize("name", SHARES)
def test_two_processes_hold_all_rows_in_rank_order(results, name, dtype, trailing):
    counts = SHARES[name]
    expected = torch.cat([rows_of(rank, counts[rank], dtype, trailing) for rank in (0, 1)])
    for result in results:
        gathered = result[f"{name} {dtype} {trailing}"]
        assert gathered.dtype == dtype
        assert gathered.shape == (sum(counts), *trailing)
        assert torch.equal(gathered, expected)


@pytest.mark.integration
def test_a_process_without_rows_takes_the_columns_of_the_others(results):
    assert [result["columns"].shape for result in results] == [(3, 6), (3, 6)]


@pytest.mark.integration
def test_what_is_gathered_carries_no_gradient(results):
    assert [result["gradient"].requires_grad for result in results] == [False, False]


def test_one_process_gets_its_own_rows_back():
    rows = torch.rand(4, 2)
    assert gather_rows(rows) is rows


def test_a_single_number_has_no_rows():
    with refused(ValueError, "rows", "0-d"):
        gather_rows(torch.tensor(1.0))


@pytest.mark.integration
def test_two_processes_hold_each_image_once_by_index(results):
    for result in results:
        rows, index = result["images"]
        assert index.tolist() == list(range(7))
        assert rows.tolist() == [[10.0 * n, 10.0 * n] for n in range(7)]


@pytest.mark.integration
def test_an_index_that_one_process_does_not_know_leaves_all_rows(results):
    for result in results:
        rows, index = result["one process does not know"]
        assert rows.tolist() == [0, 20, 40, 60, 10, 30, 50, 0]
        assert index.tolist() == [NO_INDEX] * 4 + [1, 3, 5, 0]


def test_the_first_of_a_repeated_image_stays():
    rows, index = gather_images(torch.tensor([1.0, 2.0, 3.0]), torch.tensor([5, 4, 5]))
    assert (rows.tolist(), index.tolist()) == ([2, 1], [4, 5])


def test_no_images_are_no_images():
    rows, index = gather_images(torch.zeros(0, 3), torch.zeros(0, dtype=torch.int64))
    assert (rows.shape, index.shape) == ((0, 3), (0,))


@pytest.mark.parametrize(
    "batch",
    [
        *(None, torch.zeros(2), (1, 2), [torch.zeros(2), torch.zeros(2)], {"index": [3, 4]}),
        (torch.zeros(2), torch.zeros(2), None),
        [{"label": 0.0}] * 3,  # a mapping an image
    ],
)
def test_a_batch_without_a_third_part_has_no_index(batch):
    index = image_index(batch, 2)
    assert index.dtype == torch.int64
    assert index.tolist() == [NO_INDEX, NO_INDEX]


@pytest.mark.parametrize("third", [torch.tensor([3, 4]), [3, 4], torch.tensor([3, 4]).int()])
def test_the_third_part_of_a_batch_is_its_index_copied(third):
    index = image_index((torch.zeros(2), torch.zeros(2), third), 2)
    assert index.dtype == torch.int64
    if isinstance(third, torch.Tensor):
        third.zero_()
    assert index.tolist() == [3, 4]


def test_an_index_of_another_length_is_refused():
    with refused(ValueError, "1", "2"):
        image_index((None, None, torch.tensor([3])), 2)


@pytest.mark.parametrize(
    "third",
    [
        ["a.png", "b.png"],
        torch.tensor([0.5, 2.0]),
        torch.tensor([True, False]),
        torch.zeros(2, 8, 8, dtype=torch.uint8),
        torch.tensor(3),
        [torch.zeros(8, 8)] * 2,
    ],
)
def test_a_third_part_that_is_no_index_is_refused(third):
    with refused(ValueError, "state.batch[2]"):
        image_index((torch.zeros(2), torch.zeros(2), third), 2)


def test_more_repeats_than_a_sampler_makes_are_warned_of(caplog):
    gather_images(torch.arange(4.0), torch.tensor([7, 8, 7, 8]))  # numbers of patients, say
    line_with("\n".join(caplog.messages), 2, 4)


@pytest.mark.integration
def test_the_repeats_of_a_sampler_are_no_warning(results):
    assert [result["warnings"] for result in results] == [0, 0]


def test_an_empty_batch_has_an_empty_index():
    assert image_index((torch.zeros(0), torch.zeros(0), []), 0).tolist() == []
