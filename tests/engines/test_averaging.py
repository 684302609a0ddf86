import copy

import pytest
import torch
from torch import nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn, get_swa_avg_fn

from cxrignite.engines import AveragedWeights


def model():
    return nn.Sequential(nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2))


@pytest.mark.parametrize("decay", [None, 0.05])
def test_the_average_is_that_of_torch(decay):
    torch.manual_seed(0)
    trained = model()
    ours = AveragedWeights(trained, decay)
    # A decay below 0.1 is never reduced in the first steps.
    average = (
        {"multi_avg_fn": get_ema_multi_avg_fn(decay)} if decay else {"avg_fn": get_swa_avg_fn()}
    )
    theirs = AveragedModel(trained, **average)
    for _ in range(5):
        trained(torch.randn(2, 1, 5, 5))
        for parameter in trained.parameters():
            nn.init.normal_(parameter)
        ours.update_parameters(trained)
        theirs.update_parameters(trained)
    for a, b in zip(ours.module.parameters(), theirs.module.parameters(), strict=True):
        torch.testing.assert_close(a, b)
    assert ours.module[1].num_batches_tracked == trained[1].num_batches_tracked == 5


def test_statistics_are_averaged_and_the_first_steps_count_more():
    trained = model()
    average = AveragedWeights(trained, 0.9)
    for value in (1.0, 2.0, 4.0):
        trained[1].running_mean.fill_(value)
        average.update_parameters(trained)
    expected = (2 / 11 * 1 + 9 / 11 * 2) * 3 / 12 + 4 * 9 / 12
    assert average.module[1].running_mean[0].item() == pytest.approx(expected)


def test_a_restored_average_continues_as_it_was():
    trained = model()
    first = AveragedWeights(trained, 0.9)
    first.update_parameters(trained)
    second = AveragedWeights(model(), 0.9)
    second.load_state_dict(copy.deepcopy(first.state_dict()))
    for parameter in trained.parameters():
        nn.init.normal_(parameter)
    for each in (first, second):
        each.update_parameters(trained)
    for name, value in first.state_dict().items():
        assert torch.equal(second.state_dict()[name], value), name
