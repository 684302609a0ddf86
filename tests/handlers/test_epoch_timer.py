from __future__ import annotations

import math
import time

import pytest
import torch
from ignite.engine import Engine, Events
from messages import refused

from cxrignite.handlers import EpochTimer

START, WAIT, STEP = 100, 10, 1


class Clock:
    """A clock that only sleeping moves: no test depends on how busy the machine is."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        self.now += seconds


@pytest.fixture
def clock(monkeypatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr("cxrignite.handlers.epoch_timer.perf_counter", clock)
    return clock


class Loader:
    """Three batches of four images; starting costs 100 seconds, and each batch 10."""

    def __init__(self, clock: Clock) -> None:
        self.clock = clock

    def __len__(self) -> int:
        return 3

    def __iter__(self):
        self.clock.sleep(START)
        return self._batches()

    def _batches(self):
        for _ in range(3):
            self.clock.sleep(WAIT)
            yield torch.zeros(4, 1), torch.zeros(4)


def trainer_on(clock: Clock) -> Engine:
    return Engine(lambda engine, batch: clock.sleep(STEP))


def test_waiting_for_data_and_computing_are_reported_apart(clock):
    timer, trainer = EpochTimer(), trainer_on(clock)
    timer.attach(trainer)
    metrics = trainer.run(Loader(clock), max_epochs=2).metrics
    assert [timing.epoch for timing in timer.epochs] == [1, 2]
    for timing in timer.epochs:
        assert timing.data_wait_seconds == START + 3 * WAIT
        assert timing.compute_seconds == 3 * STEP
        assert timing.num_images == 12
        assert timing.images_per_second == 12 / 133
    assert metrics["epoch_seconds"] == START + 3 * WAIT + 3 * STEP
    assert metrics["data_wait_seconds"] == START + 3 * WAIT
    assert metrics["images_per_second"] == 12 / 133


@pytest.mark.parametrize("validates_first", [True, False])
def test_a_validation_at_the_epochs_end_does_not_count(validates_first, clock):
    timer, trainer = EpochTimer(), trainer_on(clock)
    attach = [
        lambda: trainer.add_event_handler(Events.EPOCH_COMPLETED, lambda: clock.sleep(1000)),
        lambda: timer.attach(trainer),
    ]
    for act in attach if validates_first else reversed(attach):
        act()
    trainer.run(Loader(clock), max_epochs=2)
    assert [timing.seconds for timing in timer.epochs] == [133, 133]


def test_warm_up_epochs_are_left_out_of_the_summary(clock):
    timer = EpochTimer(num_warmup_epochs=1)
    trainer = Engine(lambda engine, batch: clock.sleep(500 if engine.state.epoch == 1 else STEP))
    timer.attach(trainer)
    trainer.run(Loader(clock), max_epochs=3)
    assert timer.epochs[0].seconds == 1630
    assert timer.summary() == {
        "num_epochs": 2,
        "epoch_seconds": 133,
        "data_wait_seconds": 130,
        "images_per_second": 24 / 266,
    }


def test_a_resumed_process_warms_up_again(clock):
    first, trainer = EpochTimer(num_warmup_epochs=1), trainer_on(clock)
    first.attach(trainer)
    trainer.run(Loader(clock), max_epochs=2)
    second, trainer = EpochTimer(num_warmup_epochs=1), trainer_on(clock)
    second.load_state_dict(first.state_dict())
    second.attach(trainer)
    trainer.load_state_dict({"epoch": 2, "epoch_length": 3, "max_epochs": 4})
    trainer.run(Loader(clock))
    assert [timing.epoch for timing in second.epochs] == [1, 2, 3, 4]
    assert [timing.is_warmup for timing in second.epochs] == [True, False, True, False]


def test_no_epoch_makes_an_empty_summary():
    summary = EpochTimer().summary()
    assert summary["num_epochs"] == 0
    assert math.isnan(summary["epoch_seconds"])


@pytest.mark.parametrize(
    ("batch", "images"),
    [
        (torch.zeros(5, 1), 5),
        ([torch.zeros(3, 1)], 3),
        ({"image": torch.zeros(3, 1), "label": torch.zeros(3)}, 3),
        ([{"image": torch.zeros(7)}, {"image": torch.zeros(7)}], 2),
        ({"x": 1}, 0),
        ({}, 0),
    ],
)
def test_images_are_counted_along_the_first_dimension(batch, images):
    timer, trainer = EpochTimer(), Engine(lambda engine, batch: None)
    timer.attach(trainer)
    trainer.run([batch], max_epochs=1)
    assert timer.epochs[0].num_images == images


def test_a_stream_of_unknown_length_and_no_data_at_all_are_timed_too(clock):
    timer, trainer = EpochTimer(), trainer_on(clock)
    timer.attach(trainer)
    trainer.run(iter(Loader(clock)), max_epochs=1)
    assert timer.epochs[0].seconds == 3 * WAIT + 3 * STEP
    trainer = trainer_on(clock)
    timer.attach(trainer)
    trainer.run(max_epochs=1, epoch_length=2)
    assert timer.epochs[1].seconds == 2 * STEP


def test_the_real_clock_is_read():
    timer, trainer = EpochTimer(), Engine(lambda engine, batch: time.sleep(0.02))
    timer.attach(trainer)
    began = time.perf_counter()
    trainer.run([torch.zeros(1)] * 2)
    assert 0.04 <= timer.epochs[0].seconds <= time.perf_counter() - began


def test_a_negative_warm_up_is_refused():
    with refused(ValueError, "num_warmup_epochs", "0", "-1"):
        EpochTimer(num_warmup_epochs=-1)
