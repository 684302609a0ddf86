import copy

import pytest
import torch
from messages import refused
from torch import nn

from cxrignite.errors import RecipeError
from cxrignite.functional import grad_cam
from cxrignite.functional.model_access import evaluation_mode
from cxrignite.nn import BinaryClassifier, ImageNormalizer, LightCNN
from cxrignite.nn.classifiers import dense_head
from cxrignite.nn.training_maps import TrainingMaps

SIZE = (64, 48)


def small(head, *, max_pool=False, num_findings=1):
    """A small network with a last layer of 6 channels, and a head."""
    torch.manual_seed(0)
    pool = nn.AdaptiveMaxPool2d(1) if max_pool else nn.AdaptiveAvgPool2d(1)
    backbone = nn.Sequential(
        *(nn.Conv2d(1, 6, 5, stride=4, padding=2), nn.ReLU(inplace=True)), pool, nn.Flatten()
    )
    normalizer = ImageNormalizer([0.5], [0.5], num_channels=1)
    return BinaryClassifier(normalizer, backbone, head, num_findings=num_findings)


def networks():
    torch.manual_seed(0)
    deep = small(nn.Linear(6, 1))
    deep.head = dense_head(6, 16, 0.0, 1)
    return {
        "light": LightCNN(width=4, stride=8, num_findings=3),
        "linear": small(nn.Linear(6, 2), num_findings=2),
        "dense": deep,
        "max_pool": small(nn.Linear(6, 1), max_pool=True),
    }


@pytest.mark.parametrize("name", ["linear", "dense"])
def test_a_head_is_taught_behind_a_frozen_backbone(name):
    model = networks()[name]
    maps = TrainingMaps(model, SIZE)
    model.freeze(["backbone"])
    model.train()
    rows = torch.arange(4)
    maps.of(model(images_of()), rows, torch.zeros_like(rows)).square().sum().backward()
    trained = [each for each, weight in model.named_parameters() if weight.grad is not None]
    assert trained
    assert all(each.startswith("head.") for each in trained)


def images_of(number=4):
    return torch.rand(number, 1, *SIZE, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("name", ["light", "linear", "dense", "max_pool"])
def test_the_maps_of_a_step_are_those_of_grad_cam(name):
    model = networks()[name]
    maps = TrainingMaps(model, SIZE)
    assert (maps._head is not None) == (name in ("light", "linear"))
    images, last = images_of(), model.num_findings - 1
    rows, findings = torch.tensor([0, 2, 3]), torch.tensor([last, 0, last])
    with evaluation_mode(model):
        found = maps.of(model(images), rows, findings)
    assert found.shape == (3, *maps.grid)
    assert found.requires_grad
    for each, row, finding in zip(found, rows.tolist(), findings.tolist(), strict=True):
        expected = grad_cam(model, images[row][None], model.cam_layer, output=finding)
        assert expected.grid == maps.grid
        fine = torch.nn.functional.interpolate(
            each.detach().relu()[None, None], SIZE, mode="bilinear", align_corners=False
        )[0, 0]
        assert fine.amax() > 0
        torch.testing.assert_close(fine / fine.amax(), expected.maps[0], atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("name", ["light", "dense"])
def test_the_gradient_reaches_the_layers_on_both_sides(name):
    model = networks()[name]
    maps = TrainingMaps(model, SIZE)
    logits = model.train()(images_of())
    both = torch.tensor([0, 1])
    maps.of(logits, both, torch.zeros_like(both)).square().sum().backward()
    first = next(model.backbone.parameters()).grad
    last = [each for each in model.head.parameters() if each.ndim == 2][-1].grad
    assert first.abs().sum() > 0
    assert last.abs().sum() > 0


def test_looking_at_the_layer_changes_no_weight_and_no_random_number():
    model = networks()["light"].train()
    before, random_state = copy.deepcopy(model.state_dict()), torch.get_rng_state()
    maps = TrainingMaps(model, SIZE)
    assert all(torch.equal(model.state_dict()[name], each) for name, each in before.items())
    assert model.training
    assert all(each.grad is None for each in model.parameters())
    assert torch.equal(torch.get_rng_state(), random_state)
    # Nothing is kept without gradients, and a copy of the model has a hook of its own.
    with torch.no_grad():
        model(images_of())
    assert maps._output is None
    other = copy.deepcopy(model)
    other(images_of())
    assert maps._output is None


def test_a_step_with_kept_activations_is_the_same_step_bit_for_bit():
    gradients = []
    for is_kept in (False, True):
        model = networks()["light"].train()
        if is_kept:
            TrainingMaps(model, SIZE)
        torch.manual_seed(3)
        model(images_of()).square().sum().backward()
        gradients.append([each.grad for each in model.parameters()])
    assert all(map(torch.equal, *gradients))


def test_a_model_without_a_second_derivative_is_refused():
    class Once(torch.autograd.Function):
        @staticmethod
        def forward(context, features):
            return 2 * features

        @staticmethod
        @torch.autograd.function.once_differentiable
        def backward(context, gradient):
            return 2 * gradient

    class OnceLayer(nn.Module):
        def forward(self, features):
            return Once.apply(features)

    model = small(nn.Sequential(nn.Linear(6, 4), OnceLayer(), nn.Linear(4, 1)))
    with refused(RecipeError, "map_loss", "backbone.1"):
        TrainingMaps(model, SIZE)
