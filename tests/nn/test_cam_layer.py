import time

import pytest
import torch
from messages import refused
from torch import nn

from cxrignite.errors import RecipeError
from cxrignite.functional import grad_cam
from cxrignite.nn import BinaryClassifier, ImageNormalizer, LightCNN, TransferClassifier
from cxrignite.nn.cam_layer import last_map_layer

TORCHVISION = [
    ("resnet18", "backbone.layer4"),
    ("densenet121", "backbone.relu"),
    ("convnext_tiny", "backbone.features"),
    ("mobilenet_v3_small", "backbone.features"),
    ("shufflenet_v2_x0_5", "backbone.conv5"),
    ("squeezenet1_1", "backbone.features"),
    ("googlenet", "backbone.inception5b"),
    ("swin_t", "backbone.permute"),
]
ALIKE = [
    ("resnet50", "backbone.layer4"),
    ("efficientnet_b0", "backbone.features"),
    ("regnet_y_400mf", "backbone.trunk_output"),
    ("inception_v3", "backbone.Mixed_7c"),
    # With a pool of fixed size behind.
    ("vgg11_bn", "backbone.features"),
    ("alexnet", "backbone.features"),
]


@pytest.fixture(autouse=True)
def same_weights():
    """Random ones, in a head wide enough that no image finds all of it shut by its ReLU."""
    torch.manual_seed(0)


def small(*layers, image_size=None):
    normalizer = ImageNormalizer([0.5], [0.5], num_channels=1)
    return BinaryClassifier(normalizer, nn.Sequential(*layers), nn.Linear(2, 1), image_size)


def check_maps(model, layer, side):
    assert model.cam_layer == layer
    size = model.image_size or (side, side)
    images = torch.rand(2, 1, *size, generator=torch.Generator().manual_seed(0))
    found = grad_cam(model, images, layer, method="hires_cam")
    against = grad_cam(model, images, layer, method="hires_cam", target="negative")
    assert found.maps.shape == (2, *size)
    assert (found.raw_max + against.raw_max > 0).all()


@pytest.mark.parametrize(
    ("arch", "layer"),
    [*TORCHVISION, *(pytest.param(*each, marks=pytest.mark.slow) for each in ALIKE)],
)
def test_torchvision_s_networks_are_mapped_at_their_last_map(arch, layer):
    check_maps(TransferClassifier(arch, hidden=64), layer, 128)


def test_the_baseline_is_mapped_at_its_last_block():
    check_maps(LightCNN(width=4), "backbone.4", 64)


@pytest.mark.parametrize(
    ("arch", "layer"),
    [
        ("tf_efficientnet_lite0", "backbone.bn2"),
        ("mobilenetv3_small_050", "backbone.blocks"),
        ("resnet10t", "backbone.layer4"),
        ("convnext_atto", "backbone.stages"),
    ],
)
def test_timm_s_networks_are_mapped_at_their_last_map(arch, layer):
    pytest.importorskip("timm", reason="the extra timm is not installed")
    from cxrignite.nn import TimmClassifier

    check_maps(TimmClassifier(arch, hidden=64), layer, 96)


def test_a_vision_transformer_is_mapped_before_its_last_attention():
    with torch.device("meta"):  # a hundred million weights less
        model = TransferClassifier("vit_b_32", hidden=64)
    assert model.cam_layer == "backbone.encoder.layers.encoder_layer_11.ln_1"


@pytest.mark.parametrize(
    ("arch", "layer"),
    [
        ("vit_tiny_patch16_224", "backbone.blocks.11.norm1"),
        ("deit_tiny_distilled_patch16_224", "backbone.blocks.11.norm1"),
        ("swin_tiny_patch4_window7_224", "backbone.norm"),
        ("mixer_s32_224", "backbone.norm"),  # without attention all tokens are averaged
    ],
)
def test_timm_s_networks_of_tokens_are_mapped(arch, layer):
    pytest.importorskip("timm", reason="the extra timm is not installed")
    from cxrignite.nn import TimmClassifier

    check_maps(TimmClassifier(arch, hidden=64), layer, 224)


def test_a_network_that_pools_at_once_has_no_layer():
    with refused(RecipeError, "Sequential", "target_layer"):
        _ = small(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(1, 2)).cam_layer


def test_a_network_that_cannot_run_without_content_says_so():
    class Choosing(nn.Module):
        def forward(self, images):
            return images if images.sum() > 0 else -images

    with refused(RecipeError, "Sequential", "RuntimeError", "target_layer"):
        _ = small(Choosing(), nn.Flatten(), nn.Linear(4096, 2)).cam_layer


def test_a_map_of_fixed_size_and_an_identity_are_not_chosen():
    layers = [nn.Conv2d(1, 2, 3, 4), nn.ReLU(inplace=True), nn.Dropout(0.5), nn.Identity()]
    pools = [nn.AdaptiveAvgPool2d(3), nn.AdaptiveAvgPool2d(1), nn.Flatten()]
    assert small(*layers, *pools).cam_layer == "backbone.1"


def test_where_the_size_is_fixed_channels_last_are_recognised_by_their_shape():
    torch.manual_seed(1)

    class Last(nn.Module):
        def forward(self, images):
            return images.permute(0, 2, 3, 1)

    first = nn.Conv2d(1, 2, 3, 4)
    tail = [nn.Flatten(), nn.Linear(512, 2)]
    check_maps(small(first, Last(), *tail, image_size=(64, 64)), "backbone.1", 64)
    pools = [nn.AdaptiveAvgPool2d(1), nn.Flatten()]
    assert small(first, *pools, image_size=(64, 64)).cam_layer == "backbone.0"


def test_looking_for_the_layer_leaves_the_model_and_the_random_numbers_alone():
    model = LightCNN(width=4).train()
    model.backbone[1].eval()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    modes = [part.training for part in model.modules()]
    random_state = torch.get_rng_state()
    with torch.inference_mode():
        assert model.cam_layer == "backbone.4"
    assert [part.training for part in model.modules()] == modes
    assert all(torch.equal(model.state_dict()[name], each) for name, each in before.items())
    assert all(weight.device.type == "cpu" for weight in model.parameters())
    assert sum(len(part._forward_hooks) for part in model.modules()) == 0
    assert torch.equal(torch.get_rng_state(), random_state)


def test_a_large_network_is_looked_through_in_no_time():
    model = TransferClassifier("resnet50", hidden=64)
    start = time.process_time()
    assert last_map_layer(model.backbone, 3) == "layer4"
    assert time.process_time() - start < 5  # a pass of 224 pixels without numbers takes 0.1 s


def test_a_densenet_said_in_layers_is_torchvision_s_to_the_bit():
    import torchvision

    torch.manual_seed(0)
    model = TransferClassifier("densenet121", hidden=64).train()
    network = torchvision.models.densenet121().train()
    network.classifier = nn.Identity()
    network.load_state_dict(model.backbone.state_dict())
    images = torch.rand(2, 1, 64, 64)
    features = network(model.normalizer(images))
    assert torch.equal(model.backbone(model.normalizer(images)), features)
    features.sum().backward()
    model.backbone(model.normalizer(images)).sum().backward()
    own = dict(model.backbone.named_parameters())
    assert all(torch.equal(own[name].grad, each.grad) for name, each in network.named_parameters())
