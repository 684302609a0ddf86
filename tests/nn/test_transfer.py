import hashlib
import logging
import re
import urllib.error
from contextlib import contextmanager

import pytest
import torch
import torchvision
from messages import line_with, refused

from cxrignite.errors import RecipeError, WeightsError
from cxrignite.nn import TransferClassifier

RESNET18_FILE = torchvision.models.ResNet18_Weights.IMAGENET1K_V1.url.rsplit("/", 1)[1]


@pytest.fixture
def hub(tmp_path, monkeypatch):
    """Return the checkpoint folder of an empty torch hub cache, on a machine without network."""
    monkeypatch.setattr("torch.hub._hub_dir", str(tmp_path / "hub"))

    def refuse(*_args, **_kwargs):
        raise urllib.error.URLError("Name or service not known")

    monkeypatch.setattr("torch.hub.urlopen", refuse)
    checkpoints = tmp_path / "hub" / "checkpoints"
    checkpoints.mkdir(parents=True)
    return checkpoints


@contextmanager
def refused_with_torchs_reason(reason, *facts):
    """As `refused`; the words of torch, a pattern, change with its versions."""
    with pytest.raises(WeightsError) as caught:
        yield
    message = re.sub(reason, "REASON", str(caught.value))
    assert line_with(message, *facts) == message


@pytest.fixture(scope="module")
def resnet18():
    torch.manual_seed(7)
    return torchvision.models.resnet18()


@pytest.mark.parametrize(
    ("arch", "size", "part"),
    [
        ("resnet18", 64, "layer4"),
        ("mobilenet_v3_small", 64, "features.12"),
        ("efficientnet_b0", 64, "features.8"),
        ("shufflenet_v2_x0_5", 64, "conv5"),
        ("squeezenet1_1", 64, "features.12"),
        ("densenet121", 64, "features.norm5"),
        ("mnasnet0_5", 64, "layers.16"),
        ("googlenet", 64, "inception5b"),
    ],
)
def test_any_architecture_takes_grey_images_and_gives_one_logit(arch, size, part):
    model = TransferClassifier(arch, hidden=8)
    images = torch.randint(0, 256, (2, 1, size, size), dtype=torch.uint8)
    logits = model.train()(images)
    assert logits.shape == (2,)
    assert model.eval()(images[:1]).shape == (1,)
    logits.sum().backward()
    unused = [name for name, weight in model.named_parameters() if weight.grad is None]
    assert unused == []
    assert model.backbone.get_submodule(part) is not None


@pytest.mark.slow
@pytest.mark.parametrize("arch", torchvision.models.list_models(module=torchvision.models), ids=str)
def test_every_architecture_of_torchvision_works(arch):
    model = TransferClassifier(arch, hidden=8).eval()
    height, width = model.image_size or (96, 96)
    with torch.no_grad():
        logits = model(torch.rand(2, 1, height, width))
    assert logits.shape == (2,)
    assert torch.isfinite(logits).all()


def test_the_head_is_the_one_of_the_reference_experiment():
    head = TransferClassifier("resnet18", hidden=256, dropout=0.5).head
    assert [type(layer).__name__ for layer in head] == ["Linear", "ReLU", "Dropout", "Linear"]
    assert (head[0].in_features, head[0].out_features, head[3].out_features) == (512, 256, 1)
    assert head[2].p == 0.5


def test_a_vision_transformer_names_the_size_it_needs():
    model = TransferClassifier("vit_b_32", hidden=8).eval()
    with refused(ValueError, "224 x 224", "(1, 1, 64, 64)"):
        model(torch.rand(1, 1, 64, 64))
    assert model(torch.rand(1, 1, 224, 224)).shape == (1,)


def test_images_are_handed_on_in_the_layout_of_the_weights():
    model = TransferClassifier("resnet18", hidden=8).eval()
    layouts = []
    model.backbone.conv1.register_forward_pre_hook(
        lambda _module, inputs: layouts.append(
            inputs[0].is_contiguous(memory_format=torch.channels_last)
        )
    )
    images = torch.rand(2, 1, 32, 32)
    expected = model(images)
    model.to(memory_format=torch.channels_last)
    torch.testing.assert_close(model(images), expected, atol=1e-4, rtol=1e-4)
    assert layouts == [False, True]


def test_the_normalisation_is_that_of_the_weights():
    model = TransferClassifier("resnet18")
    assert model.normalizer.mean.flatten().tolist() == pytest.approx([0.485, 0.456, 0.406])
    assert TransferClassifier("resnet18", standardize="per_image").normalizer.standardize == (
        "per_image"
    )


def test_an_unknown_architecture_gets_the_nearest_names():
    with refused(RecipeError, "arch", "'resnet5'", "resnet50"):
        TransferClassifier("resnet5")
    with refused(RecipeError, "'fasterrcnn_resnet50_fpn'"):
        TransferClassifier("fasterrcnn_resnet50_fpn")
    assert issubclass(RecipeError, ValueError)


