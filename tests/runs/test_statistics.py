from pathlib import Path

import pytest
import torch
from messages import refused
from torch import nn

from cxrignite.errors import CheckpointError
from cxrignite.runs.checkpoints import load_statistics, statistics_bytes

MEAN = torch.tensor([1.0, 2.0])


def test_statistics_come_back_and_nothing_else_changes():
    model = nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2))
    weights = model[0].weight.clone()
    load_statistics(model, statistics_bytes({"1.running_mean": MEAN}), Path("site.pt"))
    assert torch.equal(model[1].running_mean, MEAN)
    assert torch.equal(model[0].weight, weights)


@pytest.mark.parametrize(
    ("content", "fact"),
    [
        (statistics_bytes({"0.running_mean": MEAN}), "0.running_mean"),
        (statistics_bytes({"1.running_mean": MEAN[:1]}), "1.running_mean"),
        (b"no statistics", "tensors"),
    ],
)
def test_what_does_not_fit_the_model_is_refused(content, fact):
    model = nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2))
    with refused(CheckpointError, "site.pt", fact):
        load_statistics(model, content, Path("site.pt"))
    assert torch.equal(model[1].running_mean, torch.zeros(2))
