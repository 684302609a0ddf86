import pickle

import pytest
import torch
from messages import refused
from monai.losses import DiceCELoss, FocalLoss, GlobalMutualInformationLoss
from torch import nn
from torch.nn.functional import binary_cross_entropy_with_logits

from cxrignite.nn import SoftClassWeightCE, SoftPosWeightBCE
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


class OwnBCE(nn.BCEWithLogitsLoss):
    pass


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


def several(seed=0, size=12, num_findings=4):
    """Logits, and labels of which some are unknown; no label of the last finding is known."""
    generator = torch.Generator().manual_seed(seed)
    logits = torch.randn(size, num_findings, generator=generator)
    labels = (torch.rand(size, num_findings, generator=generator) < 0.4).float()
    labels[torch.rand(size, num_findings, generator=generator) < 0.3] = float("nan")
    labels[:, -1] = float("nan")
    return logits.requires_grad_(), labels


def exclusive_labels(size=12):
    classes = torch.arange(size) % 3
    labels = nn.functional.one_hot(classes, 3)[:, 1:].float()
    labels[::5] = float("nan")
    return torch.randn(size, 2).requires_grad_(), labels, classes


def gradient_of(loss_fn, logits, labels):
    value = loss_fn(logits, labels)
    assert value.ndim == 0
    (gradient,) = torch.autograd.grad(value, logits)
    return value.item(), gradient


SOFT = SoftPosWeightBCE()
SOFT.set_class_counts([10, 20, 30, 5], [5, 2, 30, 5])


@pytest.mark.parametrize(
    "loss",
    [
        nn.BCEWithLogitsLoss(),
        nn.MSELoss(),
        nn.HuberLoss(),
        FocalLoss(gamma=2.0),
        SoftPosWeightBCE(class_counts=(4, 1)),
        OwnLoss(lambda logits, labels: (logits - labels).square().mean()),
    ],
    ids=lambda loss: type(loss).__name__,
)
def test_unknown_labels_change_neither_value_nor_gradient(loss):
    logits, labels = several()
    known = ~labels.isnan()
    value, gradient = gradient_of(fitted_loss(loss, num_findings=4), logits, labels)
    picked = logits.detach()[known].requires_grad_()
    expected, alone = gradient_of(fitted_loss(loss), picked, labels[known])
    assert value == pytest.approx(expected, abs=1e-6)
    torch.testing.assert_close(gradient[known], alone, atol=1e-6, rtol=0)
    assert (gradient[~known] == 0).all()


def test_each_finding_has_its_own_weight_of_positives():
    logits, labels = several()
    value, gradient = gradient_of(SOFT, logits, labels)
    assert SOFT.pos_weight.tolist() == pytest.approx([2**0.5, 10**0.5, 1, 1])
    p = torch.sigmoid(logits.double())
    by_hand = -(SOFT.pos_weight * labels * p.log() + (1 - labels) * (1 - p).log())
    known = ~labels.isnan()
    expected = by_hand[known].mean()
    (alone,) = torch.autograd.grad(expected, logits)
    assert value == pytest.approx(expected.item(), abs=1e-6)
    torch.testing.assert_close(gradient, alone.nan_to_num(), atol=1e-6, rtol=0)


def test_finding_weights_weigh_the_mean():
    logits, labels = several(num_findings=3)
    loss_fn = SoftPosWeightBCE(power=0, finding_weights=[2.0, 0.5, 7.0])
    loss_fn.set_class_counts([1, 1, 1], [1, 1, 1])
    plain = nn.BCEWithLogitsLoss(reduction="none")(logits, labels.nan_to_num())
    weight = torch.tensor([2.0, 0.5, 7.0]) * ~labels.isnan()
    expected = (plain * weight).sum() / weight.sum()
    assert loss_fn(logits, labels).item() == pytest.approx(expected.item(), abs=1e-6)
    assert loss_fn.state_dict() == {}
    with refused(ValueError, "3", "2"):
        loss_fn.set_class_counts([1, 1], [1, 1])
    for wrong in ([1.0, -1.0], [0.0, 0.0], [float("nan")]):
        with refused(ValueError, "finding_weights"):
            SoftPosWeightBCE(finding_weights=wrong)


