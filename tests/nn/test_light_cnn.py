from functools import partial

import pytest
import torch
from messages import refused

from cxrignite.functional import grad_cam
from cxrignite.nn import BinaryClassifier, LightCNN, TimmClassifier, TransferClassifier


@pytest.mark.parametrize("size", [(32, 32), (128, 96), (224, 224)])
def test_an_image_gets_one_logit(size):
    logits = LightCNN(width=4).eval()(torch.randint(0, 256, (3, 1, *size), dtype=torch.uint8))
    assert logits.shape == (3,)
    assert logits.dtype == torch.float32


@pytest.mark.parametrize(
    "make",
    [
        partial(LightCNN, width=4),
        partial(TransferClassifier, "resnet18", hidden=8),
        partial(TimmClassifier, "resnet10t", hidden=8),
    ],
    ids=["light", "torchvision", "timm"],
)
def test_several_findings_get_a_logit_each_and_one_is_the_default(make):
    states = []
    for settings in ({}, {"num_findings": 1}, {"num_findings": 3}):
        torch.manual_seed(0)
        model = make(**settings).eval()
        states.append(model.state_dict())
    assert model.num_findings == 3
    assert model(torch.rand(2, 1, 64, 64)).shape == (2, 3)
    assert model(torch.rand(1, 1, 64, 64)).shape == (1, 3)
    default, one, three = states
    assert [name for name in default if not torch.equal(default[name], one[name])] == []
    *_, weight, bias = default
    assert (default[weight].shape[0], three[weight].shape[0], len(three[bias])) == (1, 3, 3)
    with refused(ValueError, "num_findings", "1", "0"):
        make(num_findings=0)


def test_a_single_image_gets_one_logit_too():
    assert LightCNN(width=4).eval()(torch.rand(1, 1, 64, 64)).shape == (1,)


def test_the_last_block_has_a_map_of_a_thirty_second():
    model = LightCNN(width=4).eval()
    shapes = []
    model.get_submodule("backbone.4").register_forward_hook(
        lambda _module, _inputs, output: shapes.append(output.shape)
    )
    model(torch.rand(2, 1, 224, 224))
    assert shapes == [(2, 32, 7, 7)]


@pytest.mark.parametrize(("stride", "places"), [(8, 8), (16, 4), (32, 2)])
def test_a_place_of_the_last_map_stands_for_as_many_pixels_as_the_stride(stride, places):
    model = LightCNN(width=4, stride=stride).eval()
    found = grad_cam(model, torch.rand(2, 1, 64, 96), model.cam_layer)
    assert model.cam_layer == "backbone.4"
    assert found.grid == (places, places * 3 // 2)


@pytest.mark.parametrize("stride", [8, 16])
def test_a_stride_changes_no_weight(stride):
    torch.manual_seed(0)
    finer = LightCNN(width=4, stride=stride).state_dict()
    torch.manual_seed(0)
    coarse = LightCNN(width=4).state_dict()
    assert list(finer) == list(coarse)
    assert all(torch.equal(finer[name], coarse[name]) for name in coarse)


def test_a_smaller_stride_costs_what_the_docstring_says():
    costs = {}
    for stride in (8, 16, 32):
        model = LightCNN(stride=stride).to("meta").eval()
        sums = costs[stride] = []
        for part in model.modules():
            if isinstance(part, torch.nn.Conv2d):
                part.register_forward_hook(
                    lambda part, _inputs, output, sums=sums: sums.append(
                        output[0, 0].numel() * part.weight.numel()
                    )
                )
        model.backbone(torch.zeros(1, 1, 224, 224, device="meta"))
    total = {stride: sum(products) for stride, products in costs.items()}
    assert total[32] == pytest.approx(0.21e9, abs=0.005e9)
    assert total[16] / total[32] == pytest.approx(1.4, abs=0.05)
    assert total[8] / total[32] == pytest.approx(3.9, abs=0.05)


def test_channels_last_changes_the_layout_and_not_the_logits():
    model = LightCNN(width=8).eval()
    images = torch.rand(2, 1, 64, 64)
    expected = model(images)
    model.to(memory_format=torch.channels_last)
    layouts = []
    model.get_submodule("backbone.3").register_forward_pre_hook(
        lambda _module, inputs: layouts.append(
            inputs[0].is_contiguous(memory_format=torch.channels_last)
        )
    )
    torch.testing.assert_close(model(images), expected, atol=1e-5, rtol=1e-4)
    assert layouts == [True]


def test_it_learns_to_see_a_bright_spot():
    torch.manual_seed(0)
    images = 0.3 * torch.rand(32, 1, 64, 64)
    labels = torch.arange(32) % 2
    images[labels == 1, :, 20:40, 20:40] += 0.5
    model = LightCNN(width=4, dropout=0.0)
    optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
    for _ in range(15):
        optimizer.zero_grad()
        torch.nn.functional.binary_cross_entropy_with_logits(
            model(images), labels.float()
        ).backward()
        optimizer.step()
    assert ((model(images) > 0) == labels).float().mean() == 1.0


def test_per_image_standardisation_ignores_the_exposure():
    model = LightCNN(width=4, standardize="per_image").eval()
    images = torch.rand(2, 1, 64, 64)
    torch.testing.assert_close(model(images), model(0.4 * images + 0.2), atol=1e-5, rtol=1e-3)


def test_it_is_a_binary_classifier():
    assert issubclass(LightCNN, BinaryClassifier)


@pytest.mark.parametrize(
    ("settings", "facts"),
    [
        ({"width": 0}, ["width", "1", "0"]),
        ({"stride": 4}, ["stride", "8", "16", "32", "4"]),
        ({"stride": 64}, ["stride", "8", "16", "32", "64"]),
        ({"dropout": 1.0}, ["dropout", "[0, 1)", "1.0"]),
        ({"dropout": float("nan")}, ["dropout", "[0, 1)", "nan"]),
    ],
)
def test_settings_out_of_range_are_refused(settings, facts):
    with refused(ValueError, *facts):
        LightCNN(**settings)


def test_scores_under_bf16_autocast_are_as_fine_as_float32():
    images = torch.randint(0, 255, (200, 1, 32, 32), dtype=torch.uint8)
    model = LightCNN(width=4).eval()
    with torch.inference_mode(), torch.autocast("cpu", torch.bfloat16):
        logits = model(images)
    assert logits.dtype == torch.float32
    assert len(logits.unique()) > 150
