from functools import partial

import numpy as np
import pytest
import torch
from messages import missing, refused
from PIL import Image
from torch import nn

from cxrignite.data import BalancedSampler, ImageRecord, XrayData
from cxrignite.engines import choose_precision
from cxrignite.errors import ConstraintError, DataError, RecipeError
from cxrignite.functional import exclusive_probabilities, scores_from_logits, soft_pos_weight
from cxrignite.handlers import ThresholdSearch
from cxrignite.nn import LightCNN, SoftClassWeightCE, SoftPosWeightBCE
from cxrignite.nn.losses import ClassLoss, fitted_loss
from cxrignite.workflows.parts import (
    Computing,
    build_loss,
    build_model,
    build_prior_shifts,
    check_certificates,
    check_image_size,
)


@pytest.fixture
def data(tmp_path):
    path = tmp_path / "image.png"
    Image.fromarray(np.zeros((48, 64), dtype=np.uint8)).save(path)
    return XrayData(
        [ImageRecord(str(path), "image.png", 0, "p1", "train")], ("NORMAL", "PNEUMONIA")
    )


@pytest.mark.parametrize("size", [None, (48, 64)])
def test_images_of_a_fitting_size_pass(size, data):
    model = LightCNN(width=2)
    model.image_size = size
    check_image_size(model, data.image_size)


def test_images_of_another_size_are_refused_before_training(data):
    model = LightCNN(width=2)
    model.image_size = (64, 64)
    with refused(RecipeError, "[64, 64]", "[48, 64]"):
        check_image_size(model, data.image_size)


def records_of(counts: dict[str, tuple[int, int]]) -> XrayData:
    """Nameless images by split, as (negatives, positives); every image is a patient."""
    records = [
        ImageRecord("x.png", f"{split}/{label}/{n}.png", label, f"{split}-{label}-{n}", split)
        for split, sizes in counts.items()
        for label, size in enumerate(sizes)
        for n in range(size)
    ]
    return XrayData(records, ("NORMAL", "PNEUMONIA"), sampler=BalancedSampler)


def asking_for(confidence: float | None) -> list[ThresholdSearch]:
    search = ThresholdSearch(min_tnr=0.93, confidence=confidence)
    return [search]


def test_a_certificate_is_held_against_the_split_that_decides():
    data = records_of({"train": (10, 10), "val": (60, 60), "calibration": (41, 50)})
    check_certificates(asking_for(None), data)
    with refused(ConstraintError, "0.93", "95 %", 42, "calibration", 41):
        check_certificates(asking_for(0.95), data)
    check_certificates(asking_for(0.95), records_of({"train": (10, 10), "val": (42, 1)}))


@pytest.mark.parametrize(
    ("counts", "facts"),
    [
        ({"train": (9, 9), "val": (0, 5)}, ["val", "0 NORMAL", "5 PNEUMONIA"]),
        (
            {"train": (9, 9), "val": (5, 5), "calibration": (5, 0)},
            ["calibration", "5 NORMAL", "0 PNEUMONIA"],
        ),
        ({"train": (9, 9)}, ["val", "0 NORMAL", "0 PNEUMONIA"]),
    ],
)
def test_a_split_of_one_class_is_refused_before_training(counts, facts):
    with refused(DataError, *facts):
        check_certificates(asking_for(None), records_of(counts))


def test_the_prior_shift_knows_sampler_and_loss():
    data = records_of({"train": (30, 90)})
    loss = SoftPosWeightBCE(power=0.5, class_counts=(30, 90))
    prior_shift = build_prior_shifts(data, loss)[0]
    assert (prior_shift.prevalence, prior_shift.sampled_prevalence) == (0.75, pytest.approx(0.5))
    assert prior_shift.pos_weight == pytest.approx(soft_pos_weight(30, 90))
    assert prior_shift.corrects_twice
    assert build_prior_shifts(data, nn.BCEWithLogitsLoss())[0].pos_weight == 1.0
    assert build_prior_shifts(data, nn.MSELoss())[0].pos_weight is None


def test_images_too_small_for_the_layers_are_refused_before_training(tmp_path):
    path = tmp_path / "image.png"
    Image.fromarray(np.zeros((1, 1), dtype=np.uint8)).save(path)
    data = XrayData(
        [ImageRecord(str(path), "image.png", 0, "p1", "train")], ("NORMAL", "PNEUMONIA")
    )
    with pytest.raises(RecipeError) as caught:
        check_image_size(LightCNN(width=2), data.image_size)
    # It ends in torch's own words.
    assert missing(str(caught.value), ["data.image_size", "[1, 1]"]) == []
    assert "\n" not in str(caught.value)


def test_another_error_of_the_model_is_not_blamed_on_the_images(data):
    own = RuntimeError("DefaultCPUAllocator: can't allocate memory")

    class Broken(LightCNN):
        def forward(self, images):
            raise own

    with pytest.raises(RuntimeError) as caught:
        check_image_size(Broken(width=2), data.image_size)
    assert caught.value is own