def test_the_weights_of_a_torch_loss_stay_one_a_finding():
    logits, labels = several()
    weights = torch.tensor([1.0, 2.0, 3.0, 4.0])
    loss_fn = fitted_loss(nn.BCEWithLogitsLoss(pos_weight=weights), 4)
    plain = nn.BCEWithLogitsLoss(pos_weight=weights, reduction="none")(logits, labels.nan_to_num())
    expected = plain[~labels.isnan()].mean()
    assert loss_fn(logits, labels).item() == pytest.approx(expected.item(), abs=1e-6)
    with refused(ValueError, "4", "3"):
        fitted_loss(nn.BCEWithLogitsLoss(pos_weight=torch.ones(3)), 4)


CE = SoftClassWeightCE()
CE.set_class_counts([8, 8], [4, 4])


@pytest.mark.parametrize(
    "loss_fn",
    [
        SOFT,
        fitted_loss(nn.BCEWithLogitsLoss(), 4),
        fitted_loss(FocalLoss(), 4),
        CE,
        fitted_loss(nn.CrossEntropyLoss(), 2, exclusive=True),
    ],
    ids=lambda loss: type(loss).__name__,
)
def test_no_known_label_gives_zero_and_no_gradient(loss_fn):
    logits = torch.randn(3, 2 if loss_fn is CE else 4).requires_grad_()
    value, gradient = gradient_of(loss_fn, logits, torch.full(logits.shape, float("nan")))
    assert value == 0
    assert (gradient == 0).all()


def test_class_weights_are_softened_by_the_power():
    loss_fn = SoftClassWeightCE(power=0.5)
    with refused(RuntimeError, "set_class_counts"):
        loss_fn(torch.zeros(1, 2), torch.zeros(1, 2))
    loss_fn.set_class_counts([90, 70], [10, 30])
    logits, labels, classes = exclusive_labels()
    weight = torch.tensor([(100 / 180) ** 0.5, (100 / 30) ** 0.5, (100 / 90) ** 0.5])
    known = ~labels.isnan().any(1)
    expected = nn.functional.cross_entropy(
        torch.cat([torch.zeros(len(logits), 1), logits], 1)[known], classes[known], weight
    )
    value, gradient = gradient_of(loss_fn, logits, labels)
    (alone,) = torch.autograd.grad(expected, logits)
    assert value == pytest.approx(expected.item(), abs=1e-6)
    torch.testing.assert_close(gradient, alone, atol=1e-6, rtol=0)
    # For two classes the ratio of the weights is the weight of positives.
    loss_fn.set_class_counts([1349], [3883])
    bce = SoftPosWeightBCE(class_counts=(1349, 3883))
    assert (loss_fn.weight[1] / loss_fn.weight[0]).item() == pytest.approx(bce.pos_weight.item())
    assert loss_fn.state_dict() == {}


def test_cross_entropy_of_torch_gets_the_logits_of_all_classes():
    logits, labels, classes = exclusive_labels()
    loss_fn = fitted_loss(nn.CrossEntropyLoss(label_smoothing=0.1), 2, exclusive=True)
    known = ~labels.isnan().any(1)
    expected = nn.functional.cross_entropy(
        torch.cat([torch.zeros(len(logits), 1), logits], 1)[known],
        classes[known],
        label_smoothing=0.1,
    )
    value, gradient = gradient_of(loss_fn, logits, labels)
    (alone,) = torch.autograd.grad(expected, logits)
    assert value == pytest.approx(expected.item(), abs=1e-6)
    torch.testing.assert_close(gradient, alone, atol=1e-6, rtol=0)
    own = OwnLoss(lambda logits, index: nn.functional.nll_loss(logits.log_softmax(1), index))
    assert fitted_loss(own, 2, exclusive=True)(logits, labels).isfinite()


def one_hot(index):
    return nn.functional.one_hot(index, 3).float()