def test_unknown_weights_get_the_nearest_names():
    with refused(RecipeError, "weights", "resnet50", "'IMAGENET1K_V3'", "IMAGENET1K_V2"):
        TransferClassifier("resnet50", weights="IMAGENET1K_V3")
    with refused(RecipeError, "weights", "resnet50", "'imagenet'"):
        TransferClassifier("resnet50", weights="imagenet")


def test_a_file_in_the_hub_cache_is_loaded_by_torchvisions_own_loader(hub, resnet18, caplog, capfd):
    torch.save(resnet18.state_dict(), hub / RESNET18_FILE)
    with caplog.at_level(logging.WARNING):
        model = TransferClassifier("resnet18", weights="IMAGENET1K_V1", hidden=8)
    own = model.backbone.state_dict()
    for key, value in resnet18.state_dict().items():
        assert key.startswith("fc.") or torch.equal(own[key], value)
    (warning,) = caplog.messages
    found = hashlib.sha256((hub / RESNET18_FILE).read_bytes()).hexdigest()[:8]
    line_with(warning.replace(found, "FOUND"), hub / RESNET18_FILE, "FOUND")
    assert capfd.readouterr() == ("", "")


def test_a_file_with_the_hash_of_its_name_is_taken_without_a_word(hub, resnet18, caplog):
    draft = hub / "draft"
    torch.save(resnet18.state_dict(), draft)
    prefix = hashlib.sha256(draft.read_bytes()).hexdigest()[:8]
    weights = torchvision.models.ResNet18_Weights.IMAGENET1K_V1
    named = f"resnet18-{prefix}.pth"
    draft.rename(hub / named)
    with pytest.MonkeyPatch.context() as patch, caplog.at_level(logging.WARNING):
        patch.setattr(weights.value, "url", f"https://download.pytorch.org/models/{named}")
        TransferClassifier("resnet18", weights="DEFAULT", hidden=8)
    assert caplog.records == []


def test_without_network_the_message_names_the_file_and_the_two_ways_out(hub, capfd):
    facts = ["IMAGENET1K_V2", "resnet50", "resnet50-11ad3fa6.pth", hub, "weights", "null"]
    with refused(WeightsError, *facts, "Name or service not known"):
        TransferClassifier("resnet50", weights="IMAGENET1K_V2")
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize(
    "content", [b"", b"<html>404</html>", b"PK\x03\x04 cut short"], ids=["empty", "html", "cut"]
)
def test_a_spoilt_file_in_the_hub_cache_is_named(hub, content):
    (hub / RESNET18_FILE).write_bytes(content)
    with refused_with_torchs_reason(
        r"(?<=\().*(?=\);)", hub / RESNET18_FILE, "IMAGENET1K_V1", "resnet18", "null"
    ):
        TransferClassifier("resnet18", weights="DEFAULT")


def test_another_networks_file_in_the_hub_cache_is_named(hub):
    torch.save(torchvision.models.shufflenet_v2_x0_5().state_dict(), hub / RESNET18_FILE)
    with refused(WeightsError, hub / RESNET18_FILE, "IMAGENET1K_V1", "resnet18", "null"):
        TransferClassifier("resnet18", weights="DEFAULT")


def test_a_local_file_may_have_another_classifier_layer_or_none(tmp_path, resnet18):
    for change in ("as it is", "no classifier", "another size", "under state_dict"):
        state = dict(resnet18.state_dict())
        if change == "no classifier":
            del state["fc.weight"], state["fc.bias"]
        if change == "another size":
            state["fc.weight"], state["fc.bias"] = torch.zeros(2, 512), torch.zeros(2)
        path = tmp_path / f"{change}.pt"
        torch.save({"state_dict": state} if change == "under state_dict" else state, path)
        model = TransferClassifier("resnet18", weights=str(path), hidden=8)
        assert torch.equal(model.backbone.layer4[1].conv2.weight, state["layer4.1.conv2.weight"])


def test_a_local_file_of_an_inception_network_may_have_its_auxiliary_heads(tmp_path):
    torch.manual_seed(0)
    network = torchvision.models.googlenet(init_weights=False, aux_logits=True)
    torch.save(network.state_dict(), tmp_path / "googlenet.pt")
    model = TransferClassifier("googlenet", weights=str(tmp_path / "googlenet.pt"), hidden=8)
    assert torch.equal(model.backbone.conv1.conv.weight, network.conv1.conv.weight)


