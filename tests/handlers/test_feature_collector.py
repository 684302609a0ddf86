from __future__ import annotations

import signal

import numpy as np
import pytest
import torch
from ignite.engine import Engine, Events
from messages import refused
from pair import run_pair
from torch import nn

from cxrignite.engines import create_evaluator
from cxrignite.handlers import FeatureCollector, GracefulStop, StopRequested
from cxrignite.nn import LightCNN


def evaluator(layer: nn.Module) -> Engine:
    return Engine(lambda engine, batch: (layer(batch[0]), batch[1]))


def batch(features, index=None):
    tensors = (torch.tensor(features), torch.zeros(len(features)))
    return tensors if index is None else (*tensors, torch.tensor(index))


def collecting(layer: nn.Module) -> tuple[Engine, FeatureCollector]:
    engine, collector = evaluator(layer), FeatureCollector(layer)
    collector.attach(engine)
    return engine, collector


def num_hooks(layer: nn.Module) -> int:
    return len(layer._forward_pre_hooks) + len(layer._forward_hooks)


def test_features_come_back_by_index_each_image_once():
    engine, collector = collecting(nn.Identity())
    engine.run(
        [batch([[3.0, 30.0], [1.0, 10.0]], [3, 1]), batch([[2.0, 20.0], [3.0, 30.0]], [2, 3])]
    )
    features, index = collector.gather()
    assert index.tolist() == [1, 2, 3]
    assert features.dtype == np.float32
    assert features.tolist() == [[1, 10], [2, 20], [3, 30]]
    assert collector.gather()[0] is features


def test_without_an_index_the_order_is_kept_and_the_index_is_minus_one():
    engine, collector = collecting(nn.Identity())
    engine.run([batch([[5.0], [4.0]]), batch([[4.0]])])
    features, index = collector.gather()
    assert features.tolist() == [[5], [4], [4]]
    assert index.tolist() == [-1, -1, -1]


def test_the_features_of_a_classifier_are_what_its_backbone_gives():
    torch.manual_seed(0)
    model = LightCNN(width=2).eval()
    images = torch.randint(0, 256, (6, 1, 32, 32), dtype=torch.uint8)
    engine = create_evaluator(model, device="cpu")
    collector = FeatureCollector(model.head)
    collector.attach(engine)
    labels, index = torch.tensor([0.0, 1, 0, 1, 0, 1]), torch.arange(6)
    engine.run([(images[:4], labels[:4], index[:4]), (images[4:], labels[4:], index[4:])])
    with torch.inference_mode():
        expected = model.backbone(model.normalizer(images))
    features, _ = collector.gather()
    assert features.shape == (6, 16)
    assert np.allclose(features, expected, atol=1e-6)
    assert features.std() > 0


def test_the_features_of_fillings_are_left_out():
    torch.manual_seed(0)
    model = LightCNN(width=2).eval()
    images = torch.randint(0, 256, (6, 1, 32, 32), dtype=torch.uint8)
    labels, index = torch.tensor([0.0, 1, 0, 1, 0, 1]), torch.arange(6)
    batches = [(images[:4], labels[:4], index[:4]), (images[4:], labels[4:], index[4:])]
    gathered = []
    for batch_size in (None, 4):
        engine = create_evaluator(model, device="cpu", batch_size=batch_size)
        collector = FeatureCollector(model.head)
        collector.attach(engine)
        engine.run(batches)
        gathered.append(collector.gather())
    (plain, _), (filled, order) = gathered
    assert np.allclose(filled, plain, atol=1e-6)
    assert order.tolist() == index.tolist()


def test_the_features_are_those_of_the_images_without_their_views():
    torch.manual_seed(0)
    model = LightCNN(width=2).eval()
    images = torch.randint(0, 256, (6, 1, 32, 32), dtype=torch.uint8)
    batches = [(part, torch.zeros(len(part))) for part in images.split(4)]
    gathered = []
    for views in ((), (lambda part: part.float() / 300, lambda part: part.float() / 400)):
        engine = create_evaluator(model, device="cpu", batch_size=4, views=views)
        collector = FeatureCollector(model.head)
        collector.attach(engine)
        engine.run(batches)
        gathered.append(collector.gather()[0])
    assert np.array_equal(*gathered)


def test_each_epoch_stands_for_itself():
    engine, collector = collecting(nn.Identity())
    engine.run([batch([[0.5]])], max_epochs=3)
    assert collector.gather()[0].tolist() == [[0.5]]
    engine.run([batch([[0.25]])], max_epochs=4)
    assert collector.gather()[0].tolist() == [[0.25]]


def test_a_layer_called_in_pieces_gives_all_of_them():
    layer = nn.Identity()
    engine = Engine(lambda engine, batch: torch.cat([layer(part) for part in batch[0].split(1)]))
    collector = FeatureCollector(layer)
    collector.attach(engine)
    engine.run([batch([[1.0], [2.0], [3.0]], [2, 0, 1])])
    assert collector.gather()[0].tolist() == [[2], [3], [1]]


def test_what_is_collected_does_not_change_with_the_layer_or_the_batch():
    engine, collector = collecting(nn.ReLU(inplace=True))
    kept = batch([[-1.0], [2.0]], [0, 1])
    engine.run([kept])
    for tensor in kept:
        tensor.zero_()
    features, index = collector.gather()
    assert (features.tolist(), index.tolist()) == ([[-1], [2]], [0, 1])


def test_half_precision_features_are_taken():
    layer = nn.Identity()
    engine = Engine(lambda engine, batch: layer(batch[0].bfloat16()))
    collector = FeatureCollector(layer)
    collector.attach(engine)
    engine.run([batch([[0.5]])])
    assert collector.gather()[0].dtype == np.float32


