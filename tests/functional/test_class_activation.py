import copy
import gc

import numpy as np
import pytest
import torch
from messages import refused
from torch import nn

from cxrignite.errors import NonFiniteError, RecipeError
from cxrignite.functional import grad_cam
from cxrignite.nn import LightCNN

METHODS = ["grad_cam", "grad_cam_pp", "hires_cam", "layer_cam"]
# Two channels of 2 x 2 places, and what each place adds to the logit.
ACTIVATION = torch.tensor([[[1.0, 2.0], [0.0, 3.0]], [[4.0, 0.0], [1.0, 0.0]]])
WEIGHT = torch.tensor([[[1.0, 0.0], [0.0, 3.0]], [[-2.0, 0.0], [0.5, 0.5]]])
# By hand. Mean gradients 1 and -1/4; sums of the activations 6 and 5.
GRAD_CAM = [[0.0, 2.0], [0.0, 3.0]]
# 1/(2+6) + 3/(2+18) = 11/40 and 2 x .5/(2+2.5) = 2/9.
GRAD_CAM_PP = [[11 / 40 + 8 / 9, 22 / 40], [2 / 9, 33 / 40]]
HIRES_CAM = [[0.0, 0.0], [0.5, 9.0]]  # 1 - 8, 0, .5, 9
LAYER_CAM = [[1.0, 0.0], [0.5, 9.0]]
BY_HAND = [
    ("grad_cam", "positive", GRAD_CAM),
    ("grad_cam_pp", "positive", GRAD_CAM_PP),
    ("hires_cam", "positive", HIRES_CAM),
    ("layer_cam", "positive", LAYER_CAM),
    # Mean gradients -1 and 1/4: 1 - 1 = 0, and 1/4 of the second channel's 1.
    ("grad_cam", "negative", [[0.0, 0.0], [0.25, 0.0]]),
    # The only position with negative evidence: 2/(2+10) of the second channel.
    ("grad_cam_pp", "negative", [[4 / 6, 0.0], [1 / 6, 0.0]]),
    ("hires_cam", "negative", [[7.0, 0.0], [0.0, 0.0]]),
    ("layer_cam", "negative", [[8.0, 0.0], [0.0, 0.0]]),
]


class Weighted(nn.Module):
    """A layer that passes the image on, and a logit that weighs each of its places."""

    def __init__(self, weight=WEIGHT):
        super().__init__()
        self.layer = nn.Identity()
        self.weight = nn.Parameter(weight.clone())

    def forward(self, images):
        return (self.layer(images) * self.weight).sum(dim=(1, 2, 3))


class Thresholded(nn.Module):
    """A convolution, a batch norm, a ReLU that may be in place and may be a function, a mean."""

    def __init__(self, in_place, as_function):
        super().__init__()
        self.conv, self.norm = nn.Conv2d(1, 6, 3, padding=1), nn.BatchNorm2d(6)
        self.relu = nn.ReLU(inplace=in_place)
        self.in_place, self.as_function = in_place, as_function
        self.linear = nn.Linear(6, 1)

    def forward(self, images):
        features = self.norm(self.conv(images))
        if self.as_function:
            features = nn.functional.relu(features, inplace=self.in_place)
        else:
            features = self.relu(features)
        return self.linear(features.mean(dim=(2, 3)))


@pytest.fixture
def light():
    torch.manual_seed(3)
    model = LightCNN(width=4)
    for part in model.modules():
        if isinstance(part, nn.BatchNorm2d):
            nn.init.uniform_(part.running_mean, -0.5, 0.5)
            nn.init.uniform_(part.running_var, 0.5, 2.0)
            nn.init.uniform_(part.bias, -0.3, 0.5)
    return model.train()


@pytest.fixture
def images():
    return torch.rand(3, 1, 64, 64, generator=torch.Generator().manual_seed(5))


@pytest.mark.parametrize(("method", "target", "expected"), BY_HAND)
def test_each_method_is_the_one_worked_out_by_hand(method, target, expected):
    found = grad_cam(Weighted(), ACTIVATION[None], "layer", method=method, target=target)
    expected = torch.tensor(expected)
    torch.testing.assert_close(found.raw_max, expected.max().reshape(1))
    torch.testing.assert_close(found.maps[0], expected / expected.max())
    assert found.logits.tolist() == [1 - 8 + 0.5 + 9]


