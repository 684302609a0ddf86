from __future__ import annotations

import re

import pytest
import torch
from ignite.engine import Engine, Events
from messages import missing, refused
from torch import nn

from cxrignite.errors import NonFiniteError
from cxrignite.handlers import FiniteGuard


def trainer(model: nn.Module, lr: float = 0.1) -> Engine:
    optimizer = torch.optim.SGD(model.parameters(), lr)

    def step(engine, batch):
        optimizer.zero_grad()
        loss = (model(batch[0]) - batch[1]).square().mean()
        loss.backward()
        optimizer.step()
        return loss.detach()

    return Engine(step)


def batches(num: int = 4) -> list[tuple[torch.Tensor, torch.Tensor, list[str]]]:
    return [(torch.ones(2, 3), torch.ones(2, 1), [f"{n}.jpeg"]) for n in range(num)]


def network() -> nn.Module:
    return nn.Sequential(nn.Linear(3, 2), nn.BatchNorm1d(2), nn.Linear(2, 1))


def test_a_sound_run_goes_through():
    model = network()
    engine = trainer(model)
    FiniteGuard(model).attach(engine)
    assert engine.run(batches(), max_epochs=2).iteration == 8


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_broken_image_stops_its_own_step_and_names_the_files(value):
    model, data = network(), batches()
    data[2][0][0, 0] = value
    engine = trainer(model)
    FiniteGuard(model, describe_batch=lambda batch: ", ".join(batch[2])).attach(engine)
    with refused(NonFiniteError, "epoch 2", "step 7", "loss", "nan", "2.jpeg"):
        engine.run(_Epochs(batches(), data), max_epochs=2)
    assert engine.state.iteration == 7


class _Epochs:
    """Other batches every epoch."""

    def __init__(self, *epochs):
        self.epochs = list(epochs)

    def __len__(self):
        return len(self.epochs[0])

    def __iter__(self):
        return iter(self.epochs.pop(0))


def test_a_broken_weight_is_named_though_the_loss_was_finite():
    model = network()
    engine = Engine(lambda engine, batch: torch.tensor(0.5))
    FiniteGuard(model).attach(engine)
    with torch.no_grad():
        model[2].weight[0, 1] = float("inf")
    with refused(NonFiniteError, "epoch 1", "step 1", "2.weight"):
        engine.run(batches())


def test_a_gradient_that_overflows_stops_within_the_step():
    model = nn.Linear(3, 1)
    engine = trainer(model, lr=1e38)
    FiniteGuard(model).attach(engine)
    with pytest.raises(NonFiniteError) as caught:
        engine.run([(torch.full((2, 3), 1e6), torch.zeros(2, 1))] * 4)
    assert engine.state.iteration <= 2
    assert not missing(str(caught.value), [f"step {engine.state.iteration}"])


def test_large_but_finite_weights_pass():
    model = nn.Linear(3, 1)
    with torch.no_grad():
        model.weight.fill_(3e38)
    engine = Engine(lambda engine, batch: 0.5)
    FiniteGuard(model).attach(engine)
    assert engine.run([0]).iteration == 1


def test_mixed_and_whole_number_parameters_and_none_at_all_are_taken():
    mixed = nn.ParameterDict(
        {
            "low": nn.Parameter(torch.ones(2, dtype=torch.bfloat16)),
            "high": nn.Parameter(torch.ones(2)),
            "count": nn.Parameter(torch.ones(2, dtype=torch.int64), requires_grad=False),
        }
    )
    for model in (mixed, nn.Identity()):
        engine = Engine(lambda engine, batch: torch.tensor(0.5))
        FiniteGuard(model).attach(engine)
        assert engine.run([0]).iteration == 1


def test_a_step_costs_one_synchronisation(monkeypatch):
    model, calls = network(), []
    for name in ("__bool__", "item", "tolist", "__float__"):
        original = getattr(torch.Tensor, name)

        def counted(self, name=name, original=original):
            calls.append(name)
            return original(self)

        monkeypatch.setattr(torch.Tensor, name, counted)
    engine = Engine(lambda engine, batch: torch.tensor(0.5))
    FiniteGuard(model).attach(engine)
    engine.run(batches(5))
    assert len(calls) == 5


def test_a_parameter_that_replaces_another_is_seen_from_the_next_epoch_on():
    model = network()
    engine = Engine(lambda engine, batch: torch.tensor(0.5))
    FiniteGuard(model).attach(engine)

    @engine.on(Events.EPOCH_COMPLETED)
    def replace() -> None:
        model[2] = nn.Linear(2, 1)
        with torch.no_grad():
            model[2].bias.fill_(float("nan"))

    with refused(NonFiniteError, "epoch 2", "step 5", "2.bias"):
        engine.run(batches(), max_epochs=3)


@pytest.fixture
def lagging(monkeypatch):
    """Read figures a step later, as on CUDA."""
    monkeypatch.setattr("cxrignite.handlers.finite_guard._LAGGING", ("cpu", "cuda"))


