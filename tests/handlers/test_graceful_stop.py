from __future__ import annotations

import os
import signal
import threading

import pytest
from ignite.engine import Engine, Events
from messages import line_with

from cxrignite.errors import WorkerKilled
from cxrignite.handlers import GracefulStop, StopRequested


def send(number: int = signal.SIGINT) -> None:
    os.kill(os.getpid(), number)


@pytest.fixture(autouse=True)
def former_handlers():
    """Handlers of our own, so that a leak is seen and a stray signal does not end the tests."""
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    own = {signal.SIGINT: lambda *_: None, signal.SIGTERM: lambda *_: None}
    for number, handler in own.items():
        signal.signal(number, handler)
    yield
    after = {number: signal.getsignal(number) for number in own}
    for number, handler in before.items():
        signal.signal(number, handler)
    assert after == own


def trainer_that(at: int, act, **events) -> tuple[Engine, list[str]]:
    """An engine that acts inside a step, and a record of what went on."""
    seen: list[str] = []

    def step(engine, batch):
        if engine.state.iteration == at:
            act()
        seen.append(f"step {engine.state.iteration}")

    engine = Engine(step)
    engine.add_event_handler(Events.EPOCH_COMPLETED, lambda: seen.append("epoch"))
    engine.add_event_handler(Events.COMPLETED, lambda: seen.append("completed"))
    return engine, seen


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_stops_after_its_batch_and_ends_no_epoch(number, caplog):
    engine, seen = trainer_that(2, lambda: send(number))
    GracefulStop().attach(engine)
    with pytest.raises(StopRequested) as stopped:
        engine.run(range(4), max_epochs=2)
    assert seen == ["step 1", "step 2"]
    assert stopped.value.signal_number == number
    assert isinstance(stopped.value, KeyboardInterrupt)
    (warning,) = [record.message for record in caplog.records if "graceful" in record.name]
    line_with(warning, signal.Signals(number).name)


def test_a_second_signal_stops_at_once():
    def twice():
        send(signal.SIGTERM)
        send(signal.SIGINT)
        raise AssertionError("unreachable")

    engine, seen = trainer_that(2, twice)
    GracefulStop().attach(engine)
    with pytest.raises(StopRequested) as stopped:
        engine.run(range(4))
    assert seen == ["step 1"]
    assert stopped.value.signal_number == signal.SIGINT


@pytest.mark.parametrize(
    ("error", "ends"),
    [(RuntimeError, StopRequested), (WorkerKilled, StopRequested), (ValueError, ValueError)],
)
def test_what_torch_complains_of_after_a_signal_counts_as_the_stop(error, ends):
    def workers_end_too():
        send(signal.SIGTERM)
        raise error("DataLoader worker (pid 7) is killed by signal: Terminated.")

    engine, _ = trainer_that(2, workers_end_too)
    GracefulStop().attach(engine)
    with pytest.raises(ends) as stopped:
        engine.run(range(4))
    assert getattr(stopped.value, "signal_number", 15) == signal.SIGTERM


def nested(stop: GracefulStop, at: int) -> tuple[Engine, Engine, list[str]]:
    trainer, seen = trainer_that(0, send)
    evaluator, _ = trainer_that(at, send)
    stop.attach(trainer)
    stop.attach(evaluator)
    trainer.add_event_handler(Events.EPOCH_COMPLETED, lambda: evaluator.run(range(3)) and None)
    trainer.add_event_handler(Events.EPOCH_COMPLETED, lambda: seen.append("saved"))
    return trainer, evaluator, seen


def test_a_signal_during_a_validation_stops_inside_it():
    trainer, evaluator, seen = nested(GracefulStop(), at=2)
    with pytest.raises(StopRequested):
        trainer.run(range(2), max_epochs=2)
    assert evaluator.state.iteration == 2
    assert "saved" not in seen


def test_a_validation_that_ends_leaves_the_trainer_listening():
    trainer, evaluator, _ = nested(GracefulStop(), at=99)
    former = signal.getsignal(signal.SIGINT)
    listening = []

    @trainer.on(Events.ITERATION_STARTED)
    def look() -> None:
        listening.append(signal.getsignal(signal.SIGINT) is not former)

    trainer.run(range(2), max_epochs=2)
    assert listening == [True] * 4
    evaluator.run(range(1))


def test_a_signal_in_a_validation_that_is_not_listened_to_stops_before_the_next_epoch():
    engine, seen = trainer_that(0, send)
    GracefulStop().attach(engine)
    engine.add_event_handler(Events.EPOCH_COMPLETED, lambda: send())
    with pytest.raises(StopRequested):
        engine.run(range(1), max_epochs=3)
    assert seen == ["step 1", "epoch"]