def test_without_a_relu_grad_cam_of_a_mean_and_a_linear_layer_is_its_weighted_sum():
    # Zhou's class activation map: the gradient is the weight over the number of places.
    torch.manual_seed(0)
    convolution, linear = nn.Conv2d(1, 5, 3, padding=1), nn.Linear(5, 1)
    model = nn.Sequential(convolution, nn.AdaptiveAvgPool2d(1), nn.Flatten(), linear)
    images = torch.rand(4, 1, 6, 6)
    coarse = torch.einsum("c,nchw->nhw", linear.weight[0] / 36, convolution(images)).clamp_min(0)
    for method in ("grad_cam", "hires_cam"):
        found = grad_cam(model, images, convolution, method=method)
        torch.testing.assert_close(found.raw_max, coarse.amax(dim=(1, 2)))
        torch.testing.assert_close(found.maps, coarse / coarse.amax(dim=(1, 2), keepdim=True))


def test_the_two_targets_of_hires_cam_add_up_to_the_logit(images):
    model = nn.Sequential(
        nn.Conv2d(1, 5, 3, padding=1), nn.ReLU(), nn.Flatten(), nn.Linear(5 * 64 * 64, 1, False)
    )
    sums = [
        (found.maps * found.raw_max[:, None, None]).sum(dim=(1, 2))
        for target in ("positive", "negative")
        for found in [grad_cam(model, images, "1", method="hires_cam", target=target)]
    ]
    torch.testing.assert_close(sums[0] - sums[1], model(images)[:, 0], atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("method", METHODS)
def test_an_empty_map_stays_empty(method):
    found = grad_cam(Weighted(-WEIGHT.abs()), ACTIVATION[None], "layer", method=method)
    assert found.raw_max.tolist() == [0.0]
    assert found.maps.abs().max() == 0.0


def test_a_tiny_map_is_reported_by_its_raw_maximum():
    found = grad_cam(Weighted(1e-9 * WEIGHT), ACTIVATION[None], "layer")
    assert found.maps.max() == 1.0
    assert found.raw_max.tolist() == pytest.approx([3e-9])


def test_a_map_is_upright_and_upsampled_between_the_centres_of_its_places():
    activation = torch.zeros(1, 1, 8, 16)
    activation[0, 0, :4, :8] = 1.0  # above and left
    model = nn.Sequential(nn.AvgPool2d(4), Weighted(torch.ones(1, 2, 4)))
    maps = grad_cam(model, activation, "0").maps[0]
    assert maps.shape == (8, 16)
    slope = [0.875, 0.625, 0.375, 0.125]
    assert maps[0].tolist() == [1.0] * 6 + slope + [0.0] * 6
    assert maps[:, 0].tolist() == [1.0] * 2 + slope + [0.0] * 2


@pytest.mark.parametrize(("layer", "grid"), [("backbone.0", (16, 24)), ("backbone.4", (2, 3))])
@pytest.mark.parametrize("method", METHODS)
def test_the_grid_is_the_rows_and_columns_of_the_layers_own_map(light, method, layer, grid):
    found = grad_cam(light, torch.rand(2, 1, 64, 96), layer, method=method)
    assert found.grid == grid
    assert found.maps.shape == (2, 64, 96)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("layer", ["conv", "norm", "relu"])
def test_a_map_does_not_depend_on_whether_a_relu_is_in_place(method, layer, images):
    torch.manual_seed(1)
    plain = Thresholded(False, False).eval()
    in_place = Thresholded(True, False).eval()
    in_place.load_state_dict(plain.state_dict())
    expected = grad_cam(plain, images, layer, method=method)
    found = grad_cam(in_place, images, layer, method=method)
    for mine, theirs in zip(found[:3], expected[:3], strict=True):
        assert torch.equal(mine, theirs)
    if layer != "relu":
        functions = Thresholded(True, True).eval()
        functions.load_state_dict(plain.state_dict())
        assert torch.equal(grad_cam(functions, images, layer, method=method).maps, expected.maps)


@pytest.mark.parametrize("method", METHODS)
def test_an_image_has_the_same_map_alone_and_in_a_batch(light, images, method):
    together = grad_cam(light, images, "backbone.3", method=method)
    for number in range(len(images)):
        alone = grad_cam(light, images[number : number + 1], "backbone.3", method=method)
        torch.testing.assert_close(alone.maps[0], together.maps[number], atol=1e-5, rtol=1e-4)


def test_a_layer_and_its_name_are_one(light, images):
    by_name = grad_cam(light, images, "backbone.4")
    by_layer = grad_cam(light, images, light.backbone[4])
    assert torch.equal(by_name.maps, by_layer.maps)


def test_the_logits_are_those_of_evaluation_mode(light, images):
    found = grad_cam(light, images, "backbone.4")
    torch.testing.assert_close(found.logits, light.eval()(images))
    assert not any(part.requires_grad for part in found[:3])


@pytest.mark.parametrize(
    ("surroundings", "frozen"),
    [
        (torch.enable_grad, False),
        (torch.enable_grad, True),
        (torch.no_grad, False),
        (torch.no_grad, True),
        (torch.inference_mode, False),
        (torch.inference_mode, True),
        (lambda: torch.autocast("cpu", torch.bfloat16), False),
    ],
    ids=["plain", "frozen", "no_grad", "no_grad-frozen", "inference", "inference-frozen", "bf16"],
)
def test_the_caller_s_mode_changes_no_bit(light, images, surroundings, frozen):
    expected = grad_cam(copy.deepcopy(light), images, "backbone.3")
    light.requires_grad_(not frozen)
    with surroundings():
        own = images.clone()  # an inference tensor, where the caller is in that mode
        was_enabled = torch.is_grad_enabled()
        found = grad_cam(light, own, "backbone.3")
        assert torch.is_grad_enabled() == was_enabled
    assert found.grid == expected.grid
    for mine, theirs in zip(found[:3], expected[:3], strict=True):
        assert mine.dtype == torch.float32
        assert torch.equal(mine, theirs)


def test_the_raw_image_may_be_used_behind_the_layer_in_inference_mode():
    class Skipping(Weighted):
        def forward(self, images):
            return (self.layer(images) * images * self.weight).sum(dim=(1, 2, 3))

    model = Skipping(torch.ones(2, 2, 2))
    with torch.inference_mode():
        found = grad_cam(model, ACTIVATION[None].clone(), "layer")
    assert found.raw_max > 0


def test_nothing_is_left_behind(light, images):
    light.backbone[1].eval()  # a part that is frozen in its own mode
    light.backbone[0][0].requires_grad_(False)
    light.head[1].weight.grad = torch.ones_like(light.head[1].weight)
    own = light.register_forward_hook(lambda *_: None)
    before = copy.deepcopy(light.state_dict())
    modes = [part.training for part in light.modules()]
    expected = [weight.requires_grad for weight in light.parameters()]
    random_state = torch.get_rng_state()
    for method in METHODS:
        grad_cam(light, images, "backbone.3", method=method, target="negative")
    assert_untouched(light, before, modes, expected)
    assert torch.equal(light.head[1].weight.grad, torch.ones_like(light.head[1].weight))
    assert [weight.grad is None for weight in light.parameters()].count(False) == 1
    assert list(light._forward_hooks) == [own.id]
    assert torch.equal(torch.get_rng_state(), random_state)
    assert images.grad is None
    assert not images.requires_grad


def test_nothing_is_left_behind_after_an_error(light, images):
    before = copy.deepcopy(light.state_dict())
    modes = [part.training for part in light.modules()]
    expected = [weight.requires_grad for weight in light.parameters()]
    was_enabled = torch.is_grad_enabled()
    for layer, wrong in (
        ("backbone.4", images[:, :, :32, :32]),
        ("backbone.3", images.expand(-1, 2, -1, -1)),
        ("head", images),
        ("backbone.3", images * float("nan")),
    ):
        with pytest.raises((ValueError, NonFiniteError)):
            grad_cam(light, wrong, layer)
        assert_untouched(light, before, modes, expected)
        assert sum(len(part._forward_hooks) for part in light.modules()) == 0
        assert torch.is_grad_enabled() == was_enabled


def assert_untouched(model, state, modes, expected):
    after = model.state_dict()
    assert list(after) == list(state)
    assert all(torch.equal(after[name], state[name]) for name in state)
    assert [part.training for part in model.modules()] == modes
    assert [weight.requires_grad for weight in model.parameters()] == expected


def test_training_goes_on_as_if_no_map_had_been_made(light, images):
    def train(model, explains):
        torch.manual_seed(11)
        optimizer = torch.optim.AdamW(model.parameters(), lr=0.01)
        for _ in range(4):
            optimizer.zero_grad()
            model(images).sum().backward()
            if explains:
                for method in METHODS:
                    grad_cam(model, images, "backbone.4", method=method)
            optimizer.step()
        return model.state_dict()

    with_maps, without = train(copy.deepcopy(light), True), train(light, False)
    for name, tensor in without.items():
        assert (with_maps[name] - tensor).abs().max() == 0.0, name


def test_a_compiled_model_is_looked_through(light, images):
    compiled = torch.compile(light, dynamic=False)
    assert torch.equal(
        grad_cam(compiled, images, "backbone.4").maps, grad_cam(light, images, "backbone.4").maps
    )


def test_no_graph_is_kept_and_no_weight_is_given_a_gradient(light, images):
    seen = []
    for weight in light.parameters():
        weight.register_hook(seen.append)
    found = grad_cam(light, images, "backbone.2")
    assert seen == []
    gc.collect()
    tensors = [each for each in gc.get_objects() if issubclass(type(each), torch.Tensor)]
    assert any(each is found.maps for each in tensors)
    assert [each for each in tensors if each.grad_fn is not None] == []


MANY_BATCHES = """
import resource, torch
from cxrignite.functional import grad_cam
from cxrignite.nn import LightCNN
model, images = LightCNN(width=4), torch.rand(8, 1, 64, 64)
for number in range(150):
    found = grad_cam(model, images, "backbone.4")
    if number == 29:
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)
"""


@pytest.mark.integration
def test_memory_is_flat_over_many_batches(python):
    done = python("-c", MANY_BATCHES)
    # 120 batches of maps alone would be 15 MB, their graphs many times that.
    assert int(done.stdout) < 5000


class Twice(Weighted):
    def forward(self, images):
        return super().forward(self.layer(images))


class Never(Weighted):
    def forward(self, images):
        return (images * self.weight).sum(dim=(1, 2, 3))


class Aside(Weighted):
    def forward(self, images):
        self.layer(images)
        return (images * self.weight).sum(dim=(1, 2, 3))


class Paired(Weighted):
    def __init__(self):
        super().__init__()
        self.layer = nn.Module()
        self.layer.forward = lambda images: (images, images)

    def forward(self, images):
        return (self.layer(images)[0] * self.weight).sum(dim=(1, 2, 3))


@pytest.mark.parametrize(
    ("model", "layer", "facts"),
    [
        (Weighted(), "layr", ["target_layer", "'layr'", "layer"]),
        (LightCNN(4), "4", ["'4'", "backbone.4"]),
        (LightCNN(4), "backbone.44", ["'backbone.44'", "backbone.4"]),
        (LightCNN(4), "zzz", ["'zzz'", "normalizer", "backbone", "head"]),
        (LightCNN(4), "", ["''", "normalizer", "backbone", "head"]),
        (Weighted(), nn.Conv2d(1, 1, 1), ["Conv2d"]),
        (Twice(), "layer", ["target_layer layer", 2]),
        (Never(), "layer", ["target_layer layer", 0]),
        (Paired(), "layer", ["target_layer layer", "tuple"]),
        (nn.Sequential(nn.Flatten(), nn.Linear(8, 1)), "0", ["target_layer 0", "(1, 8)"]),
        (
            nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(2, 1)),
            "0",
            ["target_layer 0", "(1, 2, 1, 1)"],
        ),
    ],
)
def test_a_layer_that_cannot_be_mapped_is_refused_in_one_line(model, layer, facts):
    with refused(RecipeError, *facts):
        grad_cam(model, ACTIVATION[None], layer)