def poisoned(model: nn.Module, at: int) -> Engine:
    """A trainer whose step `at` makes a weight NaN, with a finite loss."""

    def step(engine, batch):
        if engine.state.iteration == at:
            with torch.no_grad():
                model[0].weight[1, 2] = float("nan")
        return torch.tensor(0.5)

    return Engine(step)


def test_where_figures_lag_the_broken_step_is_named_one_step_later(lagging):
    model = network()
    engine = poisoned(model, at=6)
    FiniteGuard(model, describe_batch=lambda batch: ", ".join(batch[2])).attach(engine)
    with refused(NonFiniteError, "epoch 2", "step 6", "0.weight", "1.jpeg"):
        engine.run(batches(), max_epochs=3)
    assert engine.state.iteration == 7


@pytest.mark.parametrize("ends_by", ["itself", "terminate"])
def test_where_figures_lag_the_last_step_is_read_before_anything_is_saved(lagging, ends_by):
    model, saved = network(), []
    engine = poisoned(model, at=8)
    FiniteGuard(model).attach(engine)
    engine.add_event_handler(Events.EPOCH_COMPLETED | Events.COMPLETED, lambda: saved.append(1))
    if ends_by == "terminate":
        engine.add_event_handler(Events.ITERATION_COMPLETED(once=8), lambda: engine.terminate())
    with refused(NonFiniteError, "epoch 2", "step 8", "0.weight"):
        engine.run(batches(5 if ends_by == "terminate" else 4), max_epochs=2)
    assert len(saved) == 1  # after the first epoch


def test_where_figures_lag_the_next_run_starts_from_nothing(lagging):
    model = network()
    guard, engine = FiniteGuard(model), trainer(model)
    guard.attach(engine)

    @engine.on(Events.ITERATION_COMPLETED(once=2))
    def stop() -> None:
        guard._unread.loss.fill_(float("nan"))  # an exception leaves this step unread
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        engine.run(batches(), max_epochs=1)
    other = trainer(model)
    guard.attach(other)
    assert other.run(batches(), max_epochs=1).iteration == 4


@pytest.mark.cuda
@pytest.mark.skipif(not torch.cuda.is_available(), reason="the lag is CUDA's")
def test_on_cuda_no_step_waits_for_the_device_and_a_broken_one_is_named():
    model = network().cuda()
    loss = torch.tensor(0.5, device="cuda")
    bad = torch.tensor(float("nan"), device="cuda")
    engine = Engine(lambda engine, batch: bad if engine.state.iteration == 6 else loss)
    FiniteGuard(model, describe_batch=lambda batch: ", ".join(batch[2])).attach(engine)
    mode = torch.cuda.get_sync_debug_mode()
    engine.add_event_handler(
        Events.ITERATION_STARTED, lambda: torch.cuda.set_sync_debug_mode("error")
    )
    try:
        assert engine.run(batches(5), max_epochs=1).iteration == 5
        engine.add_event_handler(
            Events.ITERATION_STARTED(once=7), lambda: torch.cuda.set_sync_debug_mode(mode)
        )
        with refused(NonFiniteError, "step 6", "loss", "nan", "0.jpeg"):
            engine.run(batches(5), max_epochs=2)
    finally:
        torch.cuda.set_sync_debug_mode(mode)


@pytest.mark.parametrize(("at", "named"), [(2, ["0.jpeg", "1.jpeg"]), (3, ["2.jpeg"])])
def test_a_weight_that_breaks_is_blamed_on_all_batches_of_its_step(at, named):
    model = network()
    engine = poisoned(model, at=at)
    names = lambda batch: ", ".join(batch[2])  # noqa: E731
    FiniteGuard(model, describe_batch=names, accumulation_steps=2).attach(engine)
    with refused(NonFiniteError, f"step {at}", "0.weight", *named) as caught:
        engine.run(batches(3), max_epochs=1)
    assert re.findall(r"\d\.jpeg", str(caught.value)) == named


def test_a_loss_that_is_not_finite_is_its_own_batchs(lagging):
    bad = torch.tensor(float("nan"))
    engine = Engine(lambda engine, batch: bad if engine.state.iteration == 2 else torch.tensor(0.5))
    guard = FiniteGuard(network(), describe_batch=lambda b: b[2][0], accumulation_steps=2)
    guard.attach(engine)
    with refused(NonFiniteError, "step 2", "1.jpeg") as caught:
        engine.run(batches(4), max_epochs=1)
    assert "0.jpeg" not in str(caught.value)


def test_the_loss_may_be_a_part_of_the_output():
    model = network()
    engine = Engine(lambda engine, batch: [{"loss": float("nan")}] * 2)
    FiniteGuard(model, output_transform=lambda output: output[0]["loss"]).attach(engine)
    with refused(NonFiniteError, "epoch 1", "step 1", "loss", "nan"):
        engine.run(batches())


@pytest.mark.parametrize(
    "output", [None, {"loss": 0.5}, [{"loss": 0.5}] * 2, (0.5, torch.zeros(4))]
)
def test_another_form_of_output_is_refused_and_the_way_out_is_named(output):
    engine = Engine(lambda engine, batch: output)
    FiniteGuard(network()).attach(engine)
    with refused(ValueError, "state.output", "output_transform"):
        engine.run(batches())