def test_the_check_leaves_the_model_in_its_mode(data):
    model = LightCNN(width=2)
    check_image_size(model, data.image_size)
    assert all(part.training for part in model.modules())


def test_a_finding_that_training_images_lack_is_refused_by_a_balanced_loss():
    labels = [(1, 0, -1), (0, 1, 0), (0, 0, 0)]
    records = [
        ImageRecord("x.png", f"{n}.png", label, f"p{n}", "train") for n, label in enumerate(labels)
    ]
    data = XrayData(records, ("No Finding", "Effusion", "Nodule", "Mass"))
    with refused(DataError, "Mass", 0, 2):
        build_loss(SoftPosWeightBCE(), data, torch.device("cpu"))


NAMES = ("No Finding", "Effusion", "Nodule")


def findings_of(counts, **settings) -> XrayData:
    """Nameless images by split, as numbers by label; every image is a patient."""
    records = [
        ImageRecord("x.png", f"{split}/{label}/{n}.png", label, f"{split}-{label}-{n}", split)
        for split, sizes in counts.items()
        for label, size in sizes.items()
        for n in range(size)
    ]
    return XrayData(records, NAMES, **settings)


TRAIN = {(0, 0): 30, (1, 0): 10, (0, 1): 20, (1, -1): 5, (-1, 1): 5}


def test_each_finding_has_its_own_prior_shift():
    data = findings_of({"train": TRAIN})
    loss = SoftPosWeightBCE(power=0.5)
    build_loss(loss, data, torch.device("cpu"))
    weights = [soft_pos_weight(50, 15, 0.5), soft_pos_weight(40, 25, 0.5)]
    assert loss.pos_weight.tolist() == pytest.approx(weights)
    shifts = build_prior_shifts(data, loss)
    assert [shift.prevalence for shift in shifts] == [15 / 65, 25 / 65]
    assert [shift.pos_weight for shift in shifts] == pytest.approx(weights)
    assert not any(shift.corrects_twice for shift in shifts)
    balanced = build_prior_shifts(findings_of({"train": TRAIN}, sampler=BalancedSampler), loss)
    # The group of the rarer finding is drawn more often; that of the other is drawn as it is.
    assert [shift.corrects_twice for shift in balanced] == [True, False]


@pytest.mark.parametrize(
    ("weight", "expected"), [(None, [1, 1]), (4.0, [4, 4]), ([4.0, 0.5], [4, 0.5])]
)
def test_a_weight_of_positives_is_for_one_finding_or_for_all(weight, expected):
    data = findings_of({"train": TRAIN})
    pos_weight = None if weight is None else torch.tensor(weight)
    loss = fitted_loss(nn.BCEWithLogitsLoss(pos_weight=pos_weight), 2)
    assert [shift.pos_weight for shift in build_prior_shifts(data, loss)] == expected


def test_weights_of_findings_do_not_change_their_priors():
    data = findings_of({"train": TRAIN})
    plain, weighted = SoftPosWeightBCE(), SoftPosWeightBCE(finding_weights=[3.0, 1.0])
    for loss in (plain, weighted):
        build_loss(loss, data, torch.device("cpu"))
    assert build_prior_shifts(data, weighted) == build_prior_shifts(data, plain)
    none = SoftPosWeightBCE(finding_weights=[1.0, 0.0])
    build_loss(none, data, torch.device("cpu"))
    # A finding that is not trained has scores of no scale.
    assert [shift.pos_weight is None for shift in build_prior_shifts(data, none)] == [False, True]


def test_a_finding_of_one_label_is_refused_by_name():
    train = {label: size for label, size in TRAIN.items() if label[1] != 1}
    with refused(DataError, "Nodule"):
        build_prior_shifts(findings_of({"train": train}), nn.BCEWithLogitsLoss())
    for missing_label, counts in ((1, (3, 0)), (0, (0, 3))):
        val = {(0, 1 - missing_label): 3, (1, -1): 5}
        data = findings_of({"train": TRAIN, "val": val})
        with refused(DataError, "val", "Nodule", *counts):
            check_certificates([ThresholdSearch()], data)


def test_certificates_are_checked_by_finding_with_its_own_settings():
    val = {(0, 0): 10, (1, 0): 10, (0, 1): 2, (-1, 1): 30}
    data = findings_of({"train": TRAIN, "val": val})
    # 12 known negatives of Effusion, 20 of Nodule.
    search = ThresholdSearch(min_tnr=0.8, confidence=0.95)
    with refused(ConstraintError, "0.8", "Effusion", 14, 12, "val"):
        check_certificates([search], data)
    own = {"Effusion": {"min_tnr": 0.7}}
    check_certificates([ThresholdSearch(min_tnr=0.8, confidence=0.95, per_finding=own)], data)
    own = {"Effusion": {"confidence": None}}
    check_certificates([ThresholdSearch(min_tnr=0.8, confidence=0.95, per_finding=own)], data)
    positives = ThresholdSearch(min_tnr=0.5, min_tpr=0.75, confidence=0.95)
    with refused(ConstraintError, "TPR", "0.75", "Effusion", 11, 10, "positive"):
        check_certificates([positives], data)