@pytest.mark.parametrize(
    ("loss", "form"),
    [
        (FocalLoss(use_softmax=True), one_hot),
        (FocalLoss(use_softmax=True, weight=[1.0, 2.0, 3.0]), one_hot),
        (FocalLoss(use_softmax=True, to_onehot_y=True), lambda index: index[:, None]),
        (DiceCELoss(softmax=True, to_onehot_y=True), lambda index: index[:, None]),
        (nn.MultiMarginLoss(), lambda index: index),
        (OwnLoss(lambda logits, p: -(p * logits.log_softmax(1)).mean()), one_hot),
    ],
    ids=lambda value: type(value).__name__,
)
def test_a_loss_of_classes_gets_the_logits_of_all_in_the_form_it_needs(loss, form):
    logits, labels, classes = exclusive_labels()
    known = ~labels.isnan().any(1)
    of_all = torch.cat([torch.zeros(len(logits), 1), logits], 1)
    expected = loss(of_all[known], form(classes[known]))
    (alone,) = torch.autograd.grad(expected, logits)
    value, gradient = gradient_of(fitted_loss(loss, 2, exclusive=True), logits, labels)
    assert value == pytest.approx(expected.item(), abs=1e-6)
    torch.testing.assert_close(gradient, alone, atol=1e-6, rtol=0)
    nothing, none = gradient_of(fitted_loss(loss, 2, exclusive=True), logits, labels * torch.nan)
    assert nothing == 0
    assert (none == 0).all()


@pytest.mark.parametrize(
    ("counts", "facts"),
    [(([1, 2], [2, 2]), ["3", "4"]), (([1, 1], [1, 1]), ["0"]), (([4, 2], [0, 2]), ["0"])],
)
def test_counts_of_exclusive_classes_have_to_fit(counts, facts):
    with refused(ValueError, *facts):
        SoftClassWeightCE().set_class_counts(*counts)


@pytest.mark.parametrize(
    ("loss", "num_findings", "exclusive"),
    [
        (nn.BCEWithLogitsLoss(), 2, True),
        (SoftPosWeightBCE(), 2, True),
        (FocalLoss(), 2, True),
        (FocalLoss(use_softmax=True, include_background=False), 2, True),  # not the first class
        (nn.NLLLoss(), 2, True),
        (nn.MSELoss(), 2, True),
        (nn.CrossEntropyLoss(weight=torch.ones(2)), 2, True),
        (OwnBCE(), 2, True),
        (nn.CrossEntropyLoss(), 2, False),
        (SoftClassWeightCE(), 2, False),
        (SoftClassWeightCE(), 1, False),
        (nn.CrossEntropyLoss(reduction="none"), 2, True),
        (nn.BCEWithLogitsLoss(reduction="none"), 2, False),
    ],
    ids=lambda value: str(value),
)
def test_a_loss_of_another_task_is_refused(loss, num_findings, exclusive):
    with refused(ValueError, "loss"):
        fitted_loss(loss, num_findings, exclusive)


def test_a_loss_of_ones_own_may_handle_unknown_labels_itself():
    def masked(logits, labels):
        return (logits - labels)[~labels.isnan()].square().mean()

    for exclusive in (False, True):
        own = OwnLoss(masked)
        assert fitted_loss(own, 3, exclusive) is own
    for loss, exclusive in ((nn.MSELoss(), False), (nn.CrossEntropyLoss(), True)):
        adapted = fitted_loss(loss, 3, exclusive)
        assert fitted_loss(adapted, 3, exclusive) is adapted
    for loss in (SoftPosWeightBCE(), SoftClassWeightCE()):
        assert fitted_loss(loss, 3, isinstance(loss, SoftClassWeightCE)) is loss


class _UnknownIsNegative(nn.modules.loss._Loss):
    """A hinge loss for which NaN is not above 0.5."""

    def forward(self, input, target):
        return torch.relu(1 - torch.where(target > 0.5, input, -input)).mean()


def test_an_own_loss_that_trains_unknown_labels_is_adapted():
    loss = fitted_loss(_UnknownIsNegative(), 3)
    logits = torch.zeros(2, 3, requires_grad=True)
    loss(logits, torch.tensor([[1.0, 0.0, torch.nan], [torch.nan, 1.0, 0.0]])).backward()
    assert (logits.grad == 0).tolist() == [[False, False, True], [True, False, False]]
