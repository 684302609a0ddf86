import math

import pytest
import torch
from messages import refused

from cxrignite.engines import WarmupCosine


def optimizer():
    groups = [{"params": [torch.zeros(1)], "lr": lr} for lr in (0.1, 0.01)]
    return torch.optim.SGD(groups)


def rates(schedule, steps):
    for _ in range(steps):
        yield [group["lr"] for group in schedule.optimizer.param_groups]
        schedule.optimizer.step()
        schedule.step()


def test_the_rate_rises_and_falls_in_each_group_by_its_own_factor():
    pairs = [*rates(WarmupCosine(optimizer(), 0.2, 0.1, total_steps=20), 22)]
    assert all(low == pytest.approx(high / 10) for high, low in pairs)
    first = [high for high, _ in pairs]
    assert first[:5] == pytest.approx([0.025, 0.05, 0.075, 0.1, 0.1])
    assert first[12] == pytest.approx(0.1 * (0.1 + 0.9 * (1 + math.cos(math.pi / 2)) / 2))
    assert first[20:] == pytest.approx([0.01, 0.01])
    assert first[4:21] == sorted(first[4:21], reverse=True)


def test_a_restored_schedule_continues_as_it_was():
    whole = [*rates(WarmupCosine(optimizer(), total_steps=10), 10)]
    half = WarmupCosine(optimizer(), total_steps=10)
    begun = [*rates(half, 4)]
    rest = WarmupCosine(optimizer(), total_steps=10)
    rest.optimizer.load_state_dict(half.optimizer.state_dict())
    rest.load_state_dict(half.state_dict())
    assert [*begun, *rates(rest, 6)] == whole


@pytest.mark.parametrize(
    ("setting", "value"),
    [("warmup", 1.0), ("warmup", -0.1), ("final_factor", 2.0), ("total_steps", 0)],
)
def test_a_value_out_of_range_is_refused(setting, value):
    with refused(ValueError, setting, value):
        WarmupCosine(optimizer(), **{"total_steps": 5, setting: value})
