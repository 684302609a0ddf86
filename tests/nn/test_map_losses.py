import pytest
import torch

from cxrignite.functional import energy_inside
from cxrignite.nn import MapEnergyLoss


def random_maps(number=4):
    generator = torch.Generator().manual_seed(0)
    maps = torch.randn(number, 8, 8, generator=generator)
    masks = (torch.rand(number, 8, 8, generator=generator) > 0.7).float()
    return maps, masks


def test_the_loss_is_minus_the_logarithm_of_the_energy_that_explain_measures():
    maps, masks = random_maps()
    energy = energy_inside(maps.relu(), masks).energy
    assert MapEnergyLoss()(maps, masks).item() == pytest.approx(-energy.log().mean().item())


def test_a_step_along_the_gradient_draws_the_map_into_the_mask():
    maps, masks = random_maps()
    maps.requires_grad_()
    loss = MapEnergyLoss()(maps, masks)
    loss.backward()
    positive = maps.detach() > 0
    assert (maps.grad[positive & (masks > 0)] < 0).all()
    assert (maps.grad[positive & (masks == 0)] > 0).all()
    assert (maps.grad[~positive] == 0).all()
    assert MapEnergyLoss()(maps.detach() - 0.1 * maps.grad, masks) < loss


def test_a_map_inside_costs_nothing_and_the_scale_does_not_matter():
    maps, masks = random_maps()
    assert MapEnergyLoss()(maps.abs() * masks, masks).item() == pytest.approx(0)
    expected = MapEnergyLoss()(maps, masks).item()
    assert MapEnergyLoss()(1e-4 * maps, masks).item() == pytest.approx(expected, rel=1e-4)


@pytest.mark.parametrize("value", [0.0, -1.0])
def test_an_empty_map_and_one_that_lies_elsewhere_have_finite_losses_and_gradients(value):
    masks = torch.zeros(1, 4, 4)
    masks[0, 0, 0] = 1.0
    maps = torch.full((1, 4, 4), value)
    maps[0, 3, 3] = 1.0 if value else 0.0
    maps.requires_grad_()
    loss = MapEnergyLoss()(maps, masks)
    loss.backward()
    assert loss.isfinite()
    assert maps.grad.isfinite().all()


@pytest.mark.parametrize("weight", [0.0, -1.0, float("nan")])
def test_the_weight_must_be_above_0(weight):
    with pytest.raises(ValueError, match=f"weight.*{weight}"):
        MapEnergyLoss(weight)
