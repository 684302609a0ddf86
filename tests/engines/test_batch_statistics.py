import copy

import pytest
import torch
from messages import refused
from torch import nn
from torch.optim.swa_utils import update_bn

from cxrignite.engines.batch_statistics import adapt_batch_norm, batch_norms
from cxrignite.nn import LightCNN

IMAGES = torch.randint(0, 200, (30, 1, 32, 32), generator=torch.Generator().manual_seed(0)).byte()


def batches(size):
    return [(part, torch.zeros(len(part))) for part in IMAGES.split(size)]


@pytest.fixture
def model():
    torch.manual_seed(0)
    return LightCNN(width=4, stride=8, dropout=0.0)


def test_the_statistics_are_torchs_for_batches_of_one_size(model):
    expected = copy.deepcopy(model)
    update_bn(batches(10), expected)
    statistics = adapt_batch_norm(model, batches(10), device="cpu")
    state = expected.state_dict()
    for name, value in statistics.items():
        torch.testing.assert_close(value, state[name])
    assert {f"{name}.running_var" for name in batch_norms(model)} < statistics.keys()


def test_each_image_counts_the_same_in_batches_of_other_sizes(model):
    name, layer = next(iter(batch_norms(model).items()))
    seen = []
    hook = layer.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    statistics = adapt_batch_norm(model, batches(16), device="cpu")
    hook.remove()
    assert [len(each) for each in seen] == [16, 14]
    mean = torch.cat(seen).mean((0, 2, 3))
    torch.testing.assert_close(statistics[f"{name}.running_mean"], mean, rtol=1e-4, atol=1e-5)


def test_only_statistics_change_and_dropout_does_not(model):
    torch.manual_seed(0)
    dropping = LightCNN(width=4, stride=8, dropout=0.9).train()
    before = copy.deepcopy(dropping.state_dict())
    momenta = [layer.momentum for layer in batch_norms(dropping).values()]
    statistics = adapt_batch_norm(dropping, batches(10), device="cpu")
    again = adapt_batch_norm(dropping, batches(10), device="cpu")
    assert all(torch.equal(again[name], value) for name, value in statistics.items())
    assert not any(part.training for part in dropping.modules())
    assert [layer.momentum for layer in batch_norms(dropping).values()] == momenta
    after = dropping.state_dict()
    assert {name for name in after if not torch.equal(after[name], before[name])} == {*statistics}
    assert all(value.grad is None for value in dropping.parameters())


def test_a_model_without_batch_statistics_is_refused():
    plain = nn.Sequential(nn.Flatten(), nn.LayerNorm(1024), nn.Linear(1024, 1))
    without = nn.Sequential(nn.BatchNorm2d(1, track_running_stats=False))
    for each in (plain, without):
        with refused(ValueError, "Sequential"):
            adapt_batch_norm(each, batches(10), device="cpu")