@pytest.mark.parametrize(
    ("model", "settings", "facts"),
    [
        (Aside(), {}, ["logit", "target_layer layer"]),
        (Weighted(), {"method": "cam"}, ["method", *METHODS, "cam"]),
        (Weighted(), {"target": 1}, ["target", "positive", "negative", 1]),
    ],
)
def test_other_mistakes_are_refused_in_one_line(model, settings, facts):
    with refused(ValueError, *facts):
        grad_cam(model, ACTIVATION[None], "layer", **settings)


@pytest.mark.parametrize("frozen", [False, True])
def test_a_model_without_a_graph_behind_the_layer_is_refused(frozen):
    class Detached(Weighted):
        def forward(self, images):
            with torch.no_grad():
                features = self.layer(images)
            return (features * self.weight).sum(dim=(1, 2, 3))

    model = Detached().requires_grad_(not frozen)
    with refused(ValueError, "logit", "target_layer"):
        grad_cam(model, ACTIVATION[None], "layer")


def test_one_of_several_logits_is_explained():
    model = nn.Sequential(nn.Conv2d(2, 3, 1), nn.Flatten(), nn.Linear(12, 3))
    found = [grad_cam(model, ACTIVATION[None], "0", output=output) for output in range(3)]
    assert torch.equal(torch.cat([each.logits for each in found]), model(ACTIVATION[None])[0])
    for output in range(3):
        single = nn.Sequential(*model[:2], nn.Linear(12, 1))
        single[2].weight.data = model[2].weight.data[output][None]
        single[2].bias.data = model[2].bias.data[output][None]
        expected = grad_cam(single, ACTIVATION[None], "0")
        torch.testing.assert_close(found[output].maps, expected.maps)
        torch.testing.assert_close(found[output].raw_max, expected.raw_max)


