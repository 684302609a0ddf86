"""Training steps of a small network: plain loop, bare trainer, and trainer with handlers."""

import pytest
import torch
from torch import nn

from cxrignite.engines import create_trainer
from cxrignite.engines.precision import FP32
from cxrignite.handlers import EpochTimer, FiniteGuard, GracefulStop
from cxrignite.nn import LightCNN
from cxrignite.workflows.benchmark.plain_loop import train_steps

NUM_STEPS = 50
CPU = torch.device("cpu")


@pytest.fixture
def parts():
    torch.manual_seed(0)
    model, loss_fn = LightCNN(width=2), nn.BCEWithLogitsLoss()
    images = torch.randint(256, (4, 1, 32, 32), dtype=torch.uint8)
    batches = [(images, torch.tensor([0.0, 1.0, 0.0, 1.0]))] * NUM_STEPS
    return model, torch.optim.AdamW(model.parameters()), loss_fn, batches


def test_plain_loop(benchmark, parts):
    settings = {"num_steps": NUM_STEPS, "device": CPU, "precision": FP32}
    benchmark(lambda: train_steps(*parts, **settings))


def test_trainer(benchmark, parts):
    *trained, batches = parts
    trainer = create_trainer(*trained, device=CPU)
    benchmark(lambda: trainer.run(batches, max_epochs=trainer.state.epoch + 1))


def test_trainer_with_handlers(benchmark, parts):
    *trained, batches = parts
    trainer = create_trainer(*trained, device=CPU)
    for handler in (FiniteGuard(trained[0]), EpochTimer(), GracefulStop()):
        handler.attach(trainer)
    benchmark(lambda: trainer.run(batches, max_epochs=trainer.state.epoch + 1))
