import pytest
import torch
from messages import refused
from torch import nn

from cxrignite.engines.model_mode import ModelMode
from cxrignite.errors import RecipeError
from cxrignite.nn import LightCNN, TransferClassifier
from cxrignite.nn.model_parts import find_parts, ordered_layers, parameter_groups


@pytest.fixture
def model():
    return LightCNN(width=2)


def test_a_part_is_found_by_its_name_or_a_pattern(model):
    assert find_parts(model, ["backbone.4"], "parts") == ["backbone.4"]
    found = find_parts(model, ["backbone.?.1", "head*"], "parts")
    assert found[:5] == [f"backbone.{each}.1" for each in range(5)]
    assert {"head", "head.1", "head.1.bias"} <= set(found)


def test_an_unknown_part_is_named_with_a_near_one(model):
    with refused(RecipeError, "frozen", "'backbone.9'", "'backbone.4'"):
        find_parts(model, ["backbone.0", "backbone.9"], "frozen")
    with refused(RecipeError, "frozen", "'x'", "backbone, "):
        find_parts(model, ["x"], "frozen")


def test_frozen_parts_stay_in_evaluation_mode_and_unfreezing_is_noticed(model):
    mode = ModelMode(model, is_training=True)
    model.freeze(["backbone.0", "backbone.1.0.weight"])
    mode.enter()
    frozen = {name for name, each in model.named_parameters() if not each.requires_grad}
    assert frozen == {"backbone.0.0.weight", "backbone.0.1.weight", "backbone.0.1.bias"} | {
        "backbone.1.0.weight"
    }
    evaluated = {name for name, each in model.named_modules() if not each.training}
    assert evaluated == {name for name, _ in model.named_modules() if name.startswith("backbone.0")}
    model.unfreeze()
    mode.enter()
    assert all(each.training for each in model.modules())
    assert all(each.requires_grad for each in model.parameters())


def test_a_weight_that_its_model_does_not_train_stays_so(model):
    model.head[1].bias.requires_grad_(False)
    model.freeze(["head"])
    model.unfreeze()
    assert not model.head[1].bias.requires_grad
    with refused(RecipeError, "frozen", "all"):
        model.freeze(["head.1.weight", "backbone"])


@pytest.mark.parametrize(
    ("arch", "count", "first", "last"),
    [
        ("resnet18", 6, ["conv1", "bn1"], ["layer4.1"]),
        (
            *("densenet121", 8, ["features.conv0", "features.norm0"]),
            ["features.denseblock4", "features.norm5"],
        ),
        ("mobilenet_v3_small", 14, ["features.0"], ["classifier"]),
    ],
)
def test_layers_are_in_the_order_of_the_network(arch, count, first, last):
    layers = ordered_layers(TransferClassifier(arch).backbone)
    assert (len(layers), layers[0], layers[-1]) == (count, first, last)


def test_groups_hold_every_parameter_once_with_the_product_of_its_factors(model):
    groups = parameter_groups(model, {"backbone": 0.5, "backbone.4": 0.2, "head": 3.0}, 0.1)
    assert groups[0] == {"params": [], "factor": 1.0}
    factors = {id(each): group["factor"] for group in groups for each in group["params"]}
    assert len(factors) == len(list(model.parameters()))
    assert factors[id(model.head[1].weight)] == 3.0
    assert factors[id(model.backbone[4][1].weight)] == pytest.approx(0.2 * 0.1)
    assert factors[id(model.backbone[0][0].weight)] == pytest.approx(0.5 * 1e-5)


def test_weights_outside_of_the_layers_are_next_to_the_input():
    class Tokens(nn.Module):
        def __init__(self):
            super().__init__()
            self.blocks = nn.Sequential(*(nn.Linear(4, 4) for _ in range(3)))
            self.token = nn.Parameter(torch.zeros(4))

    model = nn.ModuleDict({"backbone": Tokens(), "head": nn.Linear(4, 1)})
    groups = parameter_groups(model, {}, 0.5)
    factors = {id(each): group["factor"] for group in groups for each in group["params"]}
    assert factors[id(model["backbone"].token)] == 0.5**3
    assert factors[id(model["backbone"].blocks[0].weight)] == 0.5**3
    assert factors[id(model["backbone"].blocks[2].bias)] == 0.5