def test_no_batches_give_no_features():
    features, index = FeatureCollector(nn.Identity()).gather()
    assert (features.shape, index.shape) == ((0, 0), (0,))


def test_the_hook_is_there_during_a_step_only():
    layer = nn.Identity()
    seen = []

    def step(engine: Engine, batch: tuple[torch.Tensor, ...]) -> torch.Tensor:
        seen.append(num_hooks(layer))
        return layer(batch[0])

    engine, between = Engine(step), []
    FeatureCollector(layer).attach(engine)
    for event in (Events.EPOCH_STARTED, Events.ITERATION_COMPLETED, Events.EPOCH_COMPLETED):
        engine.add_event_handler(event, lambda: between.append(num_hooks(layer)))
    engine.run([batch([[1.0]]), batch([[1.0]])], max_epochs=2)
    assert seen == [1] * 4
    assert between == [0] * 8


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt])
@pytest.mark.parametrize("place", ["before the layer", "in the layer", "after the step"])
def test_an_exception_leaves_no_hook(place, error):
    class Layer(nn.Module):
        def forward(self, features: torch.Tensor) -> torch.Tensor:
            if place == "in the layer":
                raise error("as planned")
            return features

    layer = Layer()

    def step(engine: Engine, batch: tuple[torch.Tensor, ...]) -> torch.Tensor:
        if place == "before the layer":
            raise error("as planned")
        return layer(batch[0])

    engine = Engine(step)
    FeatureCollector(layer).attach(engine)

    @engine.on(Events.ITERATION_COMPLETED)
    def fail() -> None:
        raise error("as planned")

    with pytest.raises(error, match="as planned"):
        engine.run([batch([[1.0]])])
    assert num_hooks(layer) == 0


@pytest.mark.parametrize("is_first", [True, False])
def test_it_may_stand_before_and_after_a_handler_that_raises_again(is_first):
    layer, former = nn.Identity(), signal.getsignal(signal.SIGINT)
    engine = evaluator(layer)
    handlers = [FeatureCollector(layer), GracefulStop()]
    for handler in handlers if is_first else reversed(handlers):
        handler.attach(engine)
    engine.add_event_handler(Events.ITERATION_STARTED, signal.raise_signal, signal.SIGINT)
    with pytest.raises(StopRequested):
        engine.run([batch([[1.0]]), batch([[1.0]])])
    assert num_hooks(layer) == 0
    assert signal.getsignal(signal.SIGINT) == former


@pytest.mark.parametrize("event", [Events.ITERATION_STARTED, Events.ITERATION_COMPLETED])
@pytest.mark.parametrize("end", ["terminate", "terminate_epoch", "interrupt"])
def test_a_run_that_ends_early_leaves_no_hook(event, end):
    layer = nn.Identity()
    engine, _ = collecting(layer)
    engine.add_event_handler(event(once=2), getattr(engine, end))
    engine.run([batch([[1.0]])] * 4)
    assert num_hooks(layer) == 0


def test_an_interrupted_epoch_is_whole_in_the_end():
    engine, collector = collecting(nn.Identity())
    engine.add_event_handler(Events.ITERATION_COMPLETED(once=1), engine.interrupt)
    batches = [batch([[1.0]], [0]), batch([[2.0]], [1])]
    engine.run(batches)
    engine.run(batches)
    assert collector.gather()[0].tolist() == [[1], [2]]


def test_another_engine_of_the_same_model_is_not_recorded():
    layer = nn.Identity()
    engine, collector = collecting(layer)
    other = evaluator(layer)
    engine.add_event_handler(Events.ITERATION_COMPLETED, lambda: other.run([batch([[9.0]])]))
    engine.run([batch([[1.0]]), batch([[2.0]])])
    assert collector.gather()[0].tolist() == [[1], [2]]


@pytest.mark.parametrize(
    ("features", "index", "facts"),
    [
        ([[0.5], [0.25]], [0], ["1", "2"]),
        ([0.5, 0.25], [0, 1], ["(N, F)", "(2,)"]),
        ([[[0.5]]], [0], ["(N, F)", "(1, 1, 1)"]),
    ],
)
def test_what_is_not_one_row_an_image_is_refused(features, index, facts):
    engine, _ = collecting(nn.Identity())
    with refused(ValueError, *facts):
        engine.run([batch(features, index)])


def test_a_layer_that_the_step_does_not_call_is_refused():
    engine = evaluator(nn.Identity())
    FeatureCollector(nn.Linear(1, 1)).attach(engine)
    with refused(ValueError, "Linear"):
        engine.run([batch([[1.0]])])


def gather_in_process(rank: int) -> dict[str, list]:
    results = {}
    # Image 1 was given to both, and in the second round one process has no image at all.
    for name, shares in {"repeated": ([0, 1], [2, 1, 3]), "idle": ([0, 1], [])}.items():
        engine, collector = collecting(nn.Identity())
        if shares[rank]:
            engine.run([batch([[10.0 * n, 1.0] for n in shares[rank]], shares[rank])])
        results[name] = [part.tolist() for part in collector.gather()]
    return results


@pytest.mark.integration
@pytest.mark.usefixtures("_server")
def test_two_processes_hold_the_features_of_all_images(tmp_path):
    for result in run_pair(gather_in_process, tmp_path):
        assert result["repeated"] == [[[0, 1], [10, 1], [20, 1], [30, 1]], [0, 1, 2, 3]]
        assert result["idle"] == [[[0, 1], [10, 1]], [0, 1]]
