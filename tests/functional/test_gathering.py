import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp

from cxrignite.functional import gather_rows

SHARES = {
    "uneven": (3, 5),
    "one without rows": (0, 4),
    "none with rows": (0, 0),
}


def rows_of(rank: int, count: int, dtype: torch.dtype, trailing: tuple[int, ...]) -> torch.Tensor:
    size = torch.Size((count, *trailing))
    return (torch.arange(size.numel()).reshape(size) + 100 * rank).to(dtype)


def gather_in_process(rank: int, store: str, folder: str) -> None:
    dist.init_process_group("gloo", init_method=f"file://{store}", rank=rank, world_size=2)
    results = {}
    for name, counts in SHARES.items():
        for dtype in (torch.float32, torch.float64, torch.int64, torch.bool):
            for trailing in ((), (3,)):
                rows = rows_of(rank, counts[rank], dtype, trailing)
                results[f"{name} {dtype} {trailing}"] = gather_rows(rows)
    with_gradient = torch.ones(rank + 1, requires_grad=True)
    results["gradient"] = gather_rows(with_gradient)
    torch.save(results, f"{folder}/{rank}.pt")
    dist.destroy_process_group()


@pytest.fixture(scope="module")
def results(tmp_path_factory):
    folder = tmp_path_factory.mktemp("gather")
    mp.spawn(gather_in_process, (str(folder / "store"), str(folder)), nprocs=2)
    return [torch.load(folder / f"{rank}.pt", weights_only=True) for rank in (0, 1)]


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


def test_what_is_gathered_carries_no_gradient(results):
    assert [result["gradient"].requires_grad for result in results] == [False, False]


def test_one_process_gets_its_own_rows_back():
    rows = torch.rand(4, 2)
    assert gather_rows(rows) is rows


def test_a_single_number_has_no_rows():
    with pytest.raises(ValueError, match="at least one dimension"):
        gather_rows(torch.tensor(1.0))
