import pytest
import torch
from torch import nn

from cxrignite.engines.model_mode import ModelMode


class Counted(nn.Sequential):
    """Counts how often it is put into a mode."""

    num_calls = 0

    def train(self, mode=True):
        self.num_calls += 1
        return super().train(mode)


class FrozenNorm(nn.BatchNorm2d):
    """Stays in evaluation mode, as that of a frozen backbone."""

    def train(self, mode=True):
        return super().train(False)


def make_model(*parts):
    return Counted(nn.Conv2d(1, 2, 3), nn.Sequential(nn.BatchNorm2d(2), nn.Dropout()), *parts)


@pytest.mark.parametrize("is_training", [True, False])
def test_the_model_is_put_into_the_mode_once(is_training):
    model = make_model().train(not is_training)
    model.num_calls = 0
    mode = ModelMode(model, is_training=is_training)
    for _ in range(5):
        mode.enter()
    assert [part.training for part in model.modules()] == [is_training] * 5
    assert model.num_calls == 1


@pytest.mark.parametrize("part", ["", "0", "1", "1.1"])
def test_a_part_that_has_left_the_mode_is_brought_back(part):
    model = make_model()
    mode = ModelMode(model, is_training=True)
    mode.enter()
    model.get_submodule(part).eval()
    mode.enter()
    assert all(each.training for each in model.modules())


def test_a_model_inside_a_wrapper_is_brought_back_though_the_wrapper_did_not_notice():
    model = make_model()
    wrapper = nn.Sequential(model)  # as DistributedDataParallel holds it
    mode = ModelMode(wrapper, is_training=True)
    mode.enter()
    model.eval()
    assert wrapper.training
    mode.enter()
    assert all(each.training for each in wrapper.modules())


def test_a_part_with_a_mode_of_its_own_keeps_it_and_costs_no_second_call():
    model = make_model(FrozenNorm(2))
    mode = ModelMode(model, is_training=True)
    for _ in range(5):
        mode.enter()
    assert not model[2].training
    assert model[1].training
    assert model.num_calls == 1


def test_a_part_that_came_later_is_brought_back_with_the_others():
    model = make_model()
    mode = ModelMode(model, is_training=True)
    mode.enter()
    model[1] = nn.Dropout()
    model.eval()
    mode.enter()
    assert all(each.training for each in model.modules())
    model[1].eval()
    mode.enter()
    assert model[1].training


def test_what_it_computes_is_what_train_gives():
    images = torch.rand(4, 1, 8, 8)
    torch.manual_seed(0)
    model = make_model()
    ModelMode(model.eval(), is_training=True).enter()
    torch.manual_seed(1)
    ours = model(images)
    torch.manual_seed(1)
    assert torch.equal(ours, model.train()(images))