@pytest.mark.parametrize("target", ["positive", "negative"])
@pytest.mark.parametrize("method", METHODS)
def test_a_map_of_an_exclusive_class_explains_the_log_odds_of_its_score(method, target):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(2, 3, 1), nn.Flatten(), nn.Linear(12, 3))
    images = torch.randn(5, *ACTIVATION.shape)
    for output in range(3):
        settings = {"method": method, "target": target, "output": output}
        found = grad_cam(model, images, "0", **settings, exclusive=True)
        # By hand: z minus the logarithm of the other classes' exponentials, the first one 1.
        activation = model[0](images).detach().requires_grad_()
        logits = model[1:](activation)
        others = [each for each in range(3) if each != output]
        log_odds = logits[:, output] - (1 + logits[:, others].exp().sum(dim=1)).log()
        (gradient,) = torch.autograd.grad(log_odds.sum(), activation)
        torch.testing.assert_close(found.logits, log_odds.detach())
        if method == "hires_cam":
            sign = 1 if target == "positive" else -1
            by_hand = sign * (activation * gradient).sum(dim=1)
            raw_max = by_hand.detach().clamp_min(0).amax(dim=(1, 2))
            torch.testing.assert_close(found.raw_max, raw_max)
        alone = grad_cam(model, images, "0", **settings)
        assert not torch.allclose(found.raw_max, alone.raw_max, rtol=1e-2)


