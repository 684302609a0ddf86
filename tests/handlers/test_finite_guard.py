from __future__ import annotations

import pytest
import torch
from ignite.engine import Engine
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
    message = "epoch 2, step 7: the loss is nan; the batch: 2.jpeg"
    with pytest.raises(NonFiniteError, match=message):
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
    with pytest.raises(NonFiniteError, match=r"epoch 1, step 1: parameter 2.weight is not finite"):
        engine.run(batches())


def test_a_gradient_that_overflows_stops_within_the_step():
    model = nn.Linear(3, 1)
    engine = trainer(model, lr=1e38)
    FiniteGuard(model).attach(engine)
    with pytest.raises(NonFiniteError, match=r"step [12]: "):
        engine.run([(torch.full((2, 3), 1e6), torch.zeros(2, 1))] * 4)


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
