"""All steps after the reading of an image, as one module and as a graph."""

import io
from functools import partial

import numpy as np
import onnxruntime
import pytest
import torch
from messages import refused
from torch import nn

from cxrignite.data import View
from cxrignite.engines import BatchScorer
from cxrignite.errors import CxrIgniteError
from cxrignite.functional import PriorShift, decide, exclusive_probabilities
from cxrignite.nn import Ensemble, LightCNN
from cxrignite.workflows.export.graphs import make_graph
from cxrignite.workflows.export.half_weights import HalfWeights
from cxrignite.workflows.export.scoring_model import Limits, ScoringModel

SHIFT = PriorShift(70, 30, 0.5, 0.8)
UNKNOWN = PriorShift(70, 30, 0.5, None)
THREE = [
    PriorShift(70, 30, 0.25, 1.0),
    PriorShift(90, 10, 0.25, 1.0),
    PriorShift(80, 20, 0.25, 1.0),
]


def images(num_images=5, size=(64, 64)):
    generator = torch.Generator().manual_seed(0)
    shape = (num_images, 1, *size)
    return torch.randint(0, 256, shape, dtype=torch.uint8, generator=generator)


class Given(nn.Module):
    """A model with given logits."""

    def __init__(self, logits):
        super().__init__()
        self.logits = nn.Parameter(torch.tensor(logits))

    def forward(self, images):
        return self.logits


@torch.no_grad()
def test_scores_and_probabilities_are_those_of_predict():
    torch.manual_seed(0)
    views = [View(shift=(0.05, 0.0)), View(gamma=0.7)]
    model = LightCNN(width=4)
    score, probability, _ = ScoringModel(model, [None], [SHIFT], views=views)(images())
    expected = BatchScorer(model, device="cpu", views=views)(images())[0]
    assert torch.equal(score[:, 0], expected)
    np.testing.assert_allclose(probability[:, 0], SHIFT.probability(expected), rtol=1e-6)


@torch.no_grad()
def test_exclusive_probabilities_are_those_of_predict():
    model = Given([[0.0, 2.0, -1.0], [3.0, 0.1, 0.2]])
    score, probability, _ = ScoringModel(model, [None] * 3, THREE, exclusive=True)(images(2))
    np.testing.assert_allclose(probability, exclusive_probabilities(score, THREE), rtol=1e-6)
    assert (score.sum(dim=1) < 1).all()


@torch.no_grad()
@pytest.mark.parametrize("exclusive", [False, True])
def test_unknown_probabilities_are_nan(exclusive):
    module = ScoringModel(Given([[0.0, 1.0]]), [None] * 2, [UNKNOWN] * 2, exclusive=exclusive)
    assert module(images(1))[1].isnan().all()


@torch.no_grad()
def test_scores_of_0_and_1_keep_their_probability():
    module = ScoringModel(Given([-200.0, 200.0]), [Limits(1.0, 0.0)], [SHIFT])
    score, probability, decision = module(images(2))
    assert score.flatten().tolist() == probability.flatten().tolist() == [0.0, 1.0]
    assert decision.flatten().tolist() == [1, 2]  # at or above each threshold


@torch.no_grad()
def test_decisions_are_made_in_float64():
    # 0.7 is a little below its nearest float32.
    logits = torch.logit(torch.tensor([0.7, 0.2, 0.69, 0.1])).tolist()
    limits = Limits(float(np.float32(0.7)) + 1e-12, 0.15)
    module = ScoringModel(Given(logits), [limits], [SHIFT])
    score, _, decision = module(images(4))
    words = ("negative", "refer", "positive")
    expected = [decide(each, limits.threshold, limits.lower) for each in score[:, 0].tolist()]
    assert [words[each] for each in decision[:, 0]] == expected
    assert expected == ["refer", "refer", "refer", "negative"]


@torch.no_grad()
def test_a_finding_without_a_threshold_has_no_decision():
    module = ScoringModel(Given([[9.0, 9.0]]), [None, Limits(0.5)], [SHIFT] * 2)
    assert module(images(1))[2].tolist() == [[-1, 1]]


@pytest.mark.parametrize("kind", ["onnx", "torch"])
def test_an_ensemble_of_exclusive_classes_becomes_one_graph(kind):
    torch.manual_seed(0)
    member = partial(LightCNN, width=4)
    ensemble = Ensemble(member, 3, num_findings=3, exclusive=True)
    limits = [Limits(0.3, 0.2), None, Limits(0.25)]
    module = ScoringModel(ensemble, limits, THREE, exclusive=True)
    graph = make_graph(module, images()[0], kind, properties={"weights_sha256": "abc"})
    assert graph.input.shape == ("N", 1, 64, 64)
    for num_images in (1, 5):
        with torch.no_grad():
            expected = module(images(num_images))
        for mine, theirs in zip(expected, graph.run(images(num_images).numpy()), strict=True):
            np.testing.assert_allclose(mine, theirs, rtol=0, atol=1e-6)
            assert mine.numpy().dtype == theirs.dtype
    if kind == "onnx":
        session = onnxruntime.InferenceSession(graph.content)
        assert session.get_modelmeta().custom_metadata_map["weights_sha256"] == "abc"


def test_images_of_other_sizes_are_taken_if_the_run_keeps_their_size():
    torch.manual_seed(0)
    module = ScoringModel(LightCNN(width=4), [Limits(0.5)], [SHIFT], views=[View(scale=1.1)])
    graph = make_graph(module, images(size=(128, 160))[0], "onnx", any_size=True)
    assert graph.input.shape == ("N", 1, "H", "W")
    others = images(size=(192, 104))
    with torch.no_grad():
        expected = module(others)[0]
    np.testing.assert_allclose(graph.run(others.numpy())[0], expected, rtol=0, atol=1e-6)


@torch.no_grad()
def test_half_weights_round_matrices_and_compute_in_float32():
    torch.manual_seed(0)
    module = ScoringModel(LightCNN(width=4), [Limits(0.5)], [SHIFT])
    half = HalfWeights(module)
    stored = {each.dtype for each in half.buffers()}
    assert stored == {torch.float16}
    matrices = [each for each in module.parameters() if each.ndim > 1]
    assert len(matrices) == len(list(half.buffers())) > 0
    exact, score = module(images())[0], half(images())[0]
    assert score.dtype == torch.float32
    assert 0 < (score - exact).abs().max() < 0.01
    for each in matrices:
        each.copy_(each.half())
    assert torch.equal(module(images())[0], score)


def test_weights_above_the_range_of_float16_are_refused():
    module = ScoringModel(LightCNN(width=4), [Limits(0.5)], [SHIFT])
    with torch.no_grad():
        next(each for each in module.parameters() if each.ndim > 1).fill_(1e6)
    with refused(CxrIgniteError, "--dtype fp16", "65504", "1e+06"):
        HalfWeights(module)


def test_code_that_depends_on_pixels_is_refused():
    class Branching(nn.Module):
        def forward(self, image):
            return image.float().mean((1, 2, 3)) * (2 if image.sum() > 9 else 1)

    module = ScoringModel(Branching(), [Limits(0.5)], [SHIFT])
    with refused(CxrIgniteError, "--format torch"):
        make_graph(module, images()[0], "torch")


def test_no_pixel_of_an_image_is_in_the_file():
    torch.manual_seed(0)
    module = ScoringModel(LightCNN(width=4), [Limits(0.5)], [SHIFT])
    graph = make_graph(module, images()[0], "torch")
    program = torch.export.load(io.BytesIO(graph.content))
    assert not program.example_inputs[0][0].any()
    assert images()[0, 0, 0].numpy().tobytes() not in graph.content
