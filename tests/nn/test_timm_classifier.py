import sys

import pytest
import torch
from messages import refused

from cxrignite.errors import RecipeError, WeightsError
from cxrignite.nn import TimmClassifier

timm = pytest.importorskip("timm", reason="the extra timm is not installed")


@pytest.mark.parametrize("arch", ["tf_efficientnet_lite0", "mobilenetv3_small_050", "resnet10t"])
def test_a_network_takes_grey_images_and_gives_one_logit(arch):
    model = TimmClassifier(arch, hidden=8)
    logits = model.train()(torch.randint(0, 256, (2, 1, 64, 64), dtype=torch.uint8))
    assert logits.shape == (2,)
    logits.sum().backward()
    assert all(weight.grad is not None for weight in model.parameters())


def test_mean_and_deviation_are_those_of_timms_settings():
    normalizer = TimmClassifier("tf_efficientnet_lite0").normalizer
    assert normalizer.mean.flatten().tolist() == [0.5] * 3
    assert normalizer.std.flatten().tolist() == [0.5] * 3
    normalizer = TimmClassifier("resnet10t").normalizer
    assert normalizer.mean.flatten().tolist() == pytest.approx([0.485, 0.456, 0.406])


@pytest.mark.parametrize("num_classes", [0, 2, 1000])
def test_a_local_file_may_have_any_classifier_layer(tmp_path, num_classes):
    network = timm.create_model("mobilenetv3_small_050", num_classes=num_classes)
    torch.save(network.state_dict(), tmp_path / "weights.pt")
    model = TimmClassifier("mobilenetv3_small_050", str(tmp_path / "weights.pt"), hidden=8)
    assert torch.equal(model.backbone.conv_stem.weight, network.conv_stem.weight)
    images = torch.rand(2, 3, 64, 64)
    network.reset_classifier(0)
    assert torch.equal(model.backbone.eval()(images), network.eval()(images))


def test_the_wrong_architecture_is_reported_by_counts(tmp_path):
    torch.save(timm.create_model("resnet10t").state_dict(), tmp_path / "resnet.pt")
    with refused(WeightsError, "mobilenetv3_small_050", "conv_stem.weight", "conv1.0.weight"):
        TimmClassifier("mobilenetv3_small_050", str(tmp_path / "resnet.pt"))


def test_unknown_names_are_refused_with_the_nearest():
    with refused(RecipeError, "'tf_efficientnet_lit0'", "tf_efficientnet_lite0"):
        TimmClassifier("tf_efficientnet_lit0")
    with refused(RecipeError, "'IMAGENET1K_V1'", "pretrained", "null"):
        TimmClassifier("resnet10t", weights="IMAGENET1K_V1")
    with refused(WeightsError, "nowhere/weights.pt"):
        TimmClassifier("resnet10t", weights="nowhere/weights.pt")


def test_where_the_download_fails_the_message_says_what_was_wanted(monkeypatch):
    def refuse(*_args, **_kwargs):
        raise ConnectionError("Name or service not known")

    monkeypatch.setattr("timm.models._builder.load_pretrained", refuse)
    with refused(WeightsError, "timm/tf_efficientnet_lite0.in1k", "weights", "null"):
        TimmClassifier("tf_efficientnet_lite0", weights="pretrained")


def test_without_timm_the_message_names_the_extra(monkeypatch):
    monkeypatch.setitem(sys.modules, "timm", None)
    with refused(RecipeError, "'.[timm]'"):
        TimmClassifier("resnet10t")


def test_a_network_bound_to_a_size_names_it():
    model = TimmClassifier("vit_tiny_patch16_224", hidden=8)
    with refused(ValueError, "224 x 224"):
        model(torch.rand(1, 1, 64, 64))
