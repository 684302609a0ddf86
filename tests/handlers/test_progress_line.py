from __future__ import annotations

import re

import pytest
import torch
from ignite.engine import Engine

from cxrignite.handlers import ProgressLine


class Clock:
    """The clock that tqdm reads; each step of the engine takes a twentieth of a second."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr("time.time", clock)
    monkeypatch.setattr("tqdm.std.tqdm.monitor_interval", 0)
    monkeypatch.setattr("tqdm.std.time", clock)
    return clock


def run(
    line: ProgressLine, clock: Clock, num_steps: int, max_epochs: int = 1, images: int = 0
) -> None:
    def step(engine: Engine, batch: object) -> torch.Tensor:
        clock.now += 0.05
        return torch.tensor(0.5 + engine.state.iteration)

    engine = Engine(step)
    line.attach(engine)
    batches = [torch.zeros(images, 1)] * num_steps if images else range(num_steps)
    engine.run(batches, max_epochs=max_epochs)


def test_the_line_says_which_epoch_how_far_and_the_loss(clock, capsys):
    run(ProgressLine("train", shows_loss=True), clock, 40, max_epochs=3)
    text = capsys.readouterr().err
    drawn = re.search(r"train 2/3  5\d%\|.*?\| (\d+)/40, loss ([\d.]+), ", text)
    assert drawn is not None
    # That of the step that was drawn before.
    assert 0 < 40 + int(drawn[1]) + 0.5 - float(drawn[2]) < 5


def test_one_epoch_is_not_counted_and_no_loss_is_shown_unasked(clock, capsys):
    run(ProgressLine("score"), clock, 40)
    text = capsys.readouterr().err
    # How far and how long, and nothing behind.
    assert re.search(r"score  5\d%\|[^\r]*?\| 2\d/40, 00:\d\d\b[^,\r]*(\r|$)", text)
    assert not re.search(r"\d\.\d", text)


def test_images_a_second_are_those_since_the_epoch_began(clock, capsys):
    # 16 images in a twentieth of a second, in the second epoch as in the first.
    run(ProgressLine("train", shows_loss=True), clock, 40, max_epochs=2, images=16)
    text = capsys.readouterr().err
    for epoch in (1, 2):
        assert set(re.findall(rf"train {epoch}/2.*?, ([\d,]+) images/s", text)) == {"320"}


def test_the_loss_is_read_when_the_line_is_drawn_and_at_no_other_step(clock, capsys, monkeypatch):
    reads = []
    original = torch.Tensor.__float__
    monkeypatch.setattr(
        torch.Tensor, "__float__", lambda self: reads.append(self) or original(self)
    )
    run(ProgressLine("train", shows_loss=True), clock, 2000)
    drawn = capsys.readouterr().err.count("train ")
    # 100 seconds, drawn each tenth of one; tqdm skips steps that it need not look at.
    assert 100 <= len(reads) <= drawn <= 1002


def test_a_stream_of_unknown_length_is_counted(clock, capsys):
    engine = Engine(lambda engine, batch: setattr(clock, "now", clock.now + 1))
    ProgressLine("train").attach(engine)
    engine.run(iter(range(5)), max_epochs=1)
    assert "| 3/?," in capsys.readouterr().err


def test_nothing_is_left_on_the_terminal(clock, capsys):
    run(ProgressLine("train"), clock, 40, max_epochs=2)
    *_, last_but_one, last = capsys.readouterr().err.split("\r")
    assert (last_but_one.strip(), last) == ("", "")


def test_after_a_run_that_broke_off_the_next_one_draws_anew(clock, capsys):
    line = ProgressLine("train")
    engine = Engine(lambda engine, batch: 1 / 0)
    engine.logger.disabled = True
    line.attach(engine)
    with pytest.raises(ZeroDivisionError):
        engine.run(range(3))
    capsys.readouterr()
    run(line, clock, 40)
    assert "| 39/40," in capsys.readouterr().err
