"""The same maps by the grad-cam package, and who is right where the two differ."""

import functools

import numpy as np
import pytest
import torch
from torch import nn

from cxrignite.functional import grad_cam
from cxrignite.nn import BinaryClassifier, ImageNormalizer, LightCNN, TransferClassifier

package = pytest.importorskip("pytorch_grad_cam", reason="grad-cam is not installed")
METHODS = {
    "grad_cam": package.GradCAM,
    "grad_cam_pp": package.GradCAMPlusPlus,
    "hires_cam": package.HiResCAM,
    "layer_cam": package.LayerCAM,
}
ARCHITECTURES = ["light", "resnet50", "densenet121", "efficientnet_b0", "convnext_tiny"]


class Column(nn.Module):
    """One logit an image as a column, larger by a factor: the package asks for a row an image."""

    def __init__(self, model, factor=1.0):
        super().__init__()
        self.model, self.factor = model, factor

    def forward(self, images):
        return self.factor * self.model(images)[:, None]


@functools.cache
def build(arch):
    """A network of random weights whose batch norms have seen images."""
    torch.manual_seed(1)
    model = LightCNN(width=8) if arch == "light" else TransferClassifier(arch, hidden=16)
    norms = [part for part in model.modules() if isinstance(part, nn.BatchNorm2d)]
    for norm in norms:
        norm.momentum = 1.0
        nn.init.uniform_(norm.weight, 0.5, 1.5)
        nn.init.uniform_(norm.bias, -0.2, 0.4)
    with torch.no_grad():
        model.train()(random_images(8, 64, seed=7))
    return model.eval()


def passing_on(num_channels):
    """A layer that changes nothing; the package finds no gradient without a weight in front."""
    layer = nn.Conv2d(num_channels, num_channels, 1, groups=num_channels, bias=False)
    nn.init.ones_(layer.weight)
    return layer


def random_images(number, side, seed=0):
    """Smooth blobs and a little noise."""
    generator = torch.Generator().manual_seed(seed)
    coarse = torch.rand(number, 1, 5, 5, generator=generator)
    smooth = nn.functional.interpolate(coarse, (side, side), mode="bicubic").clamp(0, 1)
    return 0.9 * smooth + 0.1 * torch.rand(number, 1, side, side, generator=generator)


def theirs(model, images, layer, method, target="positive", factor=1.0):
    column = Column(model, factor)
    sign = package.utils.model_targets.BinaryClassifierOutputTarget(int(target == "positive"))
    with METHODS[method](column, [model.get_submodule(layer)]) as cam:
        return cam(images, [sign] * len(images))


def correlations(ours, reference):
    pairs = zip(ours.numpy(), reference, strict=True)
    return [np.corrcoef(mine.ravel(), other.ravel())[0, 1] for mine, other in pairs]


def assert_the_same(model, images, layer, method):
    """Compare maps for and against the class; one of the two may be empty."""
    found = []
    for target in ("positive", "negative"):
        # So large a logit that the package's constant, see below, does not show.
        column = Column(model, 1e4)
        ours = grad_cam(column, images, f"model.{layer}", method=method, target=target)
        reference = theirs(model, images, layer, method, target, factor=1e4)
        finite = (ours.raw_max > 0).numpy()
        assert np.abs(reference[~finite]).max(initial=0.0) == 0.0
        found += correlations(ours.maps[finite], reference[finite])
    assert len(found) >= len(images)
    assert min(found) > 0.999, found


@pytest.mark.parametrize("num_images", [1, 7])
@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("arch", ["light", "resnet18"])
def test_small_images_have_the_maps_of_the_package(arch, method, num_images):
    model = build(arch)
    assert_the_same(model, random_images(num_images, 64), model.cam_layer, method)