@torch.inference_mode()
def test_an_inception_network_gets_the_range_of_its_weights_also_from_a_checkpoint(tmp_path):
    torch.manual_seed(0)
    network = torchvision.models.googlenet(
        init_weights=False,
        aux_logits=False,
        transform_input=True,  # as with published weights
    ).eval()
    torch.save(network.state_dict(), tmp_path / "googlenet.pt")
    model = TransferClassifier("googlenet", weights=str(tmp_path / "googlenet.pt"), hidden=8)
    again = TransferClassifier("googlenet", hidden=8)
    again.load_state_dict(model.state_dict())
    model.eval(), again.eval()
    images = torch.rand(2, 1, 64, 64)
    network.fc = torch.nn.Identity()
    normalize = torchvision.models.GoogLeNet_Weights.DEFAULT.transforms()
    mean, std = (torch.tensor(each).view(3, 1, 1) for each in (normalize.mean, normalize.std))
    expected = network((images - mean) / std)
    assert torch.allclose(
        model.backbone(model.normalizer(images)), expected, atol=1e-4 * expected.std()
    )
    assert torch.equal(again(images), model(images))


def test_the_key_names_of_torchvisions_published_densenet_files_are_known(tmp_path):
    torch.manual_seed(0)
    network = torchvision.models.densenet121()
    state = {
        re.sub(r"(denselayer\d+\.(?:norm|conv))([12])", r"\1.\2", key): value
        for key, value in network.state_dict().items()
    }
    assert "features.denseblock1.denselayer1.norm.1.weight" in state
    torch.save(state, tmp_path / "densenet121.pth")
    model = TransferClassifier("densenet121", weights=str(tmp_path / "densenet121.pth"))
    own = model.backbone.state_dict()
    assert all(
        torch.equal(own[key], value) for key, value in network.state_dict().items() if key in own
    )
    assert len(own) == len(state) - 2


def test_the_wrong_architecture_is_reported_by_counts_and_first_keys(tmp_path, resnet18):
    path = tmp_path / "resnet18.pt"
    torch.save(resnet18.state_dict(), path)
    with refused(WeightsError, path, "resnet50") as caught:
        TransferClassifier("resnet50", weights=str(path))
    own = torchvision.models.resnet50().state_dict()
    file = resnet18.state_dict()
    missing = [key for key in own if key not in file and "num_batches" not in key]
    reshaped = [key for key in file if key in own and own[key].shape != file[key].shape]
    reshaped = [key for key in reshaped if not key.startswith("fc.")]
    figures = rf"\b{len(missing)}\b.*\b{missing[0]}\b.*\b{len(reshaped)}\b.*\b{reshaped[0]}\b"
    assert re.search(figures, str(caught.value))
    with refused(WeightsError, path, "squeezenet1_1", 122, "conv1.weight"):
        TransferClassifier("squeezenet1_1", weights=str(path))


@pytest.mark.parametrize("name", ["conv1.weight", "bn1.running_var"])
def test_weights_with_nan_are_refused(name, tmp_path, resnet18):
    state = {key: value.clone() for key, value in resnet18.state_dict().items()}
    state[name][0] = float("nan")
    torch.save(state, tmp_path / "nan.pt")
    with refused(WeightsError, "NaN", name):
        TransferClassifier("resnet18", weights=str(tmp_path / "nan.pt"))


def test_published_weights_with_nan_are_refused(hub, resnet18):
    state = {key: value.clone() for key, value in resnet18.state_dict().items()}
    state["layer1.0.conv1.weight"][0] = float("inf")
    torch.save(state, hub / RESNET18_FILE)
    with refused(WeightsError, "IMAGENET1K_V1", "resnet18", "NaN"):
        TransferClassifier("resnet18", weights="IMAGENET1K_V1")


class Payload:
    def __reduce__(self):
        return (print, ("executed",))


@pytest.mark.parametrize(
    ("content", "facts"),
    [
        (None, []),
        (b"", ["state dict"]),
        (b"not a zip", ["state dict"]),
        ([torch.zeros(2)], ["state dict", "list"]),
        ({}, ["state dict", "dict"]),
        ({"epoch": 3}, ["'epoch'"]),
        (Payload(), ["state dict"]),
    ],
)
def test_a_local_file_that_is_no_state_dict_is_refused(tmp_path, content, facts, capfd):
    path = tmp_path / "weights.pt"
    if isinstance(content, bytes):
        path.write_bytes(content)
    elif content is not None:
        torch.save(content, path)
    with refused_with_torchs_reason("(?<=: )(Weights only|EOFError).*", path, *facts):
        TransferClassifier("resnet18", weights=str(path))
    assert capfd.readouterr().out == ""


def test_the_head_is_checked_before_anything_is_downloaded(hub):
    with refused(ValueError, "hidden", "1", "0"):
        TransferClassifier("resnet50", weights="DEFAULT", hidden=0)
    with refused(ValueError, "dropout", "[0, 1)", "1"):
        TransferClassifier("resnet50", weights="DEFAULT", dropout=1.0)
