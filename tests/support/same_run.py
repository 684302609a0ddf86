"""Comparison of two runs that should be one and the same."""

import csv
from pathlib import Path

import torch

from cxrignite.handlers import load_checkpoint

TIMED_STATE = {"seconds", "data_wait_seconds"}
TIMED = {"epoch_seconds", "images_per_second", "data_wait_seconds"}


def largest_difference(first, second) -> float:
    """Of all numbers in two checkpoints, timings left out."""
    if isinstance(first, torch.Tensor):
        return float((first.double() - second.double()).abs().max()) if first.numel() else 0.0
    if isinstance(first, dict):
        assert first.keys() == second.keys()
        keys = [key for key in first if key not in {*TIMED_STATE, "recipe_hash"}]
        return max((largest_difference(first[key], second[key]) for key in keys), default=0.0)
    if isinstance(first, list | tuple):
        assert len(first) == len(second)
        pairs = zip(first, second, strict=True)
        return max((largest_difference(a, b) for a, b in pairs), default=0.0)
    if isinstance(first, int | float) and not isinstance(first, bool):
        return abs(first - second)
    assert first == second
    return 0.0


def history(run_dir: Path) -> list[dict[str, str]]:
    with (run_dir / "history.csv").open() as file:
        rows = list(csv.DictReader(file))
    return [{key: value for key, value in row.items() if key not in TIMED} for row in rows]


def assert_same_run(first: Path, second: Path) -> None:
    for name in ("last.pt", "best.pt"):
        checkpoints = [load_checkpoint(each / "checkpoints" / name) for each in (first, second)]
        assert largest_difference(*checkpoints) == 0.0
    assert history(first) == history(second)
    for name in ("operating_point.json", "predictions/val.csv", "metrics/val.json", "split.csv"):
        assert (first / name).read_bytes() == (second / name).read_bytes(), name