def test_a_model_has_an_output_for_each_finding():
    computing = Computing(torch.device("cpu"), choose_precision("fp32", torch.device("cpu")), False)
    images = torch.zeros(2, 1, 32, 32, dtype=torch.uint8)
    model = build_model(partial(LightCNN, width=2), computing, num_findings=3)
    assert model(images).shape == (2, 3)
    assert build_model(partial(LightCNN, width=2), computing)(images).shape == (2,)
    again = build_model(partial(LightCNN, width=2), computing, model.state_dict(), num_findings=3)
    assert torch.equal(again.eval()(images), model.eval()(images))


SIZES = {(0, 0): 600, (1, 0): 300, (0, 1): 100}
exclusive_of = partial(findings_of, {"train": SIZES}, exclusive=True)


def shares(values):
    return [pytest.approx(each) for each in values]


def test_exclusive_classes_have_their_shares_in_the_loss():
    loss = build_loss(SoftClassWeightCE(power=0.5), exclusive_of(), torch.device("cpu"))
    for sampler, drawn in ((None, [0.6, 0.3, 0.1]), (BalancedSampler, [1 / 3] * 3)):
        data = exclusive_of(sampler=sampler)
        shifts = build_prior_shifts(data, loss)
        assert [shift.prevalence for shift in shifts] == [0.3, 0.1]
        assert [shift.sampled_prevalence for shift in shifts] == shares(drawn[1:])
        parts = np.array(drawn) / np.sqrt([0.6, 0.3, 0.1])
        assert [shift.seen_prevalence for shift in shifts] == shares((parts / parts.sum())[1:])
        # Sampler and loss both favour the rarest class.
        assert shifts[1].corrects_twice is (sampler is BalancedSampler)


def test_probabilities_of_exclusive_classes_are_calibrated_after_training():
    """A table of logits, trained with weights on the sampler's draws, then corrected."""
    data = exclusive_of(sampler=partial(BalancedSampler, num_samples=200_000))
    true = np.array(data.labels("train")) @ [1, 2]
    # A sign with four values, which points to the class; its truth is counted.
    chance = np.array([[0.6, 0.2, 0.15, 0.05], [0.2, 0.5, 0.2, 0.1], [0.1, 0.2, 0.2, 0.5]])
    rng = np.random.default_rng(0)
    sign = np.array([rng.choice(4, p=chance[each]) for each in true])
    counts = np.zeros((4, 3))
    np.add.at(counts, (sign, true), 1)
    truth = counts / counts.sum(axis=1, keepdims=True)
    loss = build_loss(SoftClassWeightCE(power=0.7), data, torch.device("cpu"))
    shifts = build_prior_shifts(data, loss)
    drawn = np.array([index for index, _ in data._draws])
    table = torch.zeros(4, 2, requires_grad=True)
    signs, labels = torch.tensor(sign[drawn]), torch.tensor(np.eye(3)[true[drawn]][:, 1:]).float()
    optimizer = torch.optim.LBFGS([table], max_iter=60, line_search_fn="strong_wolfe")

    def step():
        optimizer.zero_grad()
        value = loss(table[signs], labels)
        value.backward()
        return value

    optimizer.step(step)
    score = scores_from_logits(table.detach(), exclusive=True).double().numpy()
    found = exclusive_probabilities(score, shifts)
    np.testing.assert_allclose(found, truth[:, 1:], atol=0.01)
    assert np.abs(score - truth[:, 1:]).max() > 0.2


@pytest.mark.parametrize(
    ("loss", "is_known"),
    [
        (nn.CrossEntropyLoss(), True),
        (nn.CrossEntropyLoss(weight=torch.tensor([1.0, 2.0, 4.0])), True),
        (nn.CrossEntropyLoss(label_smoothing=0.1), False),
        (nn.CrossEntropyLoss(ignore_index=2), False),
        (nn.MultiMarginLoss(), False),
    ],
)
def test_the_effect_of_other_losses_on_exclusive_classes_is_unknown(loss, is_known):
    adapted = ClassLoss(loss)
    shifts = build_prior_shifts(exclusive_of(), adapted)
    assert [shift.pos_weight is not None for shift in shifts] == [is_known] * 2
    if is_known:
        parts = np.array([0.6, 0.3, 0.1])
        parts *= 1 if loss.weight is None else loss.weight.numpy()
        assert [shift.seen_prevalence for shift in shifts] == shares((parts / parts.sum())[1:])


def test_exclusive_classes_without_the_first_one_are_refused():
    data = findings_of({"train": {(1, 0): 5, (0, 1): 5}}, exclusive=True)
    with refused(DataError, "No Finding"):
        build_prior_shifts(data, nn.CrossEntropyLoss())
    zero = nn.CrossEntropyLoss(weight=torch.tensor([1.0, 0.0, 1.0]))
    with refused(RecipeError, "loss.weight", "3", "0.0"):
        build_prior_shifts(exclusive_of(), zero)