@pytest.mark.parametrize("output", [-1, 3])
def test_an_output_that_the_model_does_not_have_is_refused(output):
    model = nn.Sequential(nn.Conv2d(2, 3, 1), nn.Flatten(), nn.Linear(12, 3))
    with refused(ValueError, "output", "3", output):
        grad_cam(model, ACTIVATION[None], "0", output=output)


def test_logits_of_another_shape_are_refused():
    model = nn.Conv2d(2, 3, 1)
    with refused(ValueError, "logit", "(1,)", "(1, 3, 2, 2)"):
        grad_cam(nn.Sequential(nn.Identity(), model), ACTIVATION[None], "0")


@pytest.mark.parametrize("shape", [(64, 64), (3, 64, 64), (0, 1, 64, 64), (1, 1, 1, 64, 64)])
def test_images_of_another_shape_are_refused(light, shape):
    with refused(ValueError, "images", "(N, C, H, W)"):
        grad_cam(light, torch.zeros(shape), "backbone.4")


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_map_that_is_not_finite_is_refused(light, images, value):
    images[2, 0, 20, 20] = value
    with refused(NonFiniteError, "backbone.4", "NaN", 1, 3, 2):
        grad_cam(light, images, "backbone.4")


def test_uint8_images_have_the_map_of_the_same_pixels_in_float(light):
    pixels = torch.randint(0, 256, (2, 1, 64, 64), dtype=torch.uint8)
    expected = grad_cam(light, pixels.float() / 255, "backbone.4").maps
    assert np.array_equal(grad_cam(light, pixels, "backbone.4").maps, expected)
