import pytest
import torch
from messages import refused

from cxrignite.errors import WeightsError
from cxrignite.nn import LightCNN, TorchXrayVisionClassifier
from cxrignite.nn.weights import read_state, take_weights


@pytest.fixture(scope="module")
def trained():
    return LightCNN(width=2)


@pytest.mark.parametrize("key", [None, "model", "state_dict", "model_state_dict"])
@pytest.mark.parametrize("prefix", ["", "module.", "model.", "module.model.", "_orig_mod."])
def test_names_and_keys_of_other_libraries_are_understood(key, prefix, trained, tmp_path):
    state = {f"{prefix}{name}": value for name, value in trained.state_dict().items()}
    torch.save(state if key is None else {key: state, "epoch": 3}, tmp_path / "file.pt")
    model = LightCNN(width=2)
    taken = take_weights(model, read_state(tmp_path / "file.pt"), "file.pt")
    assert taken == (list(trained.state_dict()), [], [], [])
    assert torch.equal(model.head[1].weight, trained.head[1].weight)


@pytest.mark.parametrize("prefix", ["", "model.", "backbone.", "model.backbone."])
def test_a_backbone_alone_is_taken_and_a_head_of_another_shape_is_left_out(prefix, trained):
    state = {f"{prefix}{name}": value for name, value in trained.backbone.state_dict().items()}
    state |= {"fc.weight": torch.ones(5, 16), "head.1.weight": torch.ones(5, 16)}
    model = LightCNN(width=2)
    before = model.head[1].weight.clone()
    taken = take_weights(model, state, "file.pt")
    assert len(taken.taken) == len(trained.backbone.state_dict())
    assert taken[1:] == (["head.1.weight"], ["head.1.bias"], ["fc.weight"])
    assert torch.equal(model.backbone[4][0].weight, trained.backbone[4][0].weight)
    assert torch.equal(model.head[1].weight, before)


def test_a_file_without_weights_of_the_backbone_is_refused(trained):
    state = {"layer1.weight": torch.ones(3), "head.1.bias": torch.ones(1)}
    with refused(WeightsError, "other.pt", "backbone", "layer1.weight"):
        take_weights(LightCNN(width=2), state, "other.pt")


def test_a_file_that_would_run_code_is_refused(tmp_path):
    torch.save({"model": LightCNN(width=2)}, tmp_path / "whole.pt")
    with refused(WeightsError, "whole.pt", "state dict"):
        read_state(tmp_path / "whole.pt")


def test_weights_of_torchxrayvision_get_the_grey_values_that_they_expect(tmp_path):
    source = TorchXrayVisionClassifier(hidden=4)
    state = dict(source.backbone.state_dict())
    assert state["features.conv0.weight"].shape == (64, 1, 7, 7)
    state |= {"classifier.weight": torch.ones(18, 1024), "classifier.bias": torch.ones(18)}
    torch.save(state, tmp_path / "xrv.pt")
    model = TorchXrayVisionClassifier(str(tmp_path / "xrv.pt"), hidden=4, num_findings=3).eval()
    assert torch.equal(model.backbone.features.conv0.weight, source.backbone.features.conv0.weight)
    grey = torch.tensor([0, 255], dtype=torch.uint8).view(2, 1, 1, 1)
    assert model.normalizer(grey).flatten().tolist() == [-1024, 1024]
    assert model.cam_layer == "backbone.relu"
    with torch.no_grad():
        assert model(torch.zeros(2, 1, 224, 224)).shape == (2, 3)
    with refused(ValueError, "224 x 224", "64"):
        model(torch.zeros(1, 1, 64, 64))
    del state["features.norm5.weight"]
    torch.save(state, tmp_path / "other.pt")
    with refused(WeightsError, "other.pt", "features.norm5.weight"):
        TorchXrayVisionClassifier(str(tmp_path / "other.pt"))
