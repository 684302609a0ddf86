import copy
from functools import partial

import pytest
import torch
from messages import refused

from cxrignite.functional import grad_cam, scores_from_logits
from cxrignite.functional.weight_randomization import randomized_copy
from cxrignite.nn import Ensemble, LightCNN

IMAGES = torch.rand(3, 1, 64, 64, generator=torch.Generator().manual_seed(0))


def ensemble(**settings):
    torch.manual_seed(0)
    return Ensemble(partial(LightCNN, width=4), 3, **settings).eval()


@pytest.mark.parametrize(("num_findings", "exclusive"), [(1, False), (3, False), (3, True)])
def test_the_score_is_the_mean_of_the_scores_of_the_members(num_findings, exclusive):
    model = ensemble(num_findings=num_findings, exclusive=exclusive)
    with torch.no_grad():
        scores = [scores_from_logits(each(IMAGES), exclusive) for each in model.members]
        found = scores_from_logits(model(IMAGES), exclusive)
    assert found.shape == ((3,) if num_findings == 1 else (3, 3))
    torch.testing.assert_close(found, torch.stack(scores).mean(dim=0), atol=1e-6, rtol=0)
    assert not torch.equal(scores[0], scores[1])


def test_scores_that_float32_cannot_tell_from_one_keep_their_order():
    head = ensemble().head
    logits = head(torch.empty(2, 0), torch.tensor([[40.0, 50.0], [60.0, 70.0]]))
    assert torch.isfinite(logits).all()
    assert logits[0] < logits[1]


def test_the_features_are_those_of_all_members():
    model, seen = ensemble(), []
    model.head.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    with torch.no_grad():
        model(IMAGES)
        first, second, third = (each.backbone(each.normalizer(IMAGES)) for each in model.members)
    assert torch.equal(seen[0], torch.cat([first, second, third], dim=1))
    assert not any(each.head._forward_pre_hooks for each in model.members)


def test_the_map_is_the_mean_of_the_maps_of_the_members():
    model = ensemble(num_findings=2)
    found = grad_cam(model, IMAGES, model.cam_layer, output=1)
    each = [grad_cam(one, IMAGES, one.cam_layer, output=1) for one in model.members]
    mean = torch.stack([one.maps for one in each]).mean(dim=0)
    peak = mean.amax(dim=(1, 2), keepdim=True).clamp_min(1e-12)
    torch.testing.assert_close(found.maps, mean / peak)
    assert found.grid == each[0].grid
    with torch.no_grad():
        torch.testing.assert_close(found.logits, model(IMAGES)[:, 1])


def test_a_random_copy_has_other_maps_and_leaves_the_ensemble_as_it_is():
    model = ensemble()
    before = copy.deepcopy(model.state_dict())
    other = randomized_copy(model, IMAGES)
    maps = [grad_cam(each, IMAGES, model.cam_layer).maps for each in (model, other)]
    assert not torch.equal(*maps)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def test_one_member_is_refused():
    with refused(ValueError, "num_members", "2", "1"):
        Ensemble(partial(LightCNN, width=4), 1)