@pytest.mark.slow
@pytest.mark.parametrize("num_images", [1, 7])
@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("arch", ARCHITECTURES)
def test_every_architecture_has_the_maps_of_the_package(arch, method, num_images):
    model = build(arch)
    assert_the_same(model, random_images(num_images, 224), model.cam_layer, method)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize(
    "arch", ["densenet121", pytest.param("efficientnet_b0", marks=pytest.mark.slow)]
)
def test_small_images_of_deeper_networks_have_the_maps_of_the_package(arch, method):
    model = build(arch)
    assert_the_same(model, random_images(1, 64), model.cam_layer, method)


def test_grad_cam_pp_is_right_where_gradients_are_small_and_the_package_is_not():
    # Two channels that each see one of three places; gradients g, sums 1, so that by hand
    # the weights are g / (2 + g): 1 to 1/2 for gradients of 1e-4 and .5e-4.
    class Weighted(nn.Module):
        def __init__(self):
            super().__init__()
            self.layer = passing_on(2)
            self.weight = nn.Parameter(1e-4 * torch.tensor([[[1.0, 0.0, 0.0]], [[0.0, 0.5, 0.0]]]))

        def forward(self, images):
            return (self.layer(images) * self.weight).sum(dim=(1, 2, 3))

    activation = torch.tensor([[[[1.0, 0.0, 0.0]], [[0.0, 1.0, 0.0]]]])
    by_hand = [1.0, 0.5 * (2 + 1e-4) / (2 + 0.5e-4), 0.0]
    ours = grad_cam(Weighted(), activation, "layer", method="grad_cam_pp").maps[0, 0]
    assert ours.tolist() == pytest.approx(by_hand, rel=1e-5)
    # It adds 1e-6 to a divisor of 2 g**2 = 2e-8 or .5e-8, so that its weights go with g**3.
    model = Weighted()
    [[row]] = theirs(model, activation, "layer", "grad_cam_pp")
    assert row[1] / row[0] == pytest.approx(1 / 8, rel=0.02)


def test_a_layer_in_front_of_a_relu_in_place_is_taken_as_it_is_and_the_package_mixes_the_two():
    class Tail(nn.Module):
        """As torchvision's DenseNet ends: a function changes the layer's output in place."""

        def __init__(self):
            super().__init__()
            self.layer = passing_on(1)

        def forward(self, images):
            return nn.functional.relu(self.layer(images), inplace=True).mean(dim=(1, 2, 3))

    # The logit is (1 + 2) / 4; gradients by the layer's output 1/4, 1/4, 0, 0; their mean 1/8.
    activation = torch.tensor([[[[1.0, 2.0], [-4.0, -8.0]]]])
    negated = -activation
    ours = grad_cam(Tail(), activation, "layer")
    assert ours.raw_max.tolist() == [2 / 8]
    assert ours.maps[0].tolist() == [[0.5, 1.0], [0.0, 0.0]]
    # Against the class: mean gradient -1/8 times 1, 2, -4, -8, of which the last two are above 0.
    against = grad_cam(Tail(), activation, "layer", target="negative")
    assert against.raw_max.tolist() == [1.0]
    assert against.maps[0].tolist() == [[0.0, 0.0], [0.5, 1.0]]
    # The package multiplies the gradient in front of the ReLU with what stands behind it.
    assert np.abs(theirs(Tail(), activation, "layer", "grad_cam", "negative")).max() == 0.0
    # With each place weighed by its own gradient, both come to the same.
    assert grad_cam(Tail(), negated, "layer", method="hires_cam").maps[0].tolist() == [
        [0.0, 0.0],
        [0.5, 1.0],
    ]


def test_the_package_stretches_a_map_to_zero_and_ours_keeps_its_shares():
    class Summed(nn.Module):
        def __init__(self):
            super().__init__()
            self.layer = passing_on(1)
            self.weight = nn.Parameter(torch.ones(1))

        def forward(self, images):
            return (self.weight * self.layer(images)).sum(dim=(1, 2, 3))

    images = torch.tensor([[[[3.0, 4.0]]]])
    assert grad_cam(Summed(), images, "layer").maps.flatten().tolist() == [0.75, 1.0]
    reference = theirs(Summed(), images, "layer", "grad_cam").flatten()
    assert reference.tolist() == pytest.approx([0.0, 1.0], abs=1e-6)