def test_a_signal_after_the_last_batch_is_not_lost():
    engine, seen = trainer_that(0, send)
    engine.add_event_handler(Events.EPOCH_COMPLETED, lambda: send())
    GracefulStop().attach(engine)
    with pytest.raises(StopRequested):
        engine.run(range(1))
    assert seen == ["step 1", "epoch", "completed"]


def test_a_stopped_trainer_can_run_again():
    engine, _ = trainer_that(2, send)
    stop = GracefulStop()
    stop.attach(engine)
    with pytest.raises(StopRequested):
        engine.run(range(4))
    other, seen = trainer_that(0, send)
    stop.attach(other)
    other.run(range(2))
    assert seen[-1] == "completed"


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt, SystemExit])
def test_other_exceptions_go_through_and_give_the_signals_back(error):
    def fail():
        raise error("other")

    engine, _ = trainer_that(2, fail)
    GracefulStop().attach(engine)
    with pytest.raises(error, match="other"):
        engine.run(range(4))


@pytest.mark.parametrize("end", ["terminate", "skip_completed", "interrupt"])
def test_every_other_way_to_end_gives_the_signals_back(end):
    acts = {
        "terminate": lambda: engine.terminate(),
        "skip_completed": lambda: engine.terminate(skip_completed=True),
        "interrupt": lambda: engine.interrupt(),
    }
    engine, seen = trainer_that(2, acts[end])
    former = signal.getsignal(signal.SIGTERM)
    GracefulStop().attach(engine)
    engine.run(range(4))
    assert "step 3" not in seen
    assert signal.getsignal(signal.SIGTERM) == former
    if end == "interrupt":
        assert engine.run().iteration == 4


def test_only_the_signals_asked_for_are_taken():
    former = signal.getsignal(signal.SIGINT)
    engine, _ = trainer_that(1, lambda: taken.append(signal.getsignal(signal.SIGINT) == former))
    taken: list[bool] = []
    GracefulStop(signals=(signal.SIGTERM,)).attach(engine)
    engine.run(range(2))
    assert taken == [True]


def test_outside_the_main_thread_it_does_nothing_and_says_so_once(caplog):
    engine, seen = trainer_that(0, send)
    stop = GracefulStop()
    stop.attach(engine)

    def run():
        for _ in range(2):
            engine.run(range(2))

    thread = threading.Thread(target=run)
    thread.start()
    thread.join()
    assert seen.count("completed") == 2
    (warning,) = [record.message for record in caplog.records if "graceful" in record.name]
    line_with(warning, "main thread")


LOADER = """
import os, signal, sys, time
import torch
from torch.utils.data import DataLoader, Dataset
from ignite.engine import Engine
from cxrignite.handlers import GracefulStop, StopRequested

class Slow(Dataset):
    def __len__(self): return 64
    def __getitem__(self, index):
        time.sleep(0.01)
        return torch.zeros(1)

def step(engine, batch):
    if engine.state.iteration == 2:
        os.killpg(0, signal.SIGINT)      # as a terminal does: the workers get it too
        time.sleep(0.3)
    print("step", engine.state.iteration, flush=True)

engine = Engine(step)
GracefulStop().attach(engine)
try:
    engine.run(DataLoader(Slow(), batch_size=4, num_workers=2))
except StopRequested as stop:
    print("stopped", stop.signal_number)
"""


@pytest.mark.integration
def test_ctrl_c_in_a_terminal_leaves_the_loader_workers_at_their_batch(python):
    done = python("-c", LOADER)
    assert done.stdout.splitlines() == ["step 1", "step 2", "stopped 2"]
    # Ignite says that the run is terminating, and why.
    (warning,) = [line for line in done.stderr.splitlines() if not line.startswith("Engine run is")]
    line_with(warning, "SIGINT")


FORK = """
import os, signal, time
from ignite.engine import Engine
from cxrignite.handlers import GracefulStop

def fork(engine, batch):
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        os.write(writer, b"!")
        while True:
            time.sleep(0.01)
    os.read(reader, 1)      # Python drops a signal that comes while it is still forking
    os.kill(child, signal.SIGTERM)
    print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))

engine = Engine(fork)
GracefulStop().attach(engine)
engine.run([0])
"""


@pytest.mark.integration
def test_a_forked_worker_can_still_be_terminated(python):
    done = python("-c", FORK)
    assert (done.returncode, done.stdout) == (0, "143\n"), done.stderr


def test_a_slow_handler_asks_between_its_steps_whether_to_stop():
    engine, seen = trainer_that(9, lambda: None)
    stop = GracefulStop()
    stop.attach(engine)

    def draw() -> None:
        for figure in range(3):
            if figure == 1:
                send(signal.SIGTERM)
            stop.stop_if_requested()
            seen.append(f"figure {figure}")

    engine.add_event_handler(Events.EPOCH_COMPLETED, draw)
    with pytest.raises(StopRequested):
        engine.run(range(1), max_epochs=2)
    assert seen == ["step 1", "epoch", "figure 0"]
    stop.stop_if_requested()
