"""One contract over every handler that the package exports."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from ignite.engine import Engine, Events
from ignite.handlers import Timer

import cxrignite.handlers
from cxrignite.functional import ImageChoice
from cxrignite.handlers import (
    Attachable,
    BestCheckpoint,
    EpochTimer,
    FeatureCollector,
    FiniteGuard,
    GracefulStop,
    GradCAMExporter,
    HistoryWriter,
    PredictionWriter,
    ProgressLine,
    ScoreCollector,
    TensorBoardWriter,
    ThresholdSearch,
)

HANDLERS = [
    handler
    for name in cxrignite.handlers.__all__
    if isinstance(handler := getattr(cxrignite.handlers, name), type)
    and issubclass(handler, Attachable)
    and handler is not Attachable
]
NUM_IMAGES = 10
LAYER = torch.nn.Identity()

BUILDERS: dict[type, Callable[[Path], Attachable]] = {
    BestCheckpoint: lambda folder: BestCheckpoint({"model": model()}, folder, "score"),
    TensorBoardWriter: lambda folder: TensorBoardWriter(folder / "board"),
    EpochTimer: lambda folder: EpochTimer(),
    FeatureCollector: lambda folder: FeatureCollector(LAYER),
    FiniteGuard: lambda folder: FiniteGuard(model()),
    GracefulStop: lambda folder: GracefulStop(),
    GradCAMExporter: lambda folder: GradCAMExporter(
        torch.nn.Sequential(torch.nn.Identity(), torch.nn.Flatten(), torch.nn.Linear(16, 1)),
        folder / "maps",
        target_layer="0",
        choice=ImageChoice(max_images=1),
    ),
    HistoryWriter: lambda folder: HistoryWriter(folder / "history.csv"),
    PredictionWriter: lambda folder: PredictionWriter(
        folder / "predictions.csv", [{"path": str(n)} for n in range(NUM_IMAGES)]
    ),
    ProgressLine: lambda folder: ProgressLine("train"),
    ScoreCollector: lambda folder: ScoreCollector(),
    ThresholdSearch: lambda folder: ThresholdSearch(min_tnr=0.5, min_threshold=0.5),
}


def model() -> torch.nn.Module:
    return torch.nn.Linear(2, 1)


def build(handler: type, folder: Path) -> Attachable:
    assert handler in BUILDERS, f"{handler.__name__} has no builder in this test: give it one"
    return BUILDERS[handler](folder)


def is_for_evaluators(handler: type) -> bool:
    return "*Attach to* an evaluator" in handler.__doc__ or "the evaluator" in handler.__doc__


def engine_for(handler: type) -> Engine:
    """An engine whose output is what the handler expects, scripted."""

    def step(engine: Engine, batch: tuple[torch.Tensor, ...]) -> object:
        images, labels, _ = batch
        scores = LAYER(images.flatten(1))[:, 0]
        engine.state.metrics["score"] = engine.state.iteration / 100
        return (scores, labels) if is_for_evaluators(handler) else torch.tensor(0.5)

    return Engine(step)


def batches() -> list[tuple[torch.Tensor, ...]]:
    scores = torch.linspace(0, 1, NUM_IMAGES)
    labels = (scores > 0.6).float()
    images = scores[:, None, None, None].expand(-1, 1, 4, 4)
    return [
        (images[n : n + 4], labels[n : n + 4], torch.arange(NUM_IMAGES)[n : n + 4])
        for n in range(0, NUM_IMAGES, 4)
    ]


def num_registered(engine: Engine) -> int:
    return sum(len(handlers) for handlers in engine._event_handlers.values())


def test_there_are_handlers_and_each_has_a_builder():
    assert len(HANDLERS) >= 9
    assert set(HANDLERS) == set(BUILDERS)


@pytest.mark.parametrize("handler", HANDLERS)
def test_attaching_twice_acts_once(handler, tmp_path):
    instance, engine = build(handler, tmp_path), engine_for(handler)
    instance.attach(engine)
    once = num_registered(engine)
    instance.attach(engine)
    assert num_registered(engine) == once > 0


@pytest.mark.parametrize("handler", HANDLERS)
def test_it_works_for_a_whole_run_and_leaves_nothing_open(handler, tmp_path):
    signals = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    files = len(os.listdir("/proc/self/fd")) if Path("/proc/self/fd").exists() else 0
    instance, engine = build(handler, tmp_path), engine_for(handler)
    instance.attach(engine)
    state = engine.run(batches(), max_epochs=3)
    assert state.epoch == 3
    assert {number: signal.getsignal(number) for number in signals} == signals
    if files:
        assert len(os.listdir("/proc/self/fd")) <= files
    assert not list(tmp_path.rglob("*.tmp"))


@pytest.mark.parametrize("handler", HANDLERS)
def test_one_instance_serves_a_second_engine_too(handler, tmp_path):
    instance = build(handler, tmp_path)
    for _ in range(2):
        engine = engine_for(handler)
        instance.attach(engine)
        assert engine.run(batches(), max_epochs=1).epoch == 1


@pytest.mark.parametrize("handler", HANDLERS)
def test_its_metrics_are_python_numbers(handler, tmp_path):
    engine = engine_for(handler)
    build(handler, tmp_path).attach(engine)
    metrics = engine.run(batches(), max_epochs=1).metrics
    assert all(type(value) in (int, float) for value in metrics.values()), metrics


@pytest.mark.parametrize("handler", [h for h in HANDLERS if hasattr(h, "state_dict")])
def test_its_state_goes_through_a_file_into_another_instance(handler, tmp_path):
    instance, engine = build(handler, tmp_path / "a"), engine_for(handler)
    instance.attach(engine)
    engine.run(batches(), max_epochs=2)
    state = instance.state_dict()
    torch.save(state, tmp_path / "state.pt")
    other = build(handler, tmp_path / "b")
    assert other.state_dict() != state
    other.load_state_dict(torch.load(tmp_path / "state.pt", weights_only=True))
    assert other.state_dict() == state


@pytest.mark.parametrize("handler", HANDLERS)
@pytest.mark.parametrize("word", ["*Attach to*", "*Expects*", "*Publishes*"])
def test_its_docstring_says_what_it_needs(handler, word):
    assert word in handler.__doc__


@pytest.mark.parametrize("handler", HANDLERS)
def test_an_exception_of_the_run_is_not_swallowed(handler, tmp_path):
    engine = engine_for(handler)
    build(handler, tmp_path).attach(engine)

    @engine.on(Events.ITERATION_STARTED(once=2))
    def fail() -> None:
        raise RuntimeError("as planned")

    with pytest.raises(RuntimeError, match="as planned"):
        engine.run(batches(), max_epochs=1)


class Unannotated:
    def attach(self, trainer): ...


class WithOptions:
    def attach(self, engine: Engine, *, every: int = 1) -> int: ...


class NeedsMore:
    def attach(self, engine: Engine, name: str) -> None: ...


class NoMethod:
    attach = "with a pin"


def test_anything_that_attaches_to_an_engine_alone_is_attachable():
    assert all(isinstance(kind(), Attachable) for kind in (Unannotated, WithOptions))
    assert issubclass(Timer, Attachable)  # Ignite's own
    assert not any(isinstance(kind(), Attachable) for kind in (NeedsMore, NoMethod, object))


def test_a_handler_of_ours_has_to_say_how_it_attaches():
    with pytest.raises(TypeError, match="abstract"):
        Attachable()
