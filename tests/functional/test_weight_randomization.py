import copy

import numpy as np
import pytest
import torch
from messages import refused
from scipy.stats import spearmanr
from torch import nn

from cxrignite.functional import grad_cam, randomization_check, randomized_copy, rank_correlation
from cxrignite.nn import LightCNN


def cam(model, images):
    return grad_cam(model, images, model.cam_layer).maps


def edges(model, images):
    """A map that shows the image and not the model."""
    return images[:, 0].diff(dim=2, append=images[:, 0, :, :1]).abs()


@pytest.fixture(scope="module")
def spots():
    """Images with a bright spot somewhere, or with none, and a model that distinguishes them."""
    torch.manual_seed(0)
    images, labels = 0.3 * torch.rand(64, 1, 64, 64), torch.arange(64) % 2
    for image, label, (row, column) in zip(
        images, labels, torch.randint(4, 40, (64, 2)).tolist(), strict=True
    ):
        image[0, row : row + 20, column : column + 20] += 0.5 * label
    model = LightCNN(width=4, dropout=0.0)
    optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
    for _ in range(25):
        optimizer.zero_grad()
        loss = nn.functional.binary_cross_entropy_with_logits(model(images), labels.float())
        loss.backward()
        optimizer.step()
    assert loss < 0.2
    return model.eval(), images[labels == 1][:12]


def test_maps_of_a_trained_model_are_lost_with_its_weights_and_edges_are_not(spots):
    model, images = spots
    # One random model may look at the spots too, or away from them: many do neither on average.
    checks = [randomization_check(model, images, cam, seed=seed) for seed in range(12)]
    assert checks[0].layers == ("backbone.0.0",)
    assert checks[0].rank_correlation.shape == (1, 12)
    assert abs(np.nanmean([check.rank_correlation for check in checks])) < 0.4
    stays = randomization_check(model, images, edges)
    assert stays.rank_correlation.tolist() == [[pytest.approx(1.0)] * 12]


def test_a_cascade_goes_from_the_logit_to_the_image_and_ends_with_all(spots):
    model, images = spots
    found = randomization_check(model, images, cam, num_stages=11)
    blocks = [f"backbone.{block}.{part}" for block in range(5) for part in (0, 1)]
    assert found.layers == ("head.1", *blocks[::-1])
    assert found.rank_correlation.shape == (11, 12)
    thirds = randomization_check(model, images, cam, num_stages=3)
    assert thirds.layers == ("backbone.3.1", "backbone.1.1", "backbone.0.0")


def test_each_stage_randomises_its_layers_and_leaves_those_in_front_alone(spots):
    model, images = spots
    seen = []

    def explain(model, images):
        seen.append(copy.deepcopy(model.state_dict()))
        return cam(model, images)

    randomization_check(model, images, explain, num_stages=3)
    original, *stages = seen
    changed = [
        {name for name in original if not torch.equal(stage[name], original[name])}
        for stage in stages
    ]
    assert changed[0] < changed[1] < changed[2]
    assert "backbone.3.0.weight" not in changed[0]
    assert "backbone.3.1.running_mean" in changed[0]
    assert "backbone.2.1.running_mean" not in changed[0]
    assert "backbone.0.0.weight" in changed[2]
    for name, weight in model.named_parameters():
        values = [state[name].flatten().sort().values for state in (original, stages[2])]
        assert torch.equal(*values), name
        assert weight.requires_grad


def test_the_given_model_and_the_random_numbers_are_left_alone(spots):
    model, images = spots
    model = copy.deepcopy(model).train()
    model.backbone[2].eval()
    before = copy.deepcopy(model.state_dict())
    modes = [part.training for part in model.modules()]
    random_state = torch.get_rng_state()
    first = randomization_check(model, images, cam, num_stages=2)
    after = model.state_dict()
    assert all(torch.equal(after[name], before[name]) for name in before)
    assert [part.training for part in model.modules()] == modes
    assert all(weight.grad is None for weight in model.parameters())
    assert torch.equal(torch.get_rng_state(), random_state)
    again = randomization_check(model, images, cam, num_stages=2)
    assert np.array_equal(first.rank_correlation, again.rank_correlation, equal_nan=True)
    other = randomization_check(model, images, cam, num_stages=2, seed=1)
    assert not np.array_equal(first.rank_correlation, other.rank_correlation, equal_nan=True)


