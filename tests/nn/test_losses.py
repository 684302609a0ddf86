import pickle

import pytest
import torch
from messages import refused
from monai.losses import FocalLoss, GlobalMutualInformationLoss
from torch import nn
from torch.nn.functional import binary_cross_entropy_with_logits

from cxrignite.nn import SoftPosWeightBCE
from cxrignite.nn.losses import fitted_loss


def test_the_loss_is_bce_with_the_square_root_weight():
    loss_fn = SoftPosWeightBCE(power=0.5, class_counts=(1349, 3883))
    logits, labels = torch.randn(50), (torch.rand(50) < 0.7).float()
    weight = torch.tensor((1349 / 3883) ** 0.5)
    expected = binary_cross_entropy_with_logits(logits, labels, pos_weight=weight)
    assert torch.equal(loss_fn(logits, labels), expected)
    # By hand, as a second source.
    p = torch.sigmoid(logits.double())
    by_hand = -(weight * labels * p.log() + (1 - labels) * (1 - p).log()).mean()
    assert loss_fn(logits, labels).item() == pytest.approx(by_hand.item(), rel=1e-5)


def test_at_the_full_power_both_classes_weigh_the_same():
    loss_fn = SoftPosWeightBCE(power=1.0, class_counts=(1, 4))
    logits = torch.zeros(5, requires_grad=True)
    loss_fn(logits, torch.tensor([0.0, 1, 1, 1, 1])).backward()
    assert logits.grad.sum().item() == pytest.approx(0.0, abs=1e-7)


def test_counts_may_come_later():
    loss_fn = SoftPosWeightBCE()
    loss_fn.set_class_counts(100, 400)
    assert loss_fn.pos_weight.item() == 0.5
    assert loss_fn.class_counts == (100, 400)


def test_use_before_the_counts_are_known_says_what_to_do():
    loss_fn = SoftPosWeightBCE()
    with refused(RuntimeError, "set_class_counts"):
        loss_fn(torch.zeros(2), torch.ones(2))


def test_the_weight_follows_the_loss_to_a_device_and_a_dtype():
    loss_fn = SoftPosWeightBCE().to("meta")
    assert loss_fn.pos_weight.device.type == "meta"
    loss_fn = SoftPosWeightBCE(class_counts=(1, 4)).double()
    assert loss_fn.pos_weight.dtype == torch.float64


def test_no_saved_state_holds_the_weight():
    loss_fn = SoftPosWeightBCE(class_counts=(1, 4))
    assert loss_fn.state_dict() == {}
    loss_fn.load_state_dict({})


def test_it_survives_pickling():
    loss_fn = pickle.loads(pickle.dumps(SoftPosWeightBCE(class_counts=(1, 4))))
    assert loss_fn.pos_weight.item() == 0.5


@pytest.mark.parametrize(
    ("settings", "facts"),
    [
        ({"power": 1.5}, ["power", "[0, 1]", "1.5"]),
        ({"power": -0.5}, ["power", "[0, 1]", "-0.5"]),
        ({"class_counts": (0, 5)}, ["1", "0", "5"]),
    ],
)
def test_settings_out_of_range_are_refused(settings, facts):
    with refused(ValueError, *facts):
        SoftPosWeightBCE(**settings)


@pytest.mark.parametrize(
    "loss", [nn.BCEWithLogitsLoss(), nn.MSELoss(), nn.HuberLoss(), SoftPosWeightBCE()]
)
def test_a_loss_of_one_logit_and_one_label_passes_as_it_is(loss):
    assert fitted_loss(loss) is loss


def test_a_loss_of_monai_gets_one_channel_an_image():
    logits, labels = torch.randn(6), (torch.rand(6) < 0.5).float()
    focal = FocalLoss(gamma=2.0)
    # Lin et al. 2017, by hand.
    p = torch.where(labels == 1, torch.sigmoid(logits), torch.sigmoid(-logits))
    assert fitted_loss(focal)(logits, labels).item() == pytest.approx(
        ((1 - p) ** 2 * -p.log()).mean().item(), rel=1e-5
    )
    assert isinstance(fitted_loss(focal), nn.modules.loss._Loss)


class OwnLoss(nn.modules.loss._Loss):
    def __init__(self, give):
        super().__init__()
        self.give = give

    def forward(self, input, target):
        return self.give(input, target)


def test_a_loss_of_ones_own_may_do_as_it_likes_but_has_to_take_the_labels():
    rising = OwnLoss(lambda logits, labels: (logits * labels).mean())
    assert fitted_loss(rising) is rising
    with refused(ValueError, "OwnLoss", "two classes"):
        fitted_loss(OwnLoss(lambda logits, labels: {}["two classes"]))
    with refused(ValueError, "one number"):
        fitted_loss(OwnLoss(lambda logits, labels: logits * labels))


@pytest.mark.parametrize(
    "loss",
    [
        nn.CrossEntropyLoss(),
        nn.BCELoss(),
        nn.SoftMarginLoss(),
        nn.KLDivLoss(reduction="batchmean"),
        nn.NLLLoss(),
        nn.GaussianNLLLoss(),
        GlobalMutualInformationLoss(),
    ],
)
def test_a_loss_that_does_not_fall_for_either_label_is_refused(loss):
    with refused(ValueError, type(loss).__name__):
        fitted_loss(loss)


def test_a_loss_for_each_image_is_refused():
    with refused(ValueError, "reduction: none"):
        fitted_loss(nn.BCEWithLogitsLoss(reduction="none"))