def of_tokens(kind):
    """Small networks that divide an image of 64 pixels into tokens, and the grid of the reference.

    The reference's reshape transform takes the class token off, and moves the channels.
    """
    timm = pytest.importorskip("timm", reason="the extra timm is not installed")
    torchvision = pytest.importorskip("torchvision")
    torch.manual_seed(0)
    without_class_token = lambda tokens: tokens[:, 1:].unflatten(1, (4, 4)).permute(0, 3, 1, 2)  # noqa: E731
    channels_first = lambda tokens: tokens.permute(0, 3, 1, 2)  # noqa: E731
    if kind == "timm_vit":
        network = timm.create_model("vit_tiny_patch16_224", depth=3, img_size=64, num_classes=0)
        return network, 192, "blocks.2.norm1", without_class_token
    if kind == "torchvision_vit":
        network = torchvision.models.VisionTransformer(64, 16, 3, 2, 32, 64)
        network.heads = nn.Identity()
        return network, 32, "encoder.layers.encoder_layer_2.ln_1", without_class_token
    network = timm.create_model(
        "swin_tiny_patch4_window7_224",
        img_size=64,
        num_classes=0,
        embed_dim=24,
        depths=(1, 1, 1),
        num_heads=(1, 2, 4),
        window_size=4,
    )
    return network, 96, "norm", channels_first


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("kind", ["timm_vit", "torchvision_vit", "timm_swin"])
def test_networks_of_tokens_have_the_maps_of_the_package_with_its_reshape_transform(kind, method):
    network, num_features, layer, reshape = of_tokens(kind)
    normalizer = ImageNormalizer([0.5] * 3, [0.5] * 3)
    head = nn.Sequential(nn.Linear(num_features, 16), nn.Tanh(), nn.Linear(16, 1))
    model = BinaryClassifier(normalizer, network, head, (64, 64)).eval()
    assert model.cam_layer == f"backbone.{layer}"
    scaled, images, found = Column(model, 1e4), random_images(5, 64), []
    for target in ("positive", "negative"):
        ours = grad_cam(scaled, images, f"model.backbone.{layer}", method=method, target=target)
        assert ours.grid == (4, 4)
        sign = package.utils.model_targets.BinaryClassifierOutputTarget(int(target == "positive"))
        layers = [scaled.get_submodule(f"model.backbone.{layer}")]
        with METHODS[method](scaled, layers, reshape_transform=reshape) as cam:
            reference = cam(images, [sign] * len(images))
        finite = (ours.raw_max > 0).numpy()
        assert np.abs(reference[~finite]).max(initial=0.0) == 0.0
        found += correlations(ours.maps[finite], reference[finite])
    assert len(found) >= len(images)
    assert min(found) > 0.999, found


@pytest.mark.parametrize("method", METHODS)
def test_each_of_several_outputs_has_the_maps_of_the_package(method):
    torch.manual_seed(1)
    model = LightCNN(width=8, num_findings=3).eval()
    with torch.no_grad():  # the maps of the findings differ
        model.head[1].weight.copy_(torch.randn(3, 64))
    scaled = Column(model, 1e4)
    scaled.forward = lambda images: 1e4 * model(images)
    images, layer = random_images(4, 64), f"model.{model.cam_layer}"
    target = package.utils.model_targets.ClassifierOutputTarget
    maps = []
    for output in range(3):
        ours = grad_cam(scaled, images, layer, method=method, output=output)
        with METHODS[method](scaled, [scaled.get_submodule(layer)]) as cam:
            reference = cam(images, [target(output)] * len(images))
        finite = (ours.raw_max > 0).numpy()
        assert np.abs(reference[~finite]).max(initial=0.0) == 0.0
        assert min(correlations(ours.maps[finite], reference[finite]), default=1) > 0.999
        maps.append(ours.maps)
    assert sum(bool(each.any()) for each in maps) >= 2
    assert not torch.equal(maps[0], maps[1])