def test_a_caller_in_inference_mode_has_the_same_check(spots):
    model, images = spots
    expected = randomization_check(model, images, cam).rank_correlation
    with torch.inference_mode():
        found = randomization_check(model, images, cam).rank_correlation
    assert np.array_equal(found, expected, equal_nan=True)


def test_a_deep_network_of_random_weights_still_has_finite_maps():
    from cxrignite.nn import TransferClassifier

    torch.manual_seed(0)
    model = TransferClassifier("resnet18", hidden=8)
    for part in model.modules():
        if isinstance(part, nn.BatchNorm2d):  # statistics as uneven as those of trained networks
            part.running_var.copy_(10 ** torch.empty_like(part.running_var).uniform_(-4, 1))
    images = torch.rand(4, 1, 64, 64)
    for part in model.modules():
        if isinstance(part, nn.BatchNorm2d):
            part.momentum = 1.0
    model.train()(images)
    found = randomization_check(model.eval(), images, cam)
    assert np.isfinite(found.rank_correlation).any()


def test_rank_correlation_is_that_of_scipy_with_ties():
    maps, other = (torch.rand(5, 9, 7).mul(6).floor() for _ in range(2))
    expected = [
        spearmanr(first.flatten(), second.flatten()).statistic
        for first, second in zip(maps, other, strict=True)
    ]
    assert rank_correlation(maps, other) == pytest.approx(expected, abs=1e-12)


def test_a_map_without_ranks_has_no_correlation():
    maps = torch.rand(2, 3, 3)
    maps[1] = 0
    assert np.isnan(rank_correlation(maps, maps)).tolist() == [False, True]


@pytest.mark.parametrize("num_stages", [0, 12])
def test_more_stages_than_layers_are_refused(num_stages):
    with refused(ValueError, 1, 11, num_stages):
        randomization_check(LightCNN(4), torch.rand(1, 1, 64, 64), cam, num_stages=num_stages)


def test_maps_of_other_shapes_are_refused():
    with refused(ValueError, "(2, H, W)", "(2, 1, 64, 64)"):
        randomization_check(LightCNN(4), torch.rand(2, 1, 64, 64), lambda _, images: images)
    with refused(ValueError, "(N, H, W)", "(1, 2, 2)"):
        rank_correlation(torch.rand(1, 2, 2), torch.rand(1, 2, 3))


def test_a_randomized_copy_is_the_model_that_the_check_looks_at(spots):
    model, images = spots
    seen = []

    def explain(model, images):
        seen.append(copy.deepcopy(model.state_dict()))
        return cam(model, images)

    randomization_check(model, images, explain, seed=7)
    found = randomized_copy(model, images, seed=7).state_dict()
    assert list(found) == list(seen[1])
    assert all(torch.equal(found[name], seen[1][name]) for name in found)


def test_a_randomized_copy_shares_nothing_with_the_model(spots):
    model, images = spots
    model = copy.deepcopy(model).train()
    model.backbone[2].eval()
    before = copy.deepcopy(model.state_dict())
    random_state = torch.get_rng_state()
    with torch.inference_mode():
        copied = randomized_copy(model, images)
    after = model.state_dict()
    assert all(torch.equal(after[name], before[name]) for name in before)
    assert torch.equal(torch.get_rng_state(), random_state)
    for mine, theirs in zip(copied.modules(), model.modules(), strict=True):
        assert mine.training == theirs.training
        assert getattr(mine, "momentum", None) == getattr(theirs, "momentum", None)
    for (name, mine), theirs in zip(copied.named_parameters(), model.parameters(), strict=True):
        assert torch.equal(mine.flatten().sort().values, theirs.flatten().sort().values)
        assert mine.numel() == 1 or not torch.equal(mine, theirs), name
    (2 * copied(images)).sum().backward()  # no tensor of inference mode is left in it
    assert all(weight.grad is None for weight in model.parameters())


def test_another_seed_gives_another_copy(spots):
    model, images = spots
    weights = [
        randomized_copy(model, images, seed=seed).backbone[0][0].weight for seed in (0, 0, 1)
    ]
    assert torch.equal(weights[0], weights[1])
    assert not torch.equal(weights[0], weights[2])


def test_a_model_without_weights_cannot_be_randomized():
    with refused(ValueError, 0, "layers"):
        randomized_copy(nn.Flatten(), torch.rand(1, 1, 4, 4))
